"""The pictures of RESULTS.md: plots.py FOLDER, with the rows on stdin.

They have no background, and colours that can be read on white and on black.
"""
import json
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (it takes the backend that is set when it is loaded)

INK = "#7d8590"
COLOURS = {"ours": "#2f81f7", "peer": "#8b949e", "floor": "#c3a75c"}
COLUMNS_MAX = 3
PANEL_WIDTH, WIDE_PANEL_WIDTH, LABEL_WIDTH, BAR_HEIGHT, HEAD_HEIGHT = 2.9, 5.0, 1.5, 0.23, 0.75

STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fullduplex",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.bottom": False,
}


def main():
    given = json.load(sys.stdin)
    folder = Path(sys.argv[1])
    for section, file in given["files"].items():
        rows = [row for row in given["rows"] if row["section"] == section and row["kind"] != "control"]
        if rows:
            draw(MEASURES.get(section, COST), rows, folder / file)


class Measure:
    """What the length of a bar is."""

    def __init__(self, label, value, whisker, is_logarithmic=False):
        self.label, self.value, self.whisker, self.is_logarithmic = label, value, whisker, is_logarithmic


COST = Measure("server CPU µs for each {unit}, with quartiles: less is better", lambda row: row["cpu_us"], lambda row: row["cpu_quartiles"])
MEASURES = {
    "A round trip alone": Measure("µs until the answer, median and 99th percentile: less is better", lambda row: row["p50_us"],
                                  lambda row: [row["p50_us"], row["p99_us"]]),
    "Memory": Measure("bytes for each idle connection, logarithmic: less is better", lambda row: row["bytes"], None, True),
    "Several cores": Measure("thousands of {units} a second: more is better", lambda row: row["per_second"] / 1e3, None),
}


def draw(measure, rows, file):
    """A panel for each scenario, with the servers in the same order in all."""
    titles = list(dict.fromkeys((row["scenario"], row["title"]) for row in rows))
    names = in_order(measure, rows)
    columns = min(len(titles), COLUMNS_MAX)
    lines = math.ceil(len(titles) / columns)
    with plt.rc_context(STYLE):
        size = (LABEL_WIDTH + columns * (PANEL_WIDTH if columns > 1 else WIDE_PANEL_WIDTH), lines * (HEAD_HEIGHT + len(names) * BAR_HEIGHT))
        figure, panels = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
        for at, panel in enumerate(panels.flat):
            if at >= len(titles):
                panel.set_visible(False)
                continue
            scenario, title = titles[at]
            of_scenario = {row["name"]: row for row in rows if row["scenario"] == scenario}
            draw_panel(panel, measure, of_scenario, names, with_names=at % columns == 0)
            panel.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
        units = dict.fromkeys(row["unit"] for row in rows)
        label = measure.label.format(unit=" or ".join(units), units=" or ".join(map(plural, units)))
        figure.supxlabel(label, fontsize=8.5, color=INK)
        figure.savefig(file, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def in_order(measure, rows):
    """Ours first, then by what they have on (geometric) average, those that are measured everywhere before the others."""
    def place(name):
        own = [row for row in rows if row["name"] == name]
        mean = sum(math.log(max(measure.value(row), 1e-9)) for row in own) / len(own)
        return ["ours", "floor", "peer"].index(own[0]["kind"]), mean

    return sorted(dict.fromkeys(row["name"] for row in rows), key=place)


def draw_panel(panel, measure, rows, names, with_names):
    values = [measure.value(rows[name]) if name in rows else 0 for name in names]
    whiskers = [measure.whisker(rows[name]) if measure.whisker and name in rows else None for name in names]
    colours = [COLOURS[rows[name]["kind"]] if name in rows else INK for name in names]
    longest = max([*values, *(whisker[1] for whisker in whiskers if whisker)])
    panel.barh(range(len(names)), values, height=0.66, color=colours)
    for at, (name, value, whisker) in enumerate(zip(names, values, whiskers)):
        end = max(value, whisker[1] if whisker else 0)
        if whisker:
            panel.plot(whisker, [at, at], color=INK, linewidth=1, solid_capstyle="butt")
        text = shown(value) if name in rows else "–"
        panel.annotate(text, (end, at), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8,
                       fontweight="bold" if name in rows and rows[name]["kind"] == "ours" else "normal")
    if measure.is_logarithmic:
        panel.set_xscale("log")
        panel.set_xlim(10 ** math.floor(math.log10(min(value for value in values if value > 0))), longest * 2.5)
    else:
        panel.set_xlim(0, longest * 1.22 or 1)
    panel.set_xticks([])
    panel.minorticks_off()
    panel.set_yticks(range(len(names)), names if with_names else [""] * len(names))
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(names) - 0.4, -0.6)


def plural(unit):
    return unit.removesuffix("y") + "ies" if unit.endswith("y") else unit + "s"


def shown(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
