"""Attacks by the head of a request: slowloris, header floods, the keys of Hixie-76."""

import time

import pytest

from support.crowd import connect, crowd, hear, hear_all, pour
from support.dialects import DIALECTS, EIGHT_BYTES, HIXIE_76, HIXIE_KEYS, RFC_6455
from support.wire import Wire, request

HEAD_BYTES_MAX = 16 * 1024

# -------------------------------------------------------------------------------------- slowloris


def test_hundreds_of_handshakes_that_come_byte_by_byte_are_all_cut_in_time(attacked):
    with attacked({"timeout.handshake": "700ms"}) as server:
        begin = time.monotonic()
        with crowd(server.port, 400) as slow:
            openings = [DIALECTS[index % len(DIALECTS)].opening("X: " + "x" * 10_000) for index in range(len(slow))]
            position = 0

            def another_byte():
                nonlocal position
                for sock, opening in zip(slow, openings):
                    pour(sock, opening[position : position + 1])
                position += 1
                server.assert_companions_are_served()

            heard = hear_all(slow, meanwhile=another_byte)
        assert all(answer[:12] in (b"", b"HTTP/1.1 408") for answer in heard)
        assert time.monotonic() - begin < 5


def test_hundreds_that_say_nothing_at_all_are_cut_in_time(attacked):
    with attacked({"timeout.handshake": "500ms"}) as server, crowd(server.port, 400) as silent:
        assert set(hear_all(silent, meanwhile=server.assert_served)) == {b""}


def test_hundreds_that_hold_back_the_last_of_the_eight_bytes_are_cut_in_time(attacked):
    with attacked({"timeout.handshake": "500ms"}) as server, crowd(server.port, 400) as slow:
        for sock in slow:
            sock.sendall(HIXIE_76.opening()[:-1])
        heard = hear_all(slow, meanwhile=server.assert_companions_are_served)
        assert all(answer.startswith(b"HTTP/1.1 101 ") and answer.endswith(b"\r\n\r\n") for answer in heard)


# ---------------------------------------------------------------------------------- header floods

HEADS = {
    "many lines": RFC_6455.opening(*(f"X-{number}: y" for number in range(2_000))),
    "many empty values": RFC_6455.opening(*("X:" for _ in range(5_000))),
    "one huge line": RFC_6455.opening("Cookie: " + "x" * 1_000_000),
    "one huge name": RFC_6455.opening("X" * 1_000_000 + ": y"),
    "a huge target": RFC_6455.opening(target="/" + "x" * 1_000_000),
    "a huge method": RFC_6455.opening(method="G" * 1_000_000),
    "a line that never ends": b"GET / HTTP/1.1\r\nCookie: " + b"x" * 4_000_000,
    "lines that never end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 700_000,
    "a request that never begins": b"\r\n" * 2_000_000,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_head_without_measure_is_refused_at_the_limit_and_costs_no_memory(attacked, head):
    with attacked() as server:
        for _ in range(10):
            with Wire(server.port) as wire:
                # As much as fits, and a little more, is read and answered; of what comes after that most is cut.
                wire.send(head[: HEAD_BYTES_MAX + 1000])
                assert wire.read_head().status == 431
                pour(wire.socket, head[HEAD_BYTES_MAX + 1000 :])
                hear(wire.socket)
            assert server.memory_growth() < 2 << 20


def test_hundreds_of_unfinished_heads_cost_no_more_than_their_bytes(attacked):
    count, head = 400, RFC_6455.opening("Cookie: " + "x" * (HEAD_BYTES_MAX - 1000))[:-2]
    with attacked({"timeout.handshake": "1s"}) as server, crowd(server.port, count) as heads:
        for sock in heads:
            sock.sendall(head)
        server.assert_served()
        # A head grows by doubling.
        assert server.memory_growth() < count * 2 * HEAD_BYTES_MAX + (2 << 20)
        assert {answer[:12] for answer in hear_all(heads, server.assert_companions_are_served)} == {b"HTTP/1.1 408"}


# ---------------------------------------------------------------------------- the keys of Hixie-76

BAD_KEYS = {
    "no spaces": "1234567890",
    "no digits and no spaces": "abcdef",
    "a number that its spaces do not divide": "1 0 1",
    "a quotient of more than 32 bits": "42949672960 ",
    "digits of more than 64 bits": "18446744073709551616 ",
    "a thousand digits": "9" * 1_000 + " ",
    "a thousand spaces": "1" + " x" * 1_000,
    "a minus": "-1",
}
OTHERS = [line for line in HIXIE_76.headers if "-Key" not in line]
HEADS_WITH_BAD_KEYS = {
    **{f"{what} in key 1": request(*OTHERS, f"Sec-WebSocket-Key1: x{key}x", HIXIE_KEYS[1]) for what, key in BAD_KEYS.items()},
    **{f"{what} in key 2": request(*OTHERS, HIXIE_KEYS[0], f"Sec-WebSocket-Key2: x{key}x") for what, key in BAD_KEYS.items()},
    "no key 1": request(*OTHERS, HIXIE_KEYS[1]),
    "no key 2": request(*OTHERS, HIXIE_KEYS[0]),
    "key 1 twice": request(*OTHERS, *HIXIE_KEYS, HIXIE_KEYS[0]),
    "key 2 twice": request(*OTHERS, *HIXIE_KEYS, HIXIE_KEYS[1]),
    "a body of another length": request(*OTHERS, *HIXIE_KEYS, "Content-Length: 9"),
    "a body of a huge length": request(*OTHERS, *HIXIE_KEYS, "Content-Length: 18446744073709551615"),
    "the key of another dialect beside them": request(*OTHERS, *HIXIE_KEYS, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
}


def test_no_trick_with_the_keys_of_hixie_76_opens_a_connection(attacked):
    with attacked() as server:
        for what, head in HEADS_WITH_BAD_KEYS.items():
            with Wire(server.port).send(head, EIGHT_BYTES) as wire:
                status = wire.read_head().status
                assert status in (400, 426), f"{what} got {status}"
                assert b"HTTP/1.1 101" not in wire.read_to_end(), what


def test_eight_bytes_that_come_in_any_pieces_open_it_and_those_that_never_come_cost_nothing(attacked):
    with attacked() as server:
        for split in range(len(EIGHT_BYTES) + 1):
            with Wire(server.port).send(HIXIE_76.opening()[: -len(EIGHT_BYTES)], EIGHT_BYTES[:split]) as wire:
                if split == len(EIGHT_BYTES):
                    HIXIE_76.read_opening(wire)
                    continue
                assert wire.read_head().status == 101
                for byte in EIGHT_BYTES[split:]:
                    assert not wire.unread
                    wire.send(bytes([byte]))
                assert wire.read(16) == HIXIE_76.proof
            with connect(server.port) as sock:
                sock.sendall(HIXIE_76.opening()[: split - len(EIGHT_BYTES)])
