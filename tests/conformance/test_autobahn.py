"""The Autobahn test suite, the yardstick of WebSocket implementations, attacks `echo`.

AUTOBAHN=compression or AUTOBAHN=bindings: all cases instead of a cross-section.
"""

import json
import os
import shutil
import subprocess

import pytest

from support.places import REPORTS, WSTEST
from support.programs import LANGUAGES, speaking

# How many cases each chapter has, so that a suite that silently ran fewer does not look green.
CASES = {
    "1.1": 8, "1.2": 8,                                          # text and binary of every length
    "2": 11, "3": 7, "4.1": 5, "4.2": 5, "5": 20,                # ping, reserved bits, opcodes, fragments
    "6.1": 3, "6.2": 4, "6.3": 2, "6.4": 4, "6.5": 5, "6.6": 11, "6.7": 4, "6.8": 2,      # UTF-8
    "6.9": 4, "6.10": 3, "6.11": 5, "6.12": 8, "6.13": 5, "6.14": 10, "6.15": 1, "6.16": 3,
    "6.17": 5, "6.18": 5, "6.19": 5, "6.20": 7, "6.21": 8, "6.22": 34, "6.23": 7,
    "7.1": 6, "7.3": 6, "7.5": 1, "7.7": 13, "7.9": 9, "7.13": 2,                         # close
    "9.1": 6, "9.2": 6, "9.3": 9, "9.4": 9, "9.5": 6, "9.6": 6, "9.7": 6, "9.8": 6,       # large and many
    "10.1": 1,
}

# The suite has no opinion on these, whatever a server does.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

# Compression: five kinds of data (12), and seven of what client and server agree on (13), each with 18 lengths of
# messages and fragments.
DEFLATE_CASES = {f"{chapter}.{number}": 18 for chapter, count in ((12, 5), (13, 7)) for number in range(1, count + 1)}

# All of them take minutes. These touch every subchapter, and every length and fragmentation once or more.
DEFLATE_SAMPLE = [
    "12.1.1", "12.1.4", "12.1.11", "12.1.18", "12.2.2", "12.2.7", "12.2.16", "12.3.3", "12.3.8", "12.4.5", "12.4.12", "12.5.6", "12.5.17",
    "13.1.3", "13.1.9", "13.2.4", "13.2.13", "13.3.5", "13.3.10", "13.4.2", "13.4.14", "13.5.6", "13.5.15", "13.6.1", "13.6.8", "13.7.3", "13.7.11",
]

# A message with a violation right behind it. Who answers on another thread may be too late: the connection has failed.
# The suite allows that, and would rather see the answer.
ANSWERED_TOO_LATE = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}

# What a binding could get wrong by itself: lengths and kinds, pings between, fragments, what is no UTF-8, closes
# with all their codes, large messages, many messages.
BINDINGS_SAMPLE = [
    "1.1.1", "1.1.2", "1.1.4", "1.1.7", "1.2.1", "1.2.6", "1.2.8", "2.6", "2.10", "2.11", "3.2", "4.1.3", "5.1", "5.6", "5.19",
    "6.1.2", "6.2.1", "6.2.4", "6.3.2", "6.4.2", "6.6.9", "6.9.4", "6.21.8", "6.23.1", "7.1.1", "7.1.3", "7.1.5", "7.3.2", "7.3.6",
    "7.5.1", "7.7.1", "7.7.9", "7.7.12", "7.9.1", "7.9.4", "9.1.3", "9.2.3", "9.3.5", "9.7.1", "9.8.3", "10.1.1",
]

# The suite counts drafts: its 18 is version 13 on the wire, its 10 is version 8.
DRAFT_OF_VERSION = {13: 18, 8: 10}


@pytest.mark.parametrize("version", DRAFT_OF_VERSION)
def test_every_autobahn_case_is_ok_and_none_merely_non_strict(start, version):
    needs_the_suite()
    reports = REPORTS / f"autobahn-{version}"
    results = attack(start("echo").url, version, reports, [f"{chapter}.*" for chapter in range(1, 11)])
    check(results, reports, {name for chapter, count in CASES.items() for name in names(chapter, count)})


@pytest.mark.parametrize("mode", ["shared", "dedicated"])
def test_every_autobahn_case_of_compression_is_ok(start, mode):
    """A cross-section; all of them with `make autobahn`."""
    needs_the_suite()
    is_all = os.environ.get("AUTOBAHN") == "compression"
    everything = [name for chapter, count in DEFLATE_CASES.items() for name in names(chapter, count)]
    cases = everything if is_all else DEFLATE_SAMPLE
    reports = REPORTS / f"autobahn-deflate-{mode}"
    results = attack(start("echo", settings={"deflate": mode}).url, 13, reports, cases, timeout=1800 if is_all else 240)
    check(results, reports, set(cases))


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "c"])
def test_the_bindings_pass_autobahn_cases_of_every_chapter(start, language):
    """A cross-section; all of them with `make autobahn-bindings`."""
    needs_the_suite()
    is_all = os.environ.get("AUTOBAHN") == "bindings"
    cases = [name for chapter, count in CASES.items() for name in names(chapter, count)] if is_all else BINDINGS_SAMPLE
    reports = REPORTS / f"autobahn-{language}"
    with speaking(language):
        program = start("echo")
    results = attack(program.url, 13, reports, cases, timeout=900 if is_all else 240)
    check(results, reports, set(cases), ANSWERED_TOO_LATE)


def check(results, reports, expected, lenient=frozenset()):
    missing = expected - results.keys()
    assert not missing, f"cases that did not run: {sorted(missing)}"
    bad = {
        case: result
        for case, result in results.items()
        if {result["behavior"], result["behaviorClose"]} - ({"NON-STRICT"} if case in lenient else set())
        != {"INFORMATIONAL" if case in INFORMATIONAL else "OK"}
    }
    if bad:
        pytest.fail("\n\n".join(explain(case, bad[case], reports) for case in sorted(bad, key=chapter_order)), pytrace=False)


def needs_the_suite():
    if not WSTEST.exists():
        pytest.fail(
            "The Autobahn test suite is missing: it needs Python 2.7, which tests/setup.sh did not find.\n"
            "Run tests/setup.sh to see how to get one.",
            pytrace=False,
        )


def attack(url, version, reports, cases, timeout=240):
    """Runs these cases; the suite leaves a page per case in `reports`."""
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    specification = reports / "specification.json"
    specification.write_text(json.dumps({
        "outdir": str(reports),
        "servers": [{"agent": "echo", "url": url, "options": {"version": DRAFT_OF_VERSION[version]}}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }))
    done = subprocess.run(
        [WSTEST, "-m", "fuzzingclient", "-s", specification],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, cwd=reports,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    index = reports / "index.json"
    assert index.exists(), f"the suite wrote no report:\n{done.stdout[-4000:]}"
    return json.loads(index.read_text())["echo"]


def names(chapter, count):
    return [f"{chapter}.{number}" for number in range(1, count + 1)]


def chapter_order(case):
    return [int(number) for number in case.split(".")]


def explain(case, result, reports):
    report = json.loads((reports / result["reportfile"]).read_text())
    return (
        f"case {case} is {result['behavior']}, its close {result['behaviorClose']}\n"
        f"  {report['description']}\n"
        f"  wanted:   {report['expectation']}\n"
        f"  expected: {report['expected']}\n"
        f"  received: {str(report['received'])[:500]}\n"
        f"  result:   {report['result']} {report['resultClose']}\n"
        f"  details:  {reports / result['reportfile'].replace('.json', '.html')}"
    )
