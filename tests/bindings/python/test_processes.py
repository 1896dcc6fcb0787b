"""How programs end: Ctrl-C, the end of the script, a fork."""

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ASYNCIO = """
import asyncio, fullduplex
{prelude}
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with fullduplex.serve(echo, "127.0.0.1", 0) as server:
        print(server.port, flush=True)
        await {wait}
asyncio.run(main())
"""

PLAIN = """
import fullduplex
server = fullduplex.Server("127.0.0.1", 0, on_message=lambda connection, message: connection.send(message))
server.start()
print(server.port, flush=True)
server.{wait}
"""


@pytest.mark.parametrize("code", [
    ASYNCIO.format(prelude="", wait="server.serve_forever()"),
    ASYNCIO.format(prelude="", wait="asyncio.sleep(60)"),
    ASYNCIO.format(prelude="import uvloop; uvloop.install()", wait="server.serve_forever()"),
    PLAIN.format(wait="serve_forever()"),
    PLAIN.format(wait="wait()"),
    PLAIN.format(wait="wait(60)"),
], ids=["asyncio forever", "asyncio", "uvloop", "plain forever", "plain wait", "plain wait with timeout"])
def test_ctrl_c_ends_a_program_politely(program, code):
    server = program(code)
    with connect(f"ws://127.0.0.1:{server.port}/") as client:
        client.send("hello")
        assert client.recv() == "hello"
        server.interrupt()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=20)
        assert closed.value.rcvd.code == 1001
    code, out, err = server.end()
    assert code == -2 and out == ""
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    # One story, and nothing that was ignored, never awaited or left pending.
    assert not [word for word in ("Error", "never", "ignored", "pending", "Fatal") if word in err.replace("CancelledError", "")]


def test_ctrl_c_while_messages_come_loses_no_goodbye(program):
    for _ in range(5):
        server = program(ASYNCIO.format(prelude="", wait="server.serve_forever()"))
        with connect(f"ws://127.0.0.1:{server.port}/") as client:
            for _ in range(300):
                client.send("hello")
            server.interrupt()
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    client.recv(timeout=20)
            assert closed.value.rcvd.code == 1001
        assert server.end()[0] == -2


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise LookupError"])
@pytest.mark.parametrize("face", ["plain", "asyncio"])
def test_a_program_can_end_with_a_server_running(program, face, end):
    server = program(f"""
import asyncio, fullduplex, logging, sys, threading
logging.basicConfig(level=logging.DEBUG)
from websockets.sync.client import connect
def talk(port):
    with connect(f"ws://127.0.0.1:{{port}}/") as client:
        client.send("hello")
        assert client.recv() == "hello"
if {face == "plain"}:
    server = fullduplex.Server("127.0.0.1", 0, on_message=lambda connection, message: connection.send(message)).start()
    talk(server.port)
else:
    async def echo(ws):
        await ws.send(await ws.recv())
    async def main():
        global server
        server = await fullduplex.serve(echo, "127.0.0.1", 0)
        await asyncio.get_running_loop().run_in_executor(None, talk, server.port)
    asyncio.run(main())
print("ready", flush=True)
{end}
""")
    code, _, err = server.end()
    assert code == {"": 0, "sys.exit(3)": 3, "raise LookupError": 1}[end], err
    assert "Fatal" not in err


def test_a_child_gets_a_clear_error_and_may_have_a_server_of_its_own(program):
    server = program("""
        import fullduplex, os, sys, threading
        server = fullduplex.Server("127.0.0.1", 0, on_message=lambda connection, message: connection.send(message)).start()
        child = os.fork()
        if child == 0:
            try:
                server.stop()
            except fullduplex.Error as error:
                print(error.status, error, flush=True)
            left = threading.Event()
            with fullduplex.Server(
                "127.0.0.1", 0, on_message=lambda connection, message: connection.send("child"),
                on_close=lambda connection, code, reason: left.set(),
            ) as own:
                print(own.port, flush=True)
                left.wait()
            sys.exit(5)
        print(os.WEXITSTATUS(os.waitpid(child, 0)[1]), server.port, flush=True)
        server.serve_forever()
    """)
    assert server.first_line.startswith("FDX_E_FORKED ") and "fork" in server.first_line
    child_port = int(server.line())
    with connect(f"ws://127.0.0.1:{child_port}/") as client:
        client.send("hello")
        assert client.recv(timeout=20) == "child"
    status, port = server.line().split()
    assert status == "5"
    with connect(f"ws://127.0.0.1:{port}/") as client:
        client.send("hello")
        assert client.recv(timeout=20) == "hello"


def test_an_asyncio_server_in_a_forked_child_is_a_clear_error(program):
    child = program("""
        import asyncio, fullduplex, os
        async def echo(ws):
            pass
        async def main():
            async with fullduplex.serve(echo, "127.0.0.1", 0) as server:
                child = os.fork()
                if child == 0:
                    try:
                        server.close()
                    except fullduplex.Error as error:
                        print(error.status, flush=True)
                    os._exit(0)
                os.waitpid(child, 0)
        asyncio.run(main())
    """)
    assert child.first_line == "FDX_E_FORKED"
    assert child.end()[0] == 0


def test_python_m_fullduplex(program):
    for what, path in [("echo", "/"), ("chat", "/chat")]:
        server = program("import runpy; runpy.run_module('fullduplex', run_name='__main__')", what, "--listen", "127.0.0.1:0")
        port = int(server.first_line.rpartition(":")[2])
        with connect(f"ws://127.0.0.1:{port}{path}") as client:
            client.send("hello")
            assert client.recv(timeout=20) == "hello"
        server.interrupt()
        assert server.end()[0] == 0
