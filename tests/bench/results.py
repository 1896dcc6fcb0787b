#!/usr/bin/env python3
"""RESULTS.md: what one run of `make bench-peers` has found, all of it and nothing else.

    tests/bench/results.py      writes RESULTS.md and the plots again, from the figures of the last run
"""
import json
import subprocess
import sys
import time
from statistics import quantiles

import machine
from report import percentiles, shown_ratio, spread
from scenarios import ALONE, IDLE, IDLE_BYTES_MAX, SCENARIOS
from servers import AGAIN, BUILT, HERE, PEERS, ROOT, ours

PAGE = HERE / "RESULTS.md"
FOLDER = HERE / "results"
FIGURES = FOLDER / "results.json"

STARTS_WANTED = 5

NAMES = {
    "floor": "a bare loop",
    "uws": "uWebSockets",
    "beast": "Boost.Beast",
    "tungstenite": "tokio-tungstenite",
    "ws": "ws (Node)",
    "gorilla": "gorilla (Go)",
    "kestrel": "Kestrel (.NET)",
}
# Ours, by what it is called in its mode.
OUR_NAMES = {"echo": "fullduplex", "topics": "fullduplex", "python": "fullduplex (Python)", "csharp": "fullduplex (C#)"}

PLOTS = {
    "A round trip alone": "alone.svg",
    "Echo": "echo.svg",
    "Broadcast": "broadcast.svg",
    "Handshakes": "handshakes.svg",
    "Memory": "memory.svg",
    "Python": "python.svg",
    "C#": "csharp.svg",
    "Several cores": "cores.svg",
}

SECTIONS = {
    "A round trip alone": "One connection, one message in flight: how long an answer takes. Most of it is two processes that fall asleep and "
    "are woken; with `poll.spin` ours looks for a while before it sleeps, and pays for that with CPU time.",
    "Echo": "Each server sends back what it gets; connections × size, one message in flight on each unless it says more. "
    "*A bare loop* is one of recv, unmask and send and knows nothing else of the protocol: what is left for it is the kernel.",
    "Broadcast": "One of the connections says something, and all of them hear it. A message here is one delivery to one of them. "
    "Ours gives up to 64 sends to the kernel with one system call; without io_uring, each with one of its own.",
    "Handshakes": "Connect, upgrade, Close both ways, and again, 16 at a time. After that ours waits for the peer's end of the stream, so that "
    "nothing of it is reset (RFC 6455, 7.1.1); fastwebsockets closes at once.",
    "Memory": "By how much the private memory of the server grows with each of 10,000 more connections that had their handshake, echoed a "
    "message and are silent. What the kernel keeps for a socket is not in it.",
    "Python": "Servers written in Python, each in one thread or process on one core with all the threads of its library.",
    "C#": "Servers written in C#, with all threads of their runtime on one core.",
    "Several cores": "Servers and load on the same two cores, none of them pinned, so the load takes from the server what it needs. "
    "In the last column, how many connections each thread of a server has.",
}


def write(measured, rows, commands, ended_by, options):
    """The figures, the page and the plots."""
    found = {
        "machine": machine.about(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "starts": starts_made(measured),
        "rounds": options.rounds,
        "slice_seconds": options.seconds,
        "missing": missing(measured, commands, ended_by, options),
        "rows": [{**row, **details(measured, row)} for row in rows],
    }
    FOLDER.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(found, ensure_ascii=False, indent=1, default=list) + "\n")
    show(found)


def starts_made(measured):
    return max(measured.starts.values(), default=0)


def details(measured, row):
    """What the page needs beside the row, and the slices as they were."""
    slices = measured.slices[row["scenario"]][row["server"]]
    key = "bytes" if row["mode"] == IDLE else "server_cpu_us"
    values = [one[key] for one in slices]
    first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    keys = ["start", "turn", key] + (["per_second"] if "per_second" in slices[0] else [])
    return {
        "cpu_quartiles": [first, third],
        "shares": measured.shares[row["scenario"]].get(row["server"]),
        "each_slice": {one: [round(slice[one], 3) for slice in slices] for one in keys},
    }


