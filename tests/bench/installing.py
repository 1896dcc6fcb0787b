"""The servers that are not built with ours: each is installed into target/bench, once."""
import json
import shutil
import subprocess
import sys

from scenarios import CSHARP
from servers import BUILT, HERE, KESTREL, NODE_MODULES, PEERS, PYTHON_PEERS, ROOT, command, dotnet

TUNGSTENITE = HERE / "peers" / "tungstenite" / "Cargo.toml"
# bufferutil is what ws recommends for speed.
NPM_PACKAGES = ["ws@8.23.0", "bufferutil@4.1.0"]

TOOLS = {"tungstenite": ["cargo"], "ws": ["node", "npm"]}


def install_peers(modes):
    """The names of those that have one of these modes and are here now; says what keeps the others away."""
    return [name for name in PEERS if any(command(name, mode) for mode in modes) and is_here(name)]


def build_ours(modes):
    """Builds what of ours `make examples` leaves out; the modes that then have one."""
    try:
        if CSHARP in modes:
            dotnet_build(HERE / "csharp")
    except subprocess.CalledProcessError as failed:
        keep_away("C#", failed)
        return [mode for mode in modes if mode != CSHARP]
    return modes


def is_here(name):
    if name == "ws" and npm_packages_are_here():
        return True
    absent = [tool for tool in TOOLS.get(name, []) if shutil.which(tool) is None]
    if absent:
        print(f"{name} stays away: no {' and no '.join(absent)} on this machine", file=sys.stderr)
        return False
    try:
        install(name)
    except subprocess.CalledProcessError as failed:
        keep_away(name, failed)
        return False
    return True


def keep_away(name, failed):
    print(f"{name} stays away: this failed: {' '.join(failed.cmd)}", file=sys.stderr)


def install(name):
    """A second time it finds its work done."""
    if name == "tungstenite":
        folder = BUILT / "tungstenite"
        run("cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", TUNGSTENITE, "--target-dir", folder)
    elif name == "ws":
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--save-exact"]
        run("npm", "install", "--prefix", BUILT / "ws", *flags, *NPM_PACKAGES)
    elif name == "kestrel":
        folder = KESTREL.parent
        dotnet_build(HERE / "peers" / "kestrel", "-o", folder, f"-p:BaseIntermediateOutputPath={folder}-parts/")
    else:
        run(HERE / "peers" / "python" / "install", PYTHON_PEERS)


def dotnet_build(project, *options):
    if not dotnet().exists():
        run(ROOT / "tests" / "dotnet.sh", dotnet().parent)
    run(dotnet(), "build", project, "-c", "Release", *options)


def run(*words):
    subprocess.run([str(word) for word in words], stdout=subprocess.DEVNULL, check=True)


def npm_packages_are_here():
    """So that a run needs no registry. Cargo looks for itself."""
    for package in NPM_PACKAGES:
        name, version = package.split("@")
        about = NODE_MODULES / name / "package.json"
        if not about.exists() or json.loads(about.read_text())["version"] != version:
            return False
    return shutil.which("node") is not None
