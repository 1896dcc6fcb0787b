"""Clients that others wrote, most of them long ago, talk to `echo` in the dialect of their time."""

import json
import subprocess

import pytest
from websockets.sync.client import connect

from support.places import CLIENTS, NODE_MODULES, PYTHON27
from support.texts import TEXTS


def test_perl_protocol_websocket_speaks_hixie_75(echo):
    perl(echo, "draft-hixie-75", closes_with="nothing, then the end")


def test_perl_protocol_websocket_speaks_hixie_76(echo):
    perl(echo, "draft-ietf-hybi-00", closes_with="FF 00, then the end")


def test_perl_protocol_websocket_speaks_version_8(echo):
    perl(echo, "draft-ietf-hybi-10", closes_with="1000, then the end")


def test_perl_protocol_websocket_speaks_version_13(echo):
    perl(echo, "draft-ietf-hybi-17", closes_with="1000, then the end")


def test_python_websocket_client_of_2011_speaks_hixie_76(echo):
    if not PYTHON27.exists():
        pytest.fail("needs Python 2.7, which tests/setup.sh did not find; run it to see how to get one", pytrace=False)
    talk(PYTHON27, CLIENTS / "websocket_client.py27", echo.port, closes_with="FF 00")


def test_hixie_76_keys_that_a_client_draws_at_random_are_always_understood(echo):
    # Spaces, noise and numbers fall differently each time; one in a few would find a careless parser.
    for _ in range(20):
        perl(echo, "draft-ietf-hybi-00", closes_with="FF 00, then the end", texts=["Hello"])


def test_ruby_websocket_speaks_hixie_75(echo):
    ruby(echo, 75, closes_with="nothing, then the end")


def test_ruby_websocket_speaks_version_7(echo):
    ruby(echo, 7, closes_with="1000, then the end")


def test_ruby_websocket_speaks_version_8(echo):
    ruby(echo, 8, closes_with="1000, then the end")


def test_ruby_websocket_speaks_version_13(echo):
    ruby(echo, 13, closes_with="1000, then the end")


def test_node_ws_of_2015_speaks_version_8(echo):
    node(echo, "ws-2015", 8, closes_with="1000")


def test_node_ws_of_2015_speaks_version_13(echo):
    node(echo, "ws-2015", 13, closes_with="1000")


def test_node_ws_of_today_speaks_version_8(echo):
    node(echo, "ws-today", 8, closes_with="1000")


def test_node_ws_of_today_speaks_version_13(echo):
    node(echo, "ws-today", 13, closes_with="1000")


def test_python_websockets_of_today_echoes_text_and_binary_and_closes(echo):
    with connect(echo.url, max_size=None) as connection:
        for text in TEXTS:
            connection.send(text)
            assert connection.recv(timeout=5) == text
        for size in (0, 1, 125, 126, 65_535, 65_536, 1_000_000):
            payload = bytes(range(256)) * (size // 256 + 1)
            connection.send(payload[:size])
            assert connection.recv(timeout=5) == payload[:size]
    assert (connection.protocol.close_sent.code, connection.protocol.close_rcvd.code) == (1000, 1000)


def perl(echo, version, **expected):
    talk("perl", CLIENTS / "protocol_websocket.pl", echo.port, version, **expected)


def ruby(echo, version, **expected):
    talk("ruby", CLIENTS / "websocket.rb", echo.port, version, **expected)


def node(echo, module, version, **expected):
    talk("node", "--no-deprecation", CLIENTS / "ws.js", NODE_MODULES / module, echo.port, version, **expected)


def talk(*command, closes_with, texts=TEXTS):
    """Runs a client. It sends each text, which must come back as it was, and then says goodbye."""
    done = subprocess.run(
        [str(part) for part in command], input=json.dumps(texts), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for sent, received in zip(texts, result["received"]):
        assert received == sent
    assert len(result["received"]) == len(texts)
    assert result["close"] == closes_with
