"""The C# binding on .NET Core and on Mono: its own tests, its package, and the code of its README."""

import fcntl
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from support.places import DOTNET, LIBRARIES, ROOT, TARGET

HERE = Path(__file__).parent
BINDING = ROOT / "bindings" / "csharp"
BUILT = TARGET / "csharp" / "FullDuplex.Tests"
RUNTIMES = {
    "dotnet": [str(DOTNET), str(BUILT / "netcoreapp3.1" / "FullDuplex.Tests.dll")],
    "mono": ["mono", str(BUILT / "net472" / "FullDuplex.Tests.exe")],
}
# The slowest on a busy machine; one that hangs is ended by the runner itself, long before.
SECONDS_MAX = 600

NAMES = [
    f"{source.stem}.{name}"
    for source in sorted(HERE.glob("*Tests.cs"))
    for name in re.findall(r"\[Test\b[^\]]*\]\s+public (?:async )?\w+ (\w+)\(", source.read_text())
]


@pytest.fixture(scope="module")
def environment(here):
    """That of the test programs: it names the library, and a certificate."""
    if not Path(RUNTIMES["dotnet"][1]).exists():
        pytest.fail(f"{RUNTIMES['dotnet'][1]} is missing: run `make csharp` first", pytrace=False)
    return {
        **os.environ,
        "FULLDUPLEX_LIBRARY": str(LIBRARIES / "libfullduplex.so"),
        "TEST_CERTIFICATE": str(here.cert),
        "TEST_KEY": str(here.key),
    }


@pytest.fixture(scope="module", params=RUNTIMES)
def report(request, environment, tmp_path_factory, worker_id):
    """What each of the binding's tests came to, in one run of all."""
    run = [RUNTIMES[request.param], environment]
    if worker_id == "master":
        return run_all(*run)
    # Whichever worker comes first runs them for all.
    shared = tmp_path_factory.getbasetemp().parent / f"csharp-{request.param}.json"
    with open(shared, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        results = json.loads(file.read() or "null")
        if results is None:
            results = run_all(*run)
            json.dump(results, file)
    return results


def run_all(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    results = {line["test"]: line["error"] for line in lines}
    results["stderr"] = done.stderr
    results["code"] = done.returncode
    return results


@pytest.mark.parametrize("name", NAMES)
def test_that(report, name):
    assert name in report, f"it was not run; code {report['code']}, {report['stderr']}"
    assert report[name] is None, report[name]


def test_all_tests_were_found_and_nothing_else_was_said(report):
    assert set(NAMES) == set(report) - {"stderr", "code"}
    assert report["stderr"] == ""
    assert report["code"] == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("place", ["main", "callback", "handler"])
def test_a_process_may_exit_in_the_middle_of_traffic(environment, runtime, place):
    done = subprocess.run([*RUNTIMES[runtime], "--exit", place], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


# -- the package, and in it the README's code ----------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the package, as `dotnet pack` makes it."""
    folder = tmp_path_factory.mktemp("feed")
    dotnet("pack", BINDING / "FullDuplex", "--configuration", "Release", "--no-build", "--output", folder)
    return folder


def test_the_package_has_every_target_the_library_and_the_documentation(package):
    listed = subprocess.run(["unzip", "-Z1", *package.glob("*.nupkg")], check=True, capture_output=True, text=True).stdout.split()
    assert "runtimes/linux-x64/native/libfullduplex.so" in listed
    for target in ["netcoreapp3.1", "netstandard2.1", "net472"]:
        assert {f"lib/{target}/FullDuplex.dll", f"lib/{target}/FullDuplex.xml"} <= set(listed)


def test_a_program_with_the_package_runs_the_code_of_the_readme(package, tmp_path):
    readmes = [(folder / "README.md").read_text() for folder in (BINDING, ROOT)]
    blocks = [block for text in readmes for block in re.findall(r"```csharp\n(.*?)```", text, re.DOTALL)]
    types = [block for block in blocks if block.startswith("sealed class ")]
    blocks = [block for block in blocks if block not in types]
    assert len(blocks) >= 7 and types
    methods = [
        "static WebSocketServer Block%d()\n{\n%s\nreturn server;\n}\n" % (number, re.sub(r"[\d.]+:\d+", "127.0.0.1:0", block))
        for number, block in enumerate(blocks)
    ]
    runs = "".join(f"await Try(Block{number}());\n" for number in range(len(blocks)))
    (tmp_path / "Program.cs").write_text(PROGRAM.replace("METHODS", "".join(types + methods)).replace("RUNS", runs))
    (tmp_path / "Consumer.csproj").write_text(PROJECT)
    (tmp_path / "NuGet.Config").write_text(
        f"<configuration><packageSources><clear /><add key='here' value='{package}' /></packageSources></configuration>"
    )
    # A cache of its own, or the package of an earlier run would be taken.
    own = {**os.environ, "NUGET_PACKAGES": str(tmp_path / "packages")}
    dotnet("build", tmp_path, "--configuration", "Release", "--output", tmp_path / "out", env=own)
    # Away from the checkout, where nothing but the package has the library.
    done = subprocess.run([DOTNET, tmp_path / "out" / "Consumer.dll"], env=own, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("echoed: hello") == len(blocks)
    # Each face says how its connection ended, by its own words.
    assert done.stdout.count("1000") == 3


def dotnet(*arguments, env=None):
    done = subprocess.run([DOTNET, *arguments, "--nologo", "--verbosity", "quiet"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


PROJECT = """<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup>
    <OutputType>Exe</OutputType>
    <TargetFramework>netcoreapp3.1</TargetFramework>
    <LangVersion>8.0</LangVersion>
    <TreatWarningsAsErrors>true</TreatWarningsAsErrors>
  </PropertyGroup>
  <ItemGroup>
    <PackageReference Include="FullDuplex" Version="0.1.0" />
  </ItemGroup>
</Project>
"""

PROGRAM = """
using System;
using System.Collections.Generic;
using System.Net.WebSockets;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using FullDuplex;

static class Program
{
    METHODS

    static async Task Main()
    {
        RUNS
    }

    static async Task Try(WebSocketServer server)
    {
        using var client = new ClientWebSocket();
        await client.ConnectAsync(new Uri($"ws://127.0.0.1:{server.Port}/"), default);
        await client.SendAsync(Encoding.UTF8.GetBytes("hello"), WebSocketMessageType.Text, true, default);
        var buffer = new byte[100];
        var received = await client.ReceiveAsync(new ArraySegment<byte>(buffer), default);
        Console.WriteLine("echoed: " + Encoding.UTF8.GetString(buffer, 0, received.Count));
        await client.CloseAsync(WebSocketCloseStatus.NormalClosure, "", default);
        await server.StopAsync(TimeSpan.FromSeconds(5));
    }
}
"""
