"""Clients of today compress their messages to `echo`, in the clear and over TLS, and take compressed ones back."""

import json
import random
import subprocess

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

from support.modern import COMPRESSIBLE, node, python_talks
from support.places import CLIENTS, NODE_MODULES
from support.programs import Program
from support.secure import SECURE
from support.texts import TEXTS


@pytest.fixture(scope="module", params=["shared", "dedicated"])
def server(request, here):
    """Its first address is in the clear, its second one has TLS."""
    with Program("echo", listen=["127.0.0.1:0", SECURE], settings={"deflate": request.param, **here.settings}) as program:
        yield program


@pytest.fixture(params=["ws", "wss"])
def way(request, server, authority):
    """(a URL of the server, whom a client has to trust there)"""
    address = dict(zip(["ws", "wss"], server.addresses))[request.param]
    port = address.rpartition(":")[2]
    return f"{request.param}://localhost:{port}/", authority if request.param == "wss" else None


def test_messages_that_can_not_be_made_smaller_do_no_harm_to_those_after_them(way):
    url, authority = way
    with connect(url, ssl=authority and authority.client_of_threads(), max_size=None) as connection:
        for size in (1000, 70_000, 300_000, 70_000):
            noise = random.Random(size).randbytes(size)
            for message in (noise, noise.hex()[:size], bytes(byte & 0x1F for byte in noise)):
                connection.send(message)
                assert connection.recv(timeout=10) == message


# What a client may ask for: each alone and all together.
OFFERS = {
    "nothing more": {},
    "client_max_window_bits": {"client_max_window_bits": True},
    "client_max_window_bits=9": {"client_max_window_bits": 9},
    "server_max_window_bits=9": {"server_max_window_bits": 9},
    "server_max_window_bits=15": {"server_max_window_bits": 15},
    "server_no_context_takeover": {"server_no_context_takeover": True},
    "client_no_context_takeover": {"client_no_context_takeover": True},
    "everything": {"server_no_context_takeover": True, "client_no_context_takeover": True,
                   "server_max_window_bits": 10, "client_max_window_bits": 10},
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS.keys())
def test_python_websockets_gets_what_it_offers(server, offer):
    extensions = [ClientPerMessageDeflateFactory(**offer)]
    with connect(server.url, compression=None, extensions=extensions, max_size=None) as connection:
        (deflate,) = connection.protocol.extensions
        if offer.get("server_no_context_takeover"):
            assert deflate.remote_no_context_takeover
        if offer.get("client_no_context_takeover"):
            assert deflate.local_no_context_takeover
        assert deflate.remote_max_window_bits <= offer.get("server_max_window_bits", 15)
        python_talks(connection)


def test_python_websockets_talks_as_it_does_by_default(way):
    url, authority = way
    with connect(url, ssl=authority and authority.client_of_threads(), max_size=None) as connection:
        assert [extension.name for extension in connection.protocol.extensions] == ["permessage-deflate"]
        python_talks(connection)


NODE_OFFERS = {
    "as it does by default": True,
    "down to the shortest message": {"threshold": 0},
    "without context": {"threshold": 0, "serverNoContextTakeover": True, "clientNoContextTakeover": True},
    "with small windows": {"threshold": 0, "serverMaxWindowBits": 9, "clientMaxWindowBits": 9},
}


@pytest.mark.parametrize("deflate", NODE_OFFERS.values(), ids=NODE_OFFERS.keys())
def test_node_ws_compresses(way, deflate):
    url, authority = way
    result = node(url, ca=authority and authority.file, deflate=deflate)
    assert result["extensions"].startswith("permessage-deflate")
    # The two large texts and the binary ones are 1,336,000 bytes.
    assert result["bytes_read"] < 300_000


def test_node_ws_is_served_when_it_asks_for_a_window_that_zlib_does_not_have(server):
    result = node(server.url, deflate={"threshold": 0, "serverMaxWindowBits": 8})
    # Nothing is compressed, or with 8 bits: it could not read any other answer.
    assert result["extensions"] == "" or "server_max_window_bits=8" in result["extensions"]


def test_node_ws_without_an_offer_gets_nothing_compressed(way):
    url, authority = way
    result = node(url, ca=authority and authority.file, deflate=False)
    assert result["extensions"] == ""
    assert result["bytes_read"] > 2 * len(COMPRESSIBLE) + 1_000_000


def test_node_ws_of_2015_compresses_too(server):
    done = subprocess.run(
        ["node", "--no-deprecation", CLIENTS / "ws.js", NODE_MODULES / "ws-2015", str(server.port), "13"],
        input=json.dumps(TEXTS), capture_output=True, text=True, timeout=30,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["received"] == TEXTS
    assert result["close"] == "1000"
