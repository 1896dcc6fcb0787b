"""Where a program can listen besides an address and a port of its own: Unix sockets, and sockets
that somebody else has opened."""

import os
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from support.programs import PATIENCE_SECONDS, run_to_end
from support.wire import Wire, request


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Of a socket that is not there yet. Short, whatever the test's name: 108 bytes must hold it."""
    monkeypatch.chdir(tmp_path)
    link = Path(f"/tmp/fdx-{os.getpid()}-{time.monotonic_ns():x}")
    link.symlink_to(tmp_path)
    yield f"{link}/s"
    link.unlink()


def echoes(connection):
    with connection as client:
        client.send("grüß Gott")
        return client.recv(timeout=PATIENCE_SECONDS) == "grüß Gott"


def refused(address, **options):
    """What `echo` says about an address where it can't listen: one line, with the address."""
    code, out, error = run_to_end("echo", "--listen", address, **options)
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert address in error
    return error


# -- Unix sockets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_unix_socket_has_the_mode_that_was_asked_for_and_is_gone_after_the_stop(start, path, mode):
    program = start("echo", listen=[f"unix:{path}?mode={mode:o}"])
    assert program.addresses == [f"unix:{path}"]
    found = os.stat(path)
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == mode
    assert echoes(unix_connect(path))
    program.stop()
    assert not os.path.lexists(path)


def test_people_chat_over_a_unix_socket_and_are_told_when_it_closes(start, path):
    chat = start("chat", listen=[f"unix:{path}"])
    with unix_connect(path, "ws://chat.example/chat") as ann, unix_connect(path, "ws://chat.example/chat") as bob:
        ann.send("hello")
        assert ann.recv(timeout=PATIENCE_SECONDS) == bob.recv(timeout=PATIENCE_SECONDS) == "hello"
        chat.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            bob.recv(timeout=PATIENCE_SECONDS)
        assert closed.value.rcvd.code == 1001
    chat.stop()


def test_a_large_message_goes_through_a_unix_socket_and_back(start, path):
    start("echo", listen=[f"unix:{path}"])
    with unix_connect(path, max_size=None) as client:
        client.send(b"\x00\xff" * 2_000_000)
        assert client.recv(timeout=PATIENCE_SECONDS) == b"\x00\xff" * 2_000_000


