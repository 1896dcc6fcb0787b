"""What a message costs in instructions of ours, counted by callgrind: exact, so that a regression shows on any machine.

What the kernel executes is not in it. counts.json has what is expected of the compiler that it names; of another the
figures differ by some per cent, and so may be what is allowed. After a change that is worth it:

    make counts
"""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.dialects import RFC_6455
from support.programs import Program, own_program
from support.wire import BINARY, CLOSE, TEXT, Wire, frame

COUNTS = Path(__file__).with_name("counts.json")
MARGIN = 0.03
MARGIN_OF_ANOTHER_COMPILER = 0.25

CROWD = 50
SHORT = b"x" * 20


class Counter:
    """A server under callgrind, with a connection that says what is to be counted."""

    def __init__(self, program, folder, ours, theirs):
        self.program, self.folder = program, folder
        self.held_fd, self.release_fd = ours
        self.hold = "hold {} {}".format(*theirs)
        self.control = self.open("/count")
        self.nothing = self.of("nothing", lambda: None)

    def open(self, target="/"):
        return RFC_6455.open(self.program.port, target=target)

    def says(self, words):
        self.control.send(frame(TEXT, words))
        self.control.read_frame()

    def of(self, name, do):
        """Instructions that are executed while this is done, when it is not the first time."""
        do()
        do()
        self.says("from")
        do()
        self.says(f"to {name}")
        for dump in self.folder.glob("callgrind.*"):
            text = dump.read_text()
            if f"Trigger: Client Request: to {name}\n" in text:
                return int(re.search(r"^summary: (\d+)$", text, re.MULTILINE)[1])
        raise AssertionError(f"callgrind has written no file for {name}")

    def each(self, name, times, do, messages=1):
        """Of each message, when this is done so many times."""
        count = self.of(name, lambda: [do() for _ in range(times)])
        return (count - self.nothing) / times / messages

    def in_one_turn(self, name, times, say, hear, messages=1):
        """Of each message, when all that is said comes with one turn."""
        def held(say):
            # The shard waits in a callback until everything lies in the kernel.
            self.control.send(frame(TEXT, self.hold))
            os.read(self.held_fd, 1)
            say()
            os.write(self.release_fd, b"!")
            self.control.read_frame()

        def once():
            held(say)
            hear()

        turn = self.each(f"{name}, the turn before", times, lambda: held(lambda: None))
        return (self.each(name, times, once) - turn) / messages


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    assert shutil.which("valgrind"), "valgrind is missing"
    folder = tmp_path_factory.mktemp("callgrind")
    held_fd, tell_fd = os.pipe()
    hold_fd, release_fd = os.pipe()
    launcher = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind"]
    with Program(own_program("counted"), launcher=launcher, descriptors=(tell_fd, hold_fd)) as program:
        yield Counter(program, folder, ours=(held_fd, release_fd), theirs=(tell_fd, hold_fd))
    for fd in (held_fd, tell_fd, hold_fd, release_fd):
        os.close(fd)


def echo_alone_in_its_turn(counter):
    wire = counter.open()
    return counter.each("alone", 100, lambda: echoed(wire, [frame(BINARY, SHORT)]))


def echo_with_16_in_flight(counter):
    wire = counter.open()
    return counter.each("in flight", 50, lambda: echoed(wire, [frame(BINARY, SHORT)] * 16), 16)


def echo_to_each_of_50_connections_in_a_turn(counter):
    wires = [counter.open() for _ in range(CROWD)]
    return in_one_turn_to_each(counter, "crowd", wires)


def text_of_1_kib(counter):
    wire = counter.open()
    return counter.each("text", 100, lambda: echoed(wire, [frame(TEXT, b"x" * 1024)]))


def echo_of_16_kib(counter):
    wire = counter.open()
    return counter.in_one_turn(
        "large", 20, lambda: wire.send(frame(BINARY, b"x" * 16384)), wire.read_frame
    )


def publish_to_each_of_50_subscribers(counter):
    wires = [counter.open("/topic") for _ in range(CROWD)]

    def publish():
        wires[0].send(frame(TEXT, SHORT))
        for wire in wires:
            wire.read_frame()

    return counter.each("topic", 40, publish, CROWD)


def handshake_and_its_close(counter):
    visitor = None

    def come_and_go():
        nonlocal visitor
        visitor = Wire(counter.program.port)
        visitor.send(RFC_6455.opening(), frame(CLOSE, b""))
        visitor.finish()

    def is_gone():
        assert visitor.read_head().status == 101
        visitor.wait_for_end()
        visitor.close()

    return counter.in_one_turn("handshake", 20, come_and_go, is_gone)


SCENARIOS = [
    echo_alone_in_its_turn,
    echo_with_16_in_flight,
    echo_to_each_of_50_connections_in_a_turn,
    text_of_1_kib,
    echo_of_16_kib,
    publish_to_each_of_50_subscribers,
    handshake_and_its_close,
]


def echoed(wire, frames):
    wire.send(*frames)
    for _ in frames:
        wire.read_frame()


def in_one_turn_to_each(counter, name, wires):
    def say():
        for wire in wires:
            wire.send(frame(BINARY, SHORT))

    def hear():
        for wire in wires:
            wire.read_frame()

    return counter.in_one_turn(name, 20, say, hear, len(wires))


def compiler():
    """As far as it tells what code it makes: "rustc 1.95 x86_64"."""
    about = subprocess.check_output(["rustc", "-vV"], text=True)
    version = re.search(r"^release: (\d+\.\d+)", about, re.MULTILINE)[1]
    return f"rustc {version} {os.uname().machine}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_message_costs_no_more_instructions_than_were_written_down(scenario, counter, record_property):
    name = scenario.__name__
    count = round(scenario(counter))
    record_property("instructions", count)
    kept = json.loads(COUNTS.read_text()) if COUNTS.exists() else {"compiler": None, "counts": {}}
    if os.environ.get("UPDATE_COUNTS"):
        kept["compiler"], kept["counts"][name] = compiler(), count
        COUNTS.write_text(json.dumps(kept, indent=2) + "\n")
        return
    expected, is_known = kept["counts"][name], kept["compiler"] == compiler()
    margin = MARGIN if is_known else MARGIN_OF_ANOTHER_COMPILER
    assert count <= expected * (1 + margin), f"{name}: {count} instructions, {expected} were written down"
    assert not is_known or count >= expected * (1 - margin), (
        f"{name}: {count} instructions and not {expected} any more: write it down by `make counts`"
    )
