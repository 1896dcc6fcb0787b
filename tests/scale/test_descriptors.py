"""A server that runs out of file descriptors goes on serving those it has, and the rest as soon as it can."""

import os
import resource
import time

import pytest

from support.wire import TEXT, Wire, frame, request

DESCRIPTORS = 64

UPGRADE = request(
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.mark.parametrize("threads", [1, 2])
def test_without_descriptors_it_serves_on_does_not_spin_and_takes_the_waiting_when_it_can(start, threads):
    echo = start("echo", settings={"threads": threads, "timeout.handshake": "60s"})
    resource.prlimit(echo.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    clients = [Wire(echo.port) for _ in range(2 * DESCRIPTORS)]
    for client in clients:
        client.send(UPGRADE)
    served = [client for client in clients if answers(client)]
    waiting = [client for client in clients if client not in served]
    assert DESCRIPTORS // 2 < len(served) < DESCRIPTORS

    before = cpu_seconds(echo.process.pid)
    time.sleep(1)
    assert cpu_seconds(echo.process.pid) - before < 0.3, "it spins"

    for client in served:
        assert client.send(frame(TEXT, "still here")).read(12) == b"\x81\x0astill here"
        client.close()
    # As many as there are descriptors now; with two threads nobody says whose.
    taken = set()
    deadline = time.monotonic() + 10
    while len(taken) < len(served) - 5:
        assert time.monotonic() < deadline, f"only {len(taken)} of {len(waiting)} that waited were taken"
        taken.update(client for client in waiting if client not in taken and answers(client))
    for client in taken:
        assert client.send(frame(TEXT, "at last")).read(9) == b"\x81\x07at last"
    for client in waiting:
        client.close()


def answers(client):
    """Did the 101 come, or does the client wait in the backlog?"""
    if client.is_silent_for(0.02):
        return False
    assert client.read_head().status == 101
    return True


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
