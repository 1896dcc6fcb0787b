#!/usr/bin/env python3
"""What a message costs our echo server, in CPU time; what a handshake does, and an idle connection. Beside it, in the same run:

- the floor, a loop that only receives, unmasks and sends (without TLS and compression);
- with --peers, other servers: in C, C++, Rust, Go, for Node and .NET.

And our bindings: the echo in Python (asyncio) beside websockets, picows, aiohttp and socketify; those in C#, with
callbacks and awaiting, beside Kestrel. And topics: there a message is one delivery to a subscriber,
and our own server is measured with Redis, too (if tests/setup.sh has brought it here), and as two nodes with all
subscribers at the other one than the publisher; Redis counts as a part of it. And ours with one and two threads.

    tests/bench/bench.py                                   echo and floor, all scenarios
    tests/bench/bench.py --scenario 50x20 --starts 10      one of them, longer
    tests/bench/bench.py --scenario 'tls-*' --peers        those that match, peers too
    tests/bench/bench.py --scenario 'python-*' --peers     the Python binding and its peers
    tests/bench/bench.py --scenario 'topics-*' --peers     topics, across two nodes, too
    tests/bench/bench.py --results                         `make bench-peers`: what RESULTS.md shows, and RESULTS.md
    tests/bench/bench.py --set deflate.level=6             echo with an option
    tests/bench/bench.py --only uws --only ws --peers      ours and these
    tests/bench/bench.py --peer mine='/opt/mine/echo -q'   another server that takes --listen and says
                                                           "listening on 127.0.0.1:PORT" (without TLS and compression)

The number that counts is the server's CPU time per message: it repeats where throughput does not. Two ratios of it are
printed: floor/server, where 1.00 is as cheap as the floor, and server/ours, where more than 1 is dearer than ours.
All servers run at once, on one core, and keep their connections; each gets the whole load in turn for a slice (duel.py).
Same binaries differ by up to 3 % (small messages) or 15 % (1 MiB) from start to start, so there are several fresh starts; each ratio
is taken within a round and the median of them is printed, with the quartiles. "echo again" is the same as echo: what noise looks like.

"bytes back" is the payload of an answer on its way: what a server that compresses cheaply pays for it. "busy" is how much
of its core a server used and, in brackets, the load of its own: throughput says little where the load is at 100 %, and an
idle server falls asleep and wakes more often.

Servers run on one core, the load on another; with several cores, both on both. Anything else that runs meanwhile is noise.
"""
import argparse
import json
import os
import resource
import shlex
import sys
import time
from fnmatch import fnmatchcase
from typing import NamedTuple

import idle
import installing
import report
import results
import servers
from duel import Duel, Measured
from scenarios import CORES, CORES_SHARED, CORES_TOPICS, CSHARP, IDLE, PLAIN, ALONE, PYTHON, SCENARIOS

MINUTES_MAX = 25


class Cores(NamedTuple):
    """Numbers of those that the servers run on, and the load."""

    servers: set
    load: set


def main():
    options = read_options()
    began = time.monotonic()
    first, second = two_cores()
    allow_many_connections()
    modes = servers.build()
    scenarios = [scenario for scenario in options.scenarios if scenario.mode in modes]
    modes = list(dict.fromkeys(scenario.mode for scenario in scenarios))
    built = installing.build_ours([*modes, CSHARP] if IDLE in modes else modes)
    modes = [mode for mode in modes if mode in built]
    installed = installing.install_peers(modes) if options.peers else []
    commands = {mode: commands_of(mode, installed, options) for mode in modes}
    measured = Measured([scenario for scenario in scenarios if commands.get(scenario.mode)])
    if not measured.scenarios:
        sys.exit("none of these scenarios can be measured here")

    cores = {mode: Cores({first}, {second}) for mode in modes}
    cores.update({mode: Cores({first, second}, {first, second}) for mode in (CORES, CORES_SHARED, CORES_TOPICS)})
    ended_by = None
    measuring_began = time.monotonic()
    try:
        for start in range(options.starts):
            elapsed, each = time.monotonic() - began, (time.monotonic() - measuring_began) / max(start, 1)
            if start > 0 and elapsed + each > options.minutes * 60:
                ended_by = f"its {options.minutes:.0f} minutes were over"
                break
            one_start(start, measured, commands, cores, options)
    except KeyboardInterrupt:
        ended_by = "it was interrupted"
    tell(measured, commands, ended_by, options)


