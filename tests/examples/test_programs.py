"""The example programs: their command lines, and what each promises to those who connect.

The same tests run over the programs of every language.
"""

import socket
import urllib.error
import urllib.request
from contextlib import ExitStack
from signal import SIGINT, SIGTERM

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from support.programs import Program, run_to_end

pytestmark = pytest.mark.usefixtures("language")
NAMES = ["echo", "chat", "gatekeeper"]


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><title>grüß Gott</title>" + "x" * 100_000, encoding="utf-8")
    return path


# -- what all have in common --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_help_is_told(name):
    code, out, _ = run_to_end(name, "--help")
    assert code == 0 and "--listen" in out and "--set" in out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options,message", [
    (["--set", "max.mesage=1m"], "max.message"),
    (["--set", "max.message=much"], "max.message"),
    (["--set", "max.message"], "KEY=VALUE"),
    (["--listen"], "needs a value"),
    (["--listen", "127.0.0.1:99999"], "127.0.0.1:99999"),
    (["--nonsense"], "--nonsense"),
    (["nonsense"], "nonsense"),
])
def test_a_bad_option_is_an_error_in_one_line_that_says_what_is_wrong(name, options, message):
    code, out, err = run_to_end(name, *options)
    assert code == 1 and out == ""
    assert message in err and err.count("\n") == 1


def test_a_used_port_is_an_error_that_names_it():
    with socket.create_server(("127.0.0.1", 0)) as used:
        address = "127.0.0.1:%d" % used.getsockname()[1]
        code, out, err = run_to_end("echo", "--listen", address)
    assert code == 1 and out == "" and address in err


@pytest.mark.parametrize("how", [SIGINT, SIGTERM])
def test_a_signal_closes_all_politely_on_all_listeners(how):
    with Program("echo", listen=["127.0.0.1:0", "127.0.0.1:0", "localhost:0"]) as program, ExitStack() as open_clients:
        clients = [open_clients.enter_context(connect(f"ws://{address}/")) for address in program.addresses]
        program.stop(how)
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            assert closed.value.rcvd.code == 1001


def test_a_client_that_never_answers_cannot_keep_a_program_running():
    with Program("echo") as program:
        with socket.create_connection(("127.0.0.1", program.port)) as silent:
            silent.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            assert silent.recv(12) == b"HTTP/1.1 101"
            program.stop()


def test_the_address_is_printed_as_it_was_given_with_the_real_port():
    with Program("echo", listen=["localhost:0", "127.0.0.1:0", ":0"]) as program:
        hosts = [address.rpartition(":")[0] for address in program.addresses]
        ports = [int(address.rpartition(":")[2]) for address in program.addresses]
        assert hosts == ["localhost", "127.0.0.1", ""]
        assert 0 not in ports and len(set(ports)) == 3


def test_listening_on_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Program("echo", listen=["[::1]:0"]) as program:
        assert program.addresses[0].startswith("[::1]:")
        with connect(f"ws://{program.addresses[0]}/") as client:
            client.send("hello")
            assert client.recv() == "hello"


# -- echo ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/any/path?x=1", "/%C3%A4"])
def test_echo_sends_back_every_message_on_every_path(path):
    with Program("echo") as program, connect(f"ws://127.0.0.1:{program.port}{path}") as client:
        for message in ["", "hello", "grüß Gott", b"", b"\x00\xff", "x" * 1_000_000]:
            client.send(message)
            assert client.recv() == message


def test_echo_takes_options():
    with Program("echo", settings={"max.message": "1k"}) as program, connect(program.url) as client:
        client.send("x" * 1024)
        assert client.recv() == "x" * 1024
        client.send("x" * 1025)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd.code == 1009


# -- chat ------------------------------------------------------------------------------------------


def test_chat_serves_its_page(page):
    with Program("chat", arguments=["--page", str(page)]) as program:
        assert program.lines.get(timeout=10) == f"open http://127.0.0.1:{program.port}/"
        for path in ["/", "/index.html", "/?x=1"]:
            with urllib.request.urlopen(f"http://127.0.0.1:{program.port}{path}", timeout=10) as answer:
                assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
                assert answer.read() == page.read_bytes()
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"http://127.0.0.1:{program.port}/nowhere", timeout=10)
        assert 400 <= missing.value.code < 500


def test_chat_relays_what_one_says_to_all(page):
    with Program("chat", arguments=["--page", str(page)]) as program:
        room = f"ws://127.0.0.1:{program.port}/chat"
        with connect(room) as one, connect(room) as two, connect(room) as three:
            for speaker in [one, two, three]:
                speaker.send("grüß Gott")
                assert [listener.recv() for listener in [one, two, three]] == ["grüß Gott"] * 3
            two.close()
            three.send("still here")
            assert [listener.recv() for listener in [one, three]] == ["still here"] * 2
            one.send(b"\x00")
            with pytest.raises(ConnectionClosed) as closed:
                one.recv()
            assert closed.value.rcvd.code == 1003


def test_chat_in_several_threads(page):
    with Program("chat", settings={"threads": "4"}, arguments=["--page", str(page)]) as program, ExitStack() as room:
        clients = [room.enter_context(connect(f"ws://127.0.0.1:{program.port}/chat")) for _ in range(12)]
        for client in clients:
            client.send("hello")
            for listener in clients:
                assert listener.recv() == "hello"


def test_chat_says_which_page_is_missing(tmp_path):
    code, out, err = run_to_end("chat", "--page", str(tmp_path / "none.html"))
    assert code == 1 and out == "" and "none.html" in err


# -- gatekeeper ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gate(language):
    with Program("gatekeeper") as program:
        yield f"ws://127.0.0.1:{program.port}"


@pytest.mark.parametrize("target,origin,offered,chosen", [
    ("/?token=letmein", None, None, None),
    ("/any?x=1&token=letmein", "http://localhost", None, None),
    ("/?token=letmein", "http://localhost:8080", ["chat.v1", "chat.v2"], "chat.v2"),
    ("/?token=letmein", "http://127.0.0.1:9990", ["chat.v1"], "chat.v1"),
    ("/?token=letmein", "http://127.0.0.1", ["chat.v22", "chat"], None),
])
def test_gatekeeper_lets_in(gate, target, origin, offered, chosen):
    with connect(gate + target, origin=origin, subprotocols=offered) as client:
        assert client.response.headers["X-Gatekeeper"] == "open"
        assert client.subprotocol == chosen
        assert client.recv() == "welcome"
        client.send("hello")
        assert client.recv() == "hello"


@pytest.mark.parametrize("target,origin,status", [
    ("/", None, 401),
    ("/", "http://evil.example", 401),
    ("/?token=", None, 401),
    ("/?token=letmei", None, 401),
    ("/?token=letmeinn", None, 401),
    ("/?token=letmein%00", None, 401),
    ("/?token=" + "x" * 500, None, 401),
    ("/?token=letmein", "http://evil.example", 403),
    ("/?token=letmein", "http://localhost.evil.example", 403),
    ("/?token=letmein", "http://127.0.0.1.evil.example", 403),
    ("/?token=letmein", "http://localhost@evil.example", 403),
    ("/?token=letmein", "https://localhost", 403),
    ("/?token=letmein", "null", 403),
    ("/?token=letmein", "http://localhost:" + "1" * 500, 403),
])
def test_gatekeeper_refuses_with_a_reason(gate, target, origin, status):
    with pytest.raises(InvalidStatus) as refused:
        connect(gate + target, origin=origin)
    response = refused.value.response
    assert response.status_code == status
    assert response.body.decode().endswith(".\n" if status == 403 else "\n")
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
