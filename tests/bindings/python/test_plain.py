"""`fullduplex.Server`: callbacks on the library's thread, and polling."""

import logging
import queue
import select
import threading
import time
import urllib.error
import urllib.request

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import fullduplex
import peers
from fullduplex import Sent

PATIENCE_SECONDS = 20


def serve(**options):
    return fullduplex.Server("127.0.0.1", 0, **options)


def url(server, path="/"):
    return f"ws://127.0.0.1:{server.port}{path}"


def echo(connection, message):
    connection.send(message)


# -- callbacks -------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were_sent():
    with serve(on_message=echo) as server, connect(url(server), max_size=None) as client:
        for message in ["", "hello", "grüß Gott 👋", b"", b"\x00\xff", "x" * 65_536, b"y" * 1_000_000]:
            client.send(message)
            assert client.recv(timeout=PATIENCE_SECONDS) == message


def test_a_connection_opens_speaks_and_closes():
    events = queue.Queue()
    with serve(
        on_open=lambda connection: events.put(("open", connection.request.path, connection.subprotocol, connection.remote_address)),
        on_message=lambda connection, message: events.put(("message", message)),
        on_close=lambda connection, code, reason: events.put(("close", code, reason)),
        subprotocols=["chat"],
    ) as server:
        with connect(url(server, "/room?x=1"), subprotocols=["chat"]) as client:
            port = client.local_address[1]
            client.send("one")
            client.send(b"two")
            client.close(4000, "enough")
        assert [events.get(timeout=PATIENCE_SECONDS) for _ in range(4)] == [
            ("open", "/room", "chat", ("127.0.0.1", port)), ("message", "one"), ("message", b"two"), ("close", 4000, "enough"),
        ]


@pytest.mark.parametrize("where", ["on_open", "on_message"])
@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_an_exception_in_a_callback_is_logged_and_closes_its_connection_with_1011(caplog, where, error):
    def fail(*_):
        raise error("of the callback")

    with serve(**{"on_message": echo, where: fail}) as server, connect(url(server)) as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.send("go")
            client.recv(timeout=PATIENCE_SECONDS)
        assert closed.value.rcvd.code == 1011
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "fullduplex" and record.exc_info[0] is error


def test_an_exception_in_on_close_is_logged_and_the_server_goes_on(caplog):
    with serve(on_message=echo, on_close=lambda *_: 1 / 0) as server:
        for _ in range(2):
            with connect(url(server)) as client:
                client.send("hello")
                assert client.recv(timeout=PATIENCE_SECONDS) == "hello"
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError] * 2


def test_requests_are_accepted_or_refused():
    def on_upgrade(connection):
        if connection.request.parameters.get("token") != ["letmein"]:
            return fullduplex.Response(401, {"X-Why": "token"}, "no")
        connection.data = "ada"
        return fullduplex.Accept({"X-Yes": "1"}, "b")

    with serve(on_upgrade=on_upgrade, on_message=lambda connection, message: connection.send(connection.data)) as server:
        with pytest.raises(InvalidStatus) as refused:
            connect(url(server))
        response = refused.value.response
        assert response.status_code == 401 and response.headers["X-Why"] == "token" and response.body == b"no"
        with connect(url(server, "/?token=letmein"), subprotocols=["a", "b"]) as client:
            assert client.subprotocol == "b" and client.response.headers["X-Yes"] == "1"
            client.send("who am I?")
            assert client.recv(timeout=PATIENCE_SECONDS) == "ada"


def test_plain_requests_are_answered():
    def on_http(request):
        if request.path == "/fails":
            raise LookupError
        return fullduplex.Response(201, {"X-Method": request.method}, b"got " + request.body)

    with serve(on_message=echo, on_http=on_http) as server:
        address = f"http://127.0.0.1:{server.port}/"
        with urllib.request.urlopen(address, data=b"hello", timeout=PATIENCE_SECONDS) as answer:
            assert (answer.status, answer.headers["X-Method"], answer.read()) == (201, "POST", b"got hello")
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(address + "fails", timeout=PATIENCE_SECONDS)
        assert failed.value.code == 500
        with connect(url(server)) as client:
            client.send("hello")
            assert client.recv(timeout=PATIENCE_SECONDS) == "hello"


