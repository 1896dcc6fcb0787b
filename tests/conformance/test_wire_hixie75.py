"""Hixie-75, the first dialect that a browser shipped, byte for byte against `echo`."""

import pytest

from support.wire import request

# Its clients compare these bytes instead of parsing them.
FIRST_85_BYTES = b"HTTP/1.1 101 Web Socket Protocol Handshake\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"


def opening(*more, origin="http://example.com", target="/demo", host="example.com"):
    return request("Upgrade: WebSocket", "Connection: Upgrade", f"Origin: {origin}", *more, target=target, host=host)


@pytest.fixture
def opened(dial, echo):
    wire = dial(echo).send(opening())
    assert wire.read_head().status == 101
    return wire


def test_the_answer_begins_with_the_85_bytes_that_clients_compare(dial, echo):
    head = dial(echo).send(opening()).read_head()
    assert len(FIRST_85_BYTES) == 85
    assert head.raw[:85] == FIRST_85_BYTES


def test_the_names_of_the_other_headers_have_no_sec(dial, echo):
    head = dial(echo).send(opening()).read_head()
    assert sorted(head.headers) == [
        ("Connection", "Upgrade"),
        ("Upgrade", "WebSocket"),
        ("WebSocket-Location", "ws://example.com/demo"),
        ("WebSocket-Origin", "http://example.com"),
    ]


@pytest.mark.parametrize("origin", ["HTTP://Example.COM:8080", "null", "http://example.com/"])
@pytest.mark.parametrize("host, target", [("EXAMPLE.com:80", "/a%20b?c=d&e"), ("127.0.0.1:9001", "/")])
def test_origin_and_location_come_back_byte_for_byte(dial, echo, origin, host, target):
    head = dial(echo).send(opening(origin=origin, host=host, target=target)).read_head()
    assert head["WebSocket-Origin"] == origin
    assert head["WebSocket-Location"] == f"ws://{host}{target}"


def test_a_subprotocol_that_was_asked_for_comes_back_without_sec(start, dial):
    echo = start("echo", settings={"protocols": "sample"})
    head = dial(echo).send(opening("WebSocket-Protocol: sample")).read_head()
    assert head.raw[:85] == FIRST_85_BYTES
    assert head["WebSocket-Protocol"] == "sample"
    assert head["Sec-WebSocket-Protocol"] is None


def test_a_first_frame_in_the_same_segment_as_the_request_is_not_lost(dial, echo):
    wire = dial(echo).send(opening(), b"\x00first\xff")
    wire.read_head()
    assert wire.read(7) == b"\x00first\xff"


@pytest.mark.parametrize("text", ["Hello", "", "Grüße, Привет, 你好 😀\U0010ffff", "a zero \0 inside", "x" * 3000], ids=range(5))
def test_text_comes_back_between_00_and_ff(opened, text):
    sent = b"\x00" + text.encode() + b"\xff"
    assert opened.send(sent).read(len(sent)) == sent


def test_frames_with_a_length_are_skipped(opened):
    assert opened.send(b"\x80\x03\xff\x00\xff\x00after\xff").read(7) == b"\x00after\xff"


def test_there_is_no_close_handshake_only_the_end(opened):
    assert opened.send(b"\x00last\xff").finish().read_to_end() == b"\x00last\xff"


def test_a_server_that_stops_just_ends(start, dial):
    echo = start("echo")
    wire = dial(echo).send(opening())
    wire.read_head()
    echo.stop()
    assert wire.read_to_end() == b""
