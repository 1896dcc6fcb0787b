"""The servers of a soak: the example programs, what their clients must know of them, and what is watched of them."""

import multiprocessing
import os
import random
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass

from support.places import PROGRAMS, ROOT, TARGET
from support.wire import Wire, request

HEALTH, METRICS = "/healthz", "/metrics"
MAX_MESSAGE_BYTES = 1 << 20
SETTINGS = {
    "http.health": HEALTH,
    "http.metrics": METRICS,
    "max.message": MAX_MESSAGE_BYTES,
    "send.limit": "4m",
    "timeout.handshake": "10s",
    "timeout.close": "2s",
    "timeout.write_stall": "10s",
    "ping.interval": "2s",
    "ping.timeout": "20s",
}
# A shard frees the memory it keeps for traffic when there was none for 5 s.
QUIET_SECONDS = 6.2

# What the example programs give their clients to leave (fdx_server_stop), and what a busy machine may add.
STOP_SECONDS, STOP_SECONDS_MAX = 2, 5
START_SECONDS_MAX = 20

RESULTS = TARGET / "soak"
FILES = RESULTS / "files"
DOWNLOADS = {"one.txt": b"x", "small.txt": b"some words\n" * 20, "large.bin": random.Random(1).randbytes(700_000)}
PAGE = (ROOT / "examples" / "web" / "chat.html").read_bytes()

# How often the replacement of a server was begun, and how often it was complete; shared with the processes of clients.
REPLACED = multiprocessing.RawArray("i", 2)


@dataclass(frozen=True)
class Target:
    """A server as a client sees it."""

    name: str
    port: int
    path: str = "/"
    greeting: bytes = b""
    echoes: bool = True
    has_page: bool = False
    is_replaced: bool = False

    def restarts(self):
        return tuple(REPLACED) if self.is_replaced else (0, 0)

    def was_restarted_since(self, before):
        begun, complete = before
        return begun != complete or self.restarts() != before


class Server:
    """A running program, from its line "listening on …" to SIGTERM."""

    def __init__(self, name, program, listen, settings=None, descriptors=(), environment=None, port=None):
        self.name = name
        self.errors = tempfile.TemporaryFile()
        command = [str(PROGRAMS / program), "--listen", listen]
        for key, value in {**SETTINGS, "http.static": f"/files/={FILES}", **(settings or {})}.items():
            command += ["--set", f"{key}={value}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=ROOT,
            pass_fds=descriptors, env={**os.environ, **(environment or {})},
        )
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS_MAX)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("listening on "):
            self.kill()
            raise AssertionError(f"{name} did not say `listening on …` but {line!r}; stderr: {self.stderr()!r}")
        # Of a descriptor it does not say the port.
        self.port = port or int(line.rsplit(":", 1)[1])
        self.pid = self.process.pid

    def stop(self, meanwhile=lambda: None):
        """SIGTERM; the seconds until it was gone, which must be with 0, in time and without a word."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        while (code := self.process.poll()) is None and time.monotonic() - begin < STOP_SECONDS_MAX:
            meanwhile()
            time.sleep(0.01)
        took = time.monotonic() - begin
        self.kill()
        assert code is not None, f"{self.name} did not end within {STOP_SECONDS_MAX} s of SIGTERM"
        assert code == 0, f"{self.name} ended with {code}; stderr: {self.stderr()!r}"
        assert self.stderr() == "", f"{self.name} wrote to stderr: {self.stderr()!r}"
        return took

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def ask(self):
        """The metrics; it must be well, and answer at once."""
        with Wire(self.port).send(request(target=HEALTH), request("Connection: close", target=METRICS)) as wire:
            head = wire.read_head()
            assert head.status == 200 and wire.read(3) == b"ok\n", f"{self.name} is not well: {head.raw!r}"
            assert wire.read_head().status == 200
            lines = wire.read_to_end().decode().splitlines()
        values = dict(line.split() for line in lines if not line.startswith("#"))
        metrics = {name.removeprefix("fullduplex_").removesuffix("_total"): int(value) for name, value in values.items()}
        assert metrics["faults"] == 0, f"{self.name} contained a panic"
        return metrics

    def memory(self):
        """(resident, resident and anonymous: all but the pages of the program's files) in bytes"""
        with open(f"/proc/{self.pid}/status") as status:
            values = dict(line.split(":", 1) for line in status)
        return tuple(int(values[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_files():
    FILES.mkdir(parents=True, exist_ok=True)
    for name, content in DOWNLOADS.items():
        path = FILES / name
        # Another soak may be reading it.
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