def test_any_thread_may_send_and_close():
    opened = queue.Queue()
    with serve(on_open=opened.put) as server, connect(url(server)) as client:
        connection = opened.get(timeout=PATIENCE_SECONDS)
        threads = [
            threading.Thread(target=lambda: [connection.send("x") for _ in range(100)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        assert [client.recv(timeout=PATIENCE_SECONDS) for _ in range(400)] == ["x"] * 400
        for thread in threads:
            thread.join()
        assert server.connections == [connection] and connection.info()["msgs_out"] == 400
        connection.close(4001, "bye")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE_SECONDS)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "bye")


def test_send_tells_what_became_of_a_message():
    opened, drained = queue.Queue(), threading.Event()
    with serve(
        on_open=opened.put, on_drain=lambda connection: drained.set(), send_limit=1_000_000, send_full="drop",
    ) as server:
        peer = peers.connect(server.port, 4096)
        connection = opened.get(timeout=PATIENCE_SECONDS)
        results = []
        while Sent.FULL not in results:
            results.append(connection.send(b"x" * 10_000))
        assert results[0] is Sent.SENT and Sent.HIGH_WATER in results
        arrived = (10_000 + 4) * sum(result is not Sent.FULL for result in results)
        assert len(peers.read(peer, arrived)) == arrived
        assert drained.wait(PATIENCE_SECONDS)
        with pytest.raises(fullduplex.MessageTooBig):
            connection.send(b"x" * 1_000_001)
        peer.close()
        while connection.send("x") is not Sent.CLOSED:
            time.sleep(0.001)


def test_pause_holds_a_peer_up_and_resume_lets_it_go_on():
    opened, seen = queue.Queue(), []
    with serve(on_open=lambda connection: (connection.pause(), opened.put(connection)),
               on_message=lambda connection, message: (seen.append(message), connection.send(message))) as server:
        with connect(url(server)) as client:
            connection = opened.get(timeout=PATIENCE_SECONDS)
            client.send("hello")
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.1)
            assert seen == []
            connection.resume()
            assert client.recv(timeout=PATIENCE_SECONDS) == "hello"


def test_pongs_are_told():
    pongs = queue.Queue()
    with serve(
        on_open=lambda connection: connection.ping(b"mine"), on_pong=lambda connection, payload: pongs.put(payload),
    ) as server, connect(url(server)) as client:
        # The client's own thread answers.
        assert pongs.get(timeout=PATIENCE_SECONDS) == b"mine"
        assert client.ping().wait(PATIENCE_SECONDS)


def test_a_broadcast_reaches_all():
    with serve(on_message=lambda connection, message: server.broadcast(server.connections, message)) as server:
        with connect(url(server)) as one, connect(url(server)) as two:
            while len(server.connections) < 2:
                time.sleep(0.001)
            one.send("hello")
            assert [client.recv(timeout=PATIENCE_SECONDS) for client in (one, two)] == ["hello"] * 2


def test_several_threads_of_the_library_may_call():
    names = set()

    def on_message(connection, message):
        names.add(threading.get_ident())
        connection.send(message)

    with serve(on_message=on_message, threads=3) as server:
        clients = [connect(url(server)).__enter__() for _ in range(12)]
        for client in clients:
            client.send("hello")
        assert [client.recv(timeout=PATIENCE_SECONDS) for client in clients] == ["hello"] * 12
        for client in clients:
            client.close()
    assert 1 < len(names) <= 3


# -- starting and stopping -------------------------------------------------------------------------


def test_stop_says_goodbye_and_wait_waits():
    server = serve(on_message=echo).start()
    with connect(url(server)) as client:
        assert server.running and not server.wait(0.01)
        server.stop(4002, "closing")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE_SECONDS)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4002, "closing")
    assert server.wait(PATIENCE_SECONDS) and not server.running
    server.close()
    server.close()


def test_stop_on_another_thread_ends_serve_forever():
    server = serve(on_message=lambda connection, message: server.stop())
    server.start()
    with connect(url(server)) as client:
        client.send("stop")
        server.serve_forever()
    assert not server.running


