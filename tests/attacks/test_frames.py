"""Attacks by frames: broken ones, one-byte ones, floods of fragments, pings and closes, huge declared lengths, text that
is no UTF-8, closes that say nothing sensible."""

import threading

import pytest

from support.crowd import hear, pour, reset
from support.dialects import DIALECTS, HIXIE, HIXIE_76, HYBI, RFC_6455
from support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame

MIB = 1 << 20
ZEROS = bytes(4)  # A mask of zeros is one, too, and leaves the payload readable.


def opened_socks(port, dialect, count):
    """So many open connections of one dialect, as plain sockets."""
    return [dialect.open(port).socket for _ in range(count)]


# ------------------------------------------------------------------------------------ broken frames

BROKEN = {
    "an unmasked text": (frame(TEXT, "x", mask=None), 1002),
    "an unmasked empty text": (frame(TEXT, mask=None), 1002),
    "an unmasked close": (frame(CLOSE, b"\x03\xe8", mask=None), 1002),
    "an unmasked ping": (frame(PING, mask=None), 1002),
    **{f"reserved bits {bits:03b}": (frame(TEXT, "x", reserved=bits), 1002) for bits in range(1, 8)},
    **{f"reserved bits {bits:03b} in a ping": (frame(PING, reserved=bits), 1002) for bits in range(1, 8)},
    **{f"opcode {opcode}": (frame(opcode, "x"), 1002) for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]},
    **{f"opcode {opcode} without an end": (frame(opcode, fin=False), 1002) for opcode in [3, 7, 8, 9, 10, 11, 15]},
    "a ping of 126 bytes": (frame(PING, bytes(126)), 1002),
    "a pong of 64 KiB": (frame(PONG, bytes(1 << 16)), 1002),
    "a close of 126 bytes": (frame(CLOSE, b"\x03\xe8" + bytes(124)), 1002),
    "a length of 125 in 16 bits": (frame(TEXT, bytes(125), length=(16, 125)), 1002),
    "a length of 125 in 64 bits": (frame(TEXT, bytes(125), length=(64, 125)), 1002),
    "a length of 65535 in 64 bits": (frame(TEXT, bytes(65535), length=(64, 65535)), 1002),
    "a message over the limit": (frame(BINARY, length=MIB + 1), 1009),
    "fragments over the limit": (
        frame(BINARY, bytes(MIB), fin=False, mask=ZEROS) + frame(CONTINUATION, "x", fin=False), 1009,
    ),
    "a continuation of nothing": (frame(CONTINUATION, "x"), 1002),
    "a message within a message": (frame(TEXT, "x", fin=False) + frame(TEXT, "x"), 1002),
}


@pytest.mark.parametrize("dialect", HYBI, ids=str)
def test_a_broken_frame_ends_its_own_connection_and_what_follows_it_is_not_heard(attacked, dialect):
    with attacked({"max.message": "1m"}) as server:
        for what, (broken, code) in BROKEN.items():
            with dialect.open(server.port) as wire:
                wire.send(broken)
                assert wire.read_close() == code, what
                pour(wire.socket, dialect.text(b"echo me") * 1_000)
                assert b"echo me" not in hear(wire.socket), what


@pytest.mark.parametrize("dialect", HIXIE, ids=str)
def test_frames_that_the_hixie_dialects_do_not_know_are_skipped_and_cost_nothing(attacked, dialect):
    kinds = [b"\x7f", b"\x01", b"\x42"]
    with attacked({"max.message": "1m"}) as server, dialect.open(server.port) as wire:
        for kind in kinds:
            # Skipped bytes are kept nowhere, so they have no limit.
            wire.send(kind, bytes(4 * MIB), b"\xff", b"\x80\x84\x80\x80\x00", bytes(8 * MIB), dialect.text(b"after"))
            assert wire.read(7) == dialect.echo(b"after")
            assert server.memory_growth() < 2 * MIB


