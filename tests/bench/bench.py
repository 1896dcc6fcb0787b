#!/usr/bin/env python3
"""What a message costs our echo server, in CPU time; what a handshake does. Beside it, in the same run:

- the floor, a loop that only receives, unmasks and sends (without TLS and compression);
- with --peers, tokio-tungstenite with rustls, and Node's ws.

And our bindings: the echo in Python (asyncio) beside websockets, picows, aiohttp and socketify; those in C#, with
callbacks and awaiting, beside Kestrel. And topics, beside those of socketify: there a message is one delivery to a subscriber,
and our own server is measured with Redis, too (if tests/setup.sh has brought it here), and as two nodes with all
subscribers at the other one than the publisher; Redis counts as a part of it.

    tests/bench/bench.py                                   echo and floor, all scenarios
    tests/bench/bench.py --scenario 50x20 --rounds 10      one of them, longer
    tests/bench/bench.py --scenario 'tls-*' --peers        those that match, peers too
    tests/bench/bench.py --scenario 'python-*' --peers     the Python binding and its peers
    tests/bench/bench.py --scenario 'topics-*' --peers     topics, across two nodes, too
    tests/bench/bench.py --set deflate.level=6             echo with an option
    tests/bench/bench.py --control                         the floor against itself: what noise looks like
    tests/bench/bench.py --peer uws='/opt/uws/echo -q'     another server that takes --listen and says
                                                           "listening on 127.0.0.1:PORT" (without TLS and compression)

The number that counts is the server's CPU time per message: it repeats where throughput does not. Two ratios of it are
printed: floor/server, where 1.00 is as cheap as the floor, and server/ours, where more than 1 is dearer than ours.
Same binaries differ by up to 3 % (small messages) or 15 % (1 MiB) from start to start, so the servers take turns, slice
by slice, over several fresh starts; each ratio is taken within a round and the median of them is printed, with the
smallest and the largest.

"bytes back" is the payload of an answer on its way: what a server that compresses cheaply pays for it. "busy" is how much
of its core a server used and, in brackets, the load of its own: throughput says little where the load is at 100 %, and an
idle server falls asleep and wakes more often.

Servers run on one core, the load on another. Anything else that runs meanwhile is noise.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
from fnmatch import fnmatchcase

import installing
import report
import servers
from scenarios import CSHARP, PLAIN, PYTHON, SCENARIOS

WARM_UP_SECONDS = 0.2


def main():
    options = read_options()
    server_core, load_core = two_cores()
    modes = servers.build()
    scenarios = [scenario for scenario in options.scenarios if scenario.mode in modes]
    modes = list(dict.fromkeys(scenario.mode for scenario in scenarios))
    if not options.no_echo and not options.control:
        modes = installing.build_ours(modes)
    installed = installing.install_peers(modes) if options.peers and not options.control else []
    commands = {mode: commands_of(mode, installed, options) for mode in modes}
    scenarios = [scenario for scenario in scenarios if commands.get(scenario.mode)]
    if not scenarios:
        sys.exit("none of these scenarios can be measured here")

    slices = {scenario.name: {name: [] for name in commands[scenario.mode]} for scenario in scenarios}
    for start in range(options.starts):
        for mode in modes:
            started = {}
            try:
                for name, words in commands[mode].items():
                    started[name] = servers.start(name, words, server_core)
                for scenario in scenarios:
                    if scenario.mode == mode:
                        print(f"start {start + 1} of {options.starts}: {scenario.title}", file=sys.stderr, flush=True)
                        measure(scenario, started, slices[scenario.name], load_core, options)
            finally:
                for server in started.values():
                    server.stop()

    rows = [row for scenario in scenarios for row in report.results(scenario, slices[scenario.name])]
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
    else:
        report.print_table(rows)
    if options.check and any(row["below"] for row in rows):
        sys.exit(1)


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scenario.name for scenario in SCENARIOS]
    which = f"only this one, or what matches; may repeat: {', '.join(names)}"
    parser.add_argument("--scenario", action="append", metavar="NAME", help=which)
    parser.add_argument("--starts", type=int, default=4, help="fresh starts of the servers (4)")
    parser.add_argument("--rounds", type=int, default=2, help="slices of each server, per start and scenario (2)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a slice (1)")
    parser.add_argument("--text", action="store_true", help="text messages: echo checks their UTF-8, the floor doesn't")
    parser.add_argument("--peers", action="store_true", help="the peers, too; installs them in target/bench")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="another server too")
    parser.add_argument("--control", action="store_true", help="only the floor, twice")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option for ours")
    parser.add_argument("--no-echo", action="store_true", help="only the floor and the peers")
    parser.add_argument("--check", action="store_true", help="exit 1 if echo is far from the floor or behind a peer")
    parser.add_argument("--json", action="store_true", help="results as JSON")
    options = parser.parse_args()
    wanted = options.scenario or ["*"]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            parser.error(f"--scenario {pattern}: there are {', '.join(names)}")
    options.scenarios = [one for one in SCENARIOS if any(fnmatchcase(one.name, pattern) for pattern in wanted)]
    if not options.no_echo and not options.control and not servers.ECHO.exists():
        echo = servers.ECHO.relative_to(servers.ROOT)
        sys.exit(f"{echo} is not there: run `make examples` (or pass --no-echo, --control)")
    return options


def commands_of(mode, installed, options):
    """Name and command of each server that is measured in this mode; the floor comes first."""
    if options.control and mode != PLAIN:
        return {}
    if options.control:
        return {"floor": servers.command("floor", PLAIN), "floor again": servers.command("floor", PLAIN)}
    ours = servers.ours(mode)
    names = ["floor", *([] if options.no_echo else [ours, *servers.VARIANTS]), *installed]
    commands = {name: servers.command(name, mode) for name in names}
    for setting in options.set if ours in commands else []:
        commands[ours] += ["--set", setting]
    for peer in options.peer:
        name, _, command = peer.partition("=")
        if not command or name in commands:
            sys.exit(f"--peer {peer}: want NAME=COMMAND, and each name once")
        commands[name] = servers.listening(shlex.split(command)) if mode in (PLAIN, PYTHON, CSHARP) else None
    return {name: command for name, command in commands.items() if command is not None}


def two_cores():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("the bench needs two cores: one for the server, one for the load")
    return cores[0], cores[1]


def measure(scenario, started, slices, core, options):
    for turn in range(options.rounds):
        # A B, B A, A B …: whatever drifts, drifts for both.
        for name in list(started)[:: 1 if turn % 2 == 0 else -1]:
            slices[name].append(load(started[name], scenario, core, options, is_first=turn == 0))


def load(server, scenario, core, options, is_first):
    """One slice; what the load generator reports of it."""
    # A just-in-time compiler has to see what it is about before it is measured.
    warm_up_seconds = max(options.seconds, WARM_UP_SECONDS) if is_first else WARM_UP_SECONDS
    program, *words = scenario.load
    command = [servers.BUILT / program, *server.load_words(), *words]
    command += ["--warm-up", warm_up_seconds, "--seconds", options.seconds]
    if options.text and program == "load":
        command.append("--text")
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if done.returncode != 0:
        sys.exit(f"{server.name}, {scenario.title}: the load generator found errors: {done.stdout}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