def test_the_file_that_a_killed_server_left_behind_is_replaced(start, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    before = os.stat(path).st_ino, os.stat(path).st_ctime_ns
    start("echo", listen=[f"unix:{path}"])
    assert (os.stat(path).st_ino, os.stat(path).st_ctime_ns) != before
    assert echoes(unix_connect(path))


def test_a_path_where_another_server_lives_is_refused_and_that_one_lives_on(start, path):
    start("echo", listen=[f"unix:{path}"])
    assert "in use" in refused(f"unix:{path}")
    assert echoes(unix_connect(path))


def test_a_file_that_is_no_socket_is_refused_and_left_alone(path):
    Path(path).write_text("precious")
    assert "no socket" in refused(f"unix:{path}")
    assert Path(path).read_text() == "precious"


def test_a_path_where_nothing_can_be_made_is_refused_with_the_reason(path):
    assert "No such file or directory" in refused(f"unix:{path}/below/nothing")
    assert "SUN_LEN" in refused(f"unix:{path}{'x' * 120}")


def test_a_stop_does_not_remove_the_file_of_a_server_that_has_taken_its_place(start, path):
    first = start("echo", listen=[f"unix:{path}"])
    os.unlink(path)
    start("echo", listen=[f"unix:{path}"])
    first.stop()
    assert echoes(unix_connect(path))


def test_an_abstract_name_is_served_without_a_file_and_only_by_one(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"fdx-{os.getpid()}-{time.monotonic_ns():x}"
    program = start("echo", listen=[f"unix:@{name}"])
    assert program.addresses == [f"unix:@{name}"]
    assert echoes(unix_connect(f"\0{name}"))
    assert not list(tmp_path.iterdir())
    assert "in use" in refused(f"unix:@{name}")
    program.stop()
    start("echo", listen=[f"unix:@{name}"])
    assert echoes(unix_connect(f"\0{name}"))


# -- sockets that somebody else has opened ------------------------------------------------------------


def tcp_socket(host="127.0.0.1", family=socket.AF_INET):
    return socket.create_server((host, 0), family=family)


def port_of(listener):
    return listener.getsockname()[1]


def test_a_listening_socket_that_was_passed_is_served(start):
    with tcp_socket() as listener:
        program = start("echo", listen=[f"fd:{listener.fileno()}"], descriptors=[listener.fileno()])
        assert program.addresses == [f"fd:{listener.fileno()}"]
        assert echoes(connect(f"ws://127.0.0.1:{port_of(listener)}"))


def test_a_unix_socket_that_was_passed_is_served_and_its_file_stays(start, path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        program = start("echo", listen=[f"fd:{listener.fileno()}"], descriptors=[listener.fileno()])
        assert echoes(unix_connect(path))
        program.stop()
        assert os.path.exists(path)


def test_who_connects_before_the_server_is_there_is_served_when_it_comes(start):
    with tcp_socket() as listener, ExitStack() as wires:
        early = [wires.enter_context(Wire(port_of(listener))).send(request()) for _ in range(10)]
        start("echo", listen=[f"fd:{listener.fileno()}"], descriptors=[listener.fileno()])
        assert [wire.read_head().status for wire in early] == [426] * len(early)


def bound(kind):
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    return sock


NO_LISTENERS = {
    "a regular file": lambda: open(__file__),
    "a fresh socket": socket.socket,
    "a bound socket": lambda: bound(socket.SOCK_STREAM),
    "a UDP socket": lambda: bound(socket.SOCK_DGRAM),
    "a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "a Unix datagram socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
}


@pytest.mark.parametrize("make", NO_LISTENERS.values(), ids=NO_LISTENERS)
def test_a_descriptor_that_does_not_listen_is_refused(make):
    with make() as wrong:
        assert "no listening socket" in refused(f"fd:{wrong.fileno()}", descriptors=[wrong.fileno()])


def test_a_number_that_is_no_open_descriptor_is_refused():
    assert "Bad file descriptor" in refused("fd:200")
    assert "expected a descriptor" in refused("fd:-1")
    assert "expected a descriptor" in refused("fd:three")


# -- sockets that systemd has opened --------------------------------------------------------------------

# What systemd does: descriptors from 3 on, and variables that name the process they are for.
PASS = """
import fcntl, os, sys
numbers, names, pid, program = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers.split()]
for place, number in enumerate(high, 3):
    os.dup2(number, place, inheritable=True)
os.environ.update(LISTEN_PID=pid or str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"""


def passing(listeners, names="", pid=""):
    """A program started as systemd does it."""
    numbers = [listener.fileno() for listener in listeners]
    launcher = [sys.executable, "-c", PASS, " ".join(map(str, numbers)), names, pid]
    return {"launcher": launcher, "descriptors": numbers}


def test_all_sockets_that_systemd_passed_are_served(start, path):
    with tcp_socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        program = start("echo", listen=["systemd"], **passing([tcp, unix]))
        assert program.addresses == ["systemd"]
        assert echoes(connect(f"ws://127.0.0.1:{port_of(tcp)}"))
        assert echoes(unix_connect(path))


def test_a_socket_that_systemd_passed_is_found_by_its_name_and_the_others_are_left_alone(start):
    with tcp_socket() as web, tcp_socket() as admin, tcp_socket() as more:
        start("echo", listen=["systemd:web"], **passing([web, admin, more], "web:admin:web"))
        for listener in (web, more):
            assert echoes(connect(f"ws://127.0.0.1:{port_of(listener)}"))
        with Wire(port_of(admin)).send(request()) as wire:
            assert wire.is_silent_for(0.2)


def test_a_server_that_systemd_did_not_start_says_so():
    assert "systemd has passed no sockets" in refused("systemd")


def test_a_name_that_systemd_did_not_pass_is_refused():
    with tcp_socket() as listener:
        assert "no socket of this name" in refused("systemd:admin", **passing([listener], "web"))


def test_sockets_that_systemd_passed_to_another_process_are_refused():
    with tcp_socket() as listener:
        assert "no sockets to this process" in refused("systemd", **passing([listener], pid=str(os.getpid())))


def by_hand(path, listener):
    listener.bind(path)
    listener.listen()
    return passing([listener], "chat")


def by_systemd(path, _):
    return {"launcher": ["systemd-socket-activate", "--listen", path, "--fdname", "chat"]}


@pytest.mark.parametrize("activate", [by_hand] + [by_systemd] * bool(shutil.which("systemd-socket-activate")))
def test_the_first_client_starts_the_server_and_is_served(start, path, activate):
    served = []

    def first_client():
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not served:
            try:
                served.append(echoes(unix_connect(path)))
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)  # the one who listens is not there yet

    with socket.socket(socket.AF_UNIX) as listener:
        client = threading.Thread(target=first_client)
        client.start()
        start("echo", listen=["systemd:chat"], **activate(path, listener))
        client.join(PATIENCE_SECONDS)
    assert served == [True]


# -- several at once -------------------------------------------------------------------------------------


def test_one_server_serves_every_kind_of_listener_at_once(start, path):
    with tcp_socket() as listener:
        number = listener.fileno()
        program = start("echo", listen=["127.0.0.1:0", f"unix:{path}", "[::1]:0", f"fd:{number}", f"unix:@{path}"],
                        settings={"threads": "2"}, descriptors=[number])
        with ExitStack() as clients:
            opened = [clients.enter_context(client) for client in (
                connect(program.url), unix_connect(path), connect(f"ws://{program.addresses[2]}"),
                connect(f"ws://127.0.0.1:{port_of(listener)}"), unix_connect(f"\0{path}"))]
            for number, client in enumerate(opened):
                client.send(f"hello {number}")
            for number, client in enumerate(opened):
                assert client.recv(timeout=PATIENCE_SECONDS) == f"hello {number}"


def test_an_address_without_a_host_is_every_one_of_both_families(start):
    program = start("echo", listen=[":0"])
    for host in ["127.0.0.1", "127.0.0.9", "[::1]"]:
        assert echoes(connect(f"ws://{host}:{program.port}"))


def test_an_address_of_one_family_is_not_served_for_the_other(start):
    program = start("echo", listen=["[::]:0"])
    assert echoes(connect(f"ws://[::1]:{program.port}"))
    with pytest.raises(ConnectionRefusedError):
        Wire(program.port)


def watched_descriptors(pid):
    """How many descriptors each epoll of a process watches. Every shard has one."""
    watched = Counter()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        watched[info.name] = info.read_text().count("tfd:")
    return watched


@pytest.mark.parametrize("kind", ["TCP", "Unix"])
def test_the_shards_share_what_comes_in_through_one_socket(start, path, kind):
    program = start("echo", listen=["127.0.0.1:0" if kind == "TCP" else f"unix:{path}"], settings={"threads": "2"})
    before = watched_descriptors(program.process.pid)
    with ExitStack() as clients:
        for _ in range(20):
            clients.enter_context(connect(program.url) if kind == "TCP" else unix_connect(path))
        after = watched_descriptors(program.process.pid)
    assert sorted((after - before).values()) == [10, 10]
