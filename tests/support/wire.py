"""A bare TCP connection to a server: every byte out is written here, every byte in is looked at."""

import socket
import struct
import time

# A silent server fails a test after this long. Loopback answers in well under a millisecond.
SILENCE_SECONDS = 5

MASK = bytes.fromhex("37fa213d")  # the one of RFC 6455, 5.7

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0


class Wire:
    """`write` is how bytes are written: at_once, or one_byte_at_a_time. `sock` is connected already."""

    def __init__(self, port, write=None, host="127.0.0.1", sock=None):
        self.socket = sock or socket.create_connection((host, port), SILENCE_SECONDS)
        self.socket.settimeout(SILENCE_SECONDS)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.write = write or at_once
        self.unread = b""

    def send(self, *parts):
        self.write(self.socket, b"".join(parts))
        return self

    def finish(self):
        """Sends FIN: nothing more will come from us, but we still listen."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def read(self, count):
        """Exactly so many bytes; fails when the server ends before."""
        while len(self.unread) < count:
            chunk = self._receive()
            assert chunk, f"the server ended after {self.unread!r}, {count} bytes were expected"
            self.unread += chunk
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def read_head(self):
        """An HTTP head, up to and with its empty line."""
        while b"\r\n\r\n" not in self.unread:
            chunk = self._receive()
            assert chunk, f"the server ended within its head: {self.unread!r}"
            self.unread += chunk
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        return Head(head + b"\r\n\r\n")

    def read_answer(self, method="GET"):
        """The head and the body of one answer."""
        head = self.read_head()
        has_body = method != "HEAD" and head.status not in (100, 204, 304)
        return head, self.read(int(head["Content-Length"])) if has_body else b""

    def read_answers(self):
        """Every answer up to the server's FIN, as (status, body)."""
        answers = []
        while True:
            if not self.unread:
                self.unread = self._receive()
                if not self.unread:
                    return answers
            head, body = self.read_answer()
            answers.append((head.status, body))

    def read_to_end(self):
        """Everything up to the server's FIN. An RST fails: it destroys what was sent before it."""
        give_up_at = time.monotonic() + 2 * SILENCE_SECONDS
        everything = self.unread
        while chunk := self._receive():
            everything += chunk
            assert time.monotonic() < give_up_at, f"the server goes on for ever: {everything[-80:]!r}"
        self.unread = b""
        return everything

    def wait_for_end(self):
        """Waits for FIN or RST, for the cases where a server may cut a peer off that seems dead."""
        give_up_at = time.monotonic() + 2 * SILENCE_SECONDS
        try:
            while self.socket.recv(1 << 16):
                assert time.monotonic() < give_up_at, "the server goes on for ever"
        except ConnectionResetError:
            pass

    def read_frame(self):
        """(first byte, payload) of one HyBi frame; a server's frames are never masked."""
        first, second = self.read(2)
        assert second < 0x80, "a server must not mask"
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", self.read(2))
        if second == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        return first, self.read(length)

    def read_close(self):
        """The code of a close frame (None if it has none), which must be the next frame."""
        first, payload = self.read_frame()
        assert first == 0x80 | CLOSE, f"a close frame was expected, not {first:02x} {payload[:80]!r}"
        assert len(payload) != 1
        payload[2:].decode()  # a reason is UTF-8
        return struct.unpack("!H", payload[:2])[0] if payload else None

    def is_silent_for(self, seconds):
        """True if nothing comes, not even an end."""
        assert not self.unread, f"unread: {self.unread!r}"
        self.socket.settimeout(seconds)
        try:
            self.unread = self.socket.recv(1 << 16)
            return False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(SILENCE_SECONDS)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _receive(self):
        try:
            return self.socket.recv(1 << 16)
        except ConnectionResetError:
            raise AssertionError(f"the server sent RST instead of FIN, after {self.unread!r}") from None
        except TimeoutError:
            raise AssertionError(f"silence for {SILENCE_SECONDS} s, after {self.unread!r}") from None


def at_once(sock, data):
    sock.sendall(data)


def one_byte_at_a_time(sock, data):
    """All heads and small messages byte by byte; the later parts of large ones in small pieces."""
    # Without Nagle each piece is a segment of its own. A server that is busy may still find several
    # of them in its buffer: the short rests make sure that most reads end in the middle of things.
    for index in range(min(len(data), 2000)):
        sock.sendall(data[index : index + 1])
        time.sleep(0.00005)
    for index in range(2000, len(data), 61):
        sock.sendall(data[index : index + 61])


class Head:
    """The head of an HTTP answer."""

    def __init__(self, raw):
        self.raw = raw
        self.first_line, *lines = raw[:-4].decode("latin-1").split("\r\n")
        self.status = int(self.first_line.split(" ")[1])
        self.headers = [tuple(line.split(": ", 1)) for line in lines]
        assert all(len(header) == 2 for header in self.headers), raw

    def __getitem__(self, name):
        """The one value of a header, or None."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) < 2, f"{name} stands {len(values)} times in {self.raw!r}"
        return values[0] if values else None


def request(*headers, target="/", method="GET", host="127.0.0.1"):
    """A request head of these header lines."""
    lines = [f"{method} {target} HTTP/1.1", *([f"Host: {host}"] if host else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def frame(opcode, payload=b"", *, fin=True, reserved=0, mask=MASK, length=None):
    """A frame as a client sends it. `length` is what the header says, when that is not the truth;
    a pair (7, n), (16, n) or (64, n) also says how many bits it is written with."""
    if isinstance(payload, str):
        payload = payload.encode()
    bits, declared = length if isinstance(length, tuple) else (None, len(payload) if length is None else length)
    bits = bits or (7 if declared < 126 else 16 if declared < 1 << 16 else 64)
    marker = {7: declared, 16: 126, 64: 127}[bits]
    extended = {7: b"", 16: struct.pack("!H", declared & 0xFFFF), 64: struct.pack("!Q", declared)}[bits]
    head = bytes([fin << 7 | reserved << 4 | opcode, (mask is not None) << 7 | marker]) + extended
    if mask is None:
        return head + payload
    # As one large number, since messages of megabytes are masked too.
    stream = (mask * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + mask + masked.to_bytes(len(payload), "big")


def close_frame(code=None, reason=b""):
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)
