"""Peers that are quick, rude or slow: plain sockets that speak just enough of RFC 6455."""

import socket
import struct
import time

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def connect(port, receive_bytes=None):
    """A socket behind its handshake. `receive_bytes`: so little does the kernel take for it."""
    sock = socket.socket()
    sock.settimeout(30)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect(("127.0.0.1", port))
    sock.sendall(REQUEST)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return sock


def masked(payload, opcode=1):
    """A client's frame. The mask is zero, so that the payload stays as it is."""
    length = len(payload)
    if length < 126:
        return struct.pack("!BB4x", 0x80 | opcode, 0x80 | length) + payload
    if length < 1 << 16:
        return struct.pack("!BBH4x", 0x80 | opcode, 0xFE, length) + payload
    return struct.pack("!BBQ4x", 0x80 | opcode, 0xFF, length) + payload


def unmasked(payload, opcode=1):
    """A server's frame."""
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", 0x80 | opcode, length) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, length) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, length) + payload


def read(sock, count):
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(min(1 << 18, count - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data)


def pour(sock, data, until_stuck_for):
    """Sends until nothing is taken for so many seconds; how much was."""
    sock.setblocking(False)
    sent, since = 0, time.monotonic()
    view = memoryview(data)
    while sent < len(data):
        try:
            sent += sock.send(view[sent:sent + (1 << 18)])
            since = time.monotonic()
        except BlockingIOError:
            if time.monotonic() - since > until_stuck_for:
                break
            time.sleep(0.01)
    sock.settimeout(30)
    return sent
