"""What is measured: the modes that a server is started in, and the loads it is given in each."""
from typing import NamedTuple

PLAIN, TLS, SHARED, DEDICATED = "plain", "tls", "shared", "dedicated"
PYTHON, CSHARP = "python", "csharp"     # our binding and what else there is in that language, plain
TOPICS = "topics"                       # everybody in one topic, plain
MODES = [PLAIN, TLS, SHARED, DEDICATED, PYTHON, CSHARP, TOPICS]

KIB = 1 << 10
MIB = 1 << 20


class Scenario(NamedTuple):
    name: str
    title: str
    mode: str
    load: list  # the load generator and its options
    ratio_min: float | None = None  # floor/echo that we promise ourselves, where there is a floor
    unit: str = "message"
    peers_min: dict = {}  # peer/ours that we promise ourselves; of any other peer 1


def echoes(name, title, connections, size, inflight, ratio_min):
    load = ["load", "--connections", connections, "--size", size, "--inflight", inflight]
    return Scenario(name, title, PLAIN, load, ratio_min)


def tls_echoes(name, title, connections, size):
    return Scenario(f"tls-{name}", f"TLS {title}", TLS, ["load", "--tls", "--connections", connections, "--size", size])


def deflated(mode, name, title, connections, size):
    load = ["load", "--deflate", "--connections", connections, "--size", size]
    return Scenario(f"{mode}-{name}", f"{mode} {title} JSON", mode, load)


def handshakes(name, title, mode, *options):
    return Scenario(name, title, mode, ["handshakes", *options], unit="handshake")


def binding_echoes(mode, connections, inflight, peers_min):
    name = f"{mode}-{connections}" + (f"x{inflight}" if inflight > 1 else "")
    title = f"{LANGUAGES[mode]} {connections} × 20 B" + (f", {inflight} in flight" if inflight > 1 else "")
    load = ["load", "--connections", connections, "--size", 20, "--inflight", inflight]
    return Scenario(name, title, mode, load, peers_min=peers_min)


def broadcast(subscribers, size, title, inflight, peers_min={}):
    name = f"topics-{subscribers}x{size}" + (f"x{inflight}" if inflight > 1 else "")
    title = f"topic 1 → {subscribers:,} × {title}" + (f", {inflight} in flight" if inflight > 1 else "")
    load = ["fanout", "--connections", subscribers, "--size", size, "--inflight", inflight]
    return Scenario(name, title, TOPICS, load, unit="delivery", peers_min=peers_min)


LANGUAGES = {PYTHON: "Python", CSHARP: "C#"}

SCENARIOS = [
    echoes("1x20", "1 × 20 B", 1, 20, 1, 0.95),
    echoes("50x20", "50 × 20 B", 50, 20, 1, 0.95),
    echoes("500x20", "500 × 20 B", 500, 20, 1, 0.95),
    echoes("500x20x16", "500 × 20 B, 16 in flight", 500, 20, 16, 0.85),
    echoes("200x1k", "200 × 1 KiB", 200, KIB, 1, 0.95),
    echoes("10x64k", "10 × 64 KiB", 10, 64 * KIB, 1, 0.90),
    echoes("10x1m", "10 × 1 MiB", 10, MIB, 1, 0.90),
    handshakes("handshakes", "handshakes", PLAIN),
    tls_echoes("50x20", "50 × 20 B", 50, 20),
    tls_echoes("200x1k", "200 × 1 KiB", 200, KIB),
    tls_echoes("10x64k", "10 × 64 KiB", 10, 64 * KIB),
    handshakes("tls-handshakes", "TLS handshakes, full", TLS, "--tls"),
    handshakes("tls-resumed", "TLS handshakes, resumed", TLS, "--resume"),
    deflated(SHARED, "200x1k", "200 × 1 KiB", 200, KIB),
    deflated(SHARED, "10x64k", "10 × 64 KiB", 10, 64 * KIB),
    deflated(DEDICATED, "200x1k", "200 × 1 KiB", 200, KIB),
    deflated(DEDICATED, "10x64k", "10 × 64 KiB", 10, 64 * KIB),
    # Level with picows within what two runs of the same differ by.
    binding_echoes(PYTHON, 50, 1, {"websockets": 2.5, "picows": 0.97}),
    binding_echoes(PYTHON, 500, 1, {"websockets": 2.5, "picows": 0.97}),
    binding_echoes(PYTHON, 50, 16, {"websockets": 2.5, "picows": 4}),
    binding_echoes(PYTHON, 500, 16, {"websockets": 2.5, "picows": 4}),
    *(binding_echoes(CSHARP, connections, inflight, {"kestrel": 2.5}) for inflight in (1, 16) for connections in (50, 500)),
    *(broadcast(1000, size, title, inflight) for size, title in [(20, "20 B"), (KIB, "1 KiB")] for inflight in (1, 4)),
    # What Redis adds to the way of a message, and what a message costs on this way.
    broadcast(10, 20, "20 B", 1),
    # Who is faster than the load finds less to send at once.
    broadcast(1, 20, "20 B", 64, {"socketify": 0.8}),
]
