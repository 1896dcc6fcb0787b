"""Requests that can't become a WebSocket: each gets the right status, and its answer arrives."""

import pytest

from support.wire import Wire, request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ["Upgrade: websocket", "Connection: Upgrade"]
GOOD = [*UPGRADE, f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]


def without(name, *instead):
    """The headers of a good request, one of them left out or replaced."""
    return [header for header in GOOD if not header.startswith(name)] + list(instead)


def refusal(wire, *statuses):
    """Reads a refusal whole: its head, its body, and the server's FIN. Returns the head."""
    head = wire.read_head()
    assert head.status in statuses, head.raw
    # A 426 names `upgrade` there as well. (RFC 9110, 7.8)
    assert "close" in head["Connection"].lower().split(", ")
    body = wire.read_to_end()
    assert len(body) == int(head["Content-Length"]), "the body is as long as it says"
    return head


# ------------------------------------------------------------------------------------ versions


@pytest.mark.parametrize("version", ["99", "0", "12", "6", "14", "-13", "13a", "113", ""])
def test_an_unknown_version_gets_426_and_is_told_the_known_ones(dial, echo, version):
    wire = dial(echo).send(request(*without("Sec-WebSocket-Version"), f"Sec-WebSocket-Version: {version}"))
    head = refusal(wire, *(426, 400)[: 2 if version in ("", "13a", "-13") else 1])
    if head.status == 426:
        assert head["Sec-WebSocket-Version"] == "13, 8, 7"
        assert head["Upgrade"] == "websocket"


HIXIE_76 = request(
    *UPGRADE, "Origin: http://a.example", "Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5", "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00"
) + b"^n:ds[4U"
HIXIE_75 = request(*UPGRADE, "Origin: http://a.example")
SWITCHED_OFF = {
    "version 8": request(*without("Sec-WebSocket-Version"), "Sec-WebSocket-Version: 8"),
    "version 7": request(*without("Sec-WebSocket-Version"), "Sec-WebSocket-Version: 7"),
    "Hixie-76": HIXIE_76,
    "Hixie-75": HIXIE_75,
}


@pytest.mark.parametrize("head", SWITCHED_OFF.values(), ids=SWITCHED_OFF.keys())
def test_a_dialect_that_is_switched_off_gets_426(start, dial, head):
    echo = start("echo", settings={"versions": "13"})
    answer = refusal(dial(echo).send(head), 426)
    assert answer["Sec-WebSocket-Version"] == "13"
    assert dial(echo).send(request(*GOOD)).read_head().status == 101


def test_version_13_can_be_switched_off_too(start, dial):
    echo = start("echo", settings={"versions": "8,hixie76"})
    assert refusal(dial(echo).send(request(*GOOD)), 426)["Sec-WebSocket-Version"] == "8"
    assert dial(echo).send(SWITCHED_OFF["version 8"]).read_head().status == 101
    assert dial(echo).send(HIXIE_76).read_head().status == 101
    refusal(dial(echo).send(HIXIE_75), 426)


# --------------------------------------------------------------------------- methods and sizes


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "OPTIONS", "DELETE"])
def test_an_upgrade_by_another_method_than_get_gets_405(dial, echo, method):
    wire = dial(echo).send(request(*GOOD, "Content-Length: 0", method=method))
    head = wire.read_head()
    assert head.status == 405
    assert head["Allow"] == "GET"
    wire.read_to_end()


HEADS_OF_17_KIB = {
    "many headers": request(*GOOD, *(f"X-{number}: {'x' * 100}" for number in range(160))),
    "one long header": request(*GOOD, f"Cookie: {'x' * 17_000}"),
    "a long target": request(*GOOD, target=f"/{'x' * 17_000}"),
    "one that never ends": b"GET / HTTP/1.1\r\nCookie: " + b"x" * 17_000,
}


@pytest.mark.parametrize("head", HEADS_OF_17_KIB.values(), ids=HEADS_OF_17_KIB.keys())
def test_a_head_over_max_handshake_gets_431(dial, echo, head):
    refusal(dial(echo).send(head), 431, 413, 414)


def test_a_head_just_below_max_handshake_is_fine(dial, echo):
    start = request(*GOOD, "Cookie: ")
    head = request(*GOOD, f"Cookie: {'x' * (16 * 1024 - len(start))}")
    assert len(head) == 16 * 1024
    assert dial(echo).send(head).read_head().status == 101


