"""What the clients of a soak do: each visit is one connection, from connecting to its end, and checks all it hears.

A visit ends by itself, or soon after its phase is over. `Ended` comes out of it when the server left first, `Wrong`
when the server said something that it must not say.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import asynccontextmanager

from soak.peer import UNAVAILABLE, Ended, Peer, Stream, Wrong, check
from soak.servers import DOWNLOADS, HEALTH, MAX_MESSAGE_BYTES, METRICS, PAGE
from support.dialects import DIALECTS, HYBI, RFC_6455
from support.wire import BINARY, CONTINUATION, PING, TEXT, close_frame, frame, request

SMALL = 4096  # so little does the kernel take for a peer that does not read
# Characters of one to four bytes.
TEXTS = "".join(map(chr, [*range(0x20, 0x7F), *range(0x400, 0x460), *range(0x4E00, 0x4E60), 0x1F600])) * 4000
BYTES = random.Random(0).randbytes(MAX_MESSAGE_BYTES)


class Phase:
    """What the visits of one process share while there is traffic."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self.counts = Counter()
        # Each holds megabytes on both sides: a few at once are enough.
        self.heavy = asyncio.Semaphore(4)
        self.serial = 0

    def left(self):
        return self.end - time.monotonic()

    async def sleep(self, seconds):
        await asyncio.sleep(max(0, min(seconds, self.left())))


