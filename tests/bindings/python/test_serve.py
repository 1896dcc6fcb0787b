"""`fullduplex.serve`: what asyncio programs rely on."""

import asyncio
import contextvars
import errno
import logging
import socket
import ssl
import subprocess
import urllib.error
import urllib.request

import aiohttp
import pytest
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import fullduplex
from running import on_loop

MESSAGES = ["", "hello", "grüß Gott 👋", b"", b"\x00\xff", "x" * 255, "x" * 256, "y" * 65_535, b"z" * 65_536, "ä" * 1_000_000]


async def echo(ws):
    async for message in ws:
        await ws.send(message)


def serve(handler=echo, **options):
    return fullduplex.serve(handler, "127.0.0.1", 0, **options)


def url(server, path="/"):
    return f"ws://127.0.0.1:{server.port}{path}"


def fetch(server, path):
    """A plain request, on a thread: the loop under test must go on."""
    def ask():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    return asyncio.get_running_loop().run_in_executor(None, ask)


async def all_of(server):
    """Everything that a client is told, and how it ends: (messages, code, reason)."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url(server)) as client:
        messages = []
        while True:
            message = await client.receive()
            if message.type == aiohttp.WSMsgType.CLOSE:
                return messages, message.data, message.extra
            messages.append(message.data)


# -- messages --------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were_sent(run):
    async def main():
        async with serve() as server, connect(url(server), max_size=None) as client:
            for message in MESSAGES:
                await client.send(message)
                assert await client.recv() == message
    run(main())


def test_aiohttp_is_a_peer(run):
    async def main():
        async with serve(deflate="shared") as server, aiohttp.ClientSession() as session:
            async with session.ws_connect(url(server), max_msg_size=0, compress=15) as client:
                for message in MESSAGES:
                    if isinstance(message, str):
                        await client.send_str(message)
                    else:
                        await client.send_bytes(message)
                    assert (await client.receive()).data == message
    run(main())


def test_many_messages_at_once_keep_their_order(run):
    async def main():
        async with serve() as server, connect(url(server)) as client:
            async def talk():
                for number in range(3000):
                    await client.send(str(number))
            talking = asyncio.ensure_future(talk())
            assert [await client.recv() for _ in range(3000)] == [str(number) for number in range(3000)]
            await talking
    run(main())


def test_an_order_of_short_long_and_huge_messages_is_kept(run):
    sent = [f"{number} " + "x" * size for number, size in enumerate([1, 300, 70_000, 2, 100_000, 3, 5_000, 4] * 5)]

    async def handler(ws):
        for message in sent:
            await ws.send(message)

    async def main():
        async with serve(handler) as server:
            assert await all_of(server) == (sent, 1000, "")
    run(main())


def test_recv_takes_one_message_and_tells_the_end(run):
    ends = []

    async def handler(ws):
        assert [await ws.recv(), await ws.recv()] == ["one", b"two"]
        with pytest.raises(fullduplex.ConnectionClosedOK) as closed:
            await ws.recv()
        ends.append((closed.value.code, closed.value.reason, closed.value.by))

    async def main():
        async with serve(handler) as server:
            client = await connect(url(server))
            await client.send("one")
            await client.send(b"two")
            await client.close(1000, "enough")
    run(main())
    assert ends == [(1000, "enough", "peer")]


def test_messages_before_the_end_are_read_after_it(run):
    seen = []

    async def handler(ws):
        await ws.wait_closed()
        seen.extend([message async for message in ws])

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            for number in range(5):
                await client.send(str(number))
    run(main())
    assert seen == list("01234")


def test_bytearrays_and_memoryviews_are_binary(run):
    async def handler(ws):
        await ws.send(bytearray(b"one"))
        await ws.send(memoryview(b"two"))
        with pytest.raises(TypeError, match="a message is str or bytes-like, not int"):
            await ws.send(3)

    async def main():
        async with serve(handler) as server:
            assert await all_of(server) == ([b"one", b"two"], 1000, "")
    run(main())


def test_two_tasks_cant_wait_for_the_messages_of_one_connection(run):
    async def handler(ws):
        first = asyncio.ensure_future(ws.recv())
        await asyncio.sleep(0)
        with pytest.raises(fullduplex.ConcurrencyError):
            await ws.recv()
        await ws.send(await first)

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
    run(main())


def test_a_wait_that_is_given_up_loses_no_message(run):
    async def handler(ws):
        for _ in range(20):
            try:
                await asyncio.wait_for(ws.recv(), 0.001)
            except asyncio.TimeoutError:
                pass
            else:
                pytest.fail("nobody has sent anything")
        await ws.send("now")
        # Given up and arriving at about the same time.
        numbers = []
        while len(numbers) < 200:
            try:
                numbers.append(int(await asyncio.wait_for(ws.recv(), 0.0005)))
            except asyncio.TimeoutError:
                pass
        assert numbers == list(range(200))
        await ws.send("all")
        await ws.wait_closed()

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            assert await client.recv() == "now"
            for number in range(200):
                await client.send(str(number))
                await asyncio.sleep(0.0004)
            assert await client.recv() == "all"
    run(main())


def test_each_handler_keeps_its_own_context_variables(run):
    name = contextvars.ContextVar("name")

    async def handler(ws):
        name.set(await ws.recv())
        async for message in ws:
            await ws.send(f"{name.get()} {message}")

    async def main():
        async with serve(handler) as server, connect(url(server)) as one, connect(url(server)) as two:
            await one.send("one")
            await two.send("two")
            for client, own in [(one, "one"), (two, "two")] * 3:
                await client.send("is here")
                assert await client.recv() == f"{own} is here"
    run(main())


@pytest.mark.parametrize("options", [{}, {"process_request": lambda ws, request: None}], ids=["", "asked before"])
def test_a_browser_of_2009_speaks_text_and_gets_no_binary(run, options):
    async def handler(ws):
        assert ws.version == 75
        await ws.send(await ws.recv())
        with pytest.raises(fullduplex.Error) as refused:
            await ws.send(b"binary")
        assert refused.value.status == "FDX_E_UNSUPPORTED"
        await ws.send("bye")

    async def main():
        async with serve(handler, **options) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nOrigin: null\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x00hello\xff")
            assert (await reader.read()).startswith(b"\x00hello\xff\x00bye\xff")
            writer.close()
    run(main())


def python_task(loop, coroutine, **options):
    return asyncio.tasks._PyTask(coroutine, loop=loop, **options)


@pytest.mark.parametrize("factory", [
    python_task, *([asyncio.eager_task_factory] if hasattr(asyncio, "eager_task_factory") else []),
])
def test_tasks_of_another_make_can_wait_for_messages(factory):
    async def handler(ws):
        await ws.send("welcome")
        try:
            await asyncio.wait_for(ws.recv(), 0.01)
        except asyncio.TimeoutError:
            await echo(ws)

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        async with serve(handler) as server, connect(url(server)) as client:
            assert await client.recv() == "welcome"
            await asyncio.sleep(0.05)
            for message in MESSAGES[:6]:
                await client.send(message)
                assert await client.recv() == message
    # Not on uvloop, some versions of which don't know such factories.
    on_loop("asyncio", main())


# -- what is known of a connection -----------------------------------------------------------------


def test_a_handler_knows_its_request(run):
    seen = []

    async def handler(ws):
        seen.append(ws)
        await ws.close()

    async def main():
        async with serve(handler, subprotocols=["chat.v2", "chat.v1"]) as server:
            headers = [("X-Name", "a"), ("x-name", "b"), ("X-Empty", "")]
            async with connect(url(server, "/room/%C3%A4?x=1&x=2&y="), additional_headers=headers, subprotocols=["chat.v1"]) as client:
                assert client.subprotocol == "chat.v1"
                port = client.local_address[1]
        return port
    port = run(main())
    (ws,) = seen
    request = ws.request
    assert (request.method, request.path, request.query) == ("GET", "/room/%C3%A4", "x=1&x=2&y=")
    assert request.parameters == {"x": ["1", "2"], "y": [""]}
    assert request.headers["HOST"].startswith("127.0.0.1:")
    assert request.headers["x-NAME"] == "a, b" and request.headers.get_all("X-Name") == ["a", "b"]
    assert request.headers["X-Empty"] == "" and "X-Missing" not in request.headers and request.headers.get("X-Missing") is None
    assert "upgrade" in [name.lower() for name in request.headers]
    assert ws.subprotocol == "chat.v1" and ws.remote_address == ("127.0.0.1", port)
    assert ws.version == 13 and not ws.is_secure and ws.id > 0


def test_a_long_request_is_read_whole(run):
    seen = []

    async def handler(ws):
        seen.append(ws.request)

    async def main():
        async with serve(handler) as server:
            async with connect(url(server, "/" + "p" * 3000), additional_headers={"X-Long": "v" * 8000}):
                pass
    run(main())
    assert seen[0].path == "/" + "p" * 3000 and seen[0].headers["X-Long"] == "v" * 8000


def test_attributes_can_be_kept_with_a_connection(run):
    def process_request(ws, request):
        ws.user = request.parameters["user"][0]

    async def handler(ws):
        await ws.send(ws.user)

    async def main():
        async with serve(handler, process_request=process_request) as server:
            async with connect(url(server, "/?user=ada")) as client:
                assert await client.recv() == "ada"
    run(main())


def test_a_ping_tells_its_latency(run):
    latencies = []

    async def handler(ws):
        latencies.append(await (await ws.ping()))
        latencies.append(await (await ws.ping("hello")))
        while not ws.latency:
            await asyncio.sleep(0.01)
        latencies.append(ws.latency)

    async def main():
        async with serve(handler, ping_interval=0.05) as server, connect(url(server)) as client:
            await client.wait_closed()
    run(main())
    assert len(latencies) == 3 and all(0 < seconds < 30 for seconds in latencies)


# -- ends ------------------------------------------------------------------------------------------


def test_when_a_handler_returns_its_connection_is_closed_with_1000(run):
    async def handler(ws):
        await ws.send("bye")

    async def main():
        async with serve(handler) as server:
            assert await all_of(server) == (["bye"], 1000, "")
    run(main())


def test_an_exception_in_a_handler_is_logged_and_closes_its_connection_with_1011(run, caplog):
    async def handler(ws):
        await ws.recv()
        raise LookupError("of the handler")

    async def main():
        async with serve(handler) as server, connect(url(server)) as failing, connect(url(server)) as other:
            await failing.send("go")
            with pytest.raises(ConnectionClosed) as closed:
                await failing.recv()
            assert closed.value.rcvd.code == 1011
            await (await other.ping())
    run(main())
    (record,) = [record for record in caplog.records if record.name == "fullduplex"]
    assert record.levelno == logging.ERROR and record.exc_info[0] is LookupError


@pytest.mark.parametrize("code, reason", [(1000, ""), (4321, "enough, ä"), (3000, "x" * 123), (0, "")])
def test_a_handler_closes_with_a_code_and_a_reason(run, code, reason):
    async def handler(ws):
        await ws.send("last")
        await ws.close(code, reason)
        assert ws.close_code == code or code == 0  # who gets no code may answer with one

    async def main():
        async with serve(handler) as server:
            assert await all_of(server) == (["last"], code, reason)
    run(main())


@pytest.mark.parametrize("code, reason", [(999, ""), (1005, ""), (1015, ""), (5000, ""), (1000, "x" * 124)])
def test_a_close_that_cant_be_sent_is_the_callers_mistake(run, code, reason):
    async def handler(ws):
        with pytest.raises(ValueError):
            await ws.close(code, reason)
        await ws.send("still open")

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            assert await client.recv() == "still open"
    run(main())


def test_a_peer_that_vanishes_ends_the_iteration_with_an_error(run):
    ends = []

    async def handler(ws):
        try:
            async for _ in ws:
                pass
        except fullduplex.ConnectionClosedError as closed:
            ends.append((closed.code, closed.by))

    async def main():
        async with serve(handler) as server:
            client = await connect(url(server))
            client.transport.abort()
            while server.connections or not ends:
                await asyncio.sleep(0.001)
    run(main())
    assert ends == [(1006, "network")]


def test_abort_ends_at_once(run):
    async def handler(ws):
        ws.abort()
        await ws.wait_closed()
        assert ws.close_code == 1006
        with pytest.raises(fullduplex.ConnectionClosedError, match="1006 by host"):
            await ws.send("too late")

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is None
    run(main())


def test_send_after_the_end_raises_how_it_ended(run):
    seen = []

    async def handler(ws):
        with pytest.raises(fullduplex.ConnectionClosedError) as closed:
            while True:
                await ws.send("x")
                await asyncio.sleep(0.001)
        seen.append((closed.value.code, closed.value.reason))

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            await client.recv()
            await client.close(4000, "no more")
            while not seen:
                await asyncio.sleep(0.001)
    run(main())
    assert seen == [(4000, "no more")]


def test_close_of_the_server_says_goodbye_and_waits_for_the_handlers(run):
    finished = []

    async def handler(ws):
        async for _ in ws:
            pass
        await asyncio.sleep(0.05)
        finished.append(ws.close_code)

    async def main():
        server = await serve(handler)
        clients = [await connect(url(server)) for _ in range(10)]
        while len(server.connections) < 10:
            await asyncio.sleep(0.001)
        assert server.is_serving()
        server.close(reason="see you")
        server.close()
        await server.wait_closed()
        await server.wait_closed()
        assert finished == [1001] * 10 and not server.connections and not server.is_serving()
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "see you")
    run(main())


def test_a_cancelled_server_closes(run):
    async def main():
        ready = asyncio.get_running_loop().create_future()

        async def forever():
            async with serve() as server:
                ready.set_result(server)
                await server.serve_forever()
        task = asyncio.ensure_future(forever())
        async with connect(url(await ready)) as client:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 1001
    run(main())


def test_a_cancelled_handler_closes_its_connection_with_1001(run):
    tasks = []

    async def handler(ws):
        tasks.append(asyncio.current_task())
        await ws.recv()

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            while not tasks:
                await asyncio.sleep(0.001)
            tasks[0].cancel()
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 1001
    run(main())


# -- requests --------------------------------------------------------------------------------------


def test_a_request_can_be_refused_with_headers_and_a_body(run):
    def process_request(ws, request):
        assert ws.request is request and ws.remote_address[0] == "127.0.0.1"
        return fullduplex.Response(401, {"WWW-Authenticate": "Bearer"}, "a token, please")

    async def main():
        async with serve(process_request=process_request) as server:
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(server))
            response = refused.value.response
            assert response.status_code == 401 and response.body == b"a token, please"
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert not server.connections
    run(main())


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine"])
def test_a_request_is_let_in_with_headers_and_a_subprotocol(run, is_coroutine):
    def decide(ws, request):
        return fullduplex.Accept([("X-One", "1"), ("X-Two", "2")], subprotocol="b")

    async def decide_later(ws, request):
        await asyncio.sleep(0.01)
        return decide(ws, request)

    async def main():
        async with serve(process_request=decide_later if is_coroutine else decide) as server:
            async with connect(url(server), subprotocols=["a", "b"]) as client:
                assert client.subprotocol == "b"
                assert (client.response.headers["X-One"], client.response.headers["X-Two"]) == ("1", "2")
                await client.send("hello")
                assert await client.recv() == "hello"
    run(main())


@pytest.mark.parametrize("answer", [
    lambda ws, request: 1 / 0, lambda ws, request: "a string", lambda ws, request: fullduplex.Accept(subprotocol="not offered"),
    lambda ws, request: fullduplex.Response(403, {"X-Bad": "a\r\nb"}),
], ids=["raises", "wrong type", "wrong subprotocol", "wrong header"])
def test_a_process_request_that_fails_is_answered_with_500_and_logged(run, caplog, answer):
    async def later(ws, request):
        return answer(ws, request)

    async def main():
        for process_request in (answer, later):
            async with serve(process_request=process_request) as server:
                with pytest.raises(InvalidStatus) as refused:
                    await connect(url(server))
                assert refused.value.response.status_code == 500
    run(main())
    assert [record.exc_info is not None for record in caplog.records if record.name == "fullduplex"] == [True, True]


def test_plain_requests_are_answered_beside_websockets(run):
    async def process_request(ws, request):
        if request.path == "/health":
            return ws.respond(200, f"fine, {request.method} from {ws.remote_address[0]}\n")
        if request.path == "/missing":
            return ws.respond(404, "")

    async def main():
        async with serve(process_request=process_request) as server:
            assert await fetch(server, "/health") == (200, b"fine, GET from 127.0.0.1\n")
            for path, status in [("/missing", 404), ("/", 426)]:
                with pytest.raises(urllib.error.HTTPError) as refused:
                    await fetch(server, path)
                assert refused.value.code == status
            async with connect(url(server)) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(server, "/health"))
            assert refused.value.response.status_code == 404
    run(main())


def test_clients_that_leave_while_their_request_is_looked_at_are_forgotten(run):
    async def process_request(ws, request):
        await asyncio.sleep(0.02)

    async def main():
        async with serve(process_request=process_request, timeout_handshake=5) as server:
            for _ in range(5):
                tasks = [asyncio.ensure_future(leave(server)) for _ in range(40)]
                await asyncio.gather(*tasks)
            await asyncio.sleep(0.1)
            async with connect(url(server)):
                pass
            assert len(server._newcomers) < 150 and not server.connections

    async def leave(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        await writer.drain()
        writer.transport.abort()
    run(main())


def test_only_pages_of_the_origins_may_connect(run):
    async def main():
        async with serve(origins=["https://a.example", "*.b.example"]) as server:
            for origin in [None, "https://a.example", "http://x.b.example"]:
                async with connect(url(server), origin=origin):
                    pass
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(server), origin="https://evil.example")
            assert refused.value.response.status_code == 403
    run(main())


# -- options and addresses -------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    ({"send_limt": 1}, "send.limit"), ({"max_message": "much"}, "size"), ({"ping_interval": "soon"}, "time"),
    ({"threads": -1}, "threads"), ({"dispatch": "io"}, "dispatch"),
])
def test_a_wrong_option_is_an_error_that_says_what_would_be_right(run, options, message):
    async def main():
        with pytest.raises(fullduplex.ConfigError, match=message):
            await serve(**options)
    run(main())


def test_options_take_the_values_of_python(run):
    async def main():
        async with serve(max_message=1024, timeout_idle=0.2, ping_interval=None, origins=("http://a.example", None)) as server:
            async with connect(url(server), origin="http://a.example") as client:
                with pytest.raises(ConnectionClosed) as closed:
                    await client.send("x" * 1025)
                    await client.recv()
                assert closed.value.rcvd.code == 1009
            async with connect(url(server)) as client:
                with pytest.raises(ConnectionClosed) as closed:
                    await client.recv()
                assert closed.value.rcvd.code == 1001
            server.set(max_message="1m")
            async with connect(url(server)) as client:
                await client.send("x" * 1025)
                assert len(await client.recv()) == 1025
            with pytest.raises(fullduplex.Error):
                server.set(threads=2)
    run(main())


def test_the_option_table_can_be_read():
    table = {option.name: option for option in fullduplex.option_table()}
    assert table["send.limit"].type == "size" and table["send.limit"].is_live and table["send.limit"].help
    assert {"dispatch", "queues", "recv.high_water"} <= table.keys()


def test_a_used_port_is_an_os_error_that_names_it(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as used:
            port = used.getsockname()[1]
            with pytest.raises(OSError, match=str(port)) as refused:
                await fullduplex.serve(echo, "127.0.0.1", port)
            assert isinstance(refused.value, fullduplex.ListenError)
            assert refused.value.errno == errno.EADDRINUSE
    run(main())


def test_one_server_listens_at_several_addresses(run, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        async with fullduplex.serve(echo, ["127.0.0.1", "localhost"], 0, listen=f"unix:{path}") as server:
            unix, one, two = server.addresses
            assert unix == f"unix:{path}" and one.startswith("127.0.0.1:") and two.startswith("localhost:")
            assert server.port == int(one.rpartition(":")[2])
            for client in [await connect(f"ws://{one}/"), await connect(f"ws://{two}/"), await unix_connect(path)]:
                await client.send("hello")
                assert await client.recv() == "hello"
                await client.close()
    run(main())


def make_certificate(folder):
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    return key, certificate


def test_tls(run, tmp_path):
    key, certificate = make_certificate(tmp_path)

    async def handler(ws):
        await ws.send(str(ws.is_secure))

    async def main():
        async with serve(handler, tls_cert=certificate, tls_key=key) as server:
            context = ssl.create_default_context(cafile=str(certificate))
            async with connect(f"wss://127.0.0.1:{server.port}/", ssl=context) as client:
                assert await client.recv() == "True"
        with pytest.raises(fullduplex.Error, match="missing.pem"):
            await serve(tls_cert="missing.pem", tls_key=key)
    run(main())


def test_addresses_and_certificates_can_come_while_a_server_runs(run, tmp_path):
    key, certificate = make_certificate(tmp_path)

    async def main():
        async with serve() as server:
            port = server.listen("127.0.0.1:0")
            assert server.addresses == [f"127.0.0.1:{server.port}", f"127.0.0.1:{port}"]
            server.set_certificate(certificate.read_bytes(), key.read_bytes())
            secure = server.listen("127.0.0.1:0?tls=1")
            context = ssl.create_default_context(cafile=str(certificate))
            for address, options in [(f"ws://127.0.0.1:{port}/", {}), (f"wss://127.0.0.1:{secure}/", {"ssl": context})]:
                async with connect(address, **options) as client:
                    await client.send("hello")
                    assert await client.recv() == "hello"
    run(main())


def test_a_server_counts(run):
    async def main():
        async with serve() as server, connect(url(server)) as client:
            await client.send("hello")
            await client.recv()
            stats = server.stats()
            assert stats["connections"] == 1 and stats["msgs_in"] == stats["msgs_out"] == 1
            assert "fullduplex_" in server.metrics()
            (ws,) = server.connections
            assert ws.info()["msgs_in"] == 1
    run(main())


# -- broadcast and the log -------------------------------------------------------------------------


def test_a_broadcast_reaches_all(run):
    async def main():
        async with serve() as server:
            clients = [await connect(url(server)) for _ in range(20)]
            while len(server.connections) < 20:
                await asyncio.sleep(0.001)
            for message in ["hello", b"\x00", "x" * 100_000]:
                fullduplex.broadcast(server.connections, message)
                assert [await client.recv() for client in clients] == [message] * 20
            gone = next(iter(server.connections))
            gone.abort()
            await gone.wait_closed()
            fullduplex.broadcast([*server.connections, gone], "without one")
            heard = await asyncio.gather(*(client.recv() for client in clients), return_exceptions=True)
            assert heard.count("without one") == 19
    run(main())


@pytest.mark.parametrize("threads", [1, 4])
def test_much_to_log_on_several_threads_holds_nothing_up(run, caplog, threads):
    caplog.set_level(logging.DEBUG, "fullduplex")

    async def rude(server, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"nonsense\r\n\r\n" if number % 2 else b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                     b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                     b"\xff\xff\xff")
        await reader.read()
        writer.close()

    async def main():
        async with serve(threads=threads) as server, connect(url(server)) as client:
            for _ in range(5):
                await asyncio.gather(*(rude(server, number) for number in range(40)))
                await client.send("hello")
                assert await client.recv() == "hello"
    run(main())
    assert sum(record.name == "fullduplex" for record in caplog.records) >= 200


def test_what_the_library_has_to_say_goes_to_the_logger(run, caplog):
    caplog.set_level(logging.INFO, "fullduplex")

    async def main():
        async with serve() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"nonsense\r\n\r\n")
            await reader.read()
            writer.close()
    run(main())
    assert any(record.name == "fullduplex" and record.levelno == logging.INFO for record in caplog.records)
