"""tests/support/node.c and who talks to it: those who are in a topic, and those who speak into one."""

import queue
import selectors
import struct
import threading
import time
from collections import defaultdict

import pytest

from support.brokers import wait_until
from support.dialects import RFC_6455
from support.programs import PATIENCE_SECONDS, Program, own_program
from support.wire import BINARY, TEXT, frame


class Node(Program):
    """One server; several are joined by their `backplane`."""

    def __init__(self, backplane=None, *, settings=None, **options):
        super().__init__(own_program("node"), settings={**({"backplane": backplane} if backplane else {}), **(settings or {})},
                         **options)

    def next_news(self, patience_seconds=PATIENCE_SECONDS):
        """What the backplane tells next, as ("up", why)."""
        try:
            line = self.lines.get(timeout=patience_seconds)
        except queue.Empty:
            pytest.fail(self._report("told nothing of its backplane"))
        assert line and line.startswith("backplane "), self._report(f"printed {line!r}")
        what, _, why = line.removeprefix("backplane ").partition(": ")
        return what, why

    def await_news(self, what, patience_seconds=PATIENCE_SECONDS):
        """Passes over other news; why this one came."""
        deadline = time.monotonic() + patience_seconds
        passed = []
        while not passed or passed[-1][0] != what:
            assert time.monotonic() < deadline, f"{what} was not told, but {passed}"
            passed.append(self.next_news(max(0, deadline - time.monotonic())))
        return passed[-1][1]

    def news_so_far(self):
        """The names of what was told and not looked at yet."""
        told = []
        while not self.lines.empty():
            told.append(self.next_news()[0])
        return told

    def open(self, path):
        return RFC_6455.open(self.port, target=path)

    def order(self, *words):
        """What it answers on /commands, see node.c."""
        with self.open("/commands") as wire:
            return order(wire, *words)

    def stats(self):
        words = self.order("stats").split()
        return dict(zip(words[::2], map(int, words[1::2])))


def order(wire, *words):
    wire.send(frame(TEXT, " ".join(map(str, words))))
    return wire.read_frame()[1].decode()


def wait_until_up(*nodes):
    for node in nodes:
        node.await_news("up")


class Audience:
    """Members of topics. A thread of its own reads all the time what comes to each. Use it in a `with`."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.changed = threading.Condition()
        self.members = []
        self.is_over = False
        self.error = None
        self.thread = threading.Thread(target=self._read, daemon=True)

    def join(self, node, topic, count=1):
        """So many members, who are in the topic when this returns (on their own node); one if no count is given."""
        joined = [Member(node, topic) for _ in range(count)]
        for member in joined:
            self.members.append(member)
            self.selector.register(member.wire.socket, selectors.EVENT_READ, member)
        return joined if count > 1 else joined[0]

    def leave(self, member):
        self.selector.unregister(member.wire.socket)
        self.members.remove(member)
        member.wire.close()

    def wait_until(self, condition, what, patience_seconds=PATIENCE_SECONDS):
        """`condition` is looked at whenever something has come."""
        with self.changed:
            is_so = self.changed.wait_for(lambda: self.error or condition(), patience_seconds)
        if self.error:
            raise self.error
        assert is_so, f"after {patience_seconds} s it is still not so: {what}"

    def wait_until_heard(self, members, name, numbers):
        """Every one of `members` has heard the last of these."""
        self.wait_until(lambda: all(member.last_of(name) >= numbers[-1] for member in members),
                        f"{len(members)} have heard {name} say {numbers[-1]}")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.thread.join(PATIENCE_SECONDS)
        for member in self.members:
            member.wire.close()
        self.selector.close()

    def _read(self):
        while not self.is_over:
            ready = self.selector.select(0.05)
            with self.changed:
                try:
                    for key, _ in ready:
                        if not key.data.receive():
                            self.selector.unregister(key.fileobj)
                except Exception as error:  # for who waits
                    self.error = error
                    self.is_over = True
                if ready:
                    self.changed.notify_all()


class Member:
    """Who is in a topic of a node. What a `Speaker` says is kept as numbers, what else comes in `heard`."""

    def __init__(self, node, topic):
        self.wire = node.open(f"/t/{topic}")
        assert self.wire.read_frame() == (0x80 | TEXT, f"in {topic}".encode())
        self.heard = []
        self.numbers = defaultdict(list)
        self.has_ended = False
        self.rest = self.wire.unread

    def last_of(self, name):
        return self.numbers[name][-1] if self.numbers[name] else -1

    def receive(self):
        """Takes what has come; False at the end."""
        try:
            chunk = self.wire.socket.recv(1 << 18)
        except ConnectionResetError:
            chunk = b""
        self.has_ended = not chunk
        # All whole frames.
        data, at = self.rest + chunk, 0
        while len(data) - at >= 2:
            length, start = data[at + 1], at + 2
            if length >= 126:
                form = "!H" if length == 126 else "!Q"
                start += struct.calcsize(form)
                if len(data) < start:
                    break
                (length,) = struct.unpack_from(form, data, at + 2)
            if len(data) < start + length:
                break
            self._take(data[at], data[start : start + length])
            at = start + length
        self.rest = data[at:]
        return not self.has_ended

    def _take(self, first_byte, payload):
        if first_byte == 0x80 | TEXT and payload.startswith(b"#"):
            name, _, number = payload[1:].decode().rstrip(".").partition(" ")
            self.numbers[name].append(int(number))
        elif first_byte in (0x80 | TEXT, 0x80 | BINARY):
            self.heard.append(payload)


class Speaker:
    """Says "#name 0", "#name 1" … into a topic, each of at least `size` bytes."""

    def __init__(self, node, topic, name, size=0):
        self.wire = node.open(f"/from/{topic}")
        self.name = name
        self.size = size
        self.said = 0

    def say(self, count=1):
        """The numbers that it said now."""
        numbers = range(self.said, self.said + count)
        self.said += count
        self.wire.send(*(frame(TEXT, f"#{self.name} {number}".ljust(self.size, ".")) for number in numbers))
        return numbers

    def close(self):
        self.wire.close()


class Chatter:
    """A speaker that goes on from a thread of its own. Use it in a `with`."""

    def __init__(self, speaker, a_second):
        self.speaker = speaker
        self.pause_seconds = 1 / a_second
        self.is_enough = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._talk, daemon=True)

    def stop(self):
        self.is_enough.set()
        self.thread.join(PATIENCE_SECONDS)
        if self.error:
            raise self.error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def _talk(self):
        try:
            while not self.is_enough.wait(self.pause_seconds):
                self.speaker.say()
        except OSError as error:
            self.error = error


def wait_until_subscribed(broker, channel, nodes, **options):
    """A backplane subscribes behind its server's back, once for each node."""
    wait_until(lambda: broker.subscribers(channel, **options) == nodes, f"{nodes} nodes have subscribed to {channel}")
