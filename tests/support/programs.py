"""A server program, started as a user starts it and stopped as an init system stops it."""

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.places import LIBRARIES, PROGRAMS, ROOT, TARGET

# For a program on a busy machine, not for the network: the tests never wait this long.
PATIENCE_SECONDS = 20


# The languages of the example programs, which have the same names and flags in each: what starts one.
LANGUAGES = {
    "c": lambda name: [str(PROGRAMS / name)],
    "python": lambda name: [sys.executable, str(ROOT / "examples" / "python" / f"{name}.py")],
    "csharp": lambda name: [str(TARGET / "examples" / "csharp" / name)],
}
# Their bindings are used out of the checkout.
BINDINGS = {
    "PYTHONPATH": str(ROOT / "bindings" / "python" / "src"),
    "FULLDUPLEX_LIBRARY": str(LIBRARIES / "libfullduplex.so"),
}
_language = "c"


@contextmanager
def speaking(language):
    """Inside of it the programs are those in this language."""
    global _language
    before, _language = _language, language
    try:
        yield
    finally:
        _language = before


def command_of(name):
    """An absolute path is a program of the tests' own."""
    return [name] if os.path.isabs(name) else LANGUAGES[_language](name)


class Program:
    """One running example program; use it in a `with`.

    Leaving the block sends SIGTERM and asserts that the program ends with 0. So every test that
    starts one also proves that it survived what the test did to it. `launcher` is a command that
    becomes the program; `descriptors` are passed on under their numbers.
    """

    def __init__(self, name, *, listen=("127.0.0.1:0",), settings=None, arguments=(), launcher=(), descriptors=()):
        self.name = name
        self.listen = listen
        self.settings = settings or {}
        self.descriptors = descriptors
        command = command_of(name)
        self.program = Path(command[-1])
        self.command = [*launcher, *command]
        for address in listen:
            self.command += ["--listen", address]
        for key, value in self.settings.items():
            self.command += ["--set", f"{key}={value}"]
        self.command += arguments
        self.addresses = []
        self.process = None

    @property
    def port(self):
        return int(self.addresses[0].rpartition(":")[2])

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def secure_url(self):
        return f"wss://localhost:{self.port}/"

    def start(self):
        if not self.program.exists():
            pytest.fail(f"{self.program} is missing: run `make examples` first", pytrace=False)
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, cwd=ROOT,
            pass_fds=self.descriptors, env={**os.environ, **BINDINGS},
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read_lines, daemon=True).start()
        try:
            self.addresses = [self._listening_line() for _ in self.listen]
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def stop(self, how=signal.SIGTERM):
        """Asks it to end and waits; the exit code must be 0."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(self._report(f"did not end within {PATIENCE_SECONDS} s of {how.name}"))
        assert code == 0, self._report(f"ended with {_exit(code)} instead of 0")

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, error, trace):
        try:
            self.stop()
        except BaseException as failed_stop:
            # Both matter: the test's own failure may be the effect of a crash.
            if error is not None:
                raise failed_stop from error
            raise
        finally:
            self.process.stdout.close()

    def _read_lines(self):
        try:
            for line in self.process.stdout:
                self.lines.put(line.decode(errors="replace").rstrip("\n"))
        except ValueError:
            pass  # closed while we read: the test is over
        self.lines.put(None)

    def _listening_line(self):
        try:
            line = self.lines.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            pytest.fail(self._report("printed no `listening on` line"))
        match = line and re.fullmatch(r"listening on (\S*:\d+|unix:\S+|systemd(:\S+)?)", line)
        if not match:
            pytest.fail(self._report(f"should print `listening on ADDRESS`, but printed {line!r}"))
        return match[1]

    def _report(self, what):
        return f"{' '.join(self.command)}\n{what}; its stderr:\n{self.stderr() or '(empty)'}"


def own_program(name):
    """A server that only tests want: tests/support/NAME.c, built as the examples are. Its path, for `Program`."""
    source, program = ROOT / "tests" / "support" / f"{name}.c", LIBRARIES / "test-programs" / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(exist_ok=True)
        # Tests run at once: the others find it whole, or not yet.
        unfinished = program.with_name(f"{name}-{os.getpid()}")
        subprocess.run(
            ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{ROOT}/include", f"-I{ROOT}/examples/c",
             "-o", unfinished, source, f"-L{LIBRARIES}", f"-Wl,-rpath,{LIBRARIES}", "-lfullduplex", "-pthread"],
            check=True,
        )
        unfinished.rename(program)
    return str(program)


def run_to_end(name, *arguments, launcher=(), descriptors=()):
    """Runs a program that should refuse to start; returns (exit code, stdout, stderr)."""
    try:
        done = subprocess.run(
            [*launcher, *command_of(name), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5,
            cwd=ROOT, pass_fds=descriptors, env={**os.environ, **BINDINGS},
        )
    except subprocess.TimeoutExpired as running:
        pytest.fail(f"{' '.join([name, *arguments])} runs instead of ending; it printed {running.stdout!r}", pytrace=False)
    return done.returncode, done.stdout, done.stderr


def _exit(code):
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
