"""Attacks by how a peer behaves: one that never reads, one that has vanished, RST at every state, connections by the
hundred thousand, and all descriptors taken."""

import functools
import resource
import socket
import time

import pytest

from support.crowd import connect, crowd, hear, pour, reset
from support.dialects import DIALECTS, HIXIE, HIXIE_75, HIXIE_76, HYBI, RFC_6455
from support.wire import BINARY, CONTINUATION, TEXT, Wire, close_frame, frame

MIB = 1 << 20
ZEROS = bytes(4)

# ------------------------------------------------------------------------------- peers that never read

NEVER_READING = 30
# What the kernel takes for a peer is not the server's memory; here it takes little.
SMALL = 4096
# Memory that a shard may keep for five seconds for messages to come, and what a turn reads.
SPARES_BYTES_MAX = 40 * MIB


def opened(port, dialect, receive_bytes=None):
    """An open connection with nothing unread."""
    sock, heard, whole = connect(port, receive_bytes), b"", dialect.proof
    sock.sendall(dialect.opening())
    while b"\r\n\r\n" not in heard or len(heard.partition(b"\r\n\r\n")[2]) < len(whole):
        heard += sock.recv(1000)
    assert heard.startswith(b"HTTP/1.1 101 ") and heard.endswith(whole)
    return sock


@functools.cache
def large_text(dialect, size):
    return dialect.text(b"x" * size) if dialect.is_hixie else frame(BINARY, b"x" * size, mask=ZEROS)


@pytest.mark.parametrize("threads, full", [(1, "close"), (2, "drop")])
def test_memory_for_peers_that_never_read_is_bounded_by_send_limit(attacked, threads, full):
    settings = {"send.limit": "512k", "send.full": full, "max.message": "256k", "timeout.write_stall": "1s"}
    with attacked(settings) as server:
        deaf = [opened(server.port, DIALECTS[index % len(DIALECTS)], SMALL) for index in range(NEVER_READING)]
        for sock in deaf:
            sock.setblocking(False)
        sending = {sock: b"" for sock in deaf}
        messages = {sock: large_text(DIALECTS[index % len(DIALECTS)], 100_000) for index, sock in enumerate(deaf)}

        def send_on():
            """True when all have been cut."""
            for sock in list(sending):
                try:
                    sending[sock] = sending[sock] or messages[sock]
                    sending[sock] = sending[sock][sock.send(sending[sock]) :]
                except BlockingIOError:
                    pass
                except OSError:
                    del sending[sock]
            return not sending

        server.wait_until(send_on, "every peer that does not read is cut")
        # Each has at most its limit queued, one message in arrival, and one on its way from the one to the other.
        assert server.memory_highest - server.memory_before < NEVER_READING * MIB + threads * SPARES_BYTES_MAX
        for sock in deaf:
            reset(sock)


# ------------------------------------------------------------------------------------ half-open peers


@pytest.mark.parametrize("state", ["silent", "inside a message", "with an unread answer"])
def test_peers_that_have_vanished_are_found_by_their_silence(attacked, state):
    before = {
        "silent": b"",
        "inside a message": frame(TEXT, "half of a mess", fin=False) + frame(CONTINUATION, length=1000),
        "with an unread answer": frame(BINARY, bytes(600_000), mask=ZEROS),
    }[state]
    count = 3 if state == "with an unread answer" else 200
    settings = {"ping.interval": "200ms", "ping.timeout": "1s"}
    with attacked(settings) as server:
        vanished = [opened(server.port, HYBI[index % len(HYBI)], SMALL) for index in range(count)]
        for sock in vanished:
            # The answers to our Pings are what is missing: nobody reads on this side any more.
            pour(sock, before)
        server.wait_until(lambda: server.descriptors() == server.descriptors_before, "all of them are found to be gone")
        for sock in vanished:
            reset(sock)


@pytest.mark.parametrize("closing", [False, True], ids=["silent", "not answering a close"])
def test_peers_without_pings_that_have_vanished_are_found_by_timeout_idle(attacked, closing):
    """A close that is never answered comes with it: HyBi peers are told 1001 and have vanished, too."""
    with attacked({"timeout.idle": "500ms", "timeout.close": "300ms"}) as server:
        dialects = HYBI if closing else HIXIE
        vanished = [opened(server.port, dialects[index % len(dialects)]) for index in range(200)]
        server.wait_until(lambda: server.descriptors() == server.descriptors_before, "all of them are found to be gone")
        for sock in vanished:
            reset(sock)


# ------------------------------------------------------------------------------------------------ RST


def before_the_request(port, dialect):
    return connect(port)


def inside_the_head(port, dialect):
    return sending(port, dialect.opening()[:40])


def after_the_head(port, dialect):
    return sending(port, dialect.opening())


def before_the_last_byte(port, dialect):
    return sending(port, dialect.opening()[:-1])


def behind_a_refusal(port, dialect):
    return sending(port, dialect.opening("Host: another.example"))


