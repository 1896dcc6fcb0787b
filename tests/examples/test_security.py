"""What SECURITY.md names is there, and has the figures that it gives."""

import re

import pytest

from support.places import ROOT
from support.programs import Program

TEXT = (ROOT / "SECURITY.md").read_text()
# A test's definition in each language. One in C is proved where `main` says so.
DEFINITIONS = {
    ".py": r"^def {}\(",
    ".rs": r"^ *fn {}(<\w+: World>)?\(",
    ".c": r"^    PROVE\({}\);",
}
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "ms": 1, "s": 1000}


def listed_tests():
    return re.findall(r"^\| T(\d+) \| `([^`]+)::(\w+)` \|$", TEXT, re.M)


def test_every_test_it_names_exists():
    assert listed_tests()
    for _, file, name in listed_tests():
        path = ROOT / file
        assert path.is_file(), f"{file} is missing"
        definition = DEFINITIONS[path.suffix].format(name)
        assert re.search(definition, path.read_text(), re.M), f"{file} has no test {name}"


def test_every_number_of_a_test_is_in_the_list_and_the_list_holds_no_other():
    body, _, _ = TEXT.partition("## The tests")
    listed = [int(number) for number, _, _ in listed_tests()]
    assert listed == list(range(1, len(listed) + 1))
    # The text explains what [T1] and [T2] are.
    assert {int(number) for number in re.findall(r"\[T(\d+)\]", body)} == set(listed)


def test_every_default_it_gives_is_the_options():
    table = (ROOT / "README.md").read_text()
    defaults = dict(re.findall(r"^\| `([a-z_.]+)` \| .*? \| (?:`([^`]*)`)? \|", table, re.M))
    given = re.findall(r"`([a-z_.]+)` = ([\w.]+(?:, \w+)*)", TEXT)
    given = [(option, value) for option, value in given if option != "option"]
    assert len(given) > 30
    for option, value in given:
        assert defaults.get(option) == value, f"`{option}` = {value}"


def test_every_option_it_names_exists():
    table = (ROOT / "README.md").read_text()
    options = set(re.findall(r"^\| `([a-z_.]+)` \|", table, re.M))
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", TEXT))
    assert named and named <= options, named - options


def test_every_constant_it_gives_is_the_sources():
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.rs")))
    given = re.findall(r"`([A-Z_]+)` = ([\d,]+) ?(KiB|MiB|ms|s)?\b", TEXT)
    assert len(given) > 15
    for name, number, unit in given:
        values = {value_of(text) for text in re.findall(rf"const {name}: \w+ = (.+);", sources)}
        assert values == {int(number) * UNITS[unit]}, f"`{name}` = {number} {unit}"


def value_of(text):
    """A product of numbers, or a time in milliseconds."""
    time = re.fullmatch(r"Duration::from_(millis|secs)\((\d+)\)", text)
    if time:
        return int(time[2]) * (1000 if time[1] == "secs" else 1)
    value = 1
    for factor in text.split("*"):
        value *= int(factor.strip().replace("_", ""))
    return value


def test_a_server_starts_with_the_options_of_its_example():
    (example,) = re.findall(r"^```\n(threads = .*?)^```$", TEXT, re.M | re.S)
    with Program("echo", settings=dict(line.split(" = ") for line in example.splitlines())):
        pass


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_it_is_linked(page):
    assert "(SECURITY.md)" in (ROOT / page).read_text()
