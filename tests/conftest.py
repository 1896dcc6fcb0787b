"""What all outside tests share. They know the servers only by their programs and their ports."""

from contextlib import ExitStack
from itertools import count

import pytest

from support import authority as authorities
from support import wire
from support.programs import Program


@pytest.fixture
def start():
    """start("echo", settings={"versions": "13"}): a running program that ends with the test."""
    with ExitStack() as running:
        yield lambda name, **options: running.enter_context(Program(name, **options))


@pytest.fixture(scope="module")
def echo():
    """One `echo` with its default options for a whole module: what one test does to its
    connection must not touch the next one's."""
    with Program("echo") as program:
        yield program


@pytest.fixture
def broker(tmp_path):
    """broker(Redis, {"maxmemory": "2mb"}): a running Redis, Cluster or Nats that ends with the test."""
    with ExitStack() as running:
        number = count()
        yield lambda kind, *how, **more: running.enter_context(kind(tmp_path / f"broker-{next(number)}", *how, **more))


@pytest.fixture(params=[wire.at_once, wire.one_byte_at_a_time], ids=["at_once", "one_byte_at_a_time"])
def dial(request):
    """dial(program): a bare connection. Every test that uses it runs twice, so that every
    conversation is also written one byte at a time."""
    with ExitStack() as connections:
        yield lambda program: connections.enter_context(wire.Wire(program.port, request.param))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Whom the clients of these tests trust."""
    return authorities.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def here(authority):
    """A certificate for where the tests' servers are."""
    return authority.issue(*authorities.HERE)
