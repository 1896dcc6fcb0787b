#!/usr/bin/env python3
"""What a message costs our echo server, against the floor: a loop that only receives, unmasks and sends.

    tests/bench/bench.py                                   echo against floor, all scenarios
    tests/bench/bench.py --scenario 50x20 --rounds 10      one of them, longer
    tests/bench/bench.py --control                         the floor against itself: what noise looks like
    tests/bench/bench.py --peer uws='/opt/uws/echo -q'     another server that takes --listen and says
                                                           "listening on 127.0.0.1:PORT"

The number that counts is the server's CPU time per message: it repeats where throughput does not. The ratio is
floor/server, so 1.00 is as cheap as the floor. Same binaries differ by up to 3 % (small messages) or 15 % (1 MiB)
from start to start, so the servers take turns, slice by slice, over several fresh starts; each ratio is taken
within a round and the median of them is printed, with the smallest and the largest.

Servers run on one core, the load on another. Anything else that runs meanwhile is noise.
"""
import argparse
import json
import os
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "target" / "bench"
ECHO = ROOT / "target" / "examples" / "c" / "echo"

START_SECONDS_MAX = 10
STOP_SECONDS_MAX = 10


class Scenario(NamedTuple):
    name: str
    title: str
    connections: int
    size: int
    inflight: int
    ratio_min: float  # what we promise ourselves


SCENARIOS = [
    Scenario("1x20", "1 × 20 B", 1, 20, 1, 0.95),
    Scenario("50x20", "50 × 20 B", 50, 20, 1, 0.95),
    Scenario("500x20", "500 × 20 B", 500, 20, 1, 0.95),
    Scenario("500x20x16", "500 × 20 B, 16 in flight", 500, 20, 16, 0.85),
    Scenario("200x1k", "200 × 1 KiB", 200, 1 << 10, 1, 0.95),
    Scenario("10x64k", "10 × 64 KiB", 10, 64 << 10, 1, 0.90),
    Scenario("10x1m", "10 × 1 MiB", 10, 1 << 20, 1, 0.90),
]


def main():
    options = read_options()
    server_core, load_core = two_cores()
    build()
    commands = server_commands(options)
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenario]

    slices = {(scenario.name, name): [] for scenario in scenarios for name in commands}
    for start in range(options.starts):
        servers = {name: Server(name, command, server_core) for name, command in commands.items()}
        try:
            for scenario in scenarios:
                print(f"start {start + 1} of {options.starts}: {scenario.title}", file=sys.stderr, flush=True)
                for turn in range(options.rounds):
                    # A B, B A, A B …: whatever drifts, drifts for both.
                    for name in list(commands)[:: 1 if turn % 2 == 0 else -1]:
                        slices[scenario.name, name].append(load(servers[name], scenario, load_core, options))
        finally:
            for server in servers.values():
                server.stop()

    results = [
        result(scenario, name, slices[scenario.name, name], slices[scenario.name, "floor"])
        for scenario in scenarios
        for name in commands
    ]
    if options.json:
        json.dump(results, sys.stdout, indent=1)
        print()
    else:
        print_table(results)
    if options.check and any(row["below"] for row in results):
        sys.exit(1)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may repeat")
    parser.add_argument("--starts", type=int, default=4, help="fresh starts of the servers (4)")
    parser.add_argument("--rounds", type=int, default=2, help="slices of each server, per start and scenario (2)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a slice (1)")
    parser.add_argument("--text", action="store_true", help="text messages: echo checks their UTF-8, the floor doesn't")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="another server too")
    parser.add_argument("--control", action="store_true", help="only the floor, twice")
    parser.add_argument("--no-echo", action="store_true", help="only the floor and the peers")
    parser.add_argument("--check", action="store_true", help="exit 1 if echo is too far from the floor")
    parser.add_argument("--json", action="store_true", help="results as JSON")
    options = parser.parse_args()
    options.scenario = options.scenario or names
    return options


