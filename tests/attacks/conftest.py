"""What every attack shares: the server it is made on, and the proof that it was healthy afterwards."""

import os
import time
from contextlib import contextmanager

import pytest

from support.dialects import DIALECTS
from support.places import IS_SANITIZED
from support.programs import PATIENCE_SECONDS, Program
from support.wire import PING, PONG, Wire, frame, request

ANSWER_SECONDS = 2
# What the resident memory may be above that before the attack: a table of connections that keeps its size (600 bytes
# for each of the most at once), half-filled pages of the allocator. Memory kept for traffic is free five seconds after
# the last, which is waited for.
MEMORY_MARGIN_BYTES = 4 << 20


@pytest.fixture(params=[1, 2], ids=["threads=1", "threads=2"])
def threads(request):
    """Every attack is made on one shard and on two. An expensive one picks a number by parametrize."""
    return request.param


@pytest.fixture
def attacked(threads, monkeypatch):
    """`with attacked(settings) as server:` holds an attack; the server must be healthy when it is left. Any program will
    do that sends messages back."""
    # What glibc keeps of memory that was freed depends on what lies above it. Pieces from here on go straight back to
    # the kernel, so that what is resident is what the server holds.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4096")

    @contextmanager
    def attack(settings=None, program="echo"):
        settings = {"threads": threads, "http.metrics": METRICS, **(settings or {})}
        with Program(program, settings=settings) as running:
            server = Attacked(running)
            try:
                yield server
                server.assert_healthy()
            finally:
                server.leave()

    return attack


METRICS = "/-/metrics"


class Attacked:
    """A running server with one old connection of each dialect, opened before the attack."""

    def __init__(self, program):
        self.program = program
        self.port = program.port
        self.pid = program.process.pid
        alone = self.descriptors()
        for _ in range(10):
            self.assert_newcomers_are_served()
        assert eventually(lambda: self.descriptors() == alone), "the first visitors' descriptors stayed open"
        self.companions = [(dialect, dialect.open(self.port)) for dialect in DIALECTS]
        self.assert_companions_are_served()
        self.descriptors_before = self.descriptors()
        self.memory_before = self.memory()
        self.memory_highest = self.memory_before

    # ------------------------------------------------------------------ while the attack goes on

    def assert_served(self):
        """Old connections and new ones, of every dialect, are answered soon."""
        self.assert_companions_are_served()
        self.assert_newcomers_are_served()

    def assert_companions_are_served(self):
        for dialect, wire in self.companions:
            converse(dialect, wire, f"{dialect}, opened before the attack,")

    def assert_newcomers_are_served(self):
        for dialect in DIALECTS:
            begin = time.monotonic()
            with dialect.open(self.port) as wire:
                converse(dialect, wire, f"a new {dialect}")
            took = time.monotonic() - begin
            assert took < ANSWER_SECONDS, f"a new {dialect} was served after {took:.1f} s"

    def memory_growth(self):
        """How many bytes more are resident than before the attack."""
        memory = self.memory()
        self.memory_highest = max(self.memory_highest, memory)
        return memory - self.memory_before

    def wait_until(self, condition, what):
        """Waits while the old connections live on: they speak, and answer Pings."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
            self.assert_companions_are_served()
            self.memory_growth()
            time.sleep(0.02)

    # ------------------------------------------------------------------------------- and after it

    def assert_healthy(self):
        assert self.program.process.poll() is None, "the server has ended"
        self.assert_served()
        assert eventually(lambda: self.descriptors() == self.descriptors_before), (
            f"{self.descriptors() - self.descriptors_before} descriptors more than before the attack"
        )
        metrics = self.metrics()
        assert metrics["fullduplex_faults_total"] == 0, "a panic was contained"
        assert metrics["fullduplex_connections"] == len(self.companions), "the server counts other connections than it has"
        assert eventually(lambda: self.memory_growth() < MEMORY_MARGIN_BYTES), (
            f"{self.memory_growth() >> 10} KiB more than before the attack are resident"
        )
        self.assert_idle()
        # The programs say nothing unless something is wrong.
        assert self.program.stderr() == ""
        growth = self.memory_highest - self.memory_before
        print(f"memory: {self.memory_before >> 10} KiB, at most {growth >> 10} more, now {self.memory_growth() >> 10} more")

    def assert_idle(self):
        """Nobody speaks, so nothing is to be done: a socket nobody takes care of makes a shard turn for ever."""
        assert eventually(self.is_idle), "the server is busy with nothing"

    def is_idle(self):
        begin = self.cpu_seconds()
        time.sleep(0.03)
        return self.cpu_seconds() - begin < 0.015

    def metrics(self):
        with Wire(self.port).send(request("Connection: close", target=METRICS)) as wire:
            assert wire.read_head().status == 200
            lines = wire.read_to_end().decode().splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}

    def leave(self):
        """A server that stops waits for those who do not answer its close."""
        for _, wire in self.companions:
            wire.close()

    def memory(self):
        return self._memory("VmRSS")

    def memory_peak(self):
        """What was resident at the most since the program began, however shortly."""
        return self._memory("VmHWM")

    def _memory(self, name):
        if IS_SANITIZED:
            return 0
        with open(f"/proc/{self.pid}/status") as status:
            (line,) = [line for line in status if line.startswith(name + ":")]
        return int(line.split()[1]) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        threads = f"/proc/{self.pid}/task"
        return sum(int(_read(f"{threads}/{thread}/schedstat").split()[0]) for thread in os.listdir(threads)) / 1e9


def converse(dialect, wire, who):
    """Says something and hears it; Pings that came meanwhile are answered."""
    begin = time.monotonic()
    said = b"are you there? %d" % time.monotonic_ns()
    expected = dialect.echo(said)
    wire.send(dialect.text(said))
    while dialect in HYBI and wire.read(1) == PING_BYTE:
        length = wire.read(1)[0]
        wire.send(frame(PONG, wire.read(length)))
    heard = wire.read(len(expected) - (dialect in HYBI))
    assert heard == expected[-len(heard) :]
    took = time.monotonic() - begin
    assert took < ANSWER_SECONDS, f"{who} was answered after {took:.1f} s"


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _read(path):
    with open(path) as file:
        return file.read()


HYBI = [dialect for dialect in DIALECTS if not dialect.is_hixie]
PING_BYTE = bytes([0x80 | PING])