def test_a_wrong_option_or_address_is_an_error():
    with pytest.raises(fullduplex.ConfigError, match="max.message"):
        serve(max_mesage=1)
    with pytest.raises(fullduplex.ConfigError, match="listen"):
        fullduplex.Server()
    with serve(on_message=echo) as server:
        with pytest.raises(fullduplex.ListenError, match=str(server.port)):
            fullduplex.Server("127.0.0.1", server.port).start()


def test_a_running_server_that_nobody_holds_goes_on():
    port = serve(on_message=lambda connection, message: connection.send(message)).start().port
    with connect(f"ws://127.0.0.1:{port}/") as client:
        client.send("hello")
        assert client.recv(timeout=PATIENCE_SECONDS) == "hello"


# -- polling ---------------------------------------------------------------------------------------


def test_events_can_be_polled():
    with serve(dispatch="queue", wants=["upgrade", "http", "pong"]) as server:
        told = []

        def talk():
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/page", timeout=PATIENCE_SECONDS) as answer:
                told.append(answer.read())
            with connect(url(server, "/room")) as client:
                told.append(client.response.headers["X-Yes"])
                client.send("hello")
                told.append(client.recv(timeout=PATIENCE_SECONDS))
                client.close(4000, "enough")
            with pytest.raises(InvalidStatus):
                connect(url(server, "/no"))

        talking = threading.Thread(target=talk)
        talking.start()
        seen = []
        while talking.is_alive():
            for event in server.poll(0.05):
                seen.append((event.type, event.data, event.code, event.reason))
                if event.type == "http":
                    event.connection.reply(fullduplex.Response(200, {}, "page"))
                elif event.type == "upgrade" and event.connection.request.path == "/no":
                    event.connection.reply(fullduplex.Response(403))
                elif event.type == "upgrade":
                    event.connection.accept(fullduplex.Accept({"X-Yes": "1"}))
                elif event.type == "open":
                    event.connection.ping(b"?")
                elif event.type == "message":
                    event.connection.send(event.data)
        talking.join()
        assert told == [b"page", "1", "hello"]
        expected = [
            ("http", b"", 0, ""), ("upgrade", b"", 0, ""), ("open", b"", 0, ""), ("message", "hello", 0, ""), ("pong", b"?", 0, ""),
            ("close", b"", 4000, "enough"), ("upgrade", b"", 0, ""),
        ]
        assert sorted(seen, key=str) == sorted(expected, key=str)
        assert [kind for kind, *_ in seen if kind != "pong"] == [kind for kind, *_ in expected if kind != "pong"]


def test_a_poll_waits_for_its_time_and_can_be_woken():
    with serve(dispatch="queue") as server:
        assert server.poll(0) == []
        began = time.monotonic()
        assert server.poll(0.1) == [] and time.monotonic() - began >= 0.09
        threading.Timer(0.1, server.wake).start()
        assert server.poll() == []
        with connect(url(server)):
            select.select([server.fileno()], [], [], PATIENCE_SECONDS)
            (event,) = server.poll(0)
            assert event.type == "open"


def test_polling_ends_with_the_server():
    server = serve(dispatch="queue").start()
    with connect(url(server)):
        kinds = []
        while server.running:
            for event in server.poll():
                kinds.append(event.type)
                if event.type == "open":
                    server.stop()
        assert kinds == ["open", "close"] and server.poll() == []
    server.close()


def test_queues_share_the_connections():
    with serve(dispatch="queue", queues=2, threads=2) as server:
        clients = [connect(url(server)).__enter__() for _ in range(8)]
        opened = [0, 0]
        while sum(opened) < len(clients):
            for number in (0, 1):
                opened[number] += len(server.poll(0.01, queue=number))
        assert all(opened)
        for client in clients:
            client.close()
        for thread in [threading.Thread(target=lambda: [server.poll(0.1, queue=1) for _ in range(20) if server.running])]:
            thread.start()
            server.stop()
            while server.running:
                server.poll(0.1)
            thread.join()
