"""What the README shows works as it stands there."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from support import wire
from support.dialects import RFC_6455
from support.places import ROOT, TARGET
from support.programs import BINDINGS

README = ROOT / "README.md"
BEGIN, END = re.escape("<!-- options: begin"), re.escape("<!-- options: end -->")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.M | re.S)


# The program of the README does not print its port; this does it for the tests.
ANNOUNCE = '''    uint16_t port = 0;
    fdx_listener_port(server, 0, &port);
    printf("listening on 127.0.0.1:%u\\n", port);
    fflush(stdout);
    getchar();'''


def build(code, folder):
    (folder / "server.c").write_text(code.replace("    getchar();", ANNOUNCE))
    command = re.search(r"^cc .*$", README.read_text(), re.M).group(0)
    subprocess.run(command.replace("server.c", str(folder / "server.c"))
                   .replace("-o server", f"-o {folder / 'server'} -Wall -Wextra -Werror"
                            " -Wno-unused-parameter"),
                   shell=True, check=True, cwd=ROOT)
    return folder / "server"


def test_the_server_in_twenty_lines_builds_and_echoes(tmp_path):
    program = build(blocks("c")[0].replace("127.0.0.1:9001", "127.0.0.1:0"), tmp_path)
    server = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert echoes_hello(listening_port(server))
        server.communicate("\n", timeout=10)
        assert server.returncode == 0
    finally:
        server.kill()
        server.wait()


def test_the_restart_leaves_a_new_server_at_the_same_port(tmp_path):
    server_code, restart_code = blocks("c")[0], next(code for code in blocks("c") if "restart(" in code)
    code = "#define _POSIX_C_SOURCE 200809L\n#include <fcntl.h>\n#include <unistd.h>\n" + server_code
    code = code.replace('"127.0.0.1:9001"', 'argc > 1 ? argv[1] : "127.0.0.1:0"')
    code = code.replace("int main(void)", restart_code + "\nint main(int argc, char **argv)")
    # The old one restarts at its first line of input; the next is the new one's, and ends it.
    code = code.replace("    fdx_server_stop(server, 1001, \"bye\"", "    if (argc == 1)\n        restart(server, argv[0]);\n"
                        "    fdx_server_stop(server, 1001, \"bye\"")
    assert code.count("restart(server, argv[0])") == 1
    old = subprocess.Popen([build(code, tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = listening_port(old)
        with wire.Wire(port) as stays:
            RFC_6455.read_opening(stays.send(RFC_6455.opening()))
            old.stdin.write("\n")
            old.stdin.flush()
            assert stays.read_close() == 1001
            stays.send(wire.close_frame(1001)).read_to_end()
        assert old.wait(10) == 0
        with RFC_6455.open(port) as comes_again:
            assert echoes_hello(port)
            old.stdin.write("\n")
            old.stdin.flush()
            assert comes_again.read_close() == 1001
            comes_again.send(wire.close_frame(1001)).read_to_end()
    finally:
        old.kill()
        old.wait()
        old.stdin.close()  # which ends the new one, too


def test_what_one_says_reaches_the_others_in_the_topic(tmp_path):
    server_code, topic_code = blocks("c")[0], next(code for code in blocks("c") if "fdx_publish(" in code)
    own = re.search(r"^static void on_message.*?^}$", server_code, re.M | re.S).group(0)
    code = server_code.replace(own, topic_code).replace("127.0.0.1:9001", "127.0.0.1:0")
    code = code.replace(".on_message = on_message", ".on_open = on_open, .on_message = on_message")
    assert code.count("on_open") == 3
    server = subprocess.Popen([build(code, tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = listening_port(server)
        with RFC_6455.open(port) as one, RFC_6455.open(port) as other:
            one.send(RFC_6455.text(b"hello"))
            assert other.read(7) == RFC_6455.echo(b"hello")
            other.send(RFC_6455.text(b"you, too"))
            assert one.read(10) == RFC_6455.echo(b"you, too")
        server.communicate("\n", timeout=10)
        assert server.returncode == 0
    finally:
        server.kill()
        server.wait()


def echoes_hello(port):
    with RFC_6455.open(port) as connection:
        return connection.send(RFC_6455.text(b"hello")).read(7) == RFC_6455.echo(b"hello")


def test_the_server_in_python_echoes():
    [code] = blocks("python")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", code.replace("9990", str(port))],
                              env={**os.environ, **BINDINGS})
    try:
        wait_until_something_listens(port, server)
        assert echoes_hello(port)
    finally:
        server.kill()
        server.wait()


def wait_until_something_listens(port, server):
    while server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)


def test_every_settings_file_is_understood():
    library = load_library()
    library.fdx_config_new.restype = ctypes.c_void_p
    for settings in blocks("ini"):
        config = ctypes.c_void_p(library.fdx_config_new())
        text = settings.encode()
        assert library.fdx_config_load(config, text, ctypes.c_size_t(len(text)), None) == 0, settings
        library.fdx_config_free(config)


def test_the_option_table_is_the_librarys():
    begin, end = option_table_place()
    text = README.read_text()
    table = "\n" + option_table() + "\n"
    if os.environ.get("UPDATE_README"):
        README.write_text(text[:begin] + table + text[end:])
    assert README.read_text()[begin:begin + len(table)] == table, "UPDATE_README=1 make test writes it"


@pytest.mark.parametrize("target", ["demo", "demo-python", "demo-csharp"])
def test_make_demo_serves_the_chat_page(target):
    # In a process group of its own: `make` starts the server, and both must end.
    demo = subprocess.Popen(["make", "--silent", target, "DEMO_LISTEN=127.0.0.1:0"], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, start_new_session=True)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{listening_port(demo)}/", timeout=10) as page:
            assert b"new WebSocket" in page.read()
    finally:
        os.killpg(demo.pid, signal.SIGTERM)
        demo.wait(10)


def listening_port(process):
    for line in process.stdout:
        if line.startswith("listening on"):
            return int(line.rsplit(":", 1)[1])
    raise AssertionError("it ended without listening")


def option_table_place():
    text = README.read_text()
    begin = text.index("-->", re.search(BEGIN, text).start()) + len("-->")
    return begin, re.search(END, text).start()


OPTION_LIVE = 1


class Option(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("name", ctypes.c_char_p),
                ("type", ctypes.c_char_p), ("default", ctypes.c_char_p), ("help", ctypes.c_char_p)]


def load_library():
    return ctypes.CDLL(str(TARGET / "release" / "libfullduplex.so"))


def option_table():
    library = load_library()
    library.fdx_option.restype = ctypes.POINTER(Option)
    library.fdx_option.argtypes = [ctypes.c_size_t]
    lines = ["", "| option | type | default | live | what it does |", "| --- | --- | --- | --- | --- |"]
    index = 0
    while option := library.fdx_option(index):
        name, kind, default, text = (
            getattr(option.contents, field).decode().replace("|", "\\|")
            for field in ("name", "type", "default", "help"))
        live = "yes" if option.contents.flags & OPTION_LIVE else ""
        lines.append(f"| `{name}` | {kind} | {f'`{default}`' if default else ''} | {live} | {text} |")
        index += 1
    return "\n".join(lines) + "\n"
