#!/usr/bin/env bash
# Installs what the outside tests need, on a Debian machine that has Rust, gcc and Python 3.
#
# System packages come from apt, and only those that are missing (as root, or by sudo).
# Everything else lands in target/test-env and nowhere else:
#
#   py3    pytest, websockets, a reader of OpenMetrics, trustme for certificates, and playwright, which
#          drives the system's Chromium
#   py38, py313   the oldest and the newest Python that the binding is for, with clients for its tests; what
#          of them is not on this machine comes by uv, into `pythons`
#   py27   Python 2.7 with the Autobahn test suite and a WebSocket client of 2011
#   node   npm's ws, as of 2015 (it still speaks version 8) and as of today
#   bin    cargo-fuzz
#   proxies  HAProxy and nginx, unpacked and not installed, so that none starts as a service
#   brokers  Redis and NATS, in the same way
#   promtool   Prometheus' own reader of metrics
#   dotnet   .NET Core 3.1 for the C# binding (tests/dotnet.sh), beside the system's Mono
#
# A second run takes no time: a stamp says which version of this script did its work here.
set -euo pipefail

cd "$(dirname "$0")/.."
env=$PWD/target/test-env
stamp="$(cat tests/setup.sh tests/dotnet.sh | sha256sum) $env"       # with the path: virtual environments can't move