def one_start(start, measured, commands, cores, options):
    """Every mode once, with fresh servers."""
    for mode in dict.fromkeys(scenario.mode for scenario in measured.scenarios):
        duel = Duel(start, cores[mode], measured)
        try:
            duel.start_servers(commands[mode])
            for scenario in measured.scenarios:
                if scenario.mode == mode:
                    print(f"start {start + 1} of {options.starts}: {scenario.title}", file=sys.stderr, flush=True)
                    if mode == IDLE:
                        idle.measure(duel, scenario)
                    else:
                        duel.measure(scenario, options.rounds, options.seconds)
        finally:
            duel.stop()


def tell(measured, commands, ended_by, options):
    rows = [row for scenario in measured.scenarios for row in report.results(scenario, measured.slices[scenario.name])]
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
    else:
        report.print_table(rows)
    if options.results:
        results.write(measured, rows, commands, ended_by, options)
    elif ended_by:
        print(f"! this is not all: {ended_by}")
    if options.check and any(row["below"] for row in rows):
        sys.exit(1)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scenario.name for scenario in SCENARIOS]
    which = f"only this one, or what matches; may repeat: {', '.join(names)}"
    parser.add_argument("--scenario", action="append", metavar="NAME", help=which)
    parser.add_argument("--starts", type=int, default=5, help="fresh starts of the servers (5)")
    parser.add_argument("--rounds", type=int, default=4, help="slices of each server, per start and scenario (4)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a slice (0.1)")
    parser.add_argument("--minutes", type=float, default=MINUTES_MAX, help=f"no start that would end later ({MINUTES_MAX})")
    parser.add_argument("--peers", action="store_true", help="the peers, too; installs them in target/bench")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="another server too")
    parser.add_argument("--only", action="append", metavar="NAME", help="no servers but ours and this one; may repeat")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option for ours")
    parser.add_argument("--results", action="store_true", help="with peers; writes RESULTS.md, its plots and its figures")
    parser.add_argument("--check", action="store_true", help="exit 1 if echo is far from the floor or behind a peer")
    parser.add_argument("--json", action="store_true", help="results as JSON")
    options = parser.parse_args()
    options.peers |= options.results
    wanted = options.scenario or ["*"]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            parser.error(f"--scenario {pattern}: there are {', '.join(names)}")
    options.scenarios = [one for one in SCENARIOS if any(fnmatchcase(one.name, pattern) for pattern in wanted)]
    if options.results:
        options.scenarios = [one for one in options.scenarios if one.section]
    if not servers.ECHO.exists():
        sys.exit(f"{servers.ECHO.relative_to(servers.ROOT)} is not there: run `make examples`")
    return options


def commands_of(mode, installed, options):
    """Name and command of each server that is measured in this mode; ours comes first, then the floor."""
    ours = servers.ours(mode)
    names = [ours, ours + servers.AGAIN, *(["floor"] if mode in (PLAIN, ALONE) else [])]
    if mode == IDLE:
        names += [servers.OURS[PYTHON], servers.OURS[CSHARP]]
    else:
        names += [name for name in servers.VARIANTS if not options.results or name not in servers.NOT_IN_RESULTS]
    names += installed
    commands = {name: servers.command(name, mode) for name in dict.fromkeys(names)}
    for setting in options.set:
        for name in commands:
            if commands[name] and name.split(",")[0].removesuffix(servers.AGAIN) == ours:
                commands[name] = [*commands[name], "--set", setting]
    added = []
    for peer in options.peer:
        name, _, command = peer.partition("=")
        added.append(name)
        if not command or name in commands:
            sys.exit(f"--peer {peer}: want NAME=COMMAND, and each name once")
        commands[name] = servers.listening(shlex.split(command)) if mode in (PLAIN, PYTHON, CSHARP) else None
    return {name: command for name, command in commands.items()
            if command is not None and (not options.only or name.startswith(ours) or name in [*options.only, *added])}


def allow_many_connections():
    """For the servers, too: they get the limits that we have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def two_cores():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("the bench needs two cores: one for the server, one for the load")
    return cores[0], cores[1]


if __name__ == "__main__":
    main()
