"""Measuring servers side by side: all run at once and keep their connections, and each gets the whole load in turn.

A slice is the load on one server for a moment, a round one slice of each; the order is another one in each round. So whatever
drifts, drifts for all, and what is compared lies within a second.
"""
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import servers
from scenarios import CORES, CORES_SHARED, CORES_TOPICS

WARM_UP_SECONDS = 0.01
# The first time in a start, and at the beginning of each scenario: a just-in-time compiler has to see what it is about.
FIRST_WARM_UP_SECONDS, SCENARIO_WARM_UP_SECONDS = 0.6, 0.2

READY_SECONDS_MAX = 60
SLICE_SECONDS_MAX = 30
STOP_SECONDS_MAX = 10


class Failed(Exception):
    """Says what went wrong between a load generator and its server."""


class Load:
    """A load generator and its connections to one server; they stay from slice to slice."""

    def __init__(self, server, words, cores):
        self.server = server
        self.errors = tempfile.TemporaryFile("w+")
        program, *options = words
        command = [servers.BUILT / program, *server.load_words(), *options, "--slices"]
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            self.read_line(READY_SECONDS_MAX)
        except Failed:
            self.stop()
            raise

    def slice(self, warm_up_seconds, seconds):
        """What the load generator reports of a slice."""
        try:
            self.process.stdin.write(f"{warm_up_seconds} {seconds}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it has to say is in its errors
        one = json.loads(self.read_line(warm_up_seconds + seconds + SLICE_SECONDS_MAX))
        if one.get("errors"):
            raise Failed(self.reason())
        return one

    def read_line(self, seconds):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else None
        if line:
            return line
        if line is None:
            self.process.kill()
        self.process.wait(STOP_SECONDS_MAX)
        raise Failed(self.reason() or (f"nothing for {seconds:.0f} s" if line is None else "the load generator ended"))

    def reason(self):
        self.errors.seek(0)
        return " ".join(self.errors.read().split())[:300]

    def stop(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Measured:
    """What a run has found so far."""

    def __init__(self, scenarios):
        self.scenarios = scenarios
        self.slices = {scenario.name: defaultdict(list) for scenario in scenarios}  # of each server
        self.failures = []
        self.shares = {scenario.name: {} for scenario in scenarios}  # of the connections, by thread
        self.starts = defaultdict(int)  # how many a scenario has had

    def fail(self, scenario, server, start, reason):
        where = scenario.name if scenario else None
        self.failures.append({"scenario": where, "server": server, "start": start + 1, "reason": reason})
        print(f"! {server}{f', {scenario.title}' if scenario else ''}: {reason}", file=sys.stderr)


class Duel:
    """All servers of one mode, from their start to their stop."""

    def __init__(self, start, cores, measured):
        self.start, self.cores, self.measured = start, cores, measured
        self.servers = {}
        self.is_warm = False

    def start_servers(self, commands):
        for name, words in commands.items():
            try:
                self.servers[name] = servers.start(name, words, self.cores.servers)
            except servers.NotStarted as failed:
                self.measured.fail(None, name, self.start, str(failed))

    def measure(self, scenario, rounds, seconds):
        loads = {}
        try:
            for name, server in self.servers.items():
                self.attempt(scenario, loads, name, lambda: Load(server, scenario.load, self.cores.load))
            for name in list(loads):
                self.attempt(scenario, loads, name, lambda: self.warm_up(loads[name]))
            for turn in range(rounds):
                for name in in_turn(list(loads), self.start * rounds + turn):
                    one = self.attempt(scenario, loads, name, lambda: loads[name].slice(WARM_UP_SECONDS, seconds))
                    if one:
                        self.measured.slices[scenario.name][name].append({**one, "start": self.start, "turn": turn})
            if scenario.mode in (CORES, CORES_SHARED, CORES_TOPICS):
                shares = {name: connections_of_threads(self.servers[name].process.pid) for name in loads}
                self.measured.shares[scenario.name].update(shares)
        finally:
            for load in loads.values():
                load.stop()
        self.measured.starts[scenario.name] += 1
        self.is_warm = True

    def warm_up(self, load):
        load.slice(SCENARIO_WARM_UP_SECONDS if self.is_warm else FIRST_WARM_UP_SECONDS, WARM_UP_SECONDS)
        return load

    def attempt(self, scenario, loads, name, action):
        """What the action gives; a server that fails is out for this start."""
        try:
            done = action()
        except Failed as failed:
            self.measured.fail(scenario, name, self.start, str(failed))
            if name in loads:
                loads.pop(name).stop()
            return None
        if isinstance(done, Load):
            loads[name] = done
        return done

    def stop(self):
        for server in self.servers.values():
            server.stop()


def in_turn(names, turn):
    """A B C, A C B, B C A, B A C …: each comes before and behind each other equally often."""
    at = turn // 2 % len(names) if names else 0
    rotated = names[at:] + names[:at]
    return rotated if turn % 2 == 0 else rotated[:1] + rotated[:0:-1]


def connections_of_threads(pid):
    """How many connections each thread has, most first: what hangs at each epoll of the process."""
    folder = Path(f"/proc/{pid}")
    with open(folder / "net" / "tcp") as table:
        sockets = {words[9]: words[3] for words in (line.split() for line in table)}
    established = {inode for inode, state in sockets.items() if state == "01"}
    counts = []
    for fd in os.listdir(folder / "fd"):
        if os.readlink(folder / "fd" / fd) == "anon_inode:[eventpoll]":
            waited_for = re.findall(r"^tfd: +(\d+)", (folder / "fdinfo" / fd).read_text(), re.M)
            links = (os.readlink(folder / "fd" / one) for one in waited_for)
            counts.append(sum(link.removeprefix("socket:[").removesuffix("]") in established for link in links))
    return sorted((count for count in counts if count > 0), reverse=True)