main() {
    if [ "$(cat "$env/stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
    mkdir -p "$env"
    system_packages
    # Most of the time is waiting for the network.
    at_once pythons debian_files cargo_fuzz node_packages dotnet_core
    if [ -z "$(find_python27)" ]; then
        # No stamp: the next run looks again. The tests that need it fail by name until then.
        how_to_get_python27
        return
    fi
    echo "$stamp" > "$env/stamp"
    say "everything is there"
}

at_once() {
    local jobs=() job failed=0
    for job in "$@"; do
        "$job" & jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || failed=1
    done
    return $failed
}

# Those for other environments come out of the first.
pythons() {
    python3_environment
    pythons_of_the_binding
    python27=$(find_python27)
    if [ -n "$python27" ]; then python27_environment; fi
}

# One after the other: apt locks its lists.
debian_files() {
    proxies
    brokers
    prometheus_tool
}

# ------------------------------------------------------------------------------------------------

system_packages() {
    local missing=()
    have chromium                                || missing+=(chromium)
    have firefox-esr                             || missing+=(firefox-esr)
    have openssl                                 || missing+=(openssl)
    runs_java                                    || missing+=(openjdk-17-jdk-headless)
    have valgrind                                || missing+=(valgrind)
    have curl                                    || missing+=(curl)
    have pkg-config                              || missing+=(pkg-config)
    perl -MProtocol::WebSocket -e1 2>/dev/null   || missing+=(libprotocol-websocket-perl)
    have ruby                                    || missing+=(ruby)
    ruby -e 'require "websocket"' 2>/dev/null    || missing+=(ruby-websocket)
    have node                                    || missing+=(nodejs)
    have g++                                     || missing+=(g++)
    have npm                                     || missing+=(npm)
    have mono                                    || missing+=(mono-runtime)
    # What a program for .NET Framework 4.7.2 is compiled against.
    [ -d /usr/lib/mono/4.7.2-api ]               || missing+=(mono-devel)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    # Without them the screenshots show boxes instead of letters.
    for font in fonts-noto-core fonts-noto-color-emoji; do
        dpkg -s $font >/dev/null 2>&1            || missing+=($font)
    done
    if [ ${#missing[@]} = 0 ]; then return; fi

    say "apt: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Java 11 began to run a source file as it is, for which its compiler must be there.
runs_java() { have java && java --list-modules 2>/dev/null | grep '^jdk.compiler@\(1[1-9]\|[2-9][0-9]\)' >/dev/null; }

python3_environment() {
    say "Python 3: pytest, websockets, playwright, trustme"
    python3 -m venv --clear "$env/py3"
    "$env/py3/bin/pip" install -q --disable-pip-version-check -r /dev/stdin <<'PINS'
pytest==9.2.0
iniconfig==2.3.1
packaging==26.3
pluggy==1.7.0
Pygments==2.21.0
pytest-xdist==3.8.0
execnet==2.1.2
websockets==17.4
prometheus_client==0.26.0
playwright==1.65.2
greenlet==3.5.6
pyee==13.0.1
typing_extensions==4.15.0
trustme==1.2.1
# the client of NATS that an example uses
nats-py==2.16.0
cryptography==50.0.2
cffi==2.1.1
pycparser==3.12
idna==3.20
# the last virtualenv that can make an environment for Python 2.7
virtualenv==20.21.1
distlib==0.4.4
filelock==3.32.7
platformdirs==3.11.0
PINS
}

# What its tests need goes into `py3`, too, where those about the package itself run.
pythons_of_the_binding() {
    say "for the binding for Python: aiohttp, uvloop, mypy, build; Python 3.8 and 3.13"
    "$env/py3/bin/pip" install -q --disable-pip-version-check -r /dev/stdin <<'PINS'
aiohttp==3.14.5
aiohappyeyeballs==2.7.1
aiosignal==1.4.0
attrs==26.1.0
frozenlist==1.8.0
multidict==7.2.1
propcache==0.5.4
yarl==1.25.1
uvloop==0.23.0
mypy==2.4.1
mypy_extensions==1.2.0
ast_serialize==0.13.1
librt==0.16.0
pathspec==1.1.1
build==1.6.1
pyproject_hooks==1.3.3
hatchling==1.27.0
trove-classifiers==2026.9.21.13
uv==0.13.9
PINS
    python_of_the_binding py38 3.8 <<'PINS'
pytest==8.3.5
exceptiongroup==1.3.1
iniconfig==2.1.0
packaging==26.2
pluggy==1.5.0
tomli==2.5.0
typing_extensions==4.13.2
websockets==13.1
uvloop==0.23.0
aiohttp==3.10.11
aiohappyeyeballs==2.4.4
aiosignal==1.3.1
async-timeout==5.0.1
attrs==25.3.0
frozenlist==1.5.0
idna==3.15
multidict==6.1.0
propcache==0.2.0
yarl==1.15.2
PINS
    python_of_the_binding py313 3.13 <<'PINS'
pytest==9.2.0
iniconfig==2.3.1
packaging==26.3
pluggy==1.7.0
Pygments==2.21.0
websockets==17.4
uvloop==0.23.0
aiohttp==3.14.5
aiohappyeyeballs==2.7.1
aiosignal==1.4.0
attrs==26.1.0
frozenlist==1.8.0
idna==3.20
multidict==7.2.1
propcache==0.5.4
yarl==1.25.1
PINS
}

# python_of_the_binding NAME VERSION < PINS
python_of_the_binding() {
    "$(find_python "$2")" -m venv --clear "$env/$1"
    "$env/$1/bin/python" -m pip install -q --disable-pip-version-check -r /dev/stdin
}

find_python() {
    local candidate
    for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python "python$1"; do
        # Run it: a pyenv shim of this name may stand in the path with nothing behind it.
        if "$candidate" -c 'import ctypes, ensurepip, ssl, venv' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    export UV_PYTHON_INSTALL_DIR="$env/pythons"
    "$env/py3/bin/uv" python install --no-progress --no-bin "$1" >&2
    "$env/py3/bin/uv" -q python find --managed-python "$1"
}

cargo_fuzz() {
    local version=0.13.2
    if [ "$("$env/bin/cargo-fuzz" --version 2>/dev/null)" = "cargo-fuzz $version" ]; then return; fi
    say "cargo-fuzz $version"
    # Unoptimised: it only calls cargo, and is there in half the time.
    cargo install --quiet --locked --profile dev --root "$env" --target-dir "$env/build" cargo-fuzz@$version
    rm -r "$env/build"
}

node_packages() {
    say "npm: ws 0.8.0 and 8.23.0"
    # Without scripts: the old one would compile an add-on that it can do without.
    npm install --prefix "$env/node" --ignore-scripts --no-audit --no-fund --silent --save-exact --omit=optional \
        ws-2015@npm:ws@0.8.0 options@0.0.6 ultron@1.0.2 ws-today@npm:ws@8.23.0
}

proxies() {
    say "HAProxy and nginx"
    unpacked proxies haproxy nginx
}

brokers() {
    say "Redis and NATS"
    # redis-server itself is in the package of its tools.
    unpacked brokers redis-server redis-tools nats-server
}

# unpacked FOLDER PACKAGE…: of Debian's, with the libraries that they need installed.
unpacked() {
    local folder=$env/$1 package libraries=()
    shift
    rm -rf "$folder"
    mkdir -p "$folder/packages"
    download "$folder/packages" "$@" 2>/dev/null || { as_root apt-get update -qq && download "$folder/packages" "$@"; }
    for package in "$folder"/packages/*.deb; do
        dpkg-deb -x "$package" "$folder"
        mapfile -t -O ${#libraries[@]} libraries < <(libraries_of "$package")
    done
    if dpkg -s "${libraries[@]}" >/dev/null 2>&1; then return; fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${libraries[@]}" >/dev/null
}

# download FOLDER PACKAGE…
download() { (cd "$1" && shift && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$@"); }

# The first of alternatives, without versions.
libraries_of() { dpkg-deb -f "$1" Depends | tr ',' '\n' | sed 's/^ *//; s/[ |(:].*//' | grep -E '^z?lib'; }

# Out of Debian's package, which is not installed: that would start a server.
prometheus_tool() {
    local folder
    say "promtool"
    folder=$(mktemp -d)
    download "$folder" prometheus 2>/dev/null || { as_root apt-get update -qq; download "$folder" prometheus; }
    dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$env" --strip-components=3 ./usr/bin/promtool
    rm -r "$folder"
}

dotnet_core() {
    say ".NET Core SDK 3.1, with the OpenSSL it needs"
    tests/dotnet.sh "$env/dotnet"
}

python27_environment() {
    say "Python 2.7 ($python27): autobahntestsuite, websocket-client"
    "$env/py3/bin/virtualenv" -q --clear -p "$python27" "$env/py27"
    "$env/py27/bin/pip" install -q --no-python-version-warning --disable-pip-version-check -r /dev/stdin <<'PINS'
autobahntestsuite==25.10.1
attrs==21.4.0
autobahn==0.10.9
Automat==22.10.0
cffi==1.15.1
constantly==15.1.0
cryptography==3.3.2
enum34==1.1.10
hyperlink==21.0.0
idna==2.10
incremental==16.10.1
ipaddress==1.0.23
Jinja2==2.11.3
klein==17.10.0
linecache2==1.0.0
MarkupSafe==1.1.1
pyasn1==0.5.1
pyasn1-modules==0.3.0
pycparser==2.21
PyHamcrest==1.10.1
pyOpenSSL==19.1.0
service-identity==18.1.0
six==1.16.0
traceback2==1.4.0
Twisted==19.10.0
txaio==2.1.0
typing==3.10.0.0
ujson==2.0.3
unittest2==1.1.0
Werkzeug==1.0.1
wsaccel==0.6.6
zope.interface==4.6.0
websocket-client==0.4.1
PINS
}

find_python27() {
    local candidate
    for candidate in "${PYTHON27:-}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7 python2.7 python2; do
        # Run it: a pyenv shim of this name may stand in the path with nothing behind it.
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

how_to_get_python27() {
    cat >&2 <<'HOW'

  ****************************************************************************************
  No Python 2.7 found. The Autobahn test suite and the client of 2011 run on nothing else;
  their tests will fail and say so. Get one with pyenv (https://github.com/pyenv/pyenv):

      pyenv install 2.7.18

  or name one: PYTHON27=/path/to/python2.7 tests/setup.sh
  ****************************************************************************************

HOW
}

have() { command -v "$1" >/dev/null; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
say() { echo "tests/setup.sh: $*"; }

main