# -------------------------------------------------------------------------------- one byte at a time


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_two_hundred_thousand_messages_of_one_byte_are_all_answered(attacked, dialect):
    count, one = 200_000, dialect.text(b"x", mask=ZEROS)
    with attacked() as server, dialect.open(server.port) as wire:
        sending = threading.Thread(target=pour, args=(wire.socket, one * count), daemon=True)
        sending.start()
        echo = dialect.echo(b"x")
        assert wire.read(len(echo) * count) == echo * count
        sending.join()


@pytest.mark.parametrize("dialect", HYBI, ids=str)
def test_a_message_in_a_hundred_thousand_fragments_of_one_byte_is_one_message(attacked, dialect):
    count = 100_000
    with attacked() as server, dialect.open(server.port) as wire:
        wire.send(
            frame(BINARY, "x", fin=False, mask=ZEROS),
            frame(CONTINUATION, "x", fin=False, mask=ZEROS) * (count - 2),
            frame(CONTINUATION, "x", mask=ZEROS),
        )
        assert wire.read_frame() == (0x80 | BINARY, b"x" * count)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_a_hundred_thousand_segments_of_one_byte_are_one_message(attacked, dialect):
    text = b"x" * 100_000
    with attacked() as server, dialect.open(server.port) as wire:
        for byte in dialect.text(text):
            wire.socket.send(bytes([byte]))
        server.assert_companions_are_served()
        expected = dialect.echo(text)
        assert wire.read(len(expected)) == expected


# ------------------------------------------------------------------------------- floods of fragments


@pytest.mark.parametrize("dialect", HYBI, ids=str)
def test_a_flood_of_empty_fragments_ends_at_max_fragments(attacked, dialect):
    with attacked({"max.fragments": "1000"}) as server:
        for flood in (frame(CONTINUATION, fin=False), frame(CONTINUATION, fin=False) + frame(PING)):
            with dialect.open(server.port) as wire:
                wire.send(frame(TEXT, fin=False), flood * 1000)
                heard = wire.read_to_end()
                pongs = heard.count(b"\x8a\0")
                assert heard[2 * pongs :].startswith(b"\x88") and heard[2 * pongs + 2 :][:2] == b"\x03\xf1"  # 1009
        for _ in range(20):
            with dialect.open(server.port) as wire:
                # Whoever goes on is cut, and perhaps never hears why.
                assert not pour(wire.socket, frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 2_000_000)
        assert server.memory_growth() < 2 * MIB


def test_by_default_empty_fragments_end_somewhere_too(attacked):
    with attacked() as server, RFC_6455.open(server.port) as wire:
        wire.send(frame(BINARY, fin=False), frame(CONTINUATION, fin=False) * 131_072)
        assert wire.read_close() == 1009
        assert server.memory_growth() < 2 * MIB


# ------------------------------------------------------------------------- floods of pings and closes

