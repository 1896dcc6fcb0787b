"""Builds the C programs of the tests and finds the library for them.

FDX_LIBRARIES names another folder than target/release to take libfullduplex.so from,
such as one that was built with a sanitizer.
"""

import os
import subprocess
from pathlib import Path

from support.places import LIBRARIES, ROOT

# The library built with AddressSanitizer too; tests/run makes it. Without it only the C side is.
ASAN_LIBRARIES = Path(os.environ.get("FDX_ASAN_LIBRARIES", LIBRARIES))
LIBRARY = LIBRARIES / "libfullduplex.so"
INCLUDE = ROOT / "include"
HEADER = INCLUDE / "fullduplex.h"

STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
C99 = ["gcc", "-std=c99", "-D_POSIX_C_SOURCE=200809L"]
CXX11 = ["g++", "-x", "c++", "-std=c++11", "-D_POSIX_C_SOURCE=200809L"]


def run(command, **options):
    """Runs a command; a failure shows everything it said."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\ngave {done.returncode}:\n{done.stdout}"
    return done.stdout


def library_folder(folder, libraries=LIBRARIES):
    """A folder with the library under the two names that the linker and the loader look for."""
    library = libraries / "libfullduplex.so"
    assert library.exists(), f"{library} is missing: run `cargo build --release` first"
    folder.mkdir()
    for name in ("libfullduplex.so", "libfullduplex.so.0"):
        (folder / name).symlink_to(library)
    return folder


def build(compiler, source, program, libraries, *flags):
    run([*compiler, *STRICT, "-g", "-O1", *flags, f"-I{INCLUDE}", "-o", program, source,
         f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lfullduplex", "-pthread"])
    return program
