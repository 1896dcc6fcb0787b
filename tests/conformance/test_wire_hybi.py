"""RFC 6455 (version 13) and its drafts 7 and 8, byte for byte against `echo`."""

import time

import pytest

from support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Wire, close_frame, frame, request

# The key and the answer that RFC 6455 prints in its section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

CLOSE_1000 = b"\x88\x02\x03\xe8"


def opening(*more, version=13, key=KEY, target="/chat", host="server.example.com", connection="Upgrade"):
    return request(
        "Upgrade: websocket", f"Connection: {connection}", f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}", *more, target=target, host=host,
    )


@pytest.fixture(params=[13, 8, 7])
def version(request):
    return request.param


@pytest.fixture
def opened(dial, echo, version):
    """A connection of each version; their frames are the same."""
    wire = dial(echo).send(opening(version=version))
    assert wire.read_head().status == 101
    return wire


# ------------------------------------------------------------------------------- the handshake


def test_the_rfcs_own_key_gets_the_rfcs_own_answer(dial, echo, version):
    head = dial(echo).send(opening(version=version)).read_head()
    assert head.first_line.startswith("HTTP/1.1 101 ")
    assert sorted((name.lower(), value.lower()) for name, value in head.headers) == [
        ("connection", "upgrade"),
        ("sec-websocket-accept", ACCEPT.lower()),
        ("upgrade", "websocket"),
    ]
    assert head["Sec-WebSocket-Accept"] == ACCEPT


@pytest.mark.parametrize("connection", ["Upgrade", "upgrade", "keep-alive, Upgrade", "UPGRADE,keep-alive", ", Upgrade ,"])
def test_upgrade_may_stand_among_other_connection_tokens(dial, echo, version, connection):
    assert dial(echo).send(opening(version=version, connection=connection)).read_head().status == 101


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "WEBSOCKET", "h2c, websocket"])
def test_the_upgrade_header_is_a_list_of_tokens_in_any_case(dial, echo, version, upgrade):
    head = request(
        f"Upgrade: {upgrade}", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Version: {version}"
    )
    assert dial(echo).send(head).read_head()["Sec-WebSocket-Accept"] == ACCEPT


@pytest.mark.parametrize("host", ["server.example.com", "server.example.com:80", "127.0.0.1", "[::1]:9001"])
def test_a_host_may_stand_without_port(dial, echo, version, host):
    assert dial(echo).send(opening(version=version, host=host)).read_head().status == 101


def test_names_of_headers_and_blanks_around_values_do_not_matter(dial, echo):
    head = (
        b"GET / HTTP/1.1\r\nhOST:127.0.0.1\r\nupgrade:websocket\r\nCONNECTION:\tUpgrade  \r\n"
        b"sec-websocket-KEY:   " + KEY.encode() + b"\t\r\nSec-WebSocket-Version:13 \r\n\r\n"
    )
    assert dial(echo).send(head).read_head()["Sec-WebSocket-Accept"] == ACCEPT


@pytest.mark.parametrize("version", [8, 7])
def test_a_key_of_15_bytes_is_good_enough_below_version_13(dial, echo, version):
    # A client in wide use sends "8-" and the milliseconds since 1970.
    key, accept = "OC0xMzE0MTU5MjY1MzU4", "zVeHfGbUnZhqLsEEVWLdd3RbQHM="
    head = dial(echo).send(opening(version=version, key=key)).read_head()
    assert head.status == 101
    assert head["Sec-WebSocket-Accept"] == accept


def test_the_drafts_take_no_origin_or_one_of_their_own_name(dial, echo):
    for origin in ([], ["Sec-WebSocket-Origin: http://example.com"]):
        assert dial(echo).send(opening(*origin, version=8)).read_head().status == 101


@pytest.mark.parametrize("extension", ["deflate-stream", "x-webkit-deflate-frame", "no-such-thing; x=1, another"])
def test_an_unknown_or_dangerous_extension_is_not_accepted(dial, echo, version, extension):
    wire = dial(echo).send(opening(f"Sec-WebSocket-Extensions: {extension}", version=version))
    head = wire.read_head()
    assert head.status == 101
    assert head["Sec-WebSocket-Extensions"] is None
    assert wire.send(frame(TEXT, "plain")).read(7) == b"\x81\x05plain"


