"""The tables of misuse.c and every_call.h leave nothing of the header out."""
import re
from pathlib import Path

from building import HEADER, run

HERE = Path(__file__).parent


def pointers_by_function():
    """Each function of the header with the names of its parameters that are pointers, to functions too."""
    text = run(["gcc", "-E", "-P", HEADER])
    functions = {}
    for name, parameters in re.findall(r"\b(fdx_\w+)\s*\(([^()]*)\)\s*;", text):
        pointers = [one.strip() for one in parameters.split(",") if "*" in one or re.match(r"\s*fdx_\w+_fn\s", one)]
        functions[name] = {re.split(r"[\s*]+", one)[-1] for one in pointers}
    return functions


def test_each_pointer_of_each_function_is_null_once():
    rows = re.findall(r"NULL_FOR\((fdx_\w+), (\w+), \w+,\s*(.*)\);", (HERE / "misuse.c").read_text())
    tried = {(function, parameter) for function, parameter, _ in rows}
    declared = {(function, parameter) for function, pointers in pointers_by_function().items() for parameter in pointers}
    assert len(declared) >= 89
    assert tried == declared
    for function, parameter, call in rows:
        assert f"{function}(" in call, f"the row for {function}, {parameter} calls something else"


def test_the_table_of_every_call_has_every_function():
    text = (HERE / "every_call.h").read_text()
    made = set(re.findall(r"^MAKES\((fdx_\w+),", text, re.MULTILINE))
    listed = re.findall(r"^    (?:EVERY_CALL|ON_CONN)\((fdx_\w+),", text, re.MULTILINE)
    assert made == set(listed) == set(pointers_by_function())
    assert len(listed) == len(set(listed))
