"""How many and how fast: what a peer is told when it passes a limit of the server."""

import time

import pytest

from support.wire import BINARY, CLOSE, CONTINUATION, TEXT, Wire, frame, request

UPGRADE = request(
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def opened(program):
    wire = Wire(program.port).send(UPGRADE)
    assert wire.read_head().status == 101
    return wire


def echoes(wire):
    return wire.send(frame(TEXT, "here")).read(6) == b"\x81\x04here"


@pytest.mark.parametrize("option, status", [("max.connections", 503), ("max.connections_per_ip", 429)])
def test_over_the_limit_of_connections_a_client_is_told_so_and_served_when_another_has_left(start, option, status):
    echo = start("echo", settings={option: "3"})
    inside = [opened(echo) for _ in range(3)]
    for _ in range(20):
        with Wire(echo.port) as refused:
            refused.send(UPGRADE)
            assert refused.read_head().status == status
            refused.read_to_end()
    assert all(echoes(wire) for wire in inside)

    inside.pop().close()
    assert eventually_opened(echo)
    for wire in inside:
        wire.close()


def test_a_thousand_refused_at_once_leave_those_inside_alone(start):
    echo = start("echo", settings={"max.connections": "1"})
    with opened(echo) as inside:
        crowd = [Wire(echo.port).send(UPGRADE) for _ in range(1000)]
        assert echoes(inside)
        for wire in crowd:
            wire.close()
        assert echoes(inside)
    assert eventually_opened(echo)


def test_one_address_that_connects_too_fast_gets_429_and_may_come_back_later(start):
    echo = start("echo", settings={"rate.connections_per_ip": "5/s burst 10"})
    statuses = []
    for _ in range(15):
        with Wire(echo.port) as wire:
            statuses.append(wire.send(UPGRADE).read_head().status)
    assert statuses[:10] == [101] * 10
    assert statuses[-1] == 429
    time.sleep(0.5)
    opened(echo).close()


@pytest.mark.parametrize("version", ["13", "8", "7"])
def test_a_message_in_too_many_fragments_costs_1009(start, version):
    echo = start("echo", settings={"max.fragments": "100"})
    upgrade = UPGRADE.replace(b"Version: 13", b"Version: " + version.encode())
    with Wire(echo.port).send(upgrade) as wire:
        wire.read_head()
        wire.send(frame(TEXT, "a", fin=False), frame(CONTINUATION, fin=False) * 98, frame(CONTINUATION, "b"))
        assert wire.read(4) == b"\x81\x02ab"
        wire.send(frame(TEXT, "a", fin=False), frame(CONTINUATION, fin=False) * 100)
        assert wire.read_close() == 1009


def test_too_many_messages_in_a_time_cost_1008_and_the_rate_itself_nothing(start):
    echo = start("echo", settings={"rate.messages": "100/s burst 20"})
    with opened(echo) as wire:
        for _ in range(40):
            assert echoes(wire)
            time.sleep(0.02)
        wire.send(frame(TEXT, "here") * 100)
        while wire.unread[:1] != b"\x88":
            if not wire.unread.startswith(b"\x81"):
                wire.unread += wire.socket.recv(1 << 16)
            else:
                assert wire.read(6) == b"\x81\x04here", "what came before it was too much is answered"
        assert wire.read_close() == 1008


def test_too_many_bytes_in_a_time_cost_1008(start):
    echo = start("echo", settings={"rate.bytes": "10k/s burst 512k"})
    with opened(echo) as wire:
        payload = bytes(200_000)
        said = frame(BINARY, payload)
        for _ in range(2):
            wire.send(said).read(len(payload) + 10)
        first, heard = wire.send(said).read_frame()
        # What was read together with the byte too many was heard, too.
        if first == 0x80 | BINARY:
            first, heard = wire.read_frame()
        assert (first, heard[:2]) == (0x80 | CLOSE, b"\x03\xf0")


def eventually_opened(program):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with Wire(program.port) as wire:
            if wire.send(UPGRADE).read_head().status == 101:
                return True
        time.sleep(0.05)
    return False
