"""Attacks by what a request says: smuggling, injection into what is echoed, tricks with paths, spoofed addresses."""

import pytest

from support.crowd import hear, pour
from support.dialects import DIALECTS, HIXIE, HIXIE_75, HIXIE_76, HYBI, RFC_6455
from support.wire import Wire, request

# ----------------------------------------------------------------------------------------- smuggling

# What an attacker wants to be read as a request of its own.
SMUGGLED = request(*RFC_6455.headers, target="/smuggled")
LINE, HOST, REST = b"GET / HTTP/1.1\r\n", b"Host: a.example\r\n", "\r\n".join([*RFC_6455.headers, "", ""]).encode()
POST = {"method": "POST"}
AMBIGUOUS = {
    "Content-Length beside Transfer-Encoding": request("Content-Length: 6", "Transfer-Encoding: chunked", **POST) + b"0\r\n\r\nG",
    "Transfer-Encoding beside Content-Length": request("Transfer-Encoding: chunked", "Content-Length: 6", **POST) + b"0\r\n\r\nG",
    "both in a handshake": RFC_6455.opening("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks in a handshake": RFC_6455.opening("Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks in a handshake of HyBi-07": HYBI[2].opening("Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks in a handshake of Hixie-76": HIXIE_76.opening("Transfer-Encoding: chunked"),
    "chunks in a handshake of Hixie-75": HIXIE_75.opening("Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "an encoding that only others see": RFC_6455.opening("Transfer-Encoding: xchunked"),
    "a body in a handshake": RFC_6455.opening(f"Content-Length: {len(SMUGGLED)}"),
    "a body in a handshake of Hixie-75": HIXIE_75.opening(f"Content-Length: {len(SMUGGLED)}"),
    "a longer body in a handshake of Hixie-76": HIXIE_76.opening(f"Content-Length: {8 + len(SMUGGLED)}"),
    "two lengths": request("Content-Length: 0", "Content-Length: 60", **POST),
    "the same length twice": request("Content-Length: 0", "Content-Length: 0", **POST),
    "two lengths in one line": request("Content-Length: 0, 60", **POST),
    "a length with a sign": request("Content-Length: +0", **POST),
    "a length in hexadecimal": request("Content-Length: 0x0", **POST),
    "an empty length": request("Content-Length:", **POST),
    "two hosts": RFC_6455.opening("Host: b.example"),
    "the same host twice": request(*RFC_6455.headers, "Host: 127.0.0.1"),
    "a folded line": LINE + HOST + b"X: a\r\n\tContent-Length: 60\r\n" + REST,
    "a folded line of blanks": LINE + HOST + b"X: a\r\n \r\n" + REST,
    "a folded first line": LINE + b" X: a\r\n" + HOST + REST,
    "a bare LF between lines": LINE + b"X: a\nContent-Length: 60\r\n" + HOST + REST,
    "a bare LF behind the request line": b"GET / HTTP/1.1\n" + HOST + REST,
    "a bare LF as the empty line": LINE + HOST + REST[:-2] + b"\n\r\n",
    "LF CR": LINE + b"X: a\n\rContent-Length: 60\r\n" + HOST + REST,
    "a bare CR between lines": LINE + b"X: a\rContent-Length: 60\r\n" + HOST + REST,
    "CR CR LF": LINE + b"X: a\r\r\n" + HOST + REST,
    "a blank before the colon": LINE + HOST + b"Content-Length : 60\r\n" + REST,
    "a NUL in a name": LINE + HOST + b"Content-Length\0: 60\r\n" + REST,
    "a vertical tab in a name": LINE + HOST + b"\x0bContent-Length: 60\r\n" + REST,
}


def test_a_request_that_a_proxy_could_read_otherwise_gets_400_and_what_follows_no_answer(attacked):
    with attacked() as server:
        for what, ambiguous in AMBIGUOUS.items():
            with Wire(server.port).send(ambiguous, SMUGGLED) as wire:
                assert wire.read_head().status == 400, what
                assert b"HTTP/1.1" not in wire.read_to_end(), what


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_a_request_behind_a_handshake_is_never_answered_as_one(attacked, dialect):
    with attacked() as server, Wire(server.port).send(dialect.opening(), SMUGGLED, dialect.text(b"after")) as wire:
        dialect.read_opening(wire)
        if dialect.is_hixie:
            # `G` begins a frame that means nothing and goes up to the next FF.
            wire.send(dialect.text(b"and after")).finish()
            assert wire.read_to_end() in (dialect.echo(b"and after"), dialect.echo(b"and after") + b"\xff\x00")
        else:
            assert wire.read_close() == 1002
            assert wire.read_to_end() == b""


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_a_megabyte_behind_a_refused_handshake_is_not_read_as_frames(attacked, dialect):
    with attacked({"origins": "https://good.example"}) as server:
        for _ in range(10):
            with Wire(server.port).send(dialect.opening("Origin: https://evil.example")) as wire:
                pour(wire.socket, dialect.text(b"echo me") * 100_000)
                heard = hear(wire.socket)
                # RST may have destroyed the answer.
                assert heard == b"" or heard.startswith(b"HTTP/1.1 403 ")
                assert b"echo me" not in heard


# ----------------------------------------------------------------------------------------- injection

RAW = ["\r\nX-Injected: 1", "\rX-Injected: 1", "\nX-Injected: 1", "\0X-Injected: 1", "\r\n\r\nX-Injected: 1", "\x0bX-Injected: 1"]
ENCODED = [
    "%0d%0aX-Injected:%201",
    "%0D%0A%0D%0A<script>",
    "%00",
    "%E5%98%8A%E5%98%8DX-Injected:1",
    "\xe5\x98\x8a\xe5\x98\x8dX-Injected:1",  # U+560A U+560D, which end like LF and CR when they are cut to a byte
    "\xff\xfe",
    "<script>",
    '"',
]
PLACES = {
    "path": lambda text, dialect: {"target": f"/a{text}b"},
    "query": lambda text, dialect: {"target": f"/?a{text}b"},
    "host": lambda text, dialect: {"host": f"a{text}b"},
    "origin": lambda text, dialect: {"lines": [f"Origin: a{text}b"]},
    "origin of the drafts": lambda text, dialect: {"lines": [f"Sec-WebSocket-Origin: a{text}b"]},
    "protocol": lambda text, dialect: {"lines": [f"{protocol_header(dialect)}: a{text}b"]},
}
# No line but these may stand in the head of an answer that opens a connection.
KNOWN_LINES = {
    "upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-origin",
    "sec-websocket-location", "websocket-protocol", "websocket-origin", "websocket-location",
}


def protocol_header(dialect):
    return "WebSocket-Protocol" if dialect is HIXIE_75 else "Sec-WebSocket-Protocol"


def opening_with(dialect, place, text):
    parts = PLACES[place](text, dialect)
    return dialect.opening(*parts.pop("lines", []), **parts)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_control_characters_in_what_is_echoed_inject_nothing(attacked, dialect):
    with attacked() as server:
        for what, place, text in [(f"{text!r} in the {place}", place, text) for place in PLACES for text in RAW]:
            with Wire(server.port).send(opening_with(dialect, place, text)) as wire:
                head = wire.read_head()
                assert b"Injected" not in head.raw, what
                if head.status == 101:
                    # The line of the request ended there, and the next one is the sender's own affair.
                    assert "\r\n" in text, what
                    assert {name.lower() for name, _ in head.headers} <= KNOWN_LINES, what
                else:
                    # 426: the whole head ended there, and asked for nothing.
                    assert head.status == (426 if "\r\n\r\n" in text and place not in ("path", "query") else 400), what
                    assert b"Injected" not in wire.read_to_end(), what


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_encoded_control_characters_are_echoed_as_they_came_or_not_at_all(attacked, dialect):
    with attacked() as server:
        for what, place, text in [(f"{text!r} in the {place}", place, text) for place in PLACES for text in ENCODED]:
            with Wire(server.port).send(opening_with(dialect, place, text)) as wire:
                head = wire.read_head()
                assert head.status in (101, 400), what
                if head.status == 400:
                    assert b"Injected" not in head.raw + wire.read_to_end(), what
                    continue
                assert {name.lower() for name, _ in head.headers} <= KNOWN_LINES, what
                if dialect in HIXIE and place in ("origin", "host", "path", "query"):
                    assert text.encode("latin-1") in head.raw, what


REFUSED = {
    "400": [line for line in RFC_6455.headers if "Key" not in line],
    "403": [*RFC_6455.headers, "Origin: https://evil.example/<script>"],
    "405": RFC_6455.headers,
    "426": [],
    "426 for a version": [*RFC_6455.headers[:-1], "Sec-WebSocket-Version: <script>"],
    "431": [*RFC_6455.headers, "Cookie: <script>" + "x" * 20_000],
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_page_of_an_error_holds_nothing_of_the_request(attacked, why):
    with attacked({"origins": "https://good.example"}) as server:
        for text in ["<script>", "%3cscript%3e", "%0d%0aX-Injected:1", "<script>alert(1)</script>?<script>"]:
            head = request(*REFUSED[why], target=f"/{text}", host="script", method="SCRIPT" if why == "405" else "GET")
            with Wire(server.port).send(head) as wire:
                answer = wire.read_head()
                assert answer.status == int(why[:3])
                everything = (answer.raw + wire.read(int(answer["Content-Length"]))).lower()
                assert b"script" not in everything and b"injected" not in everything
                # Should a browser be lured here, it must not guess a page of HTML.
                assert answer["Content-Type"].startswith("text/plain")


# ----------------------------------------------------------------------------------------- paths

PAGES = {"http.health": "/healthz"}
NOT_THE_PAGE = [
    "//healthz", "///healthz", "/./healthz", "/../healthz", "/a/../healthz", "/%2e%2e/healthz", "/.%2e/healthz", "/healthz/",
    "/healthz/.", "/healthz%00", "/%68ealthz", "/healthz%2f", "/HEALTHZ", "/healthz;a=b", "/\\healthz", "/healthz%3f", "/healthz%23",
    "/%", "/%zz", "/%2", "/%c0%af", "/" + "x" * 15_000, "/" + "../" * 5_000 + "healthz", "/" + "%2e%2e%2f" * 1_600 + "healthz",
    "//evil.example/healthz/..", "http://a.example//healthz", "http://a.example/./healthz",
]
NO_TARGET = [
    "healthz", "*", "a.example:80", "../healthz", "\\healthz", "http:/healthz", "http://a.example", "http://a.example?/healthz",
    "://a.example/healthz", "a/b://a.example/healthz", "1http://a.example/healthz", "?://a.example/healthz", "x?a=://b/healthz",
    "http:///healthz",
]


def test_no_trick_with_a_path_leads_to_another_one(attacked):
    with attacked(PAGES) as server:
        for target in NOT_THE_PAGE:
            with Wire(server.port).send(request(target=target)) as wire:
                assert wire.read_head().status in (404, 426), target
        for target in NO_TARGET:
            with Wire(server.port).send(request(target=target)) as wire:
                assert wire.read_head().status == 400, target
        # The page itself, in both of the forms a target may have. (RFC 9112, 3.2)
        for target in ["/healthz", "/healthz?../..", "http://a.example/healthz", "HTTP://a.example:80/healthz?x"]:
            with Wire(server.port).send(request(target=target)) as wire:
                assert wire.read_head().status == 200, target


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_no_trick_with_a_path_harms_the_handshake_or_its_echo(attacked, dialect):
    with attacked(PAGES) as server:
        for target in NOT_THE_PAGE:
            with Wire(server.port).send(dialect.opening(target=target, host="h"), dialect.text(b"here")) as wire:
                head = dialect.read_opening(wire)
                if dialect.is_hixie:
                    # The location names our host whatever the target says.
                    path = target.removeprefix("http://a.example")
                    prefix = "" if dialect is HIXIE_75 else "Sec-"
                    assert head[f"{prefix}WebSocket-Location"] == f"ws://h{path}"
                expected = dialect.echo(b"here")
                assert wire.read(len(expected)) == expected
        for target in NO_TARGET:
            with Wire(server.port).send(dialect.opening(target=target)) as wire:
                assert wire.read_head().status == 400, target


# -------------------------------------------------------------------------------- spoofed addresses

SPOOFED = [
    "X-Forwarded-For: 10.0.0.{}", "X-Real-IP: 10.0.0.{}", "Forwarded: for=10.0.0.{};proto=https;host=evil.example",
    "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "X-Forwarded-Port: 443", "True-Client-IP: 10.0.0.{}",
    "CF-Connecting-IP: 10.0.0.{}", "Via: 1.1 proxy", "X-HTTP-Method-Override: GET", "X-Original-URL: /healthz",
]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_addresses_that_a_client_gives_itself_count_for_nothing(attacked, dialect):
    companions = len(DIALECTS)
    inside = 20
    with attacked({"max.connections_per_ip": companions + inside}) as server:
        plain = dialect.open(server.port, host="h")
        others = [dialect.open(server.port, *(line.format(number) for line in SPOOFED), host="h") for number in range(inside - 1)]
        for number in range(inside):
            with Wire(server.port).send(dialect.opening(*(line.format(number) for line in SPOOFED))) as wire:
                assert wire.read_head().status == 429
        for wire in (plain, *others):
            wire.close()


@pytest.mark.parametrize("dialect", HIXIE, ids=str)
def test_a_spoofed_scheme_and_host_do_not_reach_the_location(attacked, dialect):
    with attacked() as server:
        with Wire(server.port).send(dialect.opening(host="h")) as plain, Wire(server.port) as spoofed:
            spoofed.send(dialect.opening(*(line.format(1) for line in SPOOFED), host="h"))
            assert spoofed.read_head().raw == plain.read_head().raw


def test_an_origin_list_is_not_passed_by_any_other_header(attacked):
    with attacked({"origins": "https://good.example"}) as server:
        for line in ["Forwarded: host=good.example;proto=https", "X-Forwarded-Host: good.example", "Referer: https://good.example/"]:
            with Wire(server.port).send(RFC_6455.opening("Origin: https://evil.example", line)) as wire:
                assert wire.read_head().status == 403, line


PROXY_LINES = {
    "version 1": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "version 1 of an unknown protocol": b"PROXY UNKNOWN\r\n",
    "version 1 with IPv6": b"PROXY TCP6 ::1 ::1 1 2\r\n",
    "version 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x00\x01\x00\x02",
}


@pytest.mark.parametrize("line", PROXY_LINES.values(), ids=PROXY_LINES.keys())
def test_a_proxy_line_that_nobody_asked_for_is_a_bad_request(attacked, line):
    with attacked() as server:
        for dialect in DIALECTS:
            with Wire(server.port).send(line, dialect.opening()) as wire:
                assert wire.read_head().status == 400
                assert b"HTTP/1.1" not in wire.read_to_end()
