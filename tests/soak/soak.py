#!/usr/bin/env python3
"""Hours of everything at once against the example programs, while their memory, descriptors and health are watched.

    make soak                   an hour
    make soak MINUTES=15
    python3 tests/soak/soak.py --seed 7 --minutes 15      the traffic of an earlier run again, as far as time allows

Four servers live through the whole run: `echo` with one thread and with two, `gatekeeper`, `chat`. A fifth one is
replaced every few seconds, in the middle of its traffic: it gets SIGTERM, and another process has or takes over the same
listening socket. Traffic comes in phases; after each all clients leave, and when the shards have freed what they keep for
traffic, the quiet servers are measured. What was asked and what every answer must be stands in visits.py.

What must be true, or the exit code is 1:
  - every answer is right, and only a server that is being replaced ends a conversation early;
  - a server that stops ends with 0 within its deadline; nobody writes to stderr; no panic was contained;
  - at each quiet moment nobody is counted as connected, descriptors are as at the start, and nothing uses the CPU;
  - memory: anonymous resident bytes at the last quiet moment are less than MARGIN_MIB above the first; and over the second
    half of the run, when tables and the allocator have their size, they grow by less than SLOPE_MIB_PER_HOUR_MAX (if that
    half is long enough to tell: SLOPE_MINUTES_MIN).

Memory is judged where it means what the server holds: with MALLOC_MMAP_THRESHOLD_=4096 glibc gives larger pieces back
when they are freed. With its defaults it keeps them depending on what lies above, and raises the threshold by itself, so
that up to what was ever used at once may stay. `echo` with two threads runs with those defaults, as users run it: its memory
must stay below the highest quiet moment of the first half plus MARGIN_OF_MALLOC_MIB, which finds large leaks only.

Needs Python 3.11, gcc and /proc.
"""

import argparse
import multiprocessing
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

# Instead of this folder: `soak` is the package here.
TESTS = Path(__file__).resolve().parents[1]
sys.path[0] = str(TESTS)
# Its modules are programs' and import each other by their bare names.
sys.path.append(str(TESTS / "bench"))

import servers as bench
from soak.servers import QUIET_SECONDS, REPLACED, RESULTS, STOP_SECONDS, Server, Target, write_files
from soak.visits import work

MIB = 1 << 20
MARGIN_MIB, MARGIN_OF_MALLOC_MIB = 4, 64
# About 40 bytes a connection, where two busy cores make 200,000 of them in an hour on each server.
SLOPE_MIB_PER_HOUR_MAX, SLOPE_MINUTES_MIN = 8, 5
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4096"}

WORKERS = 2
WATCH_SECONDS = 2
# After a phase, until the last client and the last descriptor are gone.
LEAVING_SECONDS_MAX = 90
# In the last second of a quiet moment.
IDLE_CPU_SECONDS_MAX = 0.1
# Connections, bytes of a message, messages in flight: what the load generator does at the side.
LOADS = [(50, 20, 16), (200, 20, 1), (50, 1000, 4), (10, 65_536, 1), (4, 1 << 20, 1), (500, 125, 1)]


