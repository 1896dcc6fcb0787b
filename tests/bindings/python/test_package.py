"""The package: what is typed, what is in the wheel, and what its README shows."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.sync.client import connect

from running import PATIENCE_SECONDS, ROOT, Running

pytestmark = pytest.mark.once

PACKAGE = ROOT / "bindings" / "python"
README = PACKAGE / "README.md"
ENVIRONMENTS = ROOT / "target" / "test-env"
# Where tests/setup.sh has put the others.
PYTHONS = [ENVIRONMENTS / "py38" / "bin" / "python", Path(sys.executable), ENVIRONMENTS / "py313" / "bin" / "python"]

TALK = """
import asyncio, sys, fullduplex
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with fullduplex.serve(echo, "127.0.0.1", 0) as server:
        print(fullduplex.__file__, server.port, flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


def test_the_types_are_right():
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental"], cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    # Without isolation: everything it needs is here, and the network is none of a test's business.
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PACKAGE], check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


def test_the_wheel_is_for_every_python_3_on_this_platform(wheel):
    assert re.fullmatch(r"fullduplex-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    listing = subprocess.check_output([sys.executable, "-m", "zipfile", "-l", wheel], text=True)
    for name in ("libfullduplex.so", "py.typed", "chat.html", "_abi.py", "__main__.py"):
        assert f"fullduplex/{name} " in listing


@pytest.mark.parametrize("python", PYTHONS, ids=["oldest", "usual", "newest"])
def test_the_wheel_works_in_a_clean_environment(wheel, python, tmp_path):
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    clean = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--python", clean, "install", "--no-index", wheel],
        check=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FULLDUPLEX_LIBRARY")}
    server = subprocess.Popen(
        [clean, "-c", TALK], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    try:
        file, port = server.stdout.readline().split()
        assert str(tmp_path) in file
        with connect(f"ws://127.0.0.1:{port}/") as client:
            client.send("hello")
            assert client.recv(timeout=PATIENCE_SECONDS) == "hello"
    finally:
        server.kill()
        server.communicate()


def test_a_package_without_its_library_says_where_it_looked(tmp_path):
    shutil.copytree(PACKAGE / "src" / "fullduplex", tmp_path / "fullduplex", ignore=shutil.ignore_patterns("*.so"))
    environment = {key: value for key, value in os.environ.items() if key != "FULLDUPLEX_LIBRARY"}
    done = subprocess.run(
        [sys.executable, "-c", "import fullduplex"], cwd=tmp_path, env={**environment, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True)
    assert "ImportError: the fullduplex library is not there; looked for" in done.stderr


def test_a_library_that_is_named_must_be_there():
    done = subprocess.run([sys.executable, "-c", "import fullduplex"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE / "src"), "FULLDUPLEX_LIBRARY": "nowhere.so"})
    assert "nowhere.so" in done.stderr


def python_blocks():
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)


def test_the_readme_of_the_library_shows_the_same():
    (shown,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert shown == python_blocks()[0]


@pytest.mark.parametrize("code, path, said", [
    (0, "/", "hello"), (1, "/?token=letmein", "hello 127.0.0.1"), (2, "/", "hello"), (3, "/", "hello"), (4, "/", "hello"),
])
def test_what_the_readme_shows_works(code, path, said):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    blocks = python_blocks()
    assert len(blocks) == 5
    server = Running('print("begins", flush=True)\n' + blocks[code].replace("9990", str(port)))
    try:
        with connect_when_ready(port, path) as client:
            if code != 1:
                client.send("hello")
            assert client.recv(timeout=PATIENCE_SECONDS) == said
        server.interrupt()
        assert server.end()[0] == -2
    finally:
        server.kill()


def connect_when_ready(port, path):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return connect(f"ws://127.0.0.1:{port}{path}", compression=None)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
