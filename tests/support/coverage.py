"""The table of tests/coverage, from what llvm-cov exports: how much of each layer ran, and what did not.

A line or branch that stands in several programs, or that a generic function has several times, ran if it
ran in one of them. What only tests are made of does not count.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from places import ROOT

LAYERS = ["protocol", "engine", "server"]


@dataclass
class File:
    # By number, and by (line, column, outcome): has it run?
    lines: dict = field(default_factory=dict)
    branches: dict = field(default_factory=lambda: defaultdict(bool))

    def counted(self):
        return *_parts(self.lines), *_parts(self.branches)

    def open(self):
        """Line by line what has not run."""
        outcomes = defaultdict(list)
        for (line, column, outcome), ran in sorted(self.branches.items()):
            if not ran and self.lines.get(line):
                outcomes[line].append(f"{column} never {str(outcome).lower()}")
        for line in sorted({line for line, ran in self.lines.items() if not ran} | set(outcomes)):
            yield line, ", ".join(outcomes[line])


def main(lcov, branches):
    files = defaultdict(File)
    for layer in LAYERS:
        for path in sorted((ROOT / "src" / layer).glob("*.rs")):
            if path.stem != "tests":
                files[str(path)] = File()
    read_lines(lcov, files)
    read_branches(branches, files)
    for path, file in files.items():
        end = product_lines(path)
        file.lines = {line: ran for line, ran in file.lines.items() if line <= end}
        file.branches = {place: ran for place, ran in file.branches.items() if place[0] <= end}
    print_open(files)
    print_table(files)


def read_lines(lcov, files):
    file = None
    for row in Path(lcov).read_text().splitlines():
        what, _, rest = row.partition(":")
        if what == "SF":
            file = files.get(rest)
        elif what == "DA" and file is not None:
            line, count = rest.split(",")[:2]
            file.lines[int(line)] = int(count) > 0


def read_branches(exported, files):
    # By function and not by file: there a generic one's instances are not yet put together.
    for function in json.loads(Path(exported).read_text())["data"][0]["functions"]:
        for line, column, _, _, true_count, false_count, file_id, *_ in function["branches"]:
            file = files.get(function["filenames"][file_id])
            if file is not None:
                file.branches[line, column, True] |= true_count > 0
                file.branches[line, column, False] |= false_count > 0


def product_lines(path):
    """How many lines stand before the file's own tests."""
    lines = Path(path).read_text().splitlines()
    return lines.index("#[cfg(test)]") if "#[cfg(test)]" in lines else len(lines)


def print_open(files):
    for path, file in files.items():
        text = Path(path).read_text().splitlines()
        for line, outcomes in file.open():
            print(f"{Path(path).relative_to(ROOT)}:{line}: {text[line - 1].strip()}{outcomes and '   -- ' + outcomes}")


def print_table(files):
    print(f"\n{'':28}{'lines':>14}{'branches':>18}")
    totals = [0] * 4
    for layer in LAYERS:
        of_layer = [0] * 4
        for path, file in files.items():
            if Path(path).parent.name == layer:
                print_row(Path(path).relative_to(ROOT / "src"), file.counted())
                of_layer = [sum(pair) for pair in zip(of_layer, file.counted())]
        print_row(layer, of_layer)
        print()
        totals = [sum(pair) for pair in zip(totals, of_layer)]
    print_row("all three", totals)


def print_row(name, counted):
    lines_ran, lines, branches_ran, branches = counted
    print(f"{str(name):28}{_share(lines_ran, lines):>18}{_share(branches_ran, branches):>18}")


def _share(ran, there):
    return f"{100 * ran / there:5.1f} % {f'{ran}/{there}':>9}" if there else "-"


def _parts(ran):
    return sum(ran.values()), len(ran)


if __name__ == "__main__":
    main(*sys.argv[1:])
