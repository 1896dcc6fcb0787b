"""TLS clients that others wrote talk to `echo`: Python's websockets, Node's ws, and the one that Java brings along."""

import base64
import subprocess

import pytest
from websockets.sync.client import connect

from support.authority import ECDSA, HERE, RSA
from support.modern import node, python_talks
from support.places import CLIENTS
from support.programs import Program
from support.secure import SECURE
from support.texts import TEXTS


@pytest.fixture(scope="module", params=[RSA, ECDSA], ids=["RSA", "ECDSA"])
def server(request, authority):
    with Program("echo", listen=[SECURE], settings=authority.issue(*HERE, key_type=request.param).settings) as program:
        yield program


def test_python_websockets_talks_over_tls(server, authority):
    with connect(server.secure_url, ssl=authority.client_of_threads(), max_size=None) as connection:
        python_talks(connection)


def test_node_ws_talks_over_tls(server, authority):
    result = node(server.secure_url, ca=authority.file, deflate=False)
    assert result["extensions"] == ""


@pytest.mark.parametrize("deflate", ["off", "shared"])
def test_javas_own_client_talks_over_tls(start, authority, here, deflate):
    # It knows no extension, and takes none that it did not ask for.
    server = start("echo", listen=[SECURE], settings={**here.settings, "deflate": deflate})
    lines = [base64.b64encode(text.encode()).decode() for text in TEXTS]
    done = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", CLIENTS / "HttpClientWebSocket.java", server.secure_url, authority.file],
        input="\n".join(lines), capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *echoes, close = done.stdout.splitlines()
    assert [base64.b64decode(line).decode() for line in echoes] == TEXTS
    assert close == "1000"