def test_a_first_frame_in_the_same_segment_as_the_request_is_not_lost(dial, echo, version):
    wire = dial(echo).send(opening(version=version), frame(TEXT, "first"))
    wire.read_head()
    assert wire.read(7) == b"\x81\x05first"


# ------------------------------------------------------------------------------- what is echoed

GOOD = {
    "the example of RFC 6455, 5.7": (bytes.fromhex("818537fa213d7f9f4d5158"), b"\x81\x05Hello"),
    "another mask": (frame(TEXT, "Hello", mask=b"\0\0\0\0"), b"\x81\x05Hello"),
    "empty text": (frame(TEXT), b"\x81\x00"),
    "empty binary": (frame(BINARY), b"\x82\x00"),
    "125 bytes": (frame(BINARY, b"x" * 125), b"\x82\x7d" + b"x" * 125),
    "126 bytes": (frame(BINARY, b"x" * 126), b"\x82\x7e\x00\x7e" + b"x" * 126),
    "65,535 bytes": (frame(BINARY, b"x" * 65535), b"\x82\x7e\xff\xff" + b"x" * 65535),
    "65,536 bytes": (frame(BINARY, b"x" * 65536), b"\x82\x7f\0\0\0\0\0\1\0\0" + b"x" * 65536),
    "every byte": (frame(BINARY, bytes(range(256))), b"\x82\x7e\x01\x00" + bytes(range(256))),
    "text of four scripts": (frame(TEXT, "Grüße 你好 😀\U0010ffff\uffff"), b"\x81\x1aGr" + "üße 你好 😀\U0010ffff\uffff".encode()),
    "two fragments": (frame(TEXT, "Hel", fin=False) + frame(CONTINUATION, "lo"), b"\x81\x05Hello"),
    "a character in two fragments": (
        frame(TEXT, b"\xf0\x9f", fin=False) + frame(CONTINUATION, b"\x98\x80"), b"\x81\x04\xf0\x9f\x98\x80",
    ),
    "empty fragments": (
        frame(BINARY, fin=False) + frame(CONTINUATION, b"x", fin=False) + frame(CONTINUATION), b"\x82\x01x",
    ),
    "a ping": (frame(PING, "are you there?"), b"\x8a\x0eare you there?"),
    "an empty ping": (frame(PING), b"\x8a\x00"),
    "a ping of 125 bytes": (frame(PING, b"\xff" * 125), b"\x8a\x7d" + b"\xff" * 125),
    "a ping between fragments": (
        frame(TEXT, "Hel", fin=False) + frame(PING, "?") + frame(CONTINUATION, "lo"), b"\x8a\x01?\x81\x05Hello",
    ),
    "a pong that nobody asked for": (frame(PONG, "!") + frame(TEXT, "on"), b"\x81\x02on"),
    "ten messages": (b"".join(frame(TEXT, f"{n}") for n in range(10)), b"".join(b"\x81\x01%d" % n for n in range(10))),
}


@pytest.mark.parametrize("sent, expected", GOOD.values(), ids=GOOD.keys())
def test_good_frames_are_answered_byte_for_byte(opened, sent, expected):
    opened.send(sent)
    assert opened.read(len(expected)) == expected
    assert opened.send(close_frame(1000)).read_to_end() == CLOSE_1000


def test_a_ping_between_two_fragments_is_answered_before_the_message_ends(opened):
    opened.send(frame(TEXT, "Hel", fin=False), frame(PING, "?"))
    assert opened.read(3) == b"\x8a\x01?"
    opened.send(frame(CONTINUATION, "lo"))
    assert opened.read(7) == b"\x81\x05Hello"


# ------------------------------------------------------------------------------ what is refused