def missing(measured, commands, ended_by, options):
    """Sentences that say what a whole run would have had."""
    found = []
    starts = starts_made(measured)
    if ended_by:
        found.append(f"The run ended early, after {starts} of {options.starts} starts: {ended_by}.")
    elif starts < STARTS_WANTED:
        found.append(f"Only {starts} fresh starts, a whole run has {STARTS_WANTED}.")
    if options.only or options.set:
        found.append("Options of the command line left servers out, or changed ours: "
                     + ", ".join([*(f"--only {name}" for name in options.only or []), *(f"--set {one}" for one in options.set)]) + ".")
    absent = [f"`{one.name}`" for one in SCENARIOS if one.section and not any(measured.slices.get(one.name, {}).values())]
    if absent:
        found.append(f"Not measured: {', '.join(absent)}.")
    present = {name for mode in commands.values() for name in mode}
    away = [shown(name) for name in PEERS if name not in present]
    if away:
        found.append(f"Not here or not installed: {', '.join(away)}.")
    for scenario in measured.scenarios:
        count = measured.starts[scenario.name]
        if 0 < count < starts:
            found.append(f"{scenario.title}: {count} of {starts} starts.")
    failures = {}
    for failure in measured.failures:
        title = next((one.title for one in SCENARIOS if one.name == failure["scenario"]), "start")
        failures.setdefault((failure["server"], title), []).append(failure["reason"])
    for (server, title), reasons in failures.items():
        found.append(f"{shown(server)} failed ({title}) in {len(reasons)} of {starts} starts: {reasons[0]}")
    return found


def shown(server):
    """How a server is called on the page."""
    again = server.endswith(AGAIN)
    base, comma, what = server.removesuffix(AGAIN).partition(", ")
    if base in OUR_NAMES:
        return OUR_NAMES[base] + comma + what + (AGAIN if again else "")
    return NAMES.get(base, base) + (AGAIN if again else "")


def show(found):
    """Writes the plots and the page from the figures."""
    notes = list(found["missing"])
    try:
        draw(found)
    except (subprocess.CalledProcessError, OSError) as failed:
        notes.append(f"No plots: {failed}.")
    PAGE.write_text(page(found, notes))
    print(f"{PAGE.relative_to(ROOT)} is written", *(f"! {note}" for note in notes), sep="\n", file=sys.stderr)


def draw(found):
    """In an environment of its own, since it needs matplotlib."""
    for old in FOLDER.glob("*.svg"):
        old.unlink()
    rows = [{**row, "name": shown(row["server"]), "kind": kind(row)} for row in found["rows"]]
    for row in rows:
        del row["each_slice"]
    subprocess.run([HERE / "plots" / "install", BUILT / "plots"], check=True)
    words = [BUILT / "plots" / "bin" / "python", HERE / "plots" / "plots.py", FOLDER]
    subprocess.run(words, input=json.dumps({"rows": rows, "files": PLOTS}), text=True, check=True)


def kind(row):
    """Whose bar it is."""
    if row["server"].endswith(AGAIN):
        return "control"
    if row["server"].split(",")[0] in OUR_NAMES:
        return "ours"
    return "floor" if row["server"] == "floor" else "peer"


# -- The page ------------------------------------------------------------------------------------------------------

HOW_TO_READ = """\
All servers of a table run at once on one core and keep their connections; the load runs on the other core and gives each of them in turn
all of it for {slice:.0f} ms. A round is one such slice of each, and the order changes from round to round. There were {starts} fresh starts of all
servers with {rounds} rounds in each.

- **CPU µs** is the CPU time of the server's process, user and system, for each message: the median of its slices. It repeats where
  throughput does not.
- **× ours** is that divided by ours in the same round: the median of all rounds and, in brackets, the quartiles. More than 1 means that
  ours is cheaper. *again* is a second process of ours, the same in all: how far it is from 1 is noise.
- **a second** and the percentiles of **µs**, from sending a message to having its answer, are of a server that is kept busy (*busy*: the share
  of its core that the server used, and the load's of its own). With many messages in flight an answer waits for those before it, so
  percentiles compare servers and are no latency of an idle server; that is "A round trip alone". They are of all slices together.
- Where a server is not busy all the time, more messages a second mean less falling asleep, and so less CPU for each.

`make bench-peers` measures all this again; `BENCH="--scenario 'python-*'"` a part of it. The figures of each slice are in
[`results/results.json`](results/results.json)."""


