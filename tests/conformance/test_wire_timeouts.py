"""What a peer that is too slow or too silent may cost: the time-outs, seen from outside."""

import time

import pytest

from support.wire import PONG, TEXT, Wire, close_frame, frame, request

OPENING = request(
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"
)


def opened(program):
    wire = Wire(program.port).send(OPENING)
    assert wire.read_head().status == 101
    return wire


HALF_DONE = {
    "nothing": b"",
    "half a head": OPENING[:30],
    "a Hixie-76 head without its eight bytes": request(
        "Upgrade: WebSocket", "Connection: Upgrade", "Sec-WebSocket-Key1: 1 0", "Sec-WebSocket-Key2: 1 0"
    ),
}


@pytest.mark.parametrize("sent", HALF_DONE.values(), ids=HALF_DONE.keys())
def test_a_handshake_that_does_not_end_is_ended(start, sent):
    echo = start("echo", settings={"timeout.handshake": "300ms"})
    before = time.monotonic()
    with Wire(echo.port) as wire:
        received = wire.send(sent).read_to_end()
    assert 0.25 < time.monotonic() - before < 2
    assert received[:12] in (b"", b"HTTP/1.1 408", b"HTTP/1.1 101")


def test_a_handshake_is_not_given_more_time_for_every_byte(start):
    echo = start("echo", settings={"timeout.handshake": "300ms"})
    before = time.monotonic()
    with Wire(echo.port) as wire:
        wire.socket.settimeout(0.02)
        for index in range(len(OPENING)):
            try:
                wire.socket.send(OPENING[index : index + 1])
                if wire.socket.recv(1000)[:12] in (b"", b"HTTP/1.1 408"):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert time.monotonic() - before < 2


def test_a_silent_connection_is_pinged_and_stays_while_it_answers(start):
    echo = start("echo", settings={"ping.interval": "200ms", "ping.timeout": "300ms"})
    with opened(echo) as wire:
        for _ in range(4):
            first, payload = wire.read_frame()
            assert first == 0x89
            wire.send(frame(PONG, payload))
        assert wire.send(frame(TEXT, "still here")).read(12) == b"\x81\x0astill here"


@pytest.mark.parametrize("interval", ["200ms", "400ms"], ids=["pinged again before its time is up", "pinged once"])
def test_a_connection_that_does_not_answer_pings_is_ended(start, interval):
    echo = start("echo", settings={"ping.interval": interval, "ping.timeout": "300ms"})
    with opened(echo) as wire:
        assert wire.read_frame()[0] == 0x89
        before = time.monotonic()
        wire.wait_for_end()
        assert 0.2 < time.monotonic() - before < 2


def test_a_connection_that_says_nothing_is_ended_when_timeout_idle_is_set(start):
    echo = start("echo", settings={"timeout.idle": "300ms"})
    before = time.monotonic()
    with opened(echo) as wire:
        time.sleep(0.2)
        assert wire.send(frame(TEXT, "here")).read(6) == b"\x81\x04here"
        assert wire.read_close() == 1001
        assert 0.45 < time.monotonic() - before < 2
        assert wire.send(close_frame(1001)).read_to_end() == b""


def test_a_peer_that_never_answers_our_close_is_left_after_timeout_close(start):
    echo = start("echo", settings={"timeout.close": "300ms"})
    with opened(echo) as wire:
        before = time.monotonic()
        echo.process.terminate()
        assert wire.read_close() == 1001
        wire.wait_for_end()
        assert time.monotonic() - before < 2


def test_a_close_ends_the_tcp_connection_even_if_the_client_keeps_it(start):
    echo = start("echo")
    with opened(echo) as wire:
        assert wire.send(close_frame(1000)).read_to_end() == b"\x88\x02\x03\xe8"
        # Our side stays open on purpose: the server must not wait for it to stop.
        before = time.monotonic()
        echo.stop()
        assert time.monotonic() - before < 3
