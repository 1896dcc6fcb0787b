"""From slices to figures, and the table of them."""
from statistics import median

from servers import PEERS, ours


def results(scenario, slices):
    """One row for each server of a scenario; `slices` of each, in the order they were measured."""
    return [row(scenario, name, slices) for name in slices]


def row(scenario, name, slices):
    def middle(key):
        return median(one[key] for one in slices[name])

    below = []
    own = ours(scenario.mode)
    floor = spread(slices.get("floor"), slices[name]) if name != "floor" else None
    if name == own and floor and scenario.ratio_min and floor["ratio"] < scenario.ratio_min:
        below.append(f"{own} costs more than floor/{scenario.ratio_min:.2f}")
    beside = spread(slices[name], slices.get(own)) if name not in (own, "floor") else None
    wanted = scenario.peers_min.get(name, 1)
    if name in PEERS and beside and beside["ratio"] < wanted:
        below.append(f"{name} is cheaper than {own}" if wanted == 1 else f"{name} costs less than {wanted} times {own}")
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "mode": scenario.mode,
        "unit": scenario.unit,
        "server": name,
        "cpu_us": middle("server_cpu_us"),
        "user_us": middle("server_user_us"),
        "system_us": middle("server_system_us"),
        "floor_ratio": floor,
        "ours_ratio": beside,
        "below": below,
        "per_second": middle("per_second"),
        "server_busy": median(one["server_cpu_us"] * one["per_second"] / 1e6 for one in slices[name]),
        "load_busy": median(one["load_cpu_us"] * one["per_second"] / 1e6 for one in slices[name]),
        "p50_us": middle("p50_us"),
        "p99_us": middle("p99_us"),
        "answer_bytes": middle("answer_bytes") if "answer_bytes" in slices[name][0] else None,
        "negotiated": slices[name][0]["negotiated"],
        "slices": len(slices[name]),
    }


def spread(numerators, denominators):
    """The ratio of CPU time within each round: the median of them, the smallest and the largest."""
    if not numerators or not denominators:
        return None
    ratios = [above["server_cpu_us"] / under["server_cpu_us"] for above, under in zip(numerators, denominators)]
    return {"ratio": median(ratios), "smallest": min(ratios), "largest": max(ratios)}


def print_table(rows):
    head = ["", "", "CPU µs each", "(user + system)", "floor/server [min, max]", "server/ours [min, max]"]
    lines = [[*head, "a second", "busy (load)", "p50 µs", "p99 µs", "bytes back"]]
    notes = []
    title = None
    for row in rows:
        shown = row["title"] if row["title"] != title else ""
        title = row["title"]
        lines.append(
            [shown, row["server"], f"{row['cpu_us']:.2f}", f"({row['user_us']:.2f} + {row['system_us']:.2f})"]
            + [shown_ratio(row["floor_ratio"]), shown_ratio(row["ours_ratio"])]
            + [f"{row['per_second']:,.0f}", f"{row['server_busy']:.0%} ({row['load_busy']:.0%})"]
            + [f"{row['p50_us']:,.0f}", f"{row['p99_us']:,.0f}"]
            + [f"{row['answer_bytes']:,.0f}" if row["answer_bytes"] is not None else ""]
        )
        notes += [f"! {row['title']}: {reason}" for reason in row["below"]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [f"{cell:{'<' if at < 2 else '>'}{width}}" for at, (cell, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())
    for note in negotiated(rows) + notes:
        print(note)


def negotiated(rows):
    """What the load and the servers agreed on, in lines."""
    servers = {}
    for row in rows:
        if row["negotiated"]:
            servers.setdefault((row["mode"], row["negotiated"]), {})[row["server"]] = True
    return [f"{mode}: {what} ({', '.join(names)})" for (mode, what), names in servers.items()]


def shown_ratio(spread):
    return f"{spread['ratio']:.2f} [{spread['smallest']:.2f}, {spread['largest']:.2f}]" if spread else ""
