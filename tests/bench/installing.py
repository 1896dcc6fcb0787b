"""The servers that are not built with ours: each is installed into target/bench, once."""
import json
import os
import shutil
import subprocess
import sys

from scenarios import CSHARP
from servers import BUILT, HERE, KESTREL, NODE_MODULES, PEERS, PROGRAMS, PYTHON_PEERS, ROOT
from servers import command, debian_libraries, dotnet

SOURCES = HERE / "peers"
# Packages of Debian's, unpacked.
DEBIAN = BUILT / "debian"
# bufferutil is what ws recommends for speed.
NPM_PACKAGES = ["ws@8.23.0", "bufferutil@4.1.0"]

TOOLS = {
    "uws": ["gcc"],
    "libwebsockets": ["gcc", "apt-get"],
    "beast": ["g++", "apt-get"],
    "tungstenite": ["cargo"],
    "fastwebsockets": ["cargo"],
    "gorilla": ["apt-get"],
    "ws": ["node", "npm"],
}


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
    installed_by = {
        "uws": install_uws,
        "libwebsockets": install_libwebsockets,
        "beast": install_beast,
        "tungstenite": lambda: cargo_build(name),
        "fastwebsockets": lambda: cargo_build(name),
        "gorilla": install_gorilla,
        "ws": install_ws,
        "kestrel": install_kestrel,
    }
    installed_by.get(name, install_python_peers)()


def install_uws():
    """From C, with the library that socketify brings, and the libuv that it wants."""
    install_python_peers()
    library = next(PYTHON_PEERS.glob("lib/python*/site-packages/socketify/libsocketify_linux_amd64.so"))
    libuv = debian_libraries(PYTHON_PEERS / "debian")
    compile_peer("uws", "uws.c", [library, "-l:libuv.so.1"], [library.parent, libuv])


def install_libwebsockets():
    folder = unpack("libwebsockets", "libwebsockets-dev")
    headers = ["-isystem", folder / "usr" / "include"]
    compile_peer("libwebsockets", "libwebsockets.c", [*headers, "-lwebsockets"], [debian_libraries(folder)])


def install_beast():
    """With the newest of Debian's Boosts; the one it calls its default may be an older one."""
    versions = subprocess.check_output(["apt-cache", "--names-only", "search", r"^libboost1\.[0-9]+-dev$"], text=True)
    packages = sorted((line.split()[0] for line in versions.splitlines()), key=lambda package: (len(package), package))
    folder = unpack("beast", *packages[-1:] or ["libboost-dev"])
    compile_peer("beast", "beast.cpp", ["-isystem", folder / "usr" / "include", "-DNDEBUG", "-pthread"])


def install_gorilla():
    """With Debian's Go, which finds the packages of Debian's where GOPATH says and asks nobody else for them."""
    folder = unpack("gorilla", "golang-go", "golang-github-gorilla-websocket-dev")
    go = folder / "usr" / "bin" / "go"
    paths = [folder / "usr" / "share" / "gocode", "/usr/share/gocode"]
    settings = {"GO111MODULE": "off", "GOPATH": ":".join(map(str, paths)), "GOCACHE": str(folder / "cache"), "CGO_ENABLED": "0"}
    source = SOURCES / "gorilla" / "gorilla.go"
    run(go if go.exists() else "go", "build", "-o", PROGRAMS["gorilla"], source, env={**os.environ, **settings})


def install_ws():
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--save-exact"]
    run("npm", "install", "--prefix", BUILT / "ws", *flags, *NPM_PACKAGES)


def install_kestrel():
    folder = KESTREL.parent
    dotnet_build(SOURCES / "kestrel", "-o", folder, f"-p:BaseIntermediateOutputPath={folder}-parts/")


def install_python_peers():
    run(SOURCES / "python" / "install", PYTHON_PEERS)


def cargo_build(name):
    manifest = SOURCES / name / "Cargo.toml"
    run("cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", manifest, "--target-dir", BUILT / name)


def unpack(name, *packages):
    """Debian's packages, without root; the folder that they are in then."""
    run(SOURCES / "debian", DEBIAN / name, *packages)
    return DEBIAN / name


def compile_peer(name, source, flags, library_folders=()):
    """Unless it is newer than what it is made of."""
    program, source = PROGRAMS[name], SOURCES / name / source
    parts = [HERE / "installing.py", *source.parent.iterdir()]
    if program.exists() and all(program.stat().st_mtime > part.stat().st_mtime for part in parts):
        return
    compiler = ["g++", "-std=c++17"] if source.suffix == ".cpp" else ["gcc", "-std=c99"]
    # The libraries look for theirs in the same folders, which only the older kind of rpath allows.
    paths = ["-Wl,--disable-new-dtags", *(f"-{kind}{folder}" for folder in library_folders for kind in ("L", "Wl,-rpath,"))]
    run(*compiler, "-O3", "-Wall", "-Wextra", "-Werror", source, "-o", program, *paths, *flags)


def dotnet_build(project, *options):
    if not dotnet().exists():
        run(ROOT / "tests" / "dotnet.sh", dotnet().parent)
    run(dotnet(), "build", project, "-c", "Release", *options)


def run(*words, env=None):
    subprocess.run([str(word) for word in words], stdout=subprocess.DEVNULL, check=True, env=env)


def npm_packages_are_here():
    """So that a run needs no registry. Cargo looks for itself."""
    for package in NPM_PACKAGES:
        name, version = package.split("@")
        about = NODE_MODULES / name / "package.json"
        if not about.exists() or json.loads(about.read_text())["version"] != version:
            return False
    return shutil.which("node") is not None
