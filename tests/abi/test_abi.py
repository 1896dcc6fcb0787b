"""The C ABI as C and C++ programs see it: every tests/abi/*.c, compiled strictly and run.

Each program also runs under valgrind and with AddressSanitizer, with smaller numbers
(ABI_SLOW). To look at one failure: ABI_ONLY=<part of a test's name> before the command.
"""
import os
import pathlib
import shutil

import pytest

from building import ASAN_LIBRARIES, C99, CXX11, build, library_folder, run

PROGRAMS = sorted(pathlib.Path(__file__).parent.glob("*.c"))
ASAN = ["-fsanitize=address", "-fno-omit-frame-pointer"]
VALGRIND = ["valgrind", "--quiet", "--leak-check=full", "--error-exitcode=99",
            "--errors-for-leak-kinds=definite,indirect", "--fair-sched=yes"]


def ids(path):
    return path.stem


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    return library_folder(tmp_path_factory.mktemp("abi") / "lib")


@pytest.fixture(scope="session")
def asan_libraries(tmp_path_factory):
    return library_folder(tmp_path_factory.mktemp("asan") / "lib", ASAN_LIBRARIES)


@pytest.fixture(scope="session")
def c99_program(tmp_path_factory, libraries):
    """Builds a program as C99 once, for the tests that run it in different ways."""
    built = {}
    folder = tmp_path_factory.mktemp("c99")

    def get(source):
        if source not in built:
            built[source] = build(C99, source, folder / source.stem, libraries)
        return built[source]

    return get


@pytest.mark.parametrize("source", PROGRAMS, ids=ids)
def test_a_c99_program(source, c99_program):
    run([c99_program(source)], timeout=600)


@pytest.mark.parametrize("source", PROGRAMS, ids=ids)
def test_a_cxx11_program(source, libraries, tmp_path):
    run([build(CXX11, source, tmp_path / source.stem, libraries)], timeout=600)


@pytest.mark.parametrize("source", PROGRAMS, ids=ids)
def test_a_program_under_valgrind(source, c99_program):
    assert shutil.which("valgrind"), "valgrind is missing"
    run([*VALGRIND, c99_program(source)], timeout=1200, env={**os.environ, "ABI_SLOW": "1"})


@pytest.mark.parametrize("source", PROGRAMS, ids=ids)
def test_a_program_with_address_sanitizer(source, asan_libraries, tmp_path):
    program = build(C99, source, tmp_path / source.stem, asan_libraries, *ASAN)
    run([program], timeout=1200, env={**os.environ, "ABI_SLOW": "1", "ASAN_OPTIONS": "detect_leaks=1"})
