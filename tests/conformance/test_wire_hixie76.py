"""Hixie-76, the dialect of the browsers of 2010, byte for byte against `echo`."""

import hashlib
import struct

import pytest

from support.wire import Wire, request

# The two conversations that the draft itself prints (draft-hixie-thewebsocketprotocol-76, 1.2 and 1.3).
DRAFT_EXAMPLES = [
    ("4 @1  46546xW%0l 1 5", "12998 5 Y3 1  .P00", b"^n:ds[4U", b"8jKS'y:G*Co,Wxa-"),
    ("18x 6]8vM;54 *(5:  {   U1]8  z [  8", "1_ tx7X d  <  nw  334J702) 7]o}` 0", b"Tm[K T2u", b"fQJ,fN/4F4!~K~MH"),
]
KEY1, KEY2, BODY, ANSWER = DRAFT_EXAMPLES[0]


def opening(key1=KEY1, key2=KEY2, *more, origin="http://example.com", target="/demo", host="example.com"):
    return request(
        "Connection: Upgrade",
        *([] if key2 is None else [f"Sec-WebSocket-Key2: {key2}"]),
        "Upgrade: WebSocket",
        *([] if key1 is None else [f"Sec-WebSocket-Key1: {key1}"]),
        *([] if origin is None else [f"Origin: {origin}"]),
        *more,
        target=target, host=host,
    )


def answer(number1, number2, body=BODY):
    return hashlib.md5(struct.pack("!II", number1, number2) + body).digest()


@pytest.fixture
def opened(dial, echo):
    """A connection that is open and has nothing unread."""
    wire = dial(echo).send(opening(), BODY)
    assert wire.read_head().status == 101
    assert wire.read(16) == ANSWER
    return wire


# ------------------------------------------------------------------------------- the handshake


@pytest.mark.parametrize("key1, key2, body, sixteen", DRAFT_EXAMPLES)
def test_the_drafts_own_keys_get_the_drafts_own_answer(dial, echo, key1, key2, body, sixteen):
    wire = dial(echo).send(opening(key1, key2), body)
    head = wire.read_head()
    assert head.first_line == "HTTP/1.1 101 WebSocket Protocol Handshake"
    assert sorted(head.headers) == [
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Location", "ws://example.com/demo"),
        ("Sec-WebSocket-Origin", "http://example.com"),
        ("Upgrade", "WebSocket"),
    ]
    assert wire.read(16) == sixteen


def test_the_head_of_the_answer_comes_before_the_eight_bytes_do(dial, echo):
    # Proxies that know HTTP forward the eight bytes only after they saw the 101.
    wire = dial(echo).send(opening())
    assert wire.read_head().status == 101
    assert wire.is_silent_for(0.1)
    wire.send(BODY[:5])
    assert wire.is_silent_for(0.1)
    wire.send(BODY[5:])
    assert wire.read(16) == ANSWER


def test_the_sixteen_bytes_come_in_one_piece(dial, echo):
    # A client of 2011 reads them with one recv and takes less for a wrong answer.
    wire = dial(echo).send(opening())
    wire.read_head()
    wire.send(BODY)
    assert wire.socket.recv(100) == ANSWER


def test_content_length_8_means_the_eight_bytes_and_not_a_body_beside_them(dial, echo):
    wire = dial(echo).send(opening(KEY1, KEY2, "Content-Length: 8"), BODY, b"\x00after\xff")
    assert wire.read_head().status == 101
    assert wire.read(16 + 7) == ANSWER + b"\x00after\xff"


def test_a_first_frame_in_the_same_segment_as_the_eight_bytes_is_not_lost(dial, echo):
    wire = dial(echo).send(opening(), BODY, b"\x00first\xff\x00second\xff")
    wire.read_head()
    assert wire.read(16 + 7 + 8) == ANSWER + b"\x00first\xff\x00second\xff"


@pytest.mark.parametrize("origin", ["http://example.com", "http://example.com/", "HTTP://Example.COM:8080", "null", "file://"])
def test_the_origin_comes_back_byte_for_byte(dial, echo, origin):
    head = dial(echo).send(opening(origin=origin), BODY).read_head()
    assert head["Sec-WebSocket-Origin"] == origin


