"""The servers: how each is built, started in a mode and stopped. And the load generators, which are built like them."""
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

from scenarios import (ALONE, CORES, CORES_SHARED, CORES_TOPICS, CSHARP, DEDICATED, IDLE, MODES, NEED_TLS_AND_DEFLATE, PLAIN,
                       PYTHON, SHARED, TLS, TOPICS)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "target" / "bench"
ECHO = ROOT / "target" / "examples" / "c" / "echo"
# zlib-rs at level 1 leaves more bytes than zlib does, and at level 2 as many.
ECHO_LEVEL_2 = "echo, level 2"
CERT, KEY = BUILT / "cert.pem", BUILT / "key.pem"

ECHO_PY = ROOT / "examples" / "python" / "echo.py"
FACES_DLL = ROOT / "target" / "csharp" / "Faces" / "netcoreapp3.1" / "Faces.dll"
FACES = {"csharp": "callbacks", "csharp, awaiting": "awaiting", "csharp, awaiting, never blocking": "never-blocking"}

WS = HERE / "peers" / "ws.js"
ECHO_PEERS_PY = HERE / "peers" / "python" / "echo.py"
NODE_MODULES = BUILT / "ws" / "node_modules"
PYTHON_LIBRARIES = ["websockets", "picows", "aiohttp", "socketify"]
PYTHON_PEERS = BUILT / "python"
KESTREL = BUILT / "kestrel" / "kestrel.dll"
# Those that are a program of their own, built here.
PROGRAMS = {
    "uws": BUILT / "uws",
    "libwebsockets": BUILT / "libwebsockets",
    "beast": BUILT / "beast",
    "tungstenite": BUILT / "tungstenite" / "release" / "tungstenite-echo",
    "fastwebsockets": BUILT / "fastwebsockets" / "release" / "fastwebsockets-echo",
    "gorilla": BUILT / "gorilla",
}
PEERS = [*PROGRAMS, "ws", *PYTHON_LIBRARIES, "kestrel"]
TLS_PEERS = ["tungstenite", "ws"]
DEFLATE_PEERS = ["ws"]
TOPICS_PEERS = [*PROGRAMS, "ws", "websockets", "socketify"]

# Which server is ours in a mode that is not the C echo's.
OURS = {PYTHON: "python", CSHARP: "csharp", TOPICS: "topics", CORES_TOPICS: "topics"}

# The same with a backplane: with its subscribers where they are, and at another node than the publisher.
ONE_NODE, TWO_NODES = "topics, Redis", "topics, Redis, 2 nodes"
# Ours with a setting that only some modes have, added to its name.
SETTINGS = {"2 threads": "threads=2", "poll.spin": "poll.spin=200us", "no io_uring": "io_uring=off"}
SETTINGS_OF = {ALONE: ["poll.spin"], TOPICS: ["no io_uring"], **dict.fromkeys((CORES, CORES_SHARED, CORES_TOPICS), ["2 threads"])}
# Ours in another way, beside OURS.
VARIANTS = [ECHO_LEVEL_2, *FACES, ONE_NODE, TWO_NODES, *(f"{name}, {what}" for name in ("echo", "topics") for what in SETTINGS)]
NOT_IN_RESULTS = [ECHO_LEVEL_2, ONE_NODE, TWO_NODES]
# Modes that differ from another only in the load, or in SETTINGS.
ALIKE = {ALONE: PLAIN, CORES: PLAIN, CORES_SHARED: SHARED, CORES_TOPICS: TOPICS}
# These take as many cores as they find.
CORES_PEERS = ["gorilla", "kestrel"]
# The same once more, to see what noise looks like.
AGAIN = " again"
REDIS = ROOT / "target" / "test-env" / "brokers" / "usr" / "bin" / "redis-server"

ENVIRONMENT = {
    "NODE_PATH": str(NODE_MODULES),
    "PYTHONPATH": str(ROOT / "bindings" / "python" / "src"),
    "FULLDUPLEX_LIBRARY": str(ROOT / "target" / "release" / "libfullduplex.so"),
}

