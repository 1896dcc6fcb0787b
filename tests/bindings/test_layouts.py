"""Every struct and constant of the header is in every binding, as the compiler of C lays it out."""

import ctypes
import json
import re
import subprocess
import sys

import pytest

from support.places import DOTNET, LIBRARIES, ROOT, TARGET

sys.path.insert(0, str(ROOT / "bindings" / "python" / "src"))

HEADER = (ROOT / "include" / "fullduplex.h").read_text()
STRUCT = re.compile(r"^typedef struct (fdx_\w+) \{$(.*?)^\} \1;$", re.M | re.S)
FIELD = re.compile(r"^    [^/\n].*?(\w+)(\[\d+\])?;$", re.M)
CONSTANT = re.compile(r"^#define FDX_(\w+) ", re.M)

# About the header, not about the library.
NOT_FOR_BINDINGS = {"VERSION_MAJOR", "VERSION_MINOR", "VERSION_PATCH", "VERSION"}


def structs():
    """The fields of every struct of the header, by its name."""
    found = {name: [field for field, _ in FIELD.findall(body)] for name, body in STRUCT.findall(HEADER)}
    assert {"fdx_event", "fdx_handlers", "fdx_batch_view"} <= found.keys()
    return found


@pytest.fixture(scope="module")
def of_c(tmp_path_factory):
    """{"structs": {"fdx_event": {"size": 64, "fields": {"conn": [8, 8], …}}}, "constants": {"TEXT": 1, …}}, where a
    field has its offset and its size: what a compiler makes of the header."""
    lines = []
    for name, fields in structs().items():
        lines.append(f'printf("struct {name} %zu\\n", sizeof({name}));')
        lines += [
            f'printf("field {name} {field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));'
            for field in fields
        ]
    # The cast keeps the sign of statuses, and shows the length that means "ends with NUL" as it is.
    lines += [f'printf("constant {name} %lld\\n", (long long)(FDX_{name}));' for name in CONSTANT.findall(HEADER)]
    folder = tmp_path_factory.mktemp("layouts")
    (folder / "layouts.c").write_text(
        "#include <stdio.h>\n#include <fullduplex.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")
    program = folder / "layouts"
    subprocess.run(["gcc", f"-I{ROOT / 'include'}", folder / "layouts.c", "-o", program], check=True)

    layouts = {"structs": {}, "constants": {}}
    for line in subprocess.check_output([program], text=True).splitlines():
        kind, name, *rest = line.split()
        if kind == "struct":
            layouts["structs"][name] = {"size": int(rest[0]), "fields": {}}
        elif kind == "field":
            layouts["structs"][name]["fields"][rest[0]] = [int(rest[1]), int(rest[2])]
        else:
            layouts["constants"][name] = int(rest[0])
    return layouts


def layouts_of_python():
    """The same, of the binding for Python."""
    from fullduplex import _abi

    found = {"structs": {}, "constants": {}}
    for name, kind in vars(_abi).items():
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure) and kind is not ctypes.Structure:
            # BatchView is fdx_batch_view
            c_name = "fdx" + re.sub(r"([A-Z])", lambda letter: "_" + letter[1].lower(), name)
            found["structs"][c_name] = {
                "size": ctypes.sizeof(kind),
                "fields": {field: [getattr(kind, field).offset, getattr(kind, field).size] for field, _ in kind._fields_},
            }
        elif isinstance(kind, int) and name.isupper():
            found["constants"][name] = ctypes.c_longlong(kind).value
    return found


def layouts_of_csharp():
    """The same, of the binding for C#: what its tests' program tells, as JSON."""
    program = TARGET / "csharp" / "FullDuplex.Tests" / "netcoreapp3.1" / "FullDuplex.Tests.dll"
    if not program.exists():
        pytest.fail(f"{program} is missing: run `make csharp` first", pytrace=False)
    return json.loads(subprocess.check_output([DOTNET, program, "--layouts"], text=True))


LANGUAGES = {"python": layouts_of_python, "csharp": layouts_of_csharp}


@pytest.fixture(params=LANGUAGES)
def of_binding(request):
    return LANGUAGES[request.param]()


def test_every_struct_has_the_layout_of_c(of_c, of_binding):
    assert of_binding["structs"] == of_c["structs"]


def test_every_constant_has_the_value_of_c(of_c, of_binding):
    wanted = {name: value for name, value in of_c["constants"].items() if name not in NOT_FOR_BINDINGS}
    assert {name: value for name, value in of_binding["constants"].items() if name in wanted} == wanted


def test_a_function_of_the_python_binding_has_as_many_arguments_as_in_c():
    from fullduplex import _abi

    library = ctypes.CDLL(str(LIBRARIES / "libfullduplex.so"))
    declared = {name: function for name, function in vars(_abi).items() if name.startswith("fdx_")}
    assert len(declared) > 40
    for name, function in declared.items():
        name = name.replace("_waiting", "")
        assert hasattr(library, name)
        arguments = re.search(rf"^[\w ]+\**\b{name}\(([^;]*)\);$", HEADER, re.M)[1]
        count = 0 if arguments == "void" else arguments.count(",") + 1
        assert len(function.argtypes) == count, name


def test_a_function_of_the_csharp_binding_has_as_many_arguments_as_in_c():
    declared = layouts_of_csharp()["functions"]
    in_c = re.findall(r"^[\w ]+\**\b(fdx_\w+)\(([^;]*)\);$", HEADER, re.M)
    assert declared == {name: 0 if arguments == "void" else arguments.count(",") + 1 for name, arguments in in_c}
