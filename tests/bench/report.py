"""From slices to figures, and the table of them."""
from collections import Counter
from statistics import median, quantiles

from scenarios import IDLE, IDLE_BYTES_MAX
from servers import PEERS, ours

PERCENTILES = {"p50_us": 0.5, "p99_us": 0.99, "p99_9_us": 0.999}


def results(scenario, slices):
    """One row for each server of a scenario; `slices` of each, in the order they were measured."""
    return [row(scenario, name, slices) for name in slices]


def row(scenario, name, slices):
    key = "bytes" if scenario.mode == IDLE else "server_cpu_us"
    own = ours(scenario.mode)
    floor = spread(slices.get("floor"), slices[name], key) if name != "floor" else None
    beside = spread(slices[name], slices.get(own), key) if name not in (own, "floor") else None
    found = {
        "scenario": scenario.name,
        "title": scenario.title,
        "mode": scenario.mode,
        "unit": scenario.unit,
        "section": scenario.section,
        "server": name,
        "floor_ratio": floor,
        "ours_ratio": beside,
        "below": [],
        "slices": len(slices[name]),
    }
    found.update(bytes_of(slices[name]) if scenario.mode == IDLE else costs_of(slices[name]))

    if name == own and floor and scenario.ratio_min and floor["ratio"] < scenario.ratio_min:
        found["below"].append(f"{own} costs more than floor/{scenario.ratio_min:.2f}")
    wanted = scenario.peers_min.get(name, 1)
    if name in PEERS and beside and beside["ratio"] < wanted:
        found["below"].append(f"{name} is cheaper than {own}" if wanted == 1 else f"{name} costs less than {wanted} times {own}")
    if name == own and scenario.mode == IDLE and found["bytes"] > IDLE_BYTES_MAX:
        found["below"].append(f"{own} keeps more than {IDLE_BYTES_MAX} bytes")
    return found


def costs_of(slices):
    def middle(key):
        return median(one[key] for one in slices)

    messages = sum(one["messages"] for one in slices)

    def share(key):
        """Of all slices together: the kernel counts this in ticks, which are long beside a slice."""
        return sum(one[key] * one["messages"] for one in slices) / messages

    user, system = share("server_user_us"), share("server_system_us")
    return {
        "cpu_us": middle("server_cpu_us"),
        "user_us": middle("server_cpu_us") * user / ((user + system) or 1),
        "system_us": middle("server_cpu_us") * system / ((user + system) or 1),
        "per_second": middle("per_second"),
        "server_busy": median(one["server_cpu_us"] * one["per_second"] / 1e6 for one in slices),
        "load_busy": median(one["load_cpu_us"] * one["per_second"] / 1e6 for one in slices),
        **percentiles(slices),
        "answer_bytes": middle("answer_bytes") if "answer_bytes" in slices[0] else None,
        "negotiated": slices[0]["negotiated"],
    }


def bytes_of(slices):
    return {"bytes": median(one["bytes"] for one in slices), "negotiated": ""}


def percentiles(slices):
    """Of all slices together."""
    counts = Counter()
    for one in slices:
        counts.update(dict(one["durations"]))
    total, seen, found = sum(counts.values()), 0, {}
    for us in sorted(counts):
        seen += counts[us]
        for name, share in PERCENTILES.items():
            if name not in found and seen > total * share:
                found[name] = us
    return found


def spread(numerators, denominators, key="server_cpu_us"):
    """The ratios within each round that has both: the median of them, the quartiles, and how many."""
    if not numerators or not denominators:
        return None
    under = {(one["start"], one["turn"]): one[key] for one in denominators}
    ratios = [one[key] / under[at] for one in numerators if under.get(at := (one["start"], one["turn"]), 0) > 0]
    if not ratios:
        return None
    first, _, third = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"ratio": median(ratios), "quartiles": [first, third], "rounds": len(ratios)}


def print_table(rows):
    head = ["", "", "CPU µs each", "(user + system)", "floor/server [quartiles]", "server/ours [quartiles]"]
    lines = [[*head, "a second", "busy (load)", "p50 µs", "p99 µs", "p99.9 µs", "bytes back"]]
    notes = []
    title = None
    for row in rows:
        shown = row["title"] if row["title"] != title else ""
        title = row["title"]
        lines.append([shown, row["server"], *(cells_of_bytes(row) if row["mode"] == IDLE else cells_of_costs(row))])
        notes += [f"! {row['title']}: {reason}" for reason in row["below"]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [f"{cell:{'<' if at < 2 else '>'}{width}}" for at, (cell, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())
    for note in negotiated(rows) + notes:
        print(note)


def cells_of_costs(row):
    return [
        f"{row['cpu_us']:.2f}",
        f"({row['user_us']:.2f} + {row['system_us']:.2f})",
        shown_ratio(row["floor_ratio"]),
        shown_ratio(row["ours_ratio"]),
        f"{row['per_second']:,.0f}",
        f"{row['server_busy']:.0%} ({row['load_busy']:.0%})",
        *(f"{row[name]:,.0f}" for name in PERCENTILES),
        f"{row['answer_bytes']:,.0f}" if row["answer_bytes"] is not None else "",
    ]


def cells_of_bytes(row):
    return [f"{row['bytes']:,.0f} bytes", "", "", shown_ratio(row["ours_ratio"]), "", "", "", "", "", ""]


def negotiated(rows):
    """What the load and the servers agreed on, in lines."""
    servers = {}
    for row in rows:
        if row["negotiated"]:
            servers.setdefault((row["mode"], row["negotiated"]), {})[row["server"]] = True
    return [f"{mode}: {what} ({', '.join(names)})" for (mode, what), names in servers.items()]


def shown_ratio(spread):
    return f"{spread['ratio']:.2f} [{spread['quartiles'][0]:.2f}, {spread['quartiles'][1]:.2f}]" if spread else ""
