"""What is measured: the modes that a server is started in, and the loads it is given in each."""
from typing import NamedTuple

PLAIN, TLS, SHARED, DEDICATED = "plain", "tls", "shared", "dedicated"
PYTHON, CSHARP = "python", "csharp"     # our binding and what else there is in that language, plain
TOPICS = "topics"                       # everybody in one topic, plain
ALONE = "alone"                         # plain; ours also with poll.spin
# Ours with one thread and with two, the load on the same two cores.
CORES, CORES_SHARED, CORES_TOPICS = "cores", "cores-shared", "cores-topics"
IDLE = "idle"                           # plain, whatever the language
MODES = [PLAIN, TLS, SHARED, DEDICATED, PYTHON, CSHARP, TOPICS, ALONE, CORES, CORES_SHARED, CORES_TOPICS, IDLE]
NEED_TLS_AND_DEFLATE = [TLS, SHARED, DEDICATED, CORES_SHARED]

KIB = 1 << 10
MIB = 1 << 20

# What the kernel costs both is level; two runs of the same differ by so much.
LEVEL = 0.97

IDLE_BYTES_MAX = 256


class Scenario(NamedTuple):
    name: str
    title: str
    mode: str
    load: list  # the load generator and its options
    ratio_min: float | None = None  # floor/echo that we promise ourselves, where there is a floor
    unit: str = "message"
    peers_min: dict = {}  # peer/ours that we promise ourselves; of any other peer 1
    section: str | None = None  # of RESULTS.md, if it is shown there


def echoes(name, title, connections, size, inflight, ratio_min=None, mode=PLAIN, uws=None, text=False, section="Echo"):
    load = ["load", "--connections", connections, "--size", size, "--inflight", inflight, *(["--text"] if text else [])]
    return Scenario(name, title, mode, load, ratio_min, peers_min={"uws": uws} if uws else {}, section=section)


def tls_echoes(name, title, connections, size):
    return Scenario(f"tls-{name}", f"TLS {title}", TLS, ["load", "--tls", "--connections", connections, "--size", size])


def deflated(mode, name, title, connections, size, section=None):
    load = ["load", "--deflate", "--connections", connections, "--size", size]
    return Scenario(f"{mode}-{name}", f"{title} JSON, compressed" if section else f"{mode} {title} JSON", mode, load,
                    section=section)


def handshakes(name, title, mode, *options, section=None):
    return Scenario(name, title, mode, ["handshakes", *options], unit="handshake", section=section)


def binding_echoes(mode, connections, inflight, peers_min):
    name = f"{mode}-{connections}" + (f"x{inflight}" if inflight > 1 else "")
    title = f"{LANGUAGES[mode]} {connections} × 20 B" + (f", {inflight} in flight" if inflight > 1 else "")
    load = ["load", "--connections", connections, "--size", 20, "--inflight", inflight]
    return Scenario(name, title, mode, load, peers_min=peers_min, section=LANGUAGES[mode])


def broadcast(subscribers, size, title, inflight, peers_min={}, mode=TOPICS, section=None):
    name = f"{mode}-{subscribers}x{size}" + (f"x{inflight}" if inflight > 1 else "")
    title = f"topic 1 → {subscribers:,} × {title}" + (f", {inflight} in flight" if inflight > 1 else "")
    load = ["fanout", "--connections", subscribers, "--size", size, "--inflight", inflight]
    return Scenario(name, title, mode, load, unit="delivery", peers_min=peers_min, section=section)


LANGUAGES = {PYTHON: "Python", CSHARP: "C#"}
SEVERAL_CORES = "Several cores"

SCENARIOS = [
    echoes("1x20", "1 × 20 B", 1, 20, 1, 0.95, mode=ALONE, uws=LEVEL, section="A round trip alone"),
    echoes("50x20", "50 × 20 B", 50, 20, 1, 0.95, uws=LEVEL),
    echoes("500x20", "500 × 20 B", 500, 20, 1, 0.95, uws=LEVEL),
    echoes("50x20x16", "50 × 20 B, 16 in flight", 50, 20, 16, 0.85, uws=LEVEL),
    echoes("500x20x16", "500 × 20 B, 16 in flight", 500, 20, 16, 0.85, uws=LEVEL),
    echoes("200x1k", "200 × 1 KiB", 200, KIB, 1, 0.95, section=None),
    echoes("10x64k", "10 × 64 KiB", 10, 64 * KIB, 1, 0.90, uws=1.10),
    echoes("10x1m", "10 × 1 MiB", 10, MIB, 1, 0.90, section=None),
    # The floor does not check UTF-8.
    echoes("10x1m-text", "10 × 1 MiB of text", 10, MIB, 1, uws=1.25, text=True),
    handshakes("handshakes", "handshakes", PLAIN, section="Handshakes"),
    tls_echoes("50x20", "50 × 20 B", 50, 20),
    tls_echoes("200x1k", "200 × 1 KiB", 200, KIB),
    tls_echoes("10x64k", "10 × 64 KiB", 10, 64 * KIB),
    handshakes("tls-handshakes", "TLS handshakes, full", TLS, "--tls"),
    handshakes("tls-resumed", "TLS handshakes, resumed", TLS, "--resume"),
    deflated(SHARED, "200x1k", "200 × 1 KiB", 200, KIB),
    deflated(SHARED, "10x64k", "10 × 64 KiB", 10, 64 * KIB),
    deflated(DEDICATED, "200x1k", "200 × 1 KiB", 200, KIB),
    deflated(DEDICATED, "10x64k", "10 × 64 KiB", 10, 64 * KIB),
    *(broadcast(1000, 20, "20 B", inflight, {"uws": uws}, section="Broadcast") for inflight, uws in [(1, 1.1), (4, 1.35)]),
    *(broadcast(1000, KIB, "1 KiB", inflight) for inflight in (1, 4)),
    # What Redis adds to the way of a message, and what a message costs on this way.
    broadcast(10, 20, "20 B", 1),
    # Who is faster than the load finds less to send at once.
    broadcast(1, 20, "20 B", 64, {"uws": 0.8, "socketify": 0.8}),
    # Level with picows within what two runs of the same differ by.
    binding_echoes(PYTHON, 50, 1, {"websockets": 2.5, "picows": 0.97}),
    binding_echoes(PYTHON, 500, 1, {"websockets": 2.5, "picows": 0.97}),
    binding_echoes(PYTHON, 50, 16, {"websockets": 2.5, "picows": 4}),
    binding_echoes(PYTHON, 500, 16, {"websockets": 2.5, "picows": 4}),
    *(binding_echoes(CSHARP, connections, inflight, {"kestrel": 2.5}) for inflight in (1, 16) for connections in (50, 500)),
    Scenario("idle", "an idle connection", IDLE, ["load"], unit="connection", section="Memory"),
    echoes("cores-500x20", "500 × 20 B", 500, 20, 1, mode=CORES, section=SEVERAL_CORES),
    echoes("cores-500x20x16", "500 × 20 B, 16 in flight", 500, 20, 16, mode=CORES, section=SEVERAL_CORES),
    deflated(CORES_SHARED, "200x1k", "200 × 1 KiB", 200, KIB, section=SEVERAL_CORES),
    *(broadcast(1000, 20, "20 B", inflight, mode=CORES_TOPICS, section=SEVERAL_CORES) for inflight in (1, 4)),
]