START_SECONDS_MAX = 10
STOP_SECONDS_MAX = 10


def command(name, mode):
    """What starts this server in this mode; None if it has no such mode."""
    if name.endswith(AGAIN):
        return command(name.removesuffix(AGAIN), mode)
    if mode == IDLE:
        return next((words for words in (command(name, one) for one in (PLAIN, PYTHON, CSHARP)) if words), None)
    base, _, what = name.partition(", ")
    if what in SETTINGS:
        words = command(base, mode) if what in SETTINGS_OF.get(mode, ()) and base == ours(mode) else None
        return words and [*words, "--set", SETTINGS[what]]
    if mode in ALIKE:
        is_single = mode in (CORES, CORES_SHARED, CORES_TOPICS) and base in PEERS and base not in CORES_PEERS
        return None if what or is_single else command(name, ALIKE[mode])
    if mode == TOPICS:
        return topics_command(name)
    if mode in OURS:
        return binding_command(name, mode)
    certificate = ["--cert", str(CERT), "--key", str(KEY)] if mode == TLS else []
    if name == "floor":
        return listening([str(BUILT / "floor")]) if mode == PLAIN else None
    if name == "echo" and mode == TLS:
        settings = ["--set", f"tls.cert={CERT}", "--set", f"tls.key={KEY}"]
        return [str(ECHO), "--listen", "127.0.0.1:0?tls=1", *settings]
    if name == "echo":
        return listening([str(ECHO)]) + ([] if mode == PLAIN else ["--set", f"deflate={mode}"])
    if name == ECHO_LEVEL_2:
        return [*command("echo", mode), "--set", "deflate.level=2"] if mode in (SHARED, DEDICATED) else None
    if name in PEERS and name not in PYTHON_LIBRARIES and name != "kestrel":
        return peer_command(name, mode, certificate)
    return None


def peer_command(name, mode, certificate):
    if mode == TLS and name not in TLS_PEERS or mode in (SHARED, DEDICATED) and name not in DEFLATE_PEERS:
        return None
    deflate = ["--deflate", mode] if mode in (SHARED, DEDICATED) else []
    return listening([*program(name), *certificate, *deflate])


def binding_command(name, mode):
    if mode == PYTHON and name == OURS[mode]:
        return listening([sys.executable, str(ECHO_PY)])
    if mode == CSHARP and name in FACES:
        return listening([str(dotnet()), str(FACES_DLL), FACES[name]])
    if mode == PYTHON and name in PYTHON_LIBRARIES:
        return listening(program(name))
    if mode == CSHARP and name == "kestrel":
        return listening([str(dotnet()), str(KESTREL)])
    return None


def topics_command(name):
    if name == OURS[TOPICS] or name in (ONE_NODE, TWO_NODES) and REDIS.exists():
        return listening([str(BUILT / "topics")])
    return listening([*program(name), "--topic"]) if name in TOPICS_PEERS else None


def program(name):
    """What starts a peer that is not .NET's."""
    if name in PYTHON_LIBRARIES:
        # socketify's library looks for libuv.
        libraries = debian_libraries(PYTHON_PEERS / "debian")
        return ["env", f"LD_LIBRARY_PATH={libraries}", str(PYTHON_PEERS / "bin" / "python"), str(ECHO_PEERS_PY), name]
    return ["node", str(WS)] if name == "ws" else [str(PROGRAMS[name])]


def debian_libraries(folder):
    """Where the libraries are in a folder that peers/debian has filled."""
    return folder / "usr" / "lib" / sysconfig.get_config_var("MULTIARCH")


def dotnet():
    """The command that tests/dotnet.sh makes: the one of the tests if it is there, or our own."""
    of_tests = ROOT / "target" / "test-env" / "dotnet" / "dotnet"
    return of_tests if of_tests.exists() else BUILT / "dotnet" / "dotnet"


def ours(mode):
    return OURS.get(mode, "echo")