class Visit:
    def __init__(self, phase, target, rng):
        self.phase, self.target, self.rng = phase, target, rng
        self.dialect = rng.choice(DIALECTS)

    # ------------------------------------------------------------------------------ conversations

    async def talk(self):
        """Messages of every size and shape, all of them echoed in order, and every kind of end."""
        async with self.peer() as peer:
            for _ in range(self.rng.choice([1, 1, 2, 5])):
                await self.converse(peer, self.some_messages())
            await self.leave(peer)

    async def rest(self):
        """A connection as most are: open for long, a word now and then."""
        async with self.peer() as peer:
            while self.phase.left() > 0:
                await self.converse(peer, [self.message(40)])
                await self.phase.sleep(self.rng.uniform(0.2, 3))
            await self.leave(peer)

    async def read_slowly(self):
        async with self.phase.heavy, self.peer(receive_bytes=1 << 16) as peer:
            messages = [self.message(self.rng.randrange(100_000)) for _ in range(20)]
            speaking = asyncio.create_task(peer.say(b"".join(wire for wire, _ in messages)))
            try:
                for _, expected in messages:
                    await self.phase.sleep(self.rng.uniform(0, 0.2))
                    await self.hear(peer, expected)
                await speaking
            finally:
                await ended(speaking)

    async def never_read(self):
        """Sends until the server cuts it, at `send.limit` or because its writes stall; or is paused for ever."""
        async with self.phase.heavy, self.peer(receive_bytes=SMALL) as peer:
            wire, _ = self.message(200_000)
            try:
                async with asyncio.timeout(min(8, max(0, self.phase.left()))):
                    for _ in range(100):
                        await peer.send(wire)
            except TimeoutError:
                self.phase.counts["never read, and were not cut in time"] += 1
            except Ended:
                self.phase.counts["never read, and were cut"] += 1

    async def be_mute(self):
        """Never answers a Ping, as a peer that has vanished; nor a Close."""
        self.dialect = self.rng.choice(HYBI)
        async with self.peer() as peer:
            if self.rng.random() < 0.5:
                await peer.send(frame(TEXT, "half", fin=False))
            while self.phase.left() > 0:
                try:
                    async with asyncio.timeout(self.phase.left()):
                        if not await peer.more():
                            raise Ended("FIN")
                except TimeoutError:
                    pass
                except Ended:
                    self.phase.counts["mute, and were cut"] += 1
                    return

    async def speak_in_the_room(self):
        """Numbered lines into a chat room: all come back in order, and everyone else's without a gap."""
        async with self.peer() as peer:
            name = f"{self.rng.getrandbits(64):x}"
            count = self.rng.randrange(1, 20)
            lines = [f"line {name} {number} {self.text(self.rng.randrange(300))}".encode() for number in range(count)]
            speaking = asyncio.create_task(self.speak(peer, lines))
            next_numbers, heard_back = {}, 0
            try:
                while heard_back < count:
                    kind, line = await peer.hear()
                    check(kind == "text", "a room has text only:", kind, line)
                    if not line.startswith(b"line "):
                        continue  # of one that broke off
                    _, who, number, _ = line.split(b" ", 3)
                    check(next_numbers.get(who, int(number)) == int(number), "a gap before", line)
                    next_numbers[who] = int(number) + 1
                    if who == name.encode():
                        check(line == lines[heard_back], "another line than was said:", line)
                        heard_back += 1
                    self.heard(line)
                await speaking
            finally:
                await ended(speaking)

    async def speak(self, peer, lines):
        for line in lines:
            await peer.say(self.dialect.text(line))
            await self.phase.sleep(self.rng.uniform(0, 0.05))

    # ------------------------------------------------------------------------------- rude endings

    async def break_off(self):
        """Somewhere in a handshake or what follows it: RST, FIN, or both directions closed."""
        messages = [self.message(self.rng.choice([10, 300, 70_000])) for _ in range(self.rng.randrange(4))]
        data = self.opening() + b"".join(wire for wire, _ in messages)
        data = data[: self.rng.randrange(len(data) + 1)]
        async with await Stream.connect(self.target.port) as stream:
            await stream.send_in_pieces(data, self.rng)
            how = self.rng.randrange(3)
            if how == 1:
                stream.finish()
                await read_out(stream)
            elif how == 2:
                stream.writer.close()

    async def churn(self):
        for _ in range(10):
            async with await Stream.connect(self.target.port) as stream:
                if self.rng.random() < 0.5:
                    await stream.send(self.opening())
            self.phase.counts["connections"] += 1

    async def dawdle(self):
        """Never ends its request, or never begins it, until the time for a handshake is up."""
        async with await Stream.connect(self.target.port) as stream:
            await stream.send(self.opening()[: self.rng.choice([0, 1, 40])])
            try:
                async with asyncio.timeout(max(0, self.phase.left())):
                    rest = await read_out(stream)
            except TimeoutError:
                return
            check(rest == b"" or rest[:13] in (b"HTTP/1.1 408 ", b"HTTP/1.1 503 "), "a dawdler was told", rest)

    async def shake_badly(self):
        what = self.rng.choice(list(BAD_HANDSHAKES))
        data, status = BAD_HANDSHAKES[what]
        async with await Stream.connect(self.target.port) as stream:
            await stream.send(data)
            got, head = await stream.read_head()
            if got == UNAVAILABLE:
                raise Ended("503")
            check(got == status, f"{what} was answered with", head)
            rest = await stream.read_to_end()
            check(b"content-length: %d\r\n" % len(rest) in head.lower(), f"{what} got a body of another length", head, rest)

    async def violate(self):
        """A good message, then a broken rule: the echo, the right code, the end."""
        self.dialect = self.rng.choice(HYBI)
        what = self.rng.choice(list(VIOLATIONS))
        data, code = VIOLATIONS[what]
        async with self.peer() as peer:
            good, expected = self.message(100)
            peer.is_sending = True
            await peer.send_in_pieces(good if self.target.echoes else b"", self.rng)
            # At once: who goes on for long behind a broken rule gets an RST.
            await peer.send(data)
            if self.target.echoes:
                await self.hear(peer, expected)
            kind, payload = await peer.hear()
            while not self.target.echoes and kind == "text":
                kind, payload = await peer.hear()  # what the others say
            check((kind, payload[:2]) == ("close", code.to_bytes(2, "big")), f"{what} was answered with", kind, payload)
            await peer.end_is_next()

    # --------------------------------------------------------------------------------- plain HTTP

    async def browse(self):
        """Requests on one connection, one after the other or all at once, until somebody has enough."""
        asked = []
        for _ in range(self.rng.randrange(1, 8)):
            asked.append(self.rng.choice(self.requests()))
            if is_last(asked[-1]):
                break
        async with await Stream.connect(self.target.port) as stream:
            is_pipelined = self.rng.random() < 0.3
            if is_pipelined:
                await self.ask(stream, asked)
            for data, status, body, length in asked:
                if not is_pipelined:
                    await self.ask(stream, [(data, status)])
                got, head = await stream.read_head()
                if got == UNAVAILABLE:
                    raise Ended("503")
                check(got == status, f"{data[:60]} was answered with", head)
                if length is None:
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                if length > 100_000 and self.rng.random() < 0.2:
                    await stream.read(self.rng.randrange(length))
                    return
                received = await stream.read(length)
                check(body is None or received == body, f"{data[:60]} brought another body", received)
                self.phase.counts["http answers"] += 1
                connection = head.lower().partition(b"\r\nconnection:")[2].partition(b"\r\n")[0]
                if b"close" in connection:
                    return

    async def ask(self, stream, asked):
        data = b"".join(data for data, *_ in asked)
        # What comes late behind the server's last answer gets an RST.
        await (stream.send(data) if is_last(asked[-1]) else stream.send_in_pieces(data, self.rng))

    def requests(self):
        """(request, status, body, its length); None is anything, or what the head says."""
        name = self.rng.choice(list(DOWNLOADS))
        content = DOWNLOADS[name]
        first, last = sorted(self.rng.randrange(max(1, len(content))) for _ in range(2))
        path = f"/files/{name}"
        found = [
            (request(target=HEALTH), 200, b"ok\n", None),
            (request(target=METRICS), 200, None, None),
            (request(target=HEALTH, method="HEAD"), 200, b"", 0),
            (request("Content-Length: 5", target=HEALTH, method="POST") + b"hello", 405, None, None),
            (request(target=path), 200, content, len(content)),
            (request(target=path, method="HEAD"), 200, b"", 0),
            (request(f"Range: bytes={first}-{last}", target=path), 206, content[first : last + 1], None),
            (request("If-None-Match: *", target=path), 304, b"", 0),
            (request("Connection: close", target=path), 200, content, len(content)),
            (request(target=path + ".not"), 404, None, None),
            (request(target="/files/../files/%2e%2e/"), 404, None, None),
        ]
        if self.target.has_page:
            body = BYTES[: self.rng.choice([0, 10, 50_000])]
            halves = body[: len(body) // 2], body[len(body) // 2 :]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(half), half) for half in halves if half) + b"0\r\n\r\n"
            found += [
                (request(target="/"), 200, PAGE, len(PAGE)),
                (request(f"Content-Length: {len(body)}", target="/", method="POST") + body, 200, PAGE, len(PAGE)),
                (request("Transfer-Encoding: chunked", target="/", method="POST") + chunks, 200, PAGE, len(PAGE)),
            ]
        return found

    # -------------------------------------------------------------------------------------- parts

    @asynccontextmanager
    async def peer(self, receive_bytes=None):
        """An open connection, greeted if this server greets."""
        begin = time.monotonic()
        async with await Peer.connect(self.target.port, receive_bytes, dialect=self.dialect) as peer:
            await peer.send_in_pieces(self.opening(), self.rng)
            await peer.read_opening()
            if self.target.greeting:
                await peer.expect("text", self.target.greeting)
            took = time.monotonic() - begin
            self.phase.counts["slowest opening ms"] = max(self.phase.counts["slowest opening ms"], int(took * 1000))
            yield peer

    def opening(self):
        return self.dialect.opening(target=self.target.path)

    async def converse(self, peer, messages):
        """Sends while it listens, since a server may stop reading until we have read."""
        async def say():
            for wire, _ in messages:
                await peer.say(wire, self.rng)

        saying = asyncio.create_task(say())
        try:
            for _, expected in messages:
                await self.hear(peer, expected)
            await saying
        finally:
            await ended(saying)

    async def hear(self, peer, expected):
        """The answers to one message; the last is its echo."""
        for kind, payload in expected:
            await peer.expect(kind, payload)
        self.heard(payload)

    def heard(self, payload):
        self.phase.counts["messages"] += 1
        self.phase.counts["bytes"] += len(payload)

    def some_messages(self):
        if self.dialect in HYBI and self.rng.random() < 0.3:
            # Small ones, because Pongs are left out when much is queued for a peer.
            return [self.fragmented(self.rng.randrange(2000)) for _ in range(self.rng.randrange(1, 10))]
        sizes = {
            "small": lambda: self.rng.randrange(126),
            "medium": lambda: self.rng.randrange(126, 20_000),
            "large": lambda: self.rng.randrange(65_000, 300_000),
            "largest": lambda: self.rng.randrange(MAX_MESSAGE_BYTES // 2, MAX_MESSAGE_BYTES - 1000),
        }
        kind, count = self.rng.choices([("small", 30), ("medium", 15), ("large", 5), ("largest", 1)], [10, 6, 2, 0.3])[0]
        return [self.message(sizes[kind]()) for _ in range(self.rng.randrange(1, count + 1))]

    def message(self, size):
        """(the bytes of a message, what comes back)"""
        kind, payload = self.payload(size)
        if self.dialect.is_hixie:
            return self.dialect.text(payload), [("text", payload)]
        return frame(TEXT if kind == "text" else BINARY, payload, mask=self.mask()), [(kind, payload)]

    def fragmented(self, size):
        """In frames of any length, with Pings between them."""
        kind, payload = self.payload(size)
        cuts = sorted(self.rng.randrange(len(payload) + 1) for _ in range(self.rng.randrange(6)))
        parts = [payload[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(payload)])]
        wire, expected = b"", []
        for index, part in enumerate(parts):
            opcode = CONTINUATION if index else TEXT if kind == "text" else BINARY
            wire += frame(opcode, part, fin=index == len(parts) - 1, mask=self.mask())
            if index < len(parts) - 1 and self.rng.random() < 0.5:
                ping = BYTES[: self.rng.randrange(126)]
                wire += frame(PING, ping, mask=self.mask())
                expected.append(("pong", ping))
        return wire, [*expected, (kind, payload)]

    def payload(self, size):
        """Of that size and some bytes that make it unlike every other."""
        self.phase.serial += 1
        stamp = f"{self.phase.serial} {self.rng.getrandbits(32):x} "
        if self.dialect.is_hixie or self.rng.random() < 0.5:
            return "text", (stamp + self.text(size)).encode()
        begin = self.rng.randrange(MAX_MESSAGE_BYTES - size)
        return "binary", stamp.encode() + BYTES[begin : begin + size]

    def text(self, size):
        begin = self.rng.randrange(len(TEXTS) - size)
        return TEXTS[begin : begin + size].encode()[:size].decode(errors="ignore")

    def mask(self):
        return self.rng.randbytes(4)

    async def leave(self, peer):
        how = self.rng.randrange(4)
        if how == 0:
            return  # RST
        if how == 1:
            peer.is_closing = True
            peer.finish()
            rest = await peer.read_to_end()
            # Of the drafts' peers it could be one of our Pings, and a Close.
            check(len(rest) < 40, "a FIN was answered with", rest)
            return
        await peer.close(self.rng.choice([1000, 3000, 4999]))


def is_last(asked):
    """Does the server end the connection behind its answer?"""
    data, status, *_ = asked
    return status == 405 or b"Connection: close" in data


async def ended(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def read_out(stream):
    """What comes up to the end, which may be any."""
    try:
        return await stream.read_to_end()
    except Ended:
        return b""


async def burst(phase, target, rng, count):
    """So many at once, every one of them served; then they are gone."""
    is_full, opened = asyncio.Event(), 0
    connecting = asyncio.Semaphore(100)

    async def one(number):
        nonlocal opened
        visit = Visit(phase, target, random.Random(rng.getrandbits(64)))
        async with connecting:
            context = visit.peer()
            peer = await context.__aenter__()
        try:
            opened += 1
            if opened == count:
                is_full.set()
            await is_full.wait()
            await phase.sleep(BURST_SECONDS)
            await visit.converse(peer, [visit.message(100)])
            await visit.leave(peer)
        finally:
            await context.__aexit__(None, None, None)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    phase.counts["connections"] += count
    phase.counts["bursts"] += 1


# Full for so long that it can be seen in the table.
BURST_SECONDS = 3

# What is done where, and how often.
EVERYWHERE = [
    (Visit.break_off, 6), (Visit.churn, 3), (Visit.dawdle, 1), (Visit.shake_badly, 4), (Visit.violate, 4), (Visit.browse, 6),
    (Visit.be_mute, 0.3),
]
ECHOED = [*EVERYWHERE, (Visit.talk, 20), (Visit.rest, 3), (Visit.read_slowly, 1), (Visit.never_read, 0.3)]
IN_THE_ROOM = [*EVERYWHERE, (Visit.speak_in_the_room, 5)]

# ------------------------------------------------------------------------------------------------


def without(name, *instead):
    return [line for line in RFC_6455.headers if not line.startswith(name)] + list(instead)


BAD_HANDSHAKES = {
    "an unknown version": (request(*without("Sec-WebSocket-Version", "Sec-WebSocket-Version: 99")), 426),
    "no key": (request(*without("Sec-WebSocket-Key")), 400),
    "two hosts": (RFC_6455.opening("Host: b.example"), 400),
    "a body": (RFC_6455.opening("Content-Length: 5"), 400),
    "another method": (RFC_6455.opening(method="PUT"), 405),
    "one Hixie key": (request("Upgrade: WebSocket", "Connection: Upgrade", "Sec-WebSocket-Key1: 1 0"), 400),
    "a head of 17 KiB": (RFC_6455.opening("Cookie: " + "x" * 17_000), 431),
    "a folded line": (RFC_6455.opening("X: a\r\n b"), 400),
    "garbage": (b"\x00\xff\x00 nothing of HTTP\r\n\r\n", 400),
    "no upgrade": (request(target="/nothing"), 426),
}
VIOLATIONS = {
    "reserved bits": (frame(TEXT, "x", reserved=4), 1002),
    "a reserved opcode": (frame(3, "x"), 1002),
    "no mask": (frame(TEXT, "x", mask=None), 1002),
    "a Ping in fragments": (frame(PING, "x", fin=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, "x"), 1002),
    "a message inside a message": (frame(TEXT, "x", fin=False) + frame(TEXT, "x"), 1002),
    "a length with leading zeros": (frame(TEXT, "x", length=(64, 1)), 1002),
    "a Close with a forbidden code": (close_frame(1005), 1002),
    "text that is no UTF-8": (frame(TEXT, b"\xc3\x28"), 1007),
    "half a character at the end": (frame(TEXT, b"\xe2\x82"), 1007),
    "a message that is too long": (frame(BINARY, length=MAX_MESSAGE_BYTES + 1), 1009),
}

# ------------------------------------------------------------------------- a process full of clients

# Nothing takes so long, on however busy a machine.
VISIT_SECONDS_MAX = 60
FAILURES_SHOWN_MAX = 5


def work(pipe, rlimit):
    """A process of clients: takes an order for each phase of traffic, and gives back what was counted and what failed."""
    rlimit()
    while (order := pipe.recv()) is not None:
        pipe.send(asyncio.run(traffic(**order)))


async def traffic(seconds, seed, targets, visitors, bursts):
    phase, failures = Phase(seconds), []

    async def attempt(what, target, label, done):
        restarts = target.restarts()
        try:
            async with asyncio.timeout(VISIT_SECONDS_MAX + phase.left()):
                await done
            phase.counts[what] += 1
        except Ended as error:
            if not target.was_restarted_since(restarts):
                failures.append(f"{label}: the server ended it: {error}")
            elif str(error) in ("1001", "FF 00", "503"):
                phase.counts["sent away by a restart"] += 1
            else:
                phase.counts["cut by a restart"] += 1
        except TimeoutError:
            failures.append(f"{label}: was not over in time")
        except (Wrong, OSError, ValueError) as error:
            failures.append(f"{label}: {type(error).__name__}: {error}")
        except ExceptionGroup as group:  # a burst
            failures.extend(f"{label}: {error!r}" for error in group.exceptions)
        phase.counts["connections"] += 1

    async def visitor(number):
        rng = random.Random(f"{seed}/{number}")
        while phase.left() > 0 and len(failures) < FAILURES_SHOWN_MAX:
            target = rng.choice(targets)
            does, weights = zip(*(IN_THE_ROOM if target.has_page else ECHOED))
            (do,) = rng.choices(does, weights)
            visit = Visit(phase, target, rng)
            await attempt(do.__name__, target, f"{target.name}, {do.__name__}, {visit.dialect}, seed {seed}/{number}", do(visit))

    async def all_bursts():
        rng = random.Random(f"{seed}/bursts")
        for target, count in bursts:
            await phase.sleep(rng.uniform(0, seconds / 4))
            label = f"{target.name}, a burst of {count}, seed {seed}/bursts"
            await attempt("burst", target, label, burst(phase, target, rng, count))

    async with asyncio.TaskGroup() as group:
        group.create_task(all_bursts())
        for number in range(visitors):
            group.create_task(visitor(number))
    return phase.counts, failures