PROTOCOL_ERRORS = {
    "reserved bit 1": frame(TEXT, "x", reserved=4),
    "reserved bit 2": frame(BINARY, "x", reserved=2),
    "reserved bit 3": frame(PING, "x", reserved=1),
    "reserved opcode 3": frame(3, "x"),
    "reserved opcode 7": frame(7, "x"),
    "reserved opcode B": frame(0xB, "x"),
    "reserved opcode F": frame(0xF),
    "no mask": frame(TEXT, "x", mask=None),
    "an empty frame without mask": frame(TEXT, mask=None),
    "a ping without mask": frame(PING, "x", mask=None),
    "16 bits for a length of 125": frame(BINARY, b"x" * 125, length=(16, 125)),
    "16 bits for a length of 0": frame(BINARY, length=(16, 0)),
    "64 bits for a length of 65,535": frame(BINARY, b"x" * 20, length=(64, 65535)),
    "a length of more than 63 bits": frame(BINARY, b"x" * 20, length=(64, 1 << 63)),
    "a ping in fragments": frame(PING, "x", fin=False),
    "a close in fragments": frame(CLOSE, fin=False),
    "a ping of 126 bytes": frame(PING, b"x" * 126),
    "a continuation of nothing": frame(CONTINUATION, "x"),
    "a last continuation of nothing": frame(TEXT, "") + frame(CONTINUATION, "x", fin=False),
    "text within a fragmented text": frame(TEXT, "x", fin=False) + frame(TEXT, "y"),
    "binary within a fragmented text": frame(TEXT, "x", fin=False) + frame(BINARY, "y", fin=False),
    "a close of one byte": frame(CLOSE, b"\x03"),
    **{
        f"close code {code}": close_frame(code)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("bad", PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS.keys())
def test_a_broken_rule_is_answered_with_1002_and_the_end(opened, bad):
    opened.send(bad)
    first, payload = opened.read_frame()
    if bad.startswith(frame(TEXT, "")):
        assert (first, payload) == (0x81, b""), "the good message before the bad frame"
        first, payload = opened.read_frame()
    assert (first, payload[:2]) == (0x88, b"\x03\xea")
    assert opened.read_to_end() == b""


@pytest.mark.parametrize("bad", [frame(TEXT, "x", reserved=4), frame(3), frame(TEXT, "x", mask=None), frame(PING, fin=False)])
def test_a_good_message_before_a_bad_frame_in_one_segment_is_echoed_first(opened, bad):
    opened.send(frame(TEXT, "good"), frame(PING, "too"), bad)
    # One is the embedder's answer, the other the library's: they keep their order all the same.
    assert opened.read(6 + 5) == b"\x81\x04good\x8a\x03too"
    assert opened.read_close() == 1002
    assert opened.read_to_end() == b""


def test_nothing_after_a_bad_frame_is_looked_at(opened):
    opened.send(frame(3, "x"), frame(TEXT, "too late"), frame(PING, "too late"))
    assert opened.read_close() == 1002
    assert opened.read_to_end() == b""


BAD_UTF8 = {
    "a lonely continuation": b"\x80",
    "a missing continuation": b"\xc3(",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL of three bytes": b"\xe0\x80\x80",
    "a surrogate": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "a byte that never occurs": b"\xff",
}


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_bad_utf8_is_refused_with_1007(opened, bad):
    opened.send(frame(TEXT, "κόσμε".encode() + bad + b"edited"))
    assert opened.read_close() == 1007
    assert opened.read_to_end() == b""


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_bad_utf8_is_refused_while_its_frame_is_still_arriving(opened, bad):
    payload = "κόσμε".encode() + bad
    opened.send(frame(TEXT, payload, length=len(payload) + 1000))
    assert opened.read_close() == 1007
    assert opened.read_to_end() == b""


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8.keys())
def test_bad_utf8_is_refused_before_the_next_fragment(opened, bad):
    opened.send(frame(TEXT, "κόσμε", fin=False), frame(CONTINUATION, bad, fin=False))
    assert opened.read_close() == 1007
    assert opened.read_to_end() == b""


def test_a_character_cut_off_by_the_end_of_a_message_is_refused_with_1007(opened):
    opened.send(frame(TEXT, b"abc\xf0\x9f", fin=False), frame(CONTINUATION, b"\x98"))
    assert opened.read_close() == 1007
    assert opened.read_to_end() == b""


@pytest.mark.parametrize("bad", [b"\xf4\x90", b"\xed\xa0", b"\xe0\x80"], ids=bytes.hex)
def test_a_sequence_is_refused_at_the_first_byte_that_makes_it_impossible(opened, bad):
    opened.send(frame(TEXT, bad, length=4))
    assert opened.read_close() == 1007
    assert opened.read_to_end() == b""


def test_binary_need_not_be_utf8(opened):
    assert opened.send(frame(BINARY, b"\xc0\xff\xed")).read(5) == b"\x82\x03\xc0\xff\xed"


@pytest.mark.parametrize(
    "large",
    [
        frame(TEXT, b"x" * 1025),
        frame(BINARY, b"x", length=1025),
        frame(BINARY, b"x", length=(64, 1 << 40)),
        frame(BINARY, b"x" * 1000, fin=False) + frame(CONTINUATION, b"x", length=25),
    ],
    ids=["a whole frame", "its head alone", "a terabyte", "a second fragment"],
)
def test_a_message_over_max_message_is_refused_with_1009(start, dial, large):
    echo = start("echo", settings={"max.message": "1k"})
    wire = dial(echo).send(opening())
    wire.read_head()
    fits = frame(BINARY, b"y" * 1000, fin=False) + frame(CONTINUATION, b"y" * 24)
    assert wire.send(fits).read(4 + 1024) == b"\x82\x7e\x04\x00" + b"y" * 1024
    wire.send(large)
    assert wire.read_close() == 1009
    assert wire.read_to_end() == b""


# ----------------------------------------------------------------------------------- the close


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_own_code_and_the_end(opened, code):
    opened.send(close_frame(code, "auf Wiedersehen, 再见".encode()))
    assert opened.read_close() == code
    assert opened.read_to_end() == b""


def test_a_close_without_a_code_is_answered_without_one_or_with_1000(opened):
    assert opened.send(close_frame()).read_to_end() in (b"\x88\x00", CLOSE_1000)


def test_a_reason_that_is_not_utf8_is_answered_with_1007(opened):
    opened.send(close_frame(1000, b"\xc0\xaf"))
    assert opened.read_close() == 1007
    assert opened.read_to_end() == b""


def test_a_reason_may_be_123_bytes_long(opened):
    opened.send(close_frame(1000, b"x" * 123))
    assert opened.read_close() == 1000
    assert opened.read_to_end() == b""


def test_a_close_within_a_fragmented_message_is_answered_with_1000(opened):
    assert opened.send(frame(TEXT, "half", fin=False), close_frame(1000)).read_to_end() == CLOSE_1000


def test_nothing_after_a_close_is_looked_at(opened):
    opened.send(close_frame(1000), frame(TEXT, "too late"), frame(PING, "too late"), frame(3))
    assert opened.read_to_end() == CLOSE_1000


def test_the_server_ends_at_once_after_the_closes(opened):
    # "The server MUST close the TCP connection immediately" so that TIME_WAIT stays with it. (RFC 6455, 7.1.1)
    before = time.monotonic()
    opened.send(close_frame(1000)).read_to_end()
    assert time.monotonic() - before < 0.5


def test_the_answer_to_the_last_message_still_arrives_after_a_fin(opened):
    # A FIN without a close: the connection is lost (1006), but what it said counts.
    received = opened.send(frame(TEXT, "last")).finish().read_to_end()
    assert received[:6] == b"\x81\x04last"


def test_a_fin_within_a_frame_is_just_the_end(opened):
    assert opened.send(frame(TEXT, "half", length=100)).finish().read_to_end()[:1] in (b"", b"\x88")


def test_a_server_that_stops_says_1001_and_ends_when_the_client_answers(start, dial, version):
    echo = start("echo")
    wire = dial(echo).send(opening(version=version))
    wire.read_head()
    echo.process.terminate()
    assert wire.read_close() == 1001
    before = time.monotonic()
    wire.send(close_frame(1001))
    assert wire.read_to_end() == b""
    wire.close()
    echo.stop()
    # It would wait 2 s for a client that does not answer.
    assert time.monotonic() - before < 1.5


# ------------------------------------------------------------------------- a great many of them


def test_200_connections_at_once_each_get_their_own_words(echo):
    wires = [Wire(echo.port) for _ in range(200)]
    for wire in wires:
        wire.send(opening())
    for number, wire in enumerate(wires):
        wire.read_head()
        wire.send(frame(TEXT, f"I am {number:03}"))
    for number, wire in enumerate(wires):
        assert wire.read(10) == b"\x81\x08I am %03d" % number
        wire.close()
