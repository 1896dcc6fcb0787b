"""`ownloop`, the program that takes its events out of the queue in a loop of its own. Only C has it."""

import os
import time
from contextlib import ExitStack
from signal import SIGINT, SIGTERM

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from support.programs import Program, run_to_end


@pytest.fixture
def program():
    with Program("ownloop") as program:
        yield program


def answers(client):
    """What comes back, without the time."""
    return (message for message in client if not str(message).startswith("tick "))


def test_help_is_told():
    code, out, _ = run_to_end("ownloop", "--help")
    assert code == 0 and "--listen" in out and "--set" in out


def test_a_bad_option_is_an_error_in_one_line():
    code, out, err = run_to_end("ownloop", "--set", "max.mesage=1m")
    assert code == 1 and out == "" and "max.message" in err and err.count("\n") == 1


def test_every_message_comes_back_while_the_time_is_told(program):
    with ExitStack() as open_clients:
        clients = [open_clients.enter_context(connect(program.url)) for _ in range(20)]
        for message in ["", "hello", "grüß Gott", b"", b"\x00\xff", "x" * 1_000_000]:
            for client in clients:
                client.send(message)
            for client in clients:
                assert next(answers(client)) == message


def test_everyone_is_told_every_second_also_who_says_nothing(program):
    with connect(program.url) as one, connect(program.url) as two:
        first = [next(iter(client)) for client in (one, two)]
        began = time.monotonic()
        second = [next(iter(client)) for client in (one, two)]
        number = int(first[0].removeprefix("tick "))
        assert first == [f"tick {number}"] * 2 and second == [f"tick {number + 1}"] * 2
        assert time.monotonic() - began > 0.5


def test_a_loop_that_has_nothing_to_do_sleeps(program):
    with connect(program.url) as client:
        client.send("hello")
        assert next(answers(client)) == "hello"
        before = cpu_seconds(program.process.pid)
        time.sleep(1)
        assert cpu_seconds(program.process.pid) - before < 0.3


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("how", [SIGINT, SIGTERM])
def test_a_signal_closes_all_politely(program, how):
    with ExitStack() as open_clients:
        clients = [open_clients.enter_context(connect(program.url)) for _ in range(5)]
        program.stop(how)
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    client.recv()
            assert closed.value.rcvd.code == 1001
