"""Many bare connections at once, and the rude ways to end them."""

import selectors
import socket
import struct
import time
from contextlib import contextmanager

from support.programs import PATIENCE_SECONDS


def connect(port, receive_bytes=None):
    """A plain socket, for connections by the thousand. `receive_bytes`: so little does the kernel take for it."""
    sock = socket.socket()
    sock.settimeout(PATIENCE_SECONDS)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reset(sock):
    """Ends with RST. It leaves no TIME_WAIT behind, so that ports never run out."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextmanager
def crowd(port, count):
    """So many connections, which have sent nothing yet; what is left of them is reset."""
    socks = []
    try:
        for _ in range(count):
            socks.append(connect(port))
        yield socks
    finally:
        for sock in socks:
            if sock.fileno() >= 0:
                reset(sock)


def pour(sock, data):
    """Sends as much as the server takes: True if that was all, False if it cut us off before."""
    try:
        sock.sendall(data)
        return True
    except (BrokenPipeError, ConnectionResetError):
        return False


def hear(sock):
    """What comes up to FIN or RST."""
    heard = b""
    sock.settimeout(PATIENCE_SECONDS)
    try:
        while chunk := sock.recv(1 << 16):
            heard += chunk
    except ConnectionResetError:
        pass
    return heard


def hear_all(socks, meanwhile=lambda: None):
    """What comes to each up to its end, of all at once."""
    heard = {sock: b"" for sock in socks}
    deadline = time.monotonic() + PATIENCE_SECONDS
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} connections were not ended"
            meanwhile()
            for key, _ in selector.select(0.02):
                try:
                    chunk = key.fileobj.recv(1 << 16)
                except ConnectionResetError:
                    chunk = b""
                heard[key.fileobj] += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
    return list(heard.values())