def test_a_get_that_does_not_ask_for_a_websocket_is_told_what_is_spoken_here(dial, echo):
    head = refusal(dial(echo).send(request()), 426)
    assert head["Upgrade"] == "websocket"


# -------------------------------------------------------------------------------- bad requests

LINE = b"GET / HTTP/1.1\r\nHost: a.example\r\n"
REST = "\r\n".join([*GOOD, "", ""]).encode()
BAD_REQUESTS = {
    "lines that end with a bare LF": request(*GOOD).replace(b"\r\n", b"\n"),
    "one line that ends with a bare LF": LINE + b"X: y\n" + REST,
    "a bare CR in a value": LINE + b"X: a\rb\r\n" + REST,
    "a folded header": LINE + b"X: a\r\n b\r\n" + REST,
    "a folded first header": b"GET / HTTP/1.1\r\n Host: a.example\r\n" + REST,
    "a blank before the colon": LINE + b"X : a\r\n" + REST,
    "a header without name": LINE + b": a\r\n" + REST,
    "a header without colon": LINE + b"X\r\n" + REST,
    "a NUL in a value": LINE + b"X: a\0b\r\n" + REST,
    "a NUL in a name": LINE + b"X\0: a\r\n" + REST,
    "no HTTP version": b"GET /\r\nHost: a.example\r\n" + REST,
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a.example\r\n" + REST,
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a.example\r\n" + REST,
    "garbage": b"\x00\xff\x00 nothing of HTTP\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + b"x" * 200,
    "a frame": b"\x81\x85\0\0\0\0Hello\r\n\r\n",
    "no host": request(*GOOD, host=None),
    "two hosts": request(*GOOD, "Host: b.example"),
    "no Connection": request(*without("Connection")),
    "a Connection without Upgrade": request(*without("Connection", "Connection: keep-alive")),
    "no key": request(*without("Sec-WebSocket-Key")),
    "an empty key": request(*without("Sec-WebSocket-Key", "Sec-WebSocket-Key: ")),
    "a key of 15 bytes": request(*without("Sec-WebSocket-Key", "Sec-WebSocket-Key: OC0xMzE0MTU5MjY1MzU4")),
    "a key of 17 bytes": request(*without("Sec-WebSocket-Key", "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc=")),
    "a key that is not base64": request(*without("Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==")),
    "two keys": request(*GOOD, f"Sec-WebSocket-Key: {KEY}"),
    "two versions": request(*GOOD, "Sec-WebSocket-Version: 8"),
}


@pytest.mark.parametrize("head", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_request_gets_400(dial, echo, head):
    allowed = [400]
    if b"HTTP/1.0" in head or b"HTTP/2.0" in head:
        allowed.append(505)
    if head in (BAD_REQUESTS["no Connection"], BAD_REQUESTS["a Connection without Upgrade"]):
        allowed.append(426)
    wire = dial(echo).send(head)
    assert wire.read_head().status in allowed
    wire.read_to_end()


@pytest.mark.parametrize("header", ["Origin: http://a.example\rX-Injected: 1", "Sec-WebSocket-Protocol: sample\rX-Injected: 1"])
@pytest.mark.parametrize("dialect", [HIXIE_75, HIXIE_76, request(*GOOD)], ids=["Hixie-75", "Hixie-76", "RFC 6455"])
def test_nothing_that_is_echoed_can_inject_a_header(start, dial, dialect, header):
    echo = start("echo", settings={"protocols": "sample"})
    name = header.partition(":")[0].encode()
    lines = [line for line in dialect.partition(b"\r\n\r\n")[0].split(b"\r\n") if not line.startswith(name)]
    wire = dial(echo).send(b"\r\n".join([*lines, header.encode(), b"", b""]), b"^n:ds[4U")
    head = wire.read_head()
    assert head.status == 400
    assert b"Injected" not in head.raw


@pytest.mark.parametrize("target", ["/a\rb", "/a b", "x", "", "*"])
def test_a_target_that_is_none_gets_400(dial, echo, target):
    wire = dial(echo).send(request(*GOOD, target=target))
    # `GET /a b HTTP/1.1` is either a bad target or the version `b HTTP/1.1`.
    assert wire.read_head().status in ((400, 505) if " " in target else (400,))
    wire.read_to_end()


# -------------------------------------------------------------------- origins and subprotocols


@pytest.fixture
def picky(start):
    return start("echo", settings={"origins": "https://a.example,*.b.example", "protocols": "chat.v2, chat.v1"})


def origin_request(header, origin, version=13):
    return request(*without("Sec-WebSocket-Version"), f"Sec-WebSocket-Version: {version}", f"{header}: {origin}")


@pytest.mark.parametrize("origin", ["https://a.example", "https://www.b.example", "http://x.y.b.example"])
def test_a_listed_origin_may_come_in(picky, dial, origin):
    assert dial(picky).send(origin_request("Origin", origin)).read_head().status == 101


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "http://a.example", "https://a.example.evil.example", "https://evila.example",
        "https://evilb.example", "https://b.example.evil.example", "https://evil.example/.b.example", "null", "https://a.example:444",
    ],
)
def test_an_origin_that_is_not_listed_gets_403(picky, dial, origin):
    refusal(dial(picky).send(origin_request("Origin", origin)), 403)


