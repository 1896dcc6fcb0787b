"""What the README shows works as it stands there."""

import ctypes
import os
import re
import signal
import subprocess
import urllib.request

from support import wire
from support.places import ROOT, TARGET

README = ROOT / "README.md"
BEGIN, END = re.escape("<!-- options: begin"), re.escape("<!-- options: end -->")


def block(language):
    """The first code block in a language."""
    return re.search(rf"^```{language}\n(.*?)^```$", README.read_text(), re.M | re.S).group(1)


def test_the_server_in_twenty_lines_builds_and_echoes(tmp_path):
    code = block("c").replace("127.0.0.1:9001", "127.0.0.1:0")
    # The program of the README does not print its port; this line does it for the test.
    code = code.replace("    getchar();", '''    uint16_t port = 0;
    fdx_listener_port(server, 0, &port);
    printf("listening on 127.0.0.1:%u\\n", port);
    fflush(stdout);
    getchar();''')
    (tmp_path / "server.c").write_text(code)
    command = re.search(r"^cc .*$", README.read_text(), re.M).group(0)
    subprocess.run(command.replace("server.c", str(tmp_path / "server.c"))
                   .replace("-o server", f"-o {tmp_path / 'server'} -Wall -Wextra -Werror"
                            " -Wno-unused-parameter"),
                   shell=True, check=True, cwd=ROOT)
    server = subprocess.Popen([tmp_path / "server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert echoes_hello(listening_port(server))
        server.communicate("\n", timeout=10)
        assert server.returncode == 0
    finally:
        server.kill()
        server.wait()


def echoes_hello(port):
    with wire.Wire(port) as connection:
        connection.send(wire.request("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        connection.read_head()
        return connection.send(wire.frame(wire.TEXT, b"hello")).read(7) == b"\x81\x05hello"


def test_the_option_table_is_the_librarys():
    begin, end = option_table_place()
    text = README.read_text()
    table = "\n" + option_table() + "\n"
    if os.environ.get("UPDATE_README"):
        README.write_text(text[:begin] + table + text[end:])
    assert README.read_text()[begin:begin + len(table)] == table, "UPDATE_README=1 make test writes it"


def test_make_demo_serves_the_chat_page():
    # In a process group of its own: `make` starts the server, and both must end.
    demo = subprocess.Popen(["make", "--silent", "demo", "DEMO_LISTEN=127.0.0.1:0"], cwd=ROOT, text=True,
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


def option_table():
    library = ctypes.CDLL(str(TARGET / "release" / "libfullduplex.so"))
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
