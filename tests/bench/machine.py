"""What a run was made on and with: the machine, and the versions of everybody."""
import gzip
import json
import os
import platform
import re
import subprocess
from pathlib import Path

from servers import BUILT, HERE, NODE_MODULES, PYTHON_LIBRARIES, PYTHON_PEERS, ROOT, dotnet


def about():
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "congestion": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "commit": commit(),
        "versions": versions(),
    }


def processor():
    fields = dict(re.findall(r"^([^\t\n]+)\t*: (.*)$", Path("/proc/cpuinfo").read_text().split("\n\n")[0], re.M))
    name = fields.get("model name", platform.machine())
    numbers = [fields.get(key) for key in ("cpu family", "model", "stepping")]
    return name + (f" (family {numbers[0]}, model {numbers[1]}, stepping {numbers[2]})" if all(numbers) else "")


def versions():
    """Of ours and of each peer that is installed."""
    in_python = python_versions()
    node, dotnet_version = said(["node", "--version"]), said([str(dotnet()), "--version"])
    found = {
        "echo": joined(locked(ROOT, "fullduplex"), said(["rustc", "--version"]), said(["cc", "--version"]).partition("\n")[0],
                       f"Python {platform.python_version()}"),
        "uws": in_python.get("socketify") and f"as socketify {in_python['socketify']} ships it, called from C",
        "libwebsockets": joined(debian("libwebsockets-dev")),
        "beast": joined(debian("libboost*-dev")),
        "tungstenite": locked(HERE / "peers" / "tungstenite", "tokio-tungstenite"),
        "fastwebsockets": locked(HERE / "peers" / "fastwebsockets", "fastwebsockets"),
        "ws": joined(npm_version("ws"), npm_version("bufferutil"), node and f"Node {node}"),
        "gorilla": joined(debian("golang-github-gorilla-websocket-dev"), debian("golang-1*-go")),
        "kestrel": dotnet_version and f".NET SDK {dotnet_version}",
        **{name: joined(version, name != "socketify" and f"uvloop {in_python.get('uvloop')}") for name, version in in_python.items()
           if name in PYTHON_LIBRARIES},
    }
    return {name: version for name, version in found.items() if version}


def joined(*parts):
    """Nothing if the first is missing."""
    return ", ".join(part for part in parts if part) if parts[0] else ""


def locked(folder, package):
    match = re.search(rf'name = "{package}"\nversion = "(.*)"', read(folder / "Cargo.lock"))
    return match[1] if match else ""


def python_versions():
    code = "import importlib.metadata as about; print(*(f'{one.name}=={one.version}' for one in about.distributions()))"
    words = said([str(PYTHON_PEERS / "bin" / "python"), "-c", code]).split()
    return dict(word.split("==") for word in words)


def npm_version(package):
    try:
        return f"{package} {json.loads((NODE_MODULES / package / 'package.json').read_text())['version']}"
    except OSError:
        return ""


def debian(package):
    """What a package of Debian's says of itself, unpacked in target/bench or installed."""
    for log in [*BUILT.glob(f"**/usr/share/doc/{package}/changelog.Debian.gz"), *Path("/usr/share/doc").glob(f"{package}/changelog.Debian.gz")]:
        with gzip.open(log, "rt", errors="replace") as lines:
            name, version = lines.readline().split()[:2]
        return f"{name} {version.strip('()')}"
    return ""


def commit():
    """Of what was measured; with "and changes" if that is not all."""
    head = said(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    changed = said(["git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!tests/bench/RESULTS.md", ":!tests/bench/results"])
    return (head or "unknown") + (" and changes" if changed else "")


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def said(words):
    """What a command says, or nothing if there is no such command or it fails."""
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
