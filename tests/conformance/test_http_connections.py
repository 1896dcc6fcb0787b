"""Plain requests as HTTP clients make them: many on one connection, with bodies, one behind the other, and at the end
of the server's life."""

import http.client
import subprocess
import time

import pytest

from support.dialects import RFC_6455
from support.programs import PATIENCE_SECONDS, own_program
from support.wire import Wire, request

SETTINGS = {"http.health": "/healthz", "http.metrics": "/metrics", "max.body": "1m"}


@pytest.fixture(scope="module")
def program():
    return own_program("pages")


@pytest.fixture
def pages(start, program):
    """start("pages"), which sends the body of a request to /body back."""
    return start(program, settings=SETTINGS)


def curl(*arguments, **options):
    done = subprocess.run(["curl", "-sS", "-m", "20", *arguments], capture_output=True, timeout=30, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------- keep-alive


def test_http_client_asks_again_and_again_on_one_connection(pages):
    connection = http.client.HTTPConnection("127.0.0.1", pages.port, timeout=5)
    connection.connect()
    own = connection.sock
    for index in range(100):
        body = b"x" * index * 100
        for method, path, sent, expected in [
            ("GET", "/healthz", None, (200, b"ok\n")),
            ("HEAD", "/healthz", None, (200, b"")),
            ("POST", "/body", body, (200, body)),
            ("PUT", "/body", iter([body, b"!"]), (200, body + b"!")),  # in chunks
        ]:
            connection.request(method, path, sent)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == expected
            assert connection.sock is own, "the connection was kept"
    connection.close()


def test_curl_keeps_its_connection(pages):
    url = f"http://127.0.0.1:{pages.port}"
    asked = [f"{url}/healthz", f"{url}/body", f"{url}/metrics", f"{url}/healthz"]
    said = curl("-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null", *sum((["-o", "/dev/null", one] for one in asked[1:]), [asked[0]]))
    assert said.decode().splitlines() == ["200 1", "200 0", "200 0", "200 0"]


@pytest.mark.parametrize(
    "how",
    [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"], ["--http1.0"], ["-H", "Connection: close"]],
    ids=["as it likes", "in chunks", "asking before", "HTTP/1.0", "once"],
)
def test_curl_posts_a_megabyte_and_gets_it_back(pages, how):
    body = bytes(range(256)) * 4096
    url = f"http://127.0.0.1:{pages.port}/body"
    # Twice, as what is left of the first would be the second's trouble.
    for _ in range(2):
        assert curl("--data-binary", "@-", *how, url, "--next", "-sS", f"http://127.0.0.1:{pages.port}/healthz", input=body) == body + b"ok\n"


@pytest.mark.parametrize("how", [[], ["-H", "Transfer-Encoding: chunked"]], ids=["with its length", "in chunks"])
def test_a_body_over_the_limit_is_413(pages, how):
    url = f"http://127.0.0.1:{pages.port}/body"
    said = curl("--data-binary", "@-", *how, "-H", "Expect: 100-continue", "-o", "/dev/null", "-w", "%{http_code}", url, input=bytes((1 << 20) + 1))
    assert said == b"413"


def test_connections_are_closed_when_the_client_says_so(pages):
    for version, lines, kept in [
        ("HTTP/1.1", [], True),
        ("HTTP/1.1", ["Connection: keep-alive"], True),
        ("HTTP/1.1", ["Connection: close"], False),
        ("HTTP/1.1", ["Connection: keep-alive, Close"], False),
        ("HTTP/1.0", [], False),
    ]:
        for path in ("/healthz", "/body"):
            head = request(*lines, target=path).replace(b"HTTP/1.1", version.encode())
            with Wire(pages.port).send(head) as wire:
                answer, _ = wire.read_answer()
                assert answer.status == 200
                assert (answer["Connection"] is None) == kept, (version, lines)
                if kept:
                    assert wire.send(head).read_answer()[0].status == 200
                else:
                    assert wire.read_to_end() == b""


# ----------------------------------------------------------------------------------------- pipelining


def chunked(*chunks):
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def test_requests_sent_ahead_are_answered_in_order(pages, dial):
    wire = dial(pages)
    asked, expected = [], []
    for index in range(10):
        body = b"body %d" % index
        asked += [
            request(target="/healthz"),
            request(f"Content-Length: {len(body)}", target="/body", method="POST") + body,
            b"\r\n" + request(target="/healthz"),  # an empty line before a request counts for nothing
            request("Transfer-Encoding: chunked", target="/body", method="PUT") + chunked(body, b"!"),
        ]
        expected += [(200, b"ok\n"), (200, body), (200, b"ok\n"), (200, body + b"!")]
    wire.send(*asked).finish()
    assert wire.read_answers() == expected


def test_a_websocket_sent_ahead_behind_pages_opens_after_them(pages, dial):
    wire = dial(pages)
    wire.send(
        request(target="/healthz"),
        request("Content-Length: 4", target="/body", method="POST") + b"body",
        RFC_6455.opening(),
        RFC_6455.text(b"hello"),
    )
    assert wire.read_answer()[1] == b"ok\n"
    assert wire.read_answer()[1] == b"body"
    RFC_6455.read_opening(wire)
    assert wire.read(7) == RFC_6455.echo(b"hello")


def test_what_was_asked_before_something_malformed_is_answered_and_nothing_after_it(pages, dial):
    wire = dial(pages)
    wire.send(request(target="/healthz"), b"\x00\r\n\r\n", request(target="/healthz")).finish()
    answers = wire.read_answers()
    assert [status for status, _ in answers] == [200, 400]


# -------------------------------------------------------------------------------------- too slow, and gone


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["silent", "a byte now and then"])
@pytest.mark.parametrize("line", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_body_that_is_not_there_in_time_gets_408(start, program, line, piece):
    pages = start(program, settings={"timeout.handshake": "300ms"})
    begin = time.monotonic()
    with Wire(pages.port).send(request(line, target="/body", method="POST")) as wire:
        while wire.is_silent_for(0.03):
            assert time.monotonic() - begin < PATIENCE_SECONDS
            # A chunk of its own for each byte.
            wire.send(piece if line.startswith("Content") else chunked(piece)[:-5] if piece else b"")
        assert wire.read_answer()[0].status == 408
    assert 0.25 < time.monotonic() - begin < 2


def test_a_kept_connection_that_asks_nothing_more_is_closed_without_a_word(start, program):
    pages = start(program, settings={**SETTINGS, "timeout.handshake": "300ms"})
    with Wire(pages.port).send(request(target="/healthz")) as wire:
        assert wire.read_answer()[0].status == 200
        begin = time.monotonic()
        assert wire.read_to_end() == b""
        assert 0.2 < time.monotonic() - begin < 2


def test_a_page_that_nobody_answers_gets_408_in_time(start, program):
    pages = start(program, settings={"timeout.handshake": "300ms"})
    with Wire(pages.port).send(request(target="/never"), request(target="/body")) as wire:
        assert [status for status, _ in wire.read_answers()] == [408]


# ----------------------------------------------------------------------------------------------- the stop


def test_health_is_503_while_the_server_stops(start, program):
    pages = start(program, settings=SETTINGS)
    # Its peer answers no close, which keeps the server for a time.
    with RFC_6455.open(pages.port) as websocket, Wire(pages.port) as probe, Wire(pages.port) as asking:
        for kept in (probe, asking):
            assert kept.send(request(target="/healthz")).read_answer()[0].status == 200
        pages.process.terminate()
        assert websocket.read_close() == 1001
        head, body = probe.send(request(target="/healthz")).read_answer()
        assert (head.status, head["Connection"], body) == (503, "close", b"stopping\n")
        assert probe.read_to_end() == b""
        # Whoever still asks for something else is answered as ever.
        head, body = asking.send(request("Content-Length: 2", target="/body", method="POST"), b"hi").read_answer()
        assert (head.status, head["Connection"], body) == (200, "close", b"hi")
        assert asking.read_to_end() == b""
