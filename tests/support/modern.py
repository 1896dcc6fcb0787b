"""Clients of today, as they talk to `echo`: every text must come back as it was, and the end must be clean."""

import json
import random
import subprocess

from support.places import CLIENTS, NODE_MODULES
from support.texts import TEXTS

# 100 KiB that a compressor makes small, and as many bytes that none can.
COMPRESSIBLE = json.dumps([{"id": number, "name": "Ada Lovelace", "is_online": number % 3 == 0} for number in range(1800)])
INCOMPRESSIBLE = random.Random(7692).randbytes(102_400)


def python_talks(connection):
    """Everything that Python's websockets can send."""
    for text in [*TEXTS, COMPRESSIBLE, COMPRESSIBLE, "", "short"]:
        connection.send(text)
        assert connection.recv(timeout=10) == text
    for size in (0, 1, 125, 126, 65_535, 65_536, 1_000_000):
        payload = bytes(range(256)) * (size // 256 + 1)
        connection.send(payload[:size])
        assert connection.recv(timeout=10) == payload[:size]
    connection.send(INCOMPRESSIBLE)
    assert connection.recv(timeout=10) == INCOMPRESSIBLE
    connection.send(iter(["in ", "", "frag", "ments"]))
    assert connection.recv(timeout=10) == "in fragments"
    connection.send(COMPRESSIBLE[start : start + 10_000] for start in range(0, len(COMPRESSIBLE), 10_000))
    assert connection.recv(timeout=10) == COMPRESSIBLE
    assert connection.ping(b"alive?").wait(10)
    connection.close()
    assert (connection.protocol.close_sent.code, connection.protocol.close_rcvd.code) == (1000, 1000)


def node(url, *, ca=None, deflate, texts=(*TEXTS, COMPRESSIBLE, COMPRESSIBLE)):
    """What today's ws of Node says of its connection. `deflate` is its own option, False to offer nothing."""
    sizes = [0, 1, 125, 126, 65_535, 65_536, 1_000_000]
    task = {"url": url, "ca": ca and str(ca), "deflate": deflate, "texts": texts, "binary_bytes": sizes}
    done = subprocess.run(
        ["node", CLIENTS / "ws_today.js", NODE_MODULES / "ws-today"],
        input=json.dumps(task), capture_output=True, text=True, timeout=30,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["texts"] == list(texts), "other texts came back"
    assert result["binaries_alike"] == len(sizes), "other bytes came back"
    assert result["close"] == 1000, result["close"]
    return result
