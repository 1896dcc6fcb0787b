"""What the tests of the binding for Python share. They run on several versions of Python, so they
need nothing but pytest, `websockets`, `aiohttp` and `uvloop`."""

import asyncio
import signal
import sys
from contextlib import ExitStack

import pytest

from running import PATIENCE_SECONDS, SOURCES, on_loop, started

sys.path.insert(0, str(SOURCES))


def pytest_configure(config):
    # A shell starts its background jobs with Ctrl-C ignored, and their children would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "once: on one version of Python only")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """run(coroutine) on either loop. What a loop complains of is an error of the test."""
    complaints = []

    async def supervised(coroutine):
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        return await asyncio.wait_for(coroutine, PATIENCE_SECONDS)

    def run(coroutine):
        result = on_loop(request.param, supervised(coroutine))
        assert complaints == []
        return result

    return run


@pytest.fixture
def program():
    """program(code): a Python program that runs until the test ends it; see `Running`."""
    with ExitStack() as running:
        yield lambda code, *arguments: running.enter_context(started(code, *arguments))
