"""What the library shows to the linker, and its header to compilers."""
import re
import subprocess

import pytest

from building import HEADER, INCLUDE, LIBRARY, STRICT, run


def exported_symbols():
    lines = run(["nm", "-D", "--defined-only", LIBRARY]).splitlines()
    return {line.split()[-1].split("@")[0] for line in lines}


def declared_functions():
    text = run(["gcc", "-E", "-P", HEADER])
    return set(re.findall(r"\b(fdx_\w+)\s*\(", text))


def dynamic_section(kind):
    text = run(["readelf", "-d", LIBRARY])
    return re.findall(rf"\({kind}\).*\[(.*)\]", text)


def test_the_library_exports_the_functions_of_its_header_and_nothing_else():
    assert exported_symbols() == declared_functions()
    assert len(declared_functions()) >= 40


def test_the_soname_has_the_abi_number():
    assert dynamic_section("SONAME") == ["libfullduplex.so.0"]


def test_the_library_needs_nothing_that_a_bare_system_lacks():
    allowed = re.compile(r"(libc|libm|libdl|libpthread|librt|libgcc_s)\.so\.\d+|ld-linux.*\.so\.\d+")
    assert [name for name in dynamic_section("NEEDED") if not allowed.fullmatch(name)] == []


@pytest.mark.parametrize("language,standard", [
    ("c", "c99"), ("c", "c11"), ("c", "c17"), ("c++", "c++11"), ("c++", "c++17"), ("c++", "c++20"),
])
def test_the_header_compiles_alone(language, standard, tmp_path):
    source = tmp_path / "alone"
    source.write_text('#include "fullduplex.h"\n#include "fullduplex.h"\nint main(void) { return FDX_OK; }\n')
    compiler = "gcc" if language == "c" else "g++"
    run([compiler, "-x", language, f"-std={standard}", *STRICT, f"-I{INCLUDE}", "-fsyntax-only", source])


def test_the_header_has_no_type_whose_size_depends_on_the_compiler():
    text = run(["gcc", "-E", "-P", HEADER])
    own = text[text.index("fdx_"):]
    own = re.sub(r'"[^"]*"', "", own)
    for forbidden in ("enum", "bool", "_Bool", "union", "long", "wchar_t", "va_list"):
        assert not re.search(rf"\b{forbidden}\b", own), forbidden
    assert "..." not in own


def test_loading_the_library_prints_nothing_and_needs_no_executable_stack():
    headers = run(["readelf", "-lW", LIBRARY])
    assert not re.search(r"GNU_STACK.*\bRWE\b", headers)
    loaded = subprocess.run(["python3", "-c", f"import ctypes; ctypes.CDLL({str(LIBRARY)!r})"], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, check=True)
    assert loaded.stdout == b""