def server_commands(options):
    """Name and command of each server; the floor comes first."""
    commands = {"floor": [str(BUILT / "floor")]}
    if options.control:
        return {**commands, "floor again": commands["floor"]}
    if not options.no_echo:
        if not ECHO.exists():
            sys.exit(f"{ECHO.relative_to(ROOT)} is not there: run `make examples` (or pass --no-echo, --control)")
        commands["echo"] = [str(ECHO)]
    for peer in options.peer:
        name, _, command = peer.partition("=")
        if not command or name in commands:
            sys.exit(f"--peer {peer}: want NAME=COMMAND, and each name once")
        commands[name] = shlex.split(command)
    return commands


def two_cores():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("the bench needs two cores: one for the server, one for the load")
    return cores[0], cores[1]


def build():
    BUILT.mkdir(parents=True, exist_ok=True)
    for program in ("floor", "load"):
        warnings = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
        source = str(HERE / f"{program}.c")
        subprocess.run(["gcc", "-std=c99", "-O2", *warnings, source, "-o", str(BUILT / program)], check=True)


class Server:
    """A server process on its core, from its line "listening on …" to SIGTERM."""

    def __init__(self, name, command, core):
        self.name = name
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS_MAX)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("listening on "):
            self.process.kill()
            sys.exit(f"{name} did not say `listening on …` but {line!r}")
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = f"nothing for {STOP_SECONDS_MAX} s"
        if code != 0:
            print(f"{self.name} answered SIGTERM with {code}", file=sys.stderr)


def load(server, scenario, core, options):
    """One slice; what tests/bench/load.c reports of it."""
    command = [BUILT / "load", "--port", server.port, "--server-pid", server.process.pid]
    command += ["--connections", scenario.connections, "--size", scenario.size, "--inflight", scenario.inflight]
    command += ["--seconds", options.seconds] + (["--text"] if options.text else [])
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if done.returncode != 0:
        sys.exit(f"{server.name}, {scenario.title}: the load generator found errors: {done.stdout}")
    return json.loads(done.stdout)


def result(scenario, name, slices, floor_slices):
    ratios = [floor["server_cpu_us"] / own["server_cpu_us"] for floor, own in zip(floor_slices, slices)]

    def middle(key):
        return median(one[key] for one in slices)

    ratio = median(ratios)
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "server": name,
        "cpu_us": middle("server_cpu_us"),
        "user_us": middle("server_user_us"),
        "ratio": ratio,
        "ratio_smallest": min(ratios),
        "ratio_largest": max(ratios),
        "ratio_min": scenario.ratio_min if name == "echo" else None,
        "below": name == "echo" and ratio < scenario.ratio_min,
        "messages_per_second": middle("messages_per_second"),
        "p50_us": middle("p50_us"),
        "p99_us": middle("p99_us"),
        "slices": len(slices),
    }


def print_table(results):
    width = max(len(row["server"]) for row in results)
    print(
        f"{'':24}  {'':{width}}  CPU µs/message (user)  floor/server (smallest, largest)"
        f"  messages/s    p50 µs    p99 µs"
    )
    title = None
    for row in results:
        shown = row["title"] if row["title"] != title else ""
        title = row["title"]
        cpu = f"{row['cpu_us']:.2f} ({row['user_us']:.2f})"
        ratio = ""
        if row["server"] != "floor":
            ratio = f"{row['ratio']:.2f} ({row['ratio_smallest']:.2f}, {row['ratio_largest']:.2f})"
        if row["below"]:
            ratio += f" < {row['ratio_min']:.2f}"
        print(
            f"{shown:24}  {row['server']:{width}}  {cpu:>21}  {ratio:>32}"
            f"  {row['messages_per_second']:>10,.0f}  {row['p50_us']:>8,.0f}  {row['p99_us']:>8,.0f}"
        )


if __name__ == "__main__":
    main()
