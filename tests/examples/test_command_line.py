"""What the programs say about a command line that they can't follow, and how they come and go."""

import socket

import pytest
from websockets.sync.client import connect

from support.programs import run_to_end
from support.wire import Wire

pytestmark = pytest.mark.usefixtures("language")


@pytest.mark.parametrize(
    "setting, named",
    [
        ("max.message=lots", "max.message"),
        ("max.message=-1", "max.message"),
        ("max.message=99999999999999999999", "max.message"),
        ("timeout.idle=soon", "timeout.idle"),
        ("versions=13,14", "versions"),
        ("versions=", "versions"),
        ("threads=many", "threads"),
    ],
)
def test_a_bad_value_is_refused_with_an_error_that_names_its_option(setting, named):
    assert named in refused("--listen", "127.0.0.1:0", "--set", setting)


def test_an_unknown_option_is_refused_by_its_name_and_the_nearest_known_one():
    error = refused("--listen", "127.0.0.1:0", "--set", "timeout.idel=1s")
    assert "timeout.idel" in error and "timeout.idle" in error


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:-1", "300.0.0.1:0", "[::1:0", "127.0.0.1:http"])
def test_a_bad_address_is_refused_with_an_error_that_names_it(address):
    assert address in refused("--listen", address)


def test_all_listeners_start_or_none(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refused("--listen", "127.0.0.1:0", "--listen", address)


def test_a_port_is_free_again_as_soon_as_its_program_has_ended(start):
    first = start("echo")
    with connect(first.url) as client:
        client.send("hello")
        assert client.recv(timeout=5) == "hello"
        # The server says goodbye first, so TIME_WAIT is on its side.
        first.stop()
    with connect(start("echo", listen=[first.addresses[0]]).url):
        pass


def test_echo_prints_nothing_but_its_listeners_whatever_its_clients_do(start):
    echo = start("echo")
    with connect(echo.url) as client:
        client.send("hello")
        assert client.recv(timeout=5) == "hello"
    with Wire(echo.port) as wire:
        wire.send(b"\x00garbage\r\n\r\n").read_to_end()
    echo.stop()
    assert echo.lines.get(timeout=5) is None
    assert echo.stderr() == ""


def refused(*arguments):
    """Starts `echo` with arguments that it must refuse; returns what it says."""
    code, out, error = run_to_end("echo", *arguments)
    assert code == 1
    assert out == ""
    assert error.count("\n") == 1
    return error