@pytest.mark.parametrize("host", ["example.com", "EXAMPLE.com:80", "127.0.0.1:9001", "[::1]:9001"])
@pytest.mark.parametrize("target", ["/", "/demo", "/a%20b?c=d&e=%2F?&&", "/?x"])
def test_the_location_is_the_host_and_the_target_byte_for_byte(dial, echo, host, target):
    head = dial(echo).send(opening(host=host, target=target), BODY).read_head()
    assert head["Sec-WebSocket-Location"] == f"ws://{host}{target}"


def test_no_header_of_the_answer_is_empty(dial, echo):
    # An empty value made WebKit drop the line and then miss the header.
    head = dial(echo).send(opening(), BODY).read_head()
    assert all(value for _, value in head.headers)


def test_a_subprotocol_that_was_asked_for_comes_back_exactly(start, dial):
    echo = start("echo", settings={"protocols": "sample"})
    wire = dial(echo).send(opening(KEY1, KEY2, "Sec-WebSocket-Protocol: sample"), BODY)
    assert wire.read_head()["Sec-WebSocket-Protocol"] == "sample"
    assert wire.read(16) == ANSWER


@pytest.mark.parametrize("upgrade", ["WebSocket", "websocket", "WEBSOCKET"])
def test_the_upgrade_header_is_understood_in_any_case(dial, echo, upgrade):
    head = request(
        f"Upgrade: {upgrade}", "Connection: Upgrade", "Origin: http://example.com",
        f"Sec-WebSocket-Key1: {KEY1}", f"Sec-WebSocket-Key2: {KEY2}", target="/demo", host="example.com",
    )
    wire = dial(echo).send(head, BODY)
    assert wire.read_head().status == 101
    assert wire.read(16) == ANSWER


# ------------------------------------------------------------------------------------ the keys


@pytest.mark.parametrize(
    "key, number",
    [
        ("1 0", 10),
        ("5" + " " * 12 + "1539607540", 4294967295),  # past 2^32 before the division
        ("0 0", 0),
    ],
)
def test_a_key_is_its_digits_divided_by_its_spaces(dial, echo, key, number):
    wire = dial(echo).send(opening(key, "2 0"), BODY)
    assert wire.read_head().status == 101
    assert wire.read(16) == answer(number, 20)


@pytest.mark.parametrize("key", ["1 2 ", " 1 2", "12  "])
def test_blanks_at_the_ends_of_a_key_count(dial, echo, key):
    # The one blank after the colon belongs to the header line, all others to the key.
    wire = dial(echo).send(opening(key, "2 0"), BODY)
    assert wire.read_head().status == 101
    assert wire.read(16) == answer(6, 20)


BAD_KEYS = {
    "no spaces": "12345",
    "a remainder": "1 0 1",
    "a quotient of more than 32 bits": "42949672 96",
    "digits of more than 64 bits": "1 8446744073709551616",
    "very many digits": "9 " * 300,
    "nothing": "",
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS.keys())
@pytest.mark.parametrize("which", [1, 2])
def test_a_key_that_makes_no_number_is_refused_before_the_eight_bytes(dial, echo, key, which):
    keys = (key, KEY2) if which == 1 else (KEY1, key)
    wire = dial(echo).send(opening(*keys))
    assert wire.read_head().status == 400
    wire.read_to_end()


@pytest.mark.parametrize("keys", [(KEY1, None), (None, KEY2)], ids=["only key 1", "only key 2"])
def test_one_key_without_the_other_is_refused_and_not_taken_for_hixie_75(dial, echo, keys):
    wire = dial(echo).send(opening(*keys), BODY)
    assert wire.read_head().status == 400
    wire.read_to_end()


def test_an_end_within_the_eight_bytes_is_an_end(dial, echo):
    wire = dial(echo).send(opening(), BODY[:7]).finish()
    assert wire.read_head().status == 101
    assert wire.read_to_end() == b""


# ---------------------------------------------------------------------------------- the frames