def listening(words):
    return [*words, "--listen", "127.0.0.1:0"]


class NotStarted(Exception):
    """Says what is wrong with a server's start."""


class Server:
    """A server process on its cores, from its line "listening on …" to SIGTERM."""

    def __init__(self, name, words, cores):
        self.name = name
        try:
            self.process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **ENVIRONMENT},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        except OSError as error:
            raise NotStarted(f"{words[0]}: {error.strerror}") from error
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS_MAX)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("listening on "):
            self.process.kill()
            self.process.wait()
            raise NotStarted(f"said {line!r} and not `listening on …`")
        self.port = int(line.rsplit(":", 1)[1])

    def load_words(self):
        """What a load generator is told of it."""
        return ["--port", self.port, "--server-pid", self.process.pid]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = f"nothing for {STOP_SECONDS_MAX} s"
        if code != 0:
            print(f"{self.name} answered SIGTERM with {code}", file=sys.stderr)


class Nodes:
    """As many nodes as the name says and the Redis that joins them; their CPU time is one."""

    def __init__(self, name, words, cores):
        self.name = name
        port = free_port()
        off = ["--save", "", "--appendonly", "no"]
        self.redis = subprocess.Popen([str(REDIS), "--bind", "127.0.0.1", "--port", str(port), *off],
                                      stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, cores))
        words = [*words, "--set", f"backplane=redis://127.0.0.1:{port}"]
        self.nodes = [Server(name, words, cores) for _ in range(2 if name == TWO_NODES else 1)]

    def load_words(self):
        pids = [self.redis.pid, *(node.process.pid for node in self.nodes)]
        ports = ["--port", self.nodes[-1].port, "--publisher-port", self.nodes[0].port]
        return [*ports, *(word for pid in pids for word in ("--server-pid", pid))]

    def stop(self):
        for node in self.nodes:
            node.stop()
        self.redis.terminate()
        self.redis.wait(STOP_SECONDS_MAX)


def start(name, words, cores):
    return (Nodes if name in (ONE_NODE, TWO_NODES) else Server)(name, words, cores)


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def build():
    """Builds floor and load generators; the modes that can be measured with what this machine has."""
    BUILT.mkdir(parents=True, exist_ok=True)
    flags, missing = library_flags()
    for program in ("floor", "load", "handshakes", "fanout"):
        build_program(program, *flags)
    library = ROOT / "target" / "release"
    if (library / "libfullduplex.so").exists():
        folders = [f"-I{ROOT / 'include'}", f"-I{ROOT / 'examples' / 'c'}", f"-L{library}", f"-Wl,-rpath,{library}"]
        build_program("topics", *folders, "-lfullduplex")
    if missing:
        print(f"no TLS and no compression: `apt-get install {' '.join(missing)}`", file=sys.stderr)
        return [mode for mode in MODES if mode not in NEED_TLS_AND_DEFLATE]
    make_certificate()
    return MODES


def build_program(program, *flags):
    warnings = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
    source = [str(HERE / f"{program}.c"), "-o", str(BUILT / program)]
    subprocess.run(["gcc", "-std=c99", "-O2", *warnings, *source, *flags, "-pthread"], check=True)


def library_flags():
    """What gcc needs for TLS and compression, and the Debian packages that are missing for them."""
    missing = [tool for tool in ("pkg-config", "openssl") if shutil.which(tool) is None]
    for package, module in (("libssl-dev", "libssl"), ("zlib1g-dev", "zlib")):
        if "pkg-config" in missing or subprocess.run(["pkg-config", "--exists", module]).returncode != 0:
            missing.append(package)
    if missing:
        return [], missing
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "libssl", "libcrypto", "zlib"], text=True)
    return ["-DWITH_TLS", "-DWITH_DEFLATE", *flags.split()], []


def make_certificate():
    words = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "30"]
    subprocess.run([*words, "-keyout", str(KEY), "-out", str(CERT)], check=True, stderr=subprocess.DEVNULL)
