"""Where things are: the programs under test, what tests/setup.sh installed, what may be written."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target"

# Every language's examples have the same names and flags, so the same tests can try them all.
PROGRAMS = Path(os.environ.get("FDX_PROGRAMS", TARGET / "examples" / "c"))
# They were built with AddressSanitizer (`make asan`), whose own memory hides theirs.
IS_SANITIZED = "FDX_SANITIZED" in os.environ

# Where libfullduplex.so is taken from; there may be others, such as one built with a sanitizer.
LIBRARIES = Path(os.environ.get("FDX_LIBRARIES", TARGET / "release"))

ENV = TARGET / "test-env"
PYTHON27 = ENV / "py27" / "bin" / "python"
WSTEST = ENV / "py27" / "bin" / "wstest"
BROKERS = ENV / "brokers"
PROMTOOL = ENV / "promtool"
NODE_MODULES = ENV / "node" / "node_modules"
# The command of .NET Core, with what it needs.
DOTNET = Path(os.environ.get("DOTNET", ENV / "dotnet" / "dotnet"))
CLIENTS = ROOT / "tests" / "conformance" / "clients"

REPORTS = TARGET / "test-reports"
