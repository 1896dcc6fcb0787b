"""Ten thousand clients on one shard of `echo`: what each costs, and that a bad one costs the others nothing.

Both ends are this machine, so both need 10,000 descriptors: the hard limit of open files must allow 11,000 a process.
Memory is what the kernel says is resident of the server's process (/proc/PID/smaps_rollup); what the kernel itself
keeps for a socket is not in it.
"""

import os
import resource
import threading
import time

import pytest

from support.wire import BINARY, TEXT, Wire, close_frame, frame, request

CROWD = 10_000
CHATTING = 1_000
IDLE_CONNECTION_BYTES_MAX = 280
LEFT_BEHIND_BYTES_MAX = 320

MIB = 1 << 20
# What the resident memory may move by beside the bytes in question: a turn's memory to read into, pieces of memory
# kept for the next writes, half-filled pages.
SLACK_BYTES = 3 * MIB

PATIENCE_SECONDS = 10

UPGRADE = request(
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

FULL_AT_ONE_MIB = {"send.limit": "1m"}


@pytest.fixture(scope="module", autouse=True)
def many_open_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < CROWD + 1000:
        pytest.fail(f"needs a hard limit of at least {CROWD + 1000} open files, this is {before[1]}", pytrace=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def crowd():
    """crowd(program, count): so many open connections, which end with the test."""
    opened = []

    def open_crowd(program, count):
        for _ in range(count):
            opened.append(open_client(program))
        return opened[-count:]

    yield open_crowd
    for client in opened:
        client.close()


def test_an_idle_connection_costs_less_than_280_bytes(start, crowd, record_property):
    echo = start("echo")
    base = memory_after_warm_up(echo, crowd)

    clients = crowd(echo, CROWD)
    each = (resident_bytes(echo) - base) / CROWD
    print(f"an idle connection costs {each:.0f} bytes")
    record_property("idle_connection_bytes", each)
    assert each < IDLE_CONNECTION_BYTES_MAX

    # A message through each leaves nothing behind either.
    for client in clients:
        client.send(frame(TEXT, "one each"))
    for client in clients:
        assert client.read_frame() == (0x80 | TEXT, b"one each")
    assert (resident_bytes(echo) - base) / CROWD < IDLE_CONNECTION_BYTES_MAX


def test_a_crowd_that_left_is_forgotten_and_the_next_one_costs_nothing_more(start, crowd):
    echo = start("echo")
    base = memory_after_warm_up(echo, crowd)

    leave(echo, crowd(echo, CROWD))
    first = resident_bytes(echo)
    print(f"a crowd of {CROWD} left {(first - base) / CROWD:.0f} bytes each behind")
    # The table of connections may keep its size; its connections' own memory is gone.
    assert first - base < CROWD * LEFT_BEHIND_BYTES_MAX

    for _ in range(2):
        leave(echo, crowd(echo, CROWD))
    assert resident_bytes(echo) - first < SLACK_BYTES

    chat(crowd(echo, 100))


def test_a_thousand_of_ten_thousand_chat_while_one_never_reads_and_is_closed(start, crowd):
    echo = start("echo", settings={**FULL_AT_ONE_MIB, "send.full": "close"})
    clients = crowd(echo, CROWD)
    highest = base = resident_bytes(echo)
    sockets = open_sockets(echo)

    # Three times: what one leaves behind must serve the next.
    for _ in range(3):
        with Deaf(echo) as deaf:
            while deaf.is_sending():
                chat(clients[:: CROWD // CHATTING])
                highest = max(highest, resident_bytes(echo))
        assert deaf.ended_by == "the server", f"{deaf.ended_by} ended it, after {deaf.sent_bytes} bytes"
        print(f"a deaf client sent {deaf.sent_bytes / MIB:.1f} MiB, memory grew by {(highest - base) / MIB:.1f} MiB")
    assert highest - base < 1 * MIB + SLACK_BYTES
    assert eventually(lambda: open_sockets(echo) == sockets), "not the deaf ones' descriptors only were closed"

    chat(clients, messages=1)  # nobody else was lost


def test_with_drop_a_client_that_never_reads_stays_and_misses_what_did_not_fit(start):
    echo = start("echo", settings={**FULL_AT_ONE_MIB, "send.full": "drop"})
    chat([open_client(echo)])
    base = resident_bytes(echo)

    with Deaf(echo, messages=3_000) as deaf:
        highest = base
        while deaf.is_sending():
            highest = max(highest, resident_bytes(echo))
            time.sleep(0.01)
        assert deaf.ended_by == "its last message"
        assert highest - base < 1 * MIB + SLACK_BYTES

        numbers = deaf.read_until_silent()
        print(f"{len(numbers)} of {deaf.messages} came back, memory grew by {(highest - base) / MIB:.1f} MiB")
        assert numbers == sorted(set(numbers))
        assert MIB / Deaf.MESSAGE_BYTES * 0.9 < len(numbers) < deaf.messages
        chat([deaf.client])


def test_with_default_options_a_client_that_never_reads_is_closed_at_16_mib(start):
    echo = start("echo")
    chat([open_client(echo)])
    base = resident_bytes(echo)

    with Deaf(echo) as deaf:
        highest = base
        while deaf.is_sending():
            highest = max(highest, resident_bytes(echo))
            time.sleep(0.01)
        assert deaf.ended_by == "the server", f"{deaf.ended_by} ended it, after {deaf.sent_bytes} bytes"
        print(f"a deaf client sent {deaf.sent_bytes / MIB:.1f} MiB, memory grew by {(highest - base) / MIB:.1f} MiB")
        assert highest - base < 16 * MIB + SLACK_BYTES


# ------------------------------------------------------------------------------------------------


class Deaf:
    """A client that sends numbered messages from a thread of its own, and reads only when it is told to."""

    MESSAGE_BYTES = 10_000
    FILLING = bytes(MESSAGE_BYTES - 4)

    def __init__(self, program, messages=10_000):
        self.messages = messages
        self.sent_bytes = 0
        self.ended_by = None
        self.client = open_client(program)
        self.client.socket.settimeout(PATIENCE_SECONDS)
        self.thread = threading.Thread(target=self._send, daemon=True)
        self.thread.start()

    def is_sending(self):
        return self.thread.is_alive()

    def read_until_silent(self):
        """The numbers of the messages that came back."""
        numbers = []
        while numbers[-1:] != [self.messages - 1] and (self.client.unread or not self.client.is_silent_for(1)):
            first_byte, payload = self.client.read_frame()
            assert first_byte == 0x80 | BINARY and payload[4:] == self.FILLING
            numbers.append(int.from_bytes(payload[:4], "big"))
        self.thread.join(PATIENCE_SECONDS)
        return numbers

    def _send(self):
        # A mask of zeros is one, too, and 10,000 bytes are quickly masked with it.
        head = frame(BINARY, length=self.MESSAGE_BYTES, mask=bytes(4))
        try:
            for number in range(self.messages):
                self.client.socket.sendall(head + number.to_bytes(4, "big") + self.FILLING)
                self.sent_bytes += self.MESSAGE_BYTES
            self.ended_by = "its last message"
        except TimeoutError:
            self.ended_by = "silence"
        except OSError:
            self.ended_by = "the server"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.thread.join(PATIENCE_SECONDS)


def open_client(program):
    client = Wire(program.port).send(UPGRADE)
    head = client.read_head()
    assert head.status == 101, head.raw
    return client


def chat(clients, messages=3):
    """Every client says something only it would say, all at once, and hears exactly that."""
    said = [[f"{index} says {number}".encode() for number in range(messages)] for index in range(len(clients))]
    for client, lines in zip(clients, said):
        client.send(*(frame(TEXT, line) for line in lines))
    for client, lines in zip(clients, said):
        for line in lines:
            assert client.read_frame() == (0x80 | TEXT, line)


def leave(program, clients):
    """One half says good-bye, the other half is just gone."""
    before = open_sockets(program)
    for client in clients[::2]:
        client.send(close_frame(1000))
    for client in clients[1::2]:
        client.close()
    for client in clients[::2]:
        assert client.read_close() == 1000
        client.close()
    assert eventually(lambda: open_sockets(program) == before - len(clients)), "not every descriptor was closed"


def memory_after_warm_up(program, crowd):
    """Once everything has been used: code is paged in, buffers have their size."""
    clients = crowd(program, 200)
    chat(clients)
    leave(program, clients)
    return resident_bytes(program)


def resident_bytes(program):
    with open(f"/proc/{program.process.pid}/smaps_rollup") as rollup:
        (line,) = [line for line in rollup if line.startswith("Rss:")]
    return int(line.split()[1]) * 1024


def open_sockets(program):
    """The listener's included."""
    folder = f"/proc/{program.process.pid}/fd"
    count = 0
    for name in os.listdir(folder):
        try:
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:
            pass  # closed meanwhile
    return count


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