def test_the_drafts_origin_is_checked_under_its_own_name(picky, dial):
    for version in (8, 7):
        refusal(dial(picky).send(origin_request("Sec-WebSocket-Origin", "https://evil.example", version)), 403)
        good = origin_request("Sec-WebSocket-Origin", "https://a.example", version)
        assert dial(picky).send(good).read_head().status == 101


@pytest.mark.parametrize("head", [HIXIE_75, HIXIE_76], ids=["Hixie-75", "Hixie-76"])
def test_the_hixie_dialects_are_checked_for_their_origin_too(picky, dial, head):
    refusal(dial(picky).send(head), 403)
    assert dial(picky).send(head.replace(b"http://a.example", b"https://a.example")).read_head().status == 101


@pytest.mark.parametrize(
    "headers, chosen",
    [
        (["Sec-WebSocket-Protocol: chat.v1, chat.v2"], "chat.v2"),
        (["Sec-WebSocket-Protocol: chat.v2,chat.v1"], "chat.v2"),
        (["Sec-WebSocket-Protocol: chat.v1"], "chat.v1"),
        (["Sec-WebSocket-Protocol: x , chat.v1 , y"], "chat.v1"),
        (["Sec-WebSocket-Protocol: chat.v1", "Sec-WebSocket-Protocol: chat.v2"], "chat.v2"),
        (["Sec-WebSocket-Protocol: CHAT.V2"], None),
        (["Sec-WebSocket-Protocol: chat.v3"], None),
        ([], None),
    ],
)
def test_the_first_subprotocol_of_ours_that_was_asked_for_is_chosen(picky, dial, headers, chosen):
    head = dial(picky).send(request(*GOOD, *headers)).read_head()
    assert head.status == 101
    assert head["Sec-WebSocket-Protocol"] == chosen


def test_without_subprotocols_of_ours_none_is_chosen(dial, echo):
    head = dial(echo).send(request(*GOOD, "Sec-WebSocket-Protocol: chat")).read_head()
    assert head.status == 101
    assert head["Sec-WebSocket-Protocol"] is None


# ------------------------------------------------------------------------- the answer arrives


def test_a_refusal_arrives_although_the_client_is_still_sending(dial, echo):
    # Closing a socket with unread bytes in it sends RST, and RST takes the answer with it.
    wire = dial(echo).send(request(*GOOD, "Content-Length: 30000", method="POST"), b"x" * 30_000)
    assert wire.read_head().status == 405
    wire.read_to_end()


def test_a_client_that_has_sent_fin_gets_its_refusal(dial, echo):
    refusal(dial(echo).send(request(*without("Sec-WebSocket-Version"), "Sec-WebSocket-Version: 99")).finish(), 426)


def test_a_second_request_behind_a_refused_one_is_not_answered(dial, echo):
    bad = request(*without("Sec-WebSocket-Version"), "Sec-WebSocket-Version: 99")
    wire = dial(echo).send(bad, request(*GOOD))
    refusal(wire, 426)


def test_a_client_that_goes_before_its_request_is_whole_gets_nothing_or_400(dial, echo):
    received = dial(echo).send(request(*GOOD)[:-3]).finish().read_to_end()
    assert received == b"" or received.startswith(b"HTTP/1.1 400 ")


def test_100_refused_clients_leave_the_server_as_it_was(dial, echo):
    for _ in range(100):
        with Wire(echo.port) as wire:
            wire.send(b"\x00garbage\r\n\r\n").read_to_end()
    assert dial(echo).send(request(*GOOD)).read_head().status == 101