TEXTS = ["Hello", "", "Grüße, Привет, 你好", "😀\U0010ffff", "a zero \0 inside", "x" * 3000]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_comes_back_between_00_and_ff(opened, text):
    sent = b"\x00" + text.encode() + b"\xff"
    assert opened.send(sent).read(len(sent)) == sent


def test_several_messages_in_one_segment_come_back_in_order(opened):
    sent = b"".join(b"\x00%d\xff" % number for number in range(100))
    assert opened.send(sent).read(len(sent)) == sent


LENGTH_PREFIXED = {
    "a short one full of FF": b"\x80\x03\xff\xff\xff",
    "an empty one": b"\x80\x00",
    "one with a length of two bytes": b"\x81\x81\x00" + b"\xff" * 128,
    "one with a length that has leading zeros": b"\xfe\x80\x80\x02\x00\xff",
    "one of type FF that is not empty": b"\xff\x02\xff\x00",
}


@pytest.mark.parametrize("skipped", LENGTH_PREFIXED.values(), ids=LENGTH_PREFIXED.keys())
def test_frames_with_a_length_are_skipped(opened, skipped):
    assert opened.send(skipped, b"\x00after\xff").read(7) == b"\x00after\xff"


@pytest.mark.parametrize("kind", [0x01, 0x42, 0x7F])
def test_frames_of_unknown_type_are_skipped_up_to_their_ff(opened, kind):
    assert opened.send(bytes([kind]), b"to be \x00 skipped\xff\x00after\xff").read(7) == b"\x00after\xff"


def test_a_length_that_overflows_ends_the_connection_and_nothing_else(echo, opened):
    # A length is a number in groups of seven bits and could go on for ever.
    opened.send(b"\x80" + b"\xff" * 20)
    assert opened.read_to_end() in (b"", b"\xff\x00")
    with Wire(echo.port) as another:
        another.send(opening(), BODY).read_head()
        assert another.read(16) == ANSWER


@pytest.mark.parametrize(
    "bad", [b"\xc3\x28", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"abc\xe2\x82"], ids=bytes.hex
)
def test_bad_utf8_is_replaced_or_refused_but_never_echoed(opened, bad):
    opened.send(b"\x00", bad, b"\xff\xff\x00")
    received = opened.read_to_end()
    replaced = b"\x00" + bad.decode(errors="replace").encode() + b"\xff\xff\x00"
    assert received in (replaced, b"\xff\x00", b"")


def test_a_message_over_max_message_ends_the_connection(start, dial):
    echo = start("echo", settings={"max.message": "1k"})
    wire = dial(echo).send(opening(), BODY)
    wire.read_head()
    assert wire.read(16) == ANSWER
    fits = b"\x00" + b"x" * 1024 + b"\xff"
    assert wire.send(fits).read(len(fits)) == fits
    wire.send(b"\x00" + b"x" * 1025)
    assert wire.read_to_end() in (b"", b"\xff\x00")


# ----------------------------------------------------------------------------------- the close


def test_ff_00_is_answered_with_ff_00_and_the_end(opened):
    assert opened.send(b"\x00last\xff\xff\x00").read_to_end() == b"\x00last\xff\xff\x00"


def test_a_fin_without_ff_00_is_a_normal_end(opened):
    # WebKit's close() does just that.
    assert opened.finish().read_to_end() in (b"", b"\xff\x00")


def test_the_answer_to_the_last_message_still_arrives_after_a_fin(opened):
    assert opened.send(b"\x00last\xff").finish().read_to_end().startswith(b"\x00last\xff")


def test_an_end_within_a_frame_delivers_nothing(opened):
    assert opened.send(b"\x00half").finish().read_to_end() in (b"", b"\xff\x00")


def test_a_server_that_stops_sends_ff_00_and_ends_without_waiting(start, dial):
    # WebKit neither answers nor closes: waiting for it would mean waiting for the time-out.
    echo = start("echo")
    wire = dial(echo).send(opening(), BODY)
    wire.read_head()
    assert wire.read(16) == ANSWER
    echo.stop()
    assert wire.read_to_end() == b"\xff\x00"