FLOODS = {"empty pings": frame(PING), "full pings": frame(PING, bytes(125)), "pongs": frame(PONG, bytes(125))}
# What one turn may be told at once of the smallest frames, and what it has read.
TURN_BYTES_MAX = 16 * MIB


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.parametrize("dialect", HYBI[::2], ids=str)
def test_a_flood_of_pings_gets_pongs_and_nothing_else_and_the_others_are_served(attacked, dialect, flood):
    with attacked() as server, dialect.open(server.port) as wire:
        heard = []
        reading = threading.Thread(target=lambda: heard.append(hear(wire.socket)), daemon=True)
        reading.start()
        for _ in range(16):
            wire.send(flood * (MIB // 2 // len(flood)))
            server.assert_companions_are_served()
        wire.send(close_frame(1000))
        reading.join()
        *pongs, close = split_frames(heard[0])
        assert close == (0x80 | CLOSE, b"\x03\xe8")
        # "MAY elect to send a Pong frame for only the most recently processed Ping frame" (RFC 6455, 5.5.3)
        assert set(pongs) == ({(0x80 | PONG, bytes(len(flood) - 6))} if flood[0] == 0x80 | PING else set())


@pytest.mark.parametrize("threads", [2])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_of_pings_from_peers_that_never_read_costs_a_bounded_memory(attacked, threads, flood):
    with attacked() as server:
        peers = opened_socks(server.port, RFC_6455, 10)
        for _ in range(4):
            for sock in peers:
                assert pour(sock, flood * (MIB // 2 // len(flood)))
                assert server.memory_growth() < threads * TURN_BYTES_MAX
            server.assert_served()
        for sock in peers:
            reset(sock)


@pytest.mark.parametrize("dialect", [*HYBI, HIXIE_76], ids=str)
def test_a_flood_of_closes_is_answered_once(attacked, dialect):
    close = b"\xff\x00" if dialect.is_hixie else close_frame(1000, b"bye")
    answer = b"\xff\x00" if dialect.is_hixie else b"\x88\x02\x03\xe8"
    with attacked() as server:
        for _ in range(10):
            # What is behind the first is thrown away, up to a measure.
            with dialect.open(server.port).send(close * 1_000).finish() as wire:
                assert wire.read_to_end() == answer
        for sock in opened_socks(server.port, dialect, 200):
            pour(sock, close * 50_000)
            reset(sock)


# -------------------------------------------------------------------------- huge declared lengths

TOO_LONG = {2**63: 1002, 2**63 + 1: 1002, 2**64 - 1: 1002, 2**63 - 1: 1009, 2**62: 1009, 2**32: 1009, (1 << 30) + 1: 1009}


@pytest.mark.parametrize("dialect", HYBI, ids=str)
def test_a_length_that_cannot_be_is_refused_by_its_head_alone(attacked, dialect):
    with attacked({"max.message": "1g"}) as server:
        for opcode in (TEXT, BINARY):
            for length, code in TOO_LONG.items():
                with dialect.open(server.port).send(frame(opcode, length=(64, length))) as wire:
                    assert wire.read_close() == code, length
        with dialect.open(server.port) as wire:
            wire.send(frame(BINARY, "x", fin=False), frame(CONTINUATION, length=(64, 1 << 30)))
            assert wire.read_close() == 1009
        assert server.memory_growth() < 2 * MIB


@pytest.mark.parametrize("dialect", HYBI, ids=str)
def test_a_gigabyte_that_is_announced_by_hundreds_sets_no_memory_aside(attacked, dialect):
    with attacked({"max.message": "1g"}) as server:
        peers = opened_socks(server.port, dialect, 300)
        for index, sock in enumerate(peers):
            sock.sendall(frame(BINARY, bytes(index % 2 * 10), length=(64, 1 << 30)))
        server.assert_served()
        assert server.memory_growth() < 2 * MIB
        for sock in peers:
            reset(sock)


@pytest.mark.parametrize("dialect", HIXIE, ids=str)
def test_a_length_of_any_size_in_hixie_sets_no_memory_aside_and_never_overflows(attacked, dialect):
    with attacked() as server:
        peers = opened_socks(server.port, dialect, 300)
        for index, sock in enumerate(peers):
            # 63 bits at most, in groups of seven.
            sock.sendall(b"\x80" + b"\xff" * (index % 9) + b"\x7f" + bytes(100))
        for _ in range(20):
            with dialect.open(server.port).send(b"\x80" + b"\xff" * 20) as wire:
                assert wire.read_to_end() in (b"", b"\xff\x00")
        server.assert_served()
        assert server.memory_growth() < 2 * MIB
        for sock in peers:
            reset(sock)


# ------------------------------------------------------------------------------ text that is no UTF-8

TEXT_OF_ALL_LENGTHS = "aé€😀\U0010ffff\u0800\x7fz".encode()
BAD_BYTES = [b"\xff", b"\xc0", b"\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_text_that_is_split_at_every_place_comes_back_whole(attacked, dialect):
    text = TEXT_OF_ALL_LENGTHS
    expected = dialect.echo(text)
    with attacked() as server, dialect.open(server.port) as wire:
        for split in range(1, len(text)):
            # Over segments: the server sees a part of a character, and another conversation, before the rest.
            message = dialect.text(text)
            head_len = len(message) - len(text) - dialect.is_hixie
            wire.send(message[: head_len + split])
            if split % 4 == 0:
                server.assert_companions_are_served()
            wire.send(message[head_len + split :])
            assert wire.read(len(expected)) == expected, split
            if not dialect.is_hixie:
                wire.send(frame(TEXT, text[:split], fin=False), frame(PING), frame(CONTINUATION, text[split:]))
                assert wire.read(2) == b"\x8a\0"
                assert wire.read(len(expected)) == expected, split
        if not dialect.is_hixie:
            last = len(text) - 1
            wire.send(frame(TEXT, fin=False), *(frame(CONTINUATION, text[i : i + 1], fin=i == last) for i in range(last + 1)))
            assert wire.read(len(expected)) == expected


@pytest.mark.parametrize("dialect", HYBI, ids=str)
def test_text_that_is_bad_at_any_place_ends_its_connection_and_is_never_echoed(attacked, dialect):
    with attacked() as server:
        for bad in BAD_BYTES:
            for place in range(len(TEXT_OF_ALL_LENGTHS) + 1):
                text = TEXT_OF_ALL_LENGTHS[:place] + bad + TEXT_OF_ALL_LENGTHS[place:]
                if is_utf8(text):
                    continue
                half = len(text) // 2
                whole, tail = frame(TEXT, text), len(text) - half
                for parts in [
                    [whole],
                    [frame(TEXT, text[:half], fin=False) + frame(CONTINUATION, text[half:])],
                    [whole[:-tail], whole[-tail:]],
                ]:
                    with dialect.open(server.port) as wire:
                        for part in parts:
                            # The bad byte may be in the first part.
                            pour(wire.socket, part)
                        assert wire.read_close() == 1007, (bad, place)


@pytest.mark.parametrize("dialect", HIXIE, ids=str)
def test_bad_text_in_hixie_is_never_echoed_as_it_came(attacked, dialect):
    with attacked() as server, dialect.open(server.port) as wire:
        for bad in BAD_BYTES:
            if b"\xff" in bad:
                continue  # the end of the text
            for place in range(len(TEXT_OF_ALL_LENGTHS) + 1):
                text = TEXT_OF_ALL_LENGTHS[:place] + bad + TEXT_OF_ALL_LENGTHS[place:]
                expected = dialect.echo(text.decode(errors="replace").encode())
                assert wire.send(dialect.text(text)).read(len(expected)) == expected, (bad, place)


# ------------------------------------------------------------------------------- closes without sense

GOOD_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
BAD_CODES = [0, 1, 255, 256, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 0x7FFF, 0x8000, 0xFFFF]
BAD_CLOSES = {
    **{f"code {code}": (close_frame(code), 1002) for code in BAD_CODES},
    **{f"code {code} with a reason": (close_frame(code, b"why"), 1002) for code in BAD_CODES},
    "one byte": (frame(CLOSE, "\x03"), 1002),
    **{f"{bad.hex()} behind {n} bytes": (close_frame(1000, b"x" * n + bad), 1007) for bad in BAD_BYTES for n in (0, 1, 50, 119)},
    "a character cut off": (close_frame(1000, "é".encode() * 61 + b"\xc3"), 1007),
}


@pytest.mark.parametrize("dialect", HYBI, ids=str)
def test_a_close_that_makes_no_sense_is_answered_with_what_is_wrong_and_the_end(attacked, dialect):
    with attacked() as server:
        for what, (close, code) in BAD_CLOSES.items():
            with dialect.open(server.port).send(close) as wire:
                assert wire.read_close() == code, what
                assert wire.read_to_end() == b"", what
        for code in GOOD_CODES:
            with dialect.open(server.port).send(close_frame(code, b"x" * 123)) as wire:
                assert wire.read_close() == code
                assert wire.read_to_end() == b""
        with dialect.open(server.port).send(close_frame()) as wire:
            assert wire.read_close() in (None, 1000)
            assert wire.read_to_end() == b""


# ------------------------------------------------------------------------------------------------


def split_frames(data):
    """(first byte, payload) of each frame of a server; all are short."""
    frames, position = [], 0
    while position < len(data):
        end = position + 2 + data[position + 1]
        frames.append((data[position], data[position + 2 : end]))
        position = end
    return frames


def is_utf8(data):
    try:
        data.decode()
        return True
    except UnicodeDecodeError:
        return False