def page(found, notes):
    about = found["machine"]
    lines = ["# How fast, beside others", ""]
    lines += [f"Measured {found['date']} with `make bench-peers`, at commit `{about['commit']}`: {about['processor']}, "
              f"{about['cores']} cores, {about['memory']}, {about['system']}, {about['congestion']} as congestion control, loopback.", ""]
    if notes:
        lines += ["**This is not all that a whole run has:**", "", *(f"- {note}" for note in notes), ""]
    lines += expectations(found["rows"])
    lines += ["## How to read this", ""]
    lines += [HOW_TO_READ.format(slice=1000 * found["slice_seconds"], starts=found["starts"], rounds=found["rounds"]), ""]
    for section, text in SECTIONS.items():
        rows = [row for row in found["rows"] if row["section"] == section]
        if rows:
            lines += [f"## {section}", "", text, ""]
            if (FOLDER / PLOTS[section]).exists():
                lines += [f"![{section}](results/{PLOTS[section]})", ""]
            lines += tables(rows)
    lines += ["## Versions", "", "| | |", "| --- | --- |"]
    lines += [f"| {shown(name)} | {version} |" for name, version in about["versions"].items()]
    return "\n".join(lines) + "\n"


def tables(rows):
    lines = []
    for title in dict.fromkeys(row["title"] for row in rows):
        of_title = [row for row in rows if row["title"] == title]
        lines += table_of_bytes(of_title) if of_title[0]["mode"] == IDLE else table_of_costs(title, of_title)
        lines.append("")
    return lines


def table_of_costs(title, rows):
    with_threads = any(row["shares"] for row in rows)
    head = [title, "CPU µs", "× ours", "a second", "busy (load)", "p50 µs", "p99 µs", "p99.9 µs", *(["threads"] if with_threads else [])]
    lines = [cells(head), cells(["---"] + ["---:"] * (len(head) - 1))]
    for row in sorted(rows, key=lambda row: row["p50_us" if row["mode"] == ALONE else "cpu_us"]):
        lines.append(cells([
            emphasized(row),
            f"{row['cpu_us']:.2f}" if row["cpu_us"] < 100 else f"{row['cpu_us']:.0f}",
            shown_ratio(row["ours_ratio"]),
            f"{row['per_second']:,.0f}",
            f"{row['server_busy']:.0%} ({row['load_busy']:.0%})",
            *(f"{row[name]:,.0f}" for name in ("p50_us", "p99_us", "p99_9_us")),
            *([" + ".join(f"{count:,}" for count in row["shares"] or [])] if with_threads else []),
        ]))
    return lines


def table_of_bytes(rows):
    lines = [cells(["a connection", "bytes", "× ours"]), cells(["---", "---:", "---:"])]
    for row in sorted(rows, key=lambda row: row["bytes"]):
        lines.append(cells([emphasized(row), f"{row['bytes']:,.0f}", f"{row['ours_ratio']['ratio']:.2f}" if row["ours_ratio"] else ""]))
    return lines


def emphasized(row):
    return f"**{shown(row['server'])}**" if row["server"] == ours(row["mode"]) else shown(row["server"])


def cells(values):
    return f"| {' | '.join(values)} |"


def expectations(rows):
    """What we promise ourselves beside what was found."""
    lines = ["| Expected | wanted | found | |", "| --- | ---: | ---: | --- |"]
    for scenario in SCENARIOS:
        for peer, wanted in scenario.peers_min.items() if scenario.section else []:
            row = next((row for row in rows if (row["scenario"], row["server"]) == (scenario.name, peer)), None)
            if row and row["ours_ratio"]:
                ratio = row["ours_ratio"]["ratio"]
                lines.append(cells([f"{scenario.title}: {shown(peer)} / ours", f"at least {wanted:.2f}", f"{ratio:.2f}", verdict(ratio >= wanted)]))
    kept = next((row for row in rows if row["mode"] == IDLE and row["server"] == ours(IDLE)), None)
    if kept:
        lines.append(cells(["an idle connection", f"at most {IDLE_BYTES_MAX} bytes", f"{kept['bytes']:.0f}", verdict(kept["bytes"] <= IDLE_BYTES_MAX)]))
    beside = [row for row in rows if row["server"] in PEERS and row["ours_ratio"]
              and not any(row["server"] in one.peers_min for one in SCENARIOS if one.name == row["scenario"])]
    if beside:
        behind = [f"{row['title']}: {shown(row['server'])} {row['ours_ratio']['ratio']:.2f}" for row in beside if row["ours_ratio"]["ratio"] < 1]
        count = f"{len(beside) - len(behind)} of {len(beside)}"
        lines.append(cells(["every other peer, everywhere: peer / ours", "more than 1", count, "; ".join(behind) or verdict(True)]))
    return ["## What was expected", "", *lines, ""] if len(lines) > 2 else []


def verdict(is_met):
    return "yes" if is_met else "**no**"


if __name__ == "__main__":
    show(json.loads(FIGURES.read_text()))
