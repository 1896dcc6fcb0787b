"""One connection of a soak's client: bytes out in any dialect, and what comes back taken apart as it comes."""

import asyncio
import socket
import struct

from support.dialects import HIXIE_75
from support.wire import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame

# Of the one key that all our handshakes have. (RFC 6455, 1.3)
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
KINDS = {TEXT: "text", BINARY: "binary", PONG: "pong", CLOSE: "close", PING: "ping"}
GOING_AWAY, UNAVAILABLE = 1001, 503


class Ended(Exception):
    """The server ended the conversation before we did, or says that it is going away. Only one that is being
    replaced may."""


class Wrong(AssertionError):
    """The server said something that it must never say."""


def check(is_right, what, *details):
    if not is_right:
        raise Wrong(" ".join([what, *(f"{detail!r:.200}" for detail in details)]))


class Stream:
    """A TCP connection. Left in whatever state: its end is an RST, which leaves no TIME_WAIT on our side."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.unread = bytearray()

    @classmethod
    async def connect(cls, port, receive_bytes=None, **more):
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(*await asyncio.open_connection(sock=sock), **more)

    async def send(self, data):
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Ended("RST while we sent") from error

    async def send_in_pieces(self, data, rng):
        """Cut anywhere, mostly into few pieces, so that the server's reads end in the middle of things."""
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([1, 2, 3, 20])))
        for begin, end in zip([0, *cuts], [*cuts, len(data)]):
            await self.send(data[begin:end])
            await asyncio.sleep(rng.choice([0, 0, 0.001]))

    def finish(self):
        """FIN: we say nothing more, and listen on."""
        if not self.writer.transport.is_closing():
            self.writer.write_eof()

    async def more(self):
        """Receives; False at the server's FIN."""
        try:
            chunk = await self.reader.read(1 << 16)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Ended("RST") from error
        self.unread += chunk
        return bool(chunk)

    async def read(self, count):
        while len(self.unread) < count:
            if not await self.more():
                raise Ended(f"FIN, {count - len(self.unread)} bytes too early")
        return self.take(count)

    async def read_head(self):
        while (end := self.unread.find(b"\r\n\r\n")) < 0:
            if not await self.more():
                check(not self.unread, "a head that ends within:", self.unread)
                raise Ended("FIN instead of an answer")
        head = self.take(end + 4)
        check(head.startswith(b"HTTP/1.1 "), "no head of an answer:", head)
        return int(head[9:12]), head

    async def read_to_end(self):
        while await self.more():
            pass
        return self.take(len(self.unread))

    async def end_is_next(self):
        rest = await self.read_to_end()
        check(rest == b"", "there is more behind the end:", rest)

    def take(self, count):
        taken = bytes(self.unread[:count])
        del self.unread[:count]
        return taken

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        transport = self.writer.transport
        sock = transport.get_extra_info("socket")
        if sock is not None and not transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await asyncio.sleep(0)  # the transport closes its socket in the next turn


class Peer(Stream):
    """A WebSocket client of one dialect."""

    def __init__(self, reader, writer, dialect):
        super().__init__(reader, writer)
        self.dialect = dialect
        self.is_closing = False
        # While Pongs must wait: within a frame of ours, and behind our last word.
        self.is_sending, self.pongs = False, b""

    async def read_opening(self):
        status, head = await self.read_head()
        if status == UNAVAILABLE:
            raise Ended("503")
        check(status == 101, "a good handshake was refused:", head)
        if self.dialect.is_hixie:
            proof = await self.read(len(self.dialect.proof))
            check(proof == self.dialect.proof, "a wrong proof:", proof)
        else:
            check(ACCEPT in head, "a wrong accept key:", head)

    async def say(self, data, rng=None):
        """Whole frames, in pieces if there is a `rng`; then the Pongs that had to wait for their end."""
        self.is_sending = True
        await (self.send_in_pieces(data, rng) if rng else self.send(data))
        self.is_sending = False
        await self._send_pongs()

    async def _send_pongs(self):
        if self.pongs and not self.is_sending and not self.is_closing:
            pongs, self.pongs = self.pongs, b""
            await self.send(pongs)

    async def hear(self):
        """(kind, payload) of the next that is not a Ping; those are answered. Ended if the server goes away."""
        while True:
            while (heard := self._whole_frame()) is None:
                if not await self.more():
                    check(not self.unread, "the end within a frame:", self.unread[:80])
                    raise Ended("FIN")
            kind, payload = heard
            if kind == "ping":
                self.pongs += frame(PONG, payload)
                await self._send_pongs()
                continue
            if kind == "close" and not self.is_closing:
                await self._answer_close(payload)
            return heard

    async def expect(self, kind, payload):
        heard = await self.hear()
        if heard != (kind, payload):
            raise Wrong(f"expected {kind} {payload[:60]!r} ({len(payload)}), got {heard[0]} {heard[1][:60]!r} ({len(heard[1])})")

    async def close(self, code=1000):
        """The dialect's own good-bye, whole: both say it, and the server ends the connection."""
        self.is_closing = True
        if self.dialect is HIXIE_75:  # it has no other
            self.finish()
            await self.end_is_next()
            return
        await self.send(b"\xff\x00" if self.dialect.is_hixie else close_frame(code))
        kind, payload = await self.hear()
        # Its Close and ours may have crossed.
        if kind == "close" and payload[:2] == GOING_AWAY.to_bytes(2, "big"):
            raise Ended("1001")
        expected = b"" if self.dialect.is_hixie else code.to_bytes(2, "big")
        check((kind, payload[:2]) == ("close", expected), "no answer to our close:", kind, payload)
        await self.end_is_next()

    async def _answer_close(self, payload):
        if self.dialect.is_hixie:
            raise Ended("FF 00")
        if payload[:2] == GOING_AWAY.to_bytes(2, "big"):
            self.is_closing = True
            await self.send(close_frame(GOING_AWAY))
            await self.end_is_next()
            raise Ended("1001")

    def _whole_frame(self):
        """Takes the next frame if all of it is here."""
        unread = self.unread
        if self.dialect.is_hixie:
            if unread[:1] == b"\xff":
                if len(unread) < 2:
                    return None
                check(unread[1] == 0, "a byte behind FF:", unread[:2])
                self.take(2)
                return "close", b""
            check(unread[:1] in (b"", b"\x00"), "a Hixie frame begins with", unread[:8])
            end = unread.find(0xFF, 1)
            return ("text", self.take(end + 1)[1:-1]) if end > 0 else None
        if len(unread) < 2:
            return None
        first, length = unread[:2]
        check(first & 0xF0 == 0x80 and first & 0x0F in KINDS and length < 0x80, "a frame begins with", unread[:8])
        head = {126: 4, 127: 10}.get(length, 2)
        if len(unread) < head:
            return None
        if head > 2:
            length = int.from_bytes(unread[2:head], "big")
        if len(unread) < head + length:
            return None
        return KINDS[first & 0x0F], self.take(head + length)[head:]