def main():
    options = read_options()
    allow_many_files()
    write_files()
    bench.build()
    print(f"seed {options.seed}, {options.minutes:g} minutes; the table is {options.table}", flush=True)
    # So that no server outlives us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    soak = Soak(options)
    try:
        soak.begin()
        soak.run()
    except AssertionError as error:
        soak.failures.append(str(error))
    finally:
        soak.leave()
    soak.report()
    for failure in soak.failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if soak.failures else 0)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long, about (60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the traffic (random)")
    parser.add_argument("--phase", type=float, default=40, help="seconds of traffic between two quiet moments (40)")
    parser.add_argument("--burst", type=int, default=2000, help="connections of a burst (2000)")
    parser.add_argument("--visitors", type=int, default=60, help="clients at once, of each of two processes (60)")
    parser.add_argument("--table", type=Path, default=RESULTS / "table.tsv", help="where the table goes")
    return parser.parse_args()


def allow_many_files():
    """For the servers, too: they inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Soak:
    def __init__(self, options):
        self.options = options
        self.rng = random.Random(f"{options.seed}/schedule")
        self.counts, self.failures = Counter(), []
        self.quiet = []  # (seconds, {name: (resident, anonymous)}) of each quiet moment
        self.stops = []  # seconds from SIGTERM to the end, of those that were replaced
        self.highest = Counter()
        self.servers, self.workers, self.load = [], [], None
        self.cpu_seconds = {}
        self.began = self.watched = time.monotonic()

    def begin(self):
        self.table = self.options.table.open("w")
        # First: what is forked must not inherit the servers' pipes.
        for _ in range(WORKERS):
            ours, theirs = FORK.Pipe()
            process = FORK.Process(target=work, args=(theirs, allow_many_files), daemon=True)
            process.start()
            self.workers.append((process, ours))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.steady = [
            self.start("echo-1", "echo", threads=1, environment=EXACT_MEMORY),
            self.start("echo-2", "echo", threads=2),
            self.start("gatekeeper", "gatekeeper", threads=2, environment=EXACT_MEMORY),
            self.start("chat", "chat", threads=1, environment=EXACT_MEMORY),
        ]
        self.with_default_malloc = self.steady[1]
        self.replaced = self.start_replacement()
        echo_1, echo_2, gatekeeper, chat = self.steady
        self.targets = [
            Target("echo-1", echo_1.port),
            Target("echo-2", echo_2.port),
            Target("gatekeeper", gatekeeper.port, path="/?token=letmein", greeting=b"welcome"),
            Target("chat", chat.port, path="/chat", echoes=False, has_page=True),
            Target("replaced", self.replaced.port, is_replaced=True),
        ]
        # Before anybody has connected: who has got all of an answer may be gone before the server is.
        self.descriptors = {server: server.descriptors() for server in self.steady}
        for server in self.servers:
            server.ask()
        names = [server.name for server in self.servers]
        columns = [f"{name} {what}" for name in names for what in ("conns", "msgs", "RSS KiB", "anon KiB", "fds", "CPU %")]
        print("seconds", "phase", *columns, sep="\t", file=self.table, flush=True)

    def start(self, name, program, threads, listen="127.0.0.1:0", **more):
        server = Server(name, program, listen, {"threads": threads}, **more)
        self.servers.append(server)
        return server

    def start_replacement(self):
        threads, number = 1 + len(self.stops) % 2, self.listener.fileno()
        port = self.listener.getsockname()[1]
        return self.start("replaced", "echo", threads, f"fd:{number}", descriptors=[number], port=port)

    # --------------------------------------------------------------------------------- the course

    def run(self):
        while self.seconds() < 60 * self.options.minutes and not self.failures:
            self.traffic(len(self.quiet))
            self.quiet_moment()
        self.judge_memory()
        for server in self.steady:
            server.ask()
            server.stop()
        self.replaced.stop()

    def traffic(self, number):
        phase = f"traffic {number}"
        end = time.monotonic() + self.options.phase
        crowded = [target for target in self.targets if target.echoes and not target.is_replaced]
        for index, (_, pipe) in enumerate(self.workers):
            bursts = [(target, self.options.burst) for target in crowded[index::WORKERS]]
            pipe.send({"seconds": self.options.phase, "seed": f"{self.options.seed}/{number}/{index}", "targets": self.targets,
                       "visitors": self.options.visitors, "bursts": bursts})
        replace_at = time.monotonic() + self.rng.uniform(0.05, 0.3) * self.options.phase
        while time.monotonic() < end:
            self.watch(phase)
            self.load_on(end)
            if time.monotonic() > replace_at:
                self.replace(phase)
                replace_at = time.monotonic() + self.rng.uniform(0.02, 0.2) * self.options.phase
            time.sleep(0.05)
        for _, pipe in self.workers:
            self.wait_for(lambda: pipe.poll(), "the clients have left", phase)
            counts, failures = pipe.recv()
            slowest = max(self.counts["slowest opening ms"], counts.pop("slowest opening ms", 0))
            self.counts += counts
            self.counts["slowest opening ms"] = slowest
            self.failures += failures
        self.wait_for(lambda: not self.load_is_running(), "the load has ended", phase)

    def replace(self, phase):
        """Another process serves the same socket, before or after the first one is told to stop."""
        old, overlaps = self.replaced, self.rng.random() < 0.5
        old.ask()
        REPLACED[0] += 1
        self.replaced = self.start_replacement() if overlaps else None
        took = old.stop(lambda: self.watch(phase))
        self.servers.remove(old)
        self.stops.append(took)
        if not overlaps:
            self.replaced = self.start_replacement()
        REPLACED[1] += 1

    def load_on(self, end):
        """Keeps the load generator busy with one of the echo servers until the phase is over."""
        if self.load_is_running() or end - time.monotonic() < 3:
            return
        connections, size, inflight = self.rng.choice(LOADS)
        seconds = self.rng.uniform(1, min(8, end - time.monotonic() - 1.5))
        server = self.rng.choice(self.steady[:2])
        command = [bench.BUILT / "load", "--port", server.port, "--connections", connections, "--size", size,
                   "--inflight", inflight, "--seconds", f"{seconds:.1f}", *(["--text"] if self.rng.random() < 0.5 else [])]
        self.counts["connections"] += connections
        self.load = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)

    def load_is_running(self):
        if self.load is not None and (code := self.load.poll()) is not None:
            if code != 0:
                self.failures.append(f"the load generator found errors: {self.load.args}")
            self.counts["loads"] += 1
            self.load = None
        return self.load is not None

    def quiet_moment(self):
        number = len(self.quiet)
        for server in self.steady:
            is_left = lambda: server.descriptors() <= self.descriptors[server]
            self.wait_for(is_left, f"{server.name} has closed everything", "leaving")
        # Nobody is asked anything now: that would be traffic.
        time.sleep(QUIET_SECONDS - 1)
        cpu_seconds = [server.cpu_seconds() for server in self.servers]
        time.sleep(1)
        memory = {server.name: server.memory() for server in self.servers}
        for server, before in zip(self.servers, cpu_seconds):
            self.judge(server.cpu_seconds() - before < IDLE_CPU_SECONDS_MAX, f"{server.name} is busy with nothing")
        self.quiet.append((self.seconds(), memory))
        for server in self.steady:
            now, before = server.descriptors(), self.descriptors[server]
            self.judge(now == before, f"{server.name} has {now} descriptors instead of {before}")
        for server in self.servers:
            self.judge(server.process.poll() is None, f"{server.name} has ended")
            self.judge(server.ask()["connections"] == 0, f"{server.name} counts connections that are gone")
            self.judge(server.stderr() == "", f"{server.name} wrote to stderr: {server.stderr()!r}")
        self.watch(f"quiet {number}", is_due=True)
        resident = ", ".join(f"{name} {memory[name][0] / MIB:.1f}" for name in memory)
        print(f"{self.seconds():6.0f} s  quiet {number}: {self.counts['connections']} connections, {self.messages()} messages, "
              f"{len(self.stops)} replaced; MiB resident: {resident}", flush=True)

    # ------------------------------------------------------------------------------- what is seen

    def watch(self, phase, is_due=False):
        """A row of the table, every few seconds; that the servers answer is a part of it."""
        now, elapsed = time.monotonic(), time.monotonic() - self.watched
        if elapsed < WATCH_SECONDS and not is_due:
            return
        self.watched = now
        row = []
        for server in [*self.steady, *([self.replaced] if self.replaced else [])]:
            # A server that is being replaced shares its socket with another one.
            metrics = {} if server is self.replaced else server.ask()
            resident, anonymous = server.memory()
            self.note(f"{server.name} MiB", resident >> 20)
            if metrics:
                self.note(f"{server.name} connections", metrics["connections"])
            cpu_seconds = server.cpu_seconds()
            used = cpu_seconds - self.cpu_seconds.get(server, cpu_seconds)
            self.cpu_seconds[server] = cpu_seconds
            row += [metrics.get("connections", "-"), metrics.get("messages_received", "-"), resident >> 10, anonymous >> 10,
                    server.descriptors(), f"{100 * used / elapsed:.0f}"]
        print(f"{self.seconds():.1f}", phase, *row, sep="\t", file=self.table, flush=True)

    def note(self, what, value):
        self.highest[what] = max(self.highest[what], value)

    def messages(self):
        return sum(server.ask()["messages_received"] for server in self.steady)

    def wait_for(self, condition, what, phase):
        give_up_at = time.monotonic() + LEAVING_SECONDS_MAX
        while not condition():
            assert time.monotonic() < give_up_at, f"not within {LEAVING_SECONDS_MAX} s: {what}"
            self.watch(phase)
            time.sleep(0.02)

    def judge(self, is_right, what):
        if not is_right:
            self.failures.append(f"quiet {len(self.quiet) - 1}: {what}")

    def judge_memory(self):
        half = len(self.quiet) // 2
        hours = [seconds / 3600 for seconds, _ in self.quiet[half:]]
        for server in self.steady:
            mib = [memory[server.name][1] / MIB for _, memory in self.quiet]
            is_exact = server is not self.with_default_malloc
            base, margin = (mib[0], MARGIN_MIB) if is_exact else (max(mib[: half or 1]), MARGIN_OF_MALLOC_MIB)
            slope = median_slope(hours, mib[half:])
            print(f"{server.name}: {mib[0]:.2f} MiB anonymous at the first quiet moment, {mib[-1]:.2f} at the last, "
                  f"{max(mib):.2f} at most; {slope:+.2f} MiB an hour over the second half")
            self.judge(mib[-1] - base < margin, f"{server.name} holds {mib[-1]:.2f} MiB, {margin} or more above {base:.2f}")
            if is_exact and hours[-1] - hours[0] > SLOPE_MINUTES_MIN / 60:
                self.judge(slope < SLOPE_MIB_PER_HOUR_MAX, f"the memory of {server.name} grows by {slope:.2f} MiB an hour")

    def report(self):
        stops = f"{max(self.stops):.2f} s at most (deadline {STOP_SECONDS} s)" if self.stops else "never"
        print(f"{self.seconds():.0f} s, {len(self.quiet)} quiet moments; "
              f"replaced {len(self.stops)} times, each gone after {stops}")
        print("highest:", ", ".join(f"{what} {value}" for what, value in self.highest.items()))
        for name, count in sorted(self.counts.items()):
            print(f"{count:>12} {name}")

    def seconds(self):
        return time.monotonic() - self.began

    def leave(self):
        if self.load is not None:
            self.load.kill()
            self.load.wait()
        for process, _ in self.workers:
            process.kill()
            process.join()
        for server in self.servers:
            server.kill()


def median_slope(hours, mib):
    """Theil and Sen's: one odd moment does not move it."""
    slopes = [(mib[j] - mib[i]) / (hours[j] - hours[i]) for j in range(len(mib)) for i in range(j)]
    return median(slopes) if slopes else 0.0


FORK = multiprocessing.get_context("fork")

if __name__ == "__main__":
    main()
