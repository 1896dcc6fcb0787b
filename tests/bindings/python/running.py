"""Programs and loops that the tests run."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "bindings" / "python" / "src"
# On a busy machine; no test ever waits so long.
PATIENCE_SECONDS = 30


def on_loop(name, coroutine):
    import uvloop

    loop = uvloop.new_event_loop() if name == "uvloop" else asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(coroutine)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


@contextmanager
def started(code, *arguments):
    process = Running(code, *arguments)
    try:
        yield process
    finally:
        process.kill()


class Running:
    """Its first line on stdout is a port, or any other word that says it is ready."""

    def __init__(self, code, *arguments):
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code), *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
        self.first_line = self._process.stdout.readline().strip()
        if not self.first_line:
            said = self._process.stderr.read()
            self.kill()
            pytest.fail(said)

    @property
    def port(self):
        return int(self.first_line)

    @property
    def pid(self):
        return self._process.pid

    def line(self):
        return self._process.stdout.readline().strip()

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def end(self):
        """Waits for its end: (exit code, rest of stdout, stderr)."""
        out, err = self._process.communicate(timeout=PATIENCE_SECONDS)
        return self._process.returncode, out, err

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