def after_the_101(port, dialect):
    return opened(port, dialect)


def inside_a_frame(port, dialect):
    return sending(port, dialect.opening() + dialect.text(b"half of it")[:-5])


def between_two_fragments(port, dialect):
    return sending(port, dialect.opening() + (b"\x00ha" if dialect.is_hixie else frame(TEXT, "ha", fin=False)))


def while_the_server_answers(port, dialect):
    return sending(port, dialect.opening() + dialect.text(b"answer this") * 100)


def while_the_server_writes(port, dialect):
    sock = opened(port, dialect, SMALL)
    sock.sendall(large_text(dialect, 1_000_000))
    sock.recv(1)
    return sock


def in_the_close_handshake(port, dialect):
    sock = opened(port, dialect)
    sock.sendall(b"\xff\x00" if dialect.is_hixie else close_frame(1000))
    return sock


def after_the_close_handshake(port, dialect):
    sock = in_the_close_handshake(port, dialect)
    if dialect is HIXIE_75:
        sock.shutdown(socket.SHUT_WR)  # it has no other close
    hear(sock)
    return sock


def after_our_fin(port, dialect):
    sock = opened(port, dialect)
    sock.shutdown(socket.SHUT_WR)
    return sock


STATES = [
    before_the_request, inside_the_head, after_the_head, before_the_last_byte, behind_a_refusal, after_the_101, inside_a_frame,
    between_two_fragments, while_the_server_answers, while_the_server_writes, in_the_close_handshake, after_the_close_handshake,
    after_our_fin,
]


def sending(port, data):
    sock = connect(port)
    sock.sendall(data)
    return sock


def test_an_rst_at_any_state_costs_the_one_connection_and_nothing_stays(attacked):
    with attacked() as server:
        for state in STATES:
            count = 5 if state is while_the_server_writes else 20
            for dialect in DIALECTS:
                # The server learns of each alone, and of many in one turn.
                for _ in range(count):
                    reset(state(server.port, dialect))
                for sock in [state(server.port, dialect) for _ in range(count)]:
                    reset(sock)
            server.assert_companions_are_served()


# -------------------------------------------------------------------------------- connection churn

CHURN = 100_000
# As many as this machine makes of them in this time.
CHURN_SECONDS = 12
# FIN from our side leaves a port in TIME_WAIT; so few of them leave enough.
PLAIN_CLOSES_MAX = 5_000


@pytest.mark.parametrize("threads", [2])
def test_connections_by_the_hundred_thousand_leave_nothing_behind(attacked, record_property):
    with attacked({"timeout.close": "1s"}) as server:
        count, end = 0, time.monotonic() + CHURN_SECONDS
        while count < CHURN and time.monotonic() < end:
            for dialect in DIALECTS:
                for _ in range(14):
                    reset(connect(server.port))
                for _ in range(3):
                    reset(sending(server.port, dialect.opening()))
                with Wire(server.port).send(HYBI_CLOSING) as closing:
                    assert closing.read_head().status == 101 and closing.read_close() == 1000
                    reset(opened(server.port, dialect))
                if count < 20 * PLAIN_CLOSES_MAX:
                    connect(server.port).close()
                count += 20
            server.assert_companions_are_served()
        print(f"{count} connections")
        record_property("connections", count)
        assert count > 1_000


HYBI_CLOSING = RFC_6455.opening() + close_frame(1000)


# ----------------------------------------------------------------------------- descriptor exhaustion

DESCRIPTORS = 64


@pytest.mark.parametrize("head", ["nothing", "half a head", "a handshake"])
def test_who_takes_all_descriptors_shuts_nobody_out_that_is_in_and_the_rest_only_for_a_time(attacked, head):
    with attacked({"timeout.handshake": "60s"}) as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        with crowd(server.port, 4 * DESCRIPTORS) as takers:
            for index, sock in enumerate(takers):
                opening = DIALECTS[index % len(DIALECTS)].opening()
                sock.sendall({"nothing": b"", "half a head": opening[:40], "a handshake": opening}[head])
            server.wait_until(lambda: server.descriptors() == DESCRIPTORS, "all descriptors are taken")
            with Wire(server.port).send(RFC_6455.opening(), RFC_6455.text(b"at last")) as waiting:
                assert waiting.is_silent_for(0.3)
                server.assert_companions_are_served()
                for sock in takers:
                    reset(sock)
                RFC_6455.read_opening(waiting)
                assert waiting.read(9) == RFC_6455.echo(b"at last")


def test_who_takes_all_descriptors_and_says_nothing_loses_them_by_itself(attacked):
    with attacked({"timeout.handshake": "500ms"}) as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        with crowd(server.port, 2 * DESCRIPTORS):
            with Wire(server.port).send(HIXIE_76.opening(), HIXIE_76.text(b"at last")) as waiting:
                HIXIE_76.read_opening(waiting)
                assert waiting.read(9) == HIXIE_76.echo(b"at last")
