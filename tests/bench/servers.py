"""The servers: how each is built, started in a mode and stopped. And the load generators, which are built like them."""
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from scenarios import DEDICATED, MODES, PLAIN, SHARED, TLS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "target" / "bench"
ECHO = ROOT / "target" / "examples" / "c" / "echo"
# zlib-rs at level 1 leaves more bytes than zlib does, and at level 2 as many.
ECHO_LEVEL_2 = "echo, level 2"
CERT, KEY = BUILT / "cert.pem", BUILT / "key.pem"

TUNGSTENITE = HERE / "peers" / "tungstenite" / "Cargo.toml"
WS = HERE / "peers" / "ws.js"
NODE_MODULES = BUILT / "ws" / "node_modules"
# bufferutil is what ws recommends for speed.
NPM_PACKAGES = ["ws@8.23.0", "bufferutil@4.1.0"]
PEERS = ["tungstenite", "ws"]

START_SECONDS_MAX = 10
STOP_SECONDS_MAX = 10


def command(name, mode):
    """What starts this server in this mode; None if it has no such mode."""
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
    if name == "tungstenite":
        # Its releases know no permessage-deflate.
        program = str(BUILT / "tungstenite" / "release" / "tungstenite-echo")
        return listening([program, *certificate]) if mode in (PLAIN, TLS) else None
    if name == "ws":
        deflate = [] if mode in (PLAIN, TLS) else ["--deflate", mode]
        return listening(["node", str(WS), *certificate, *deflate])
    raise KeyError(name)


def listening(words):
    return [*words, "--listen", "127.0.0.1:0"]


class Server:
    """A server process on its core, from its line "listening on …" to SIGTERM."""

    def __init__(self, name, words, core):
        self.name = name
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS_MAX)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("listening on "):
            self.process.kill()
            sys.exit(f"{name} did not say `listening on …` but {line!r}: {' '.join(words)}")
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = f"nothing for {STOP_SECONDS_MAX} s"
        if code != 0:
            print(f"{self.name} answered SIGTERM with {code}", file=sys.stderr)


def build():
    """Builds floor and load generators; the modes that can be measured with what this machine has."""
    BUILT.mkdir(parents=True, exist_ok=True)
    flags, missing = library_flags()
    for program in ("floor", "load", "handshakes"):
        warnings = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
        source = [str(HERE / f"{program}.c"), "-o", str(BUILT / program)]
        subprocess.run(["gcc", "-std=c99", "-O2", *warnings, *source, *flags, "-pthread"], check=True)
    if missing:
        print(f"no TLS and no compression: `apt-get install {' '.join(missing)}`", file=sys.stderr)
        return [PLAIN]
    make_certificate()
    return MODES


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


def install_peers():
    """The names of those that are here now; says what keeps the others away."""
    steps = {
        "tungstenite": ["cargo", "build", "--release", "--locked", "--quiet"]
        + ["--manifest-path", str(TUNGSTENITE), "--target-dir", str(BUILT / "tungstenite")],
        "ws": ["npm", "install", "--prefix", str(BUILT / "ws"), "--ignore-scripts", "--no-audit", "--no-fund"]
        + ["--silent", "--save-exact", *NPM_PACKAGES],
    }
    tools = {"tungstenite": ["cargo"], "ws": ["node", "npm"]}
    installed = []
    for name in PEERS:
        absent = [tool for tool in tools[name] if shutil.which(tool) is None]
        if name == "ws" and npm_packages_are_here():
            installed.append(name)
        elif absent:
            print(f"{name} stays away: no {' and no '.join(absent)} on this machine", file=sys.stderr)
        elif subprocess.run(steps[name], stdout=subprocess.DEVNULL).returncode != 0:
            print(f"{name} stays away: this failed: {' '.join(steps[name])}", file=sys.stderr)
        else:
            installed.append(name)
    return installed


def npm_packages_are_here():
    """So that a run needs no registry. Cargo looks for itself."""
    for package in NPM_PACKAGES:
        name, version = package.split("@")
        about = NODE_MODULES / name / "package.json"
        if not about.exists() or json.loads(about.read_text())["version"] != version:
            return False
    return shutil.which("node") is not None
