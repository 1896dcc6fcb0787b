"""Topics in both faces: who is in one gets what is published to it."""

import asyncio
import logging
import queue
import threading

import pytest
import websockets.sync.client
from websockets.asyncio.client import connect

import fullduplex
import peers
from fullduplex import Published

PATIENCE_SECONDS = 20


def serve(handler, **options):
    return fullduplex.serve(handler, "127.0.0.1", 0, **options)


def url(server, path="/"):
    return f"ws://127.0.0.1:{server.port}{path}"


async def join_the_path(ws):
    """Everybody is in the topic that the path names, and is told so."""
    ws.subscribe(ws.request.path[1:])
    await ws.send("in")
    async for _ in ws:
        pass


async def joined(server, path):
    client = await connect(url(server, path))
    assert await client.recv() == "in"
    return client


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


# -- publishing ------------------------------------------------------------------------------------


def test_what_is_published_reaches_the_subscribers_of_its_topic_and_nobody_else(run):
    async def main():
        async with serve(join_the_path) as server:
            cats = [await joined(server, "/cats") for _ in range(3)]
            dogs = await joined(server, "/dogs")
            for message in ["miaow", b"\x00\xff", "", "x" * 10_000]:
                assert server.publish("cats", message) == Published(queued=3, high_water=0, dropped=0)
                assert [await cat.recv() for cat in cats] == [message] * 3
            assert server.publish("dogs", "wuff") == Published(1, 0, 0)
            assert await dogs.recv() == "wuff"
            assert server.publish("birds", "tweet") == Published(0, 0, 0)
            assert server.stats()["topics"] == 2 and server.stats()["subscriptions"] == 4
            for client in [*cats, dogs]:
                await client.close()

    run(main())


def test_who_says_it_can_be_left_out(run):
    async def relay(ws):
        ws.subscribe("room")
        await ws.send("in")
        async for message in ws:
            ws.server.publish("room", message, exclude=ws)

    async def main():
        async with serve(relay) as server:
            ada, bert = [await joined(server, "/") for _ in range(2)]
            await ada.send("from ada")
            assert await bert.recv() == "from ada"
            await bert.send("from bert")
            assert await ada.recv() == "from bert"
            await ada.close()
            await bert.close()

    run(main())


def test_what_is_sent_and_what_is_published_keep_their_order(run):
    async def handler(ws):
        ws.subscribe("room")
        for number in range(100):
            await ws.send(f"sent {number}")
            ws.server.publish("room", f"published {number}")

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            assert [message async for message in client] == [
                f"{how} {number}" for number in range(100) for how in ("sent", "published")]

    run(main())


def test_nothing_comes_after_a_topic_was_left(run):
    async def handler(ws):
        ws.subscribe("a")
        ws.subscribe("b")
        ws.server.publish("a", "first")
        assert ws.unsubscribe("a")
        assert ws.server.publish("a", "nobody hears it") == Published(0, 0, 0)
        ws.server.publish("b", "second")

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            assert [message async for message in client] == ["first", "second"]

    run(main())


def test_to_join_or_to_leave_twice_changes_nothing(run):
    found = []

    async def handler(ws):
        found.extend([ws.subscribe("a"), ws.subscribe("a"), ws.server.topic_count("a")])
        found.extend([ws.unsubscribe("a"), ws.unsubscribe("a"), ws.server.topic_count("a")])

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            await client.wait_closed()

    run(main())
    assert found == [True, False, 1, True, False, 0]


def test_who_is_gone_is_in_no_topic(run):
    gone = []

    async def handler(ws):
        gone.append(ws)
        await join_the_path(ws)

    async def main():
        async with serve(handler) as server:
            client = await joined(server, "/room")
            assert server.topic_count("room") == 1
            await client.close()
            await gone[0].wait_closed()
            assert server.topic_count("room") == 0 and server.stats()["topics"] == 0
            assert (gone[0].subscribe("room"), gone[0].unsubscribe("room")) == (False, False)
            assert server.publish("room", "nobody") == Published(0, 0, 0)
        # Nor is that of a server that has stopped anybody's mistake.
        assert server.publish("room", "nobody") == Published(0, 0, 0)
        assert server.topic_count("room") == 0
        assert not gone[0].subscribe("room")

    run(main())


@pytest.mark.parametrize("name", ["a", "grüße/世界", b"\x00", b"\xff" * 255, "x" * 255, b"gr\xc3\xbc\xc3\x9fe"], ids=range(6))
def test_the_name_of_a_topic_is_any_text_or_bytes(run, name):
    async def handler(ws):
        assert ws.subscribe(name)
        ws.server.publish(name, "hello")

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            assert await client.recv() == "hello"

    run(main())


def test_a_topic_is_the_same_by_its_text_and_by_its_bytes(run):
    async def handler(ws):
        assert ws.subscribe("grüße")
        assert not ws.subscribe("grüße".encode())
        assert ws.server.topic_count(b"gr\xc3\xbc\xc3\x9fe") == 1
        await ws.send("right")

    async def main():
        async with serve(handler) as server, connect(url(server)) as client:
            assert await client.recv() == "right"

    run(main())


@pytest.mark.parametrize("name", ["", b"", "x" * 256, "ä" * 128])
def test_a_name_that_no_topic_can_have_is_the_callers_mistake(run, name):
    async def main():
        async with serve(join_the_path) as server:
            client = await joined(server, "/room")
            (ws,) = server.connections
            for call in (ws.subscribe, ws.unsubscribe, server.topic_count, lambda topic: server.publish(topic, "hello")):
                with pytest.raises(ValueError, match="1 to 255 bytes"):
                    call(name)
            await client.close()

    run(main())


def test_no_connection_is_in_more_topics_than_it_may(run):
    async def handler(ws):
        assert ws.subscribe("a") and ws.subscribe("b")
        with pytest.raises(fullduplex.Error) as refused:
            ws.subscribe("c")
        assert refused.value.status == "FDX_E_LIMIT"
        assert ws.unsubscribe("a") and ws.subscribe("c")
        await ws.send("right")

    async def main():
        async with serve(handler, max_topics=2) as server, connect(url(server)) as client:
            assert await client.recv() == "right"

    run(main())


def test_the_result_tells_of_those_that_do_not_keep_up(run):
    async def handler(ws):
        ws.subscribe("room")
        if ws.request.path == "/room":
            await ws.send("in")
        await ws.wait_closed()

    async def main():
        async with serve(handler, send_high_water="256k", send_low_water="64k", send_limit="1m") as server:
            quick = await joined(server, "/room")
            slow = await asyncio.get_running_loop().run_in_executor(None, peers.connect, server.port, 4096)
            await until(lambda: server.topic_count("room") == 2)
            results = []
            while not results or results[-1].dropped == 0:
                results.append(server.publish("room", b"x" * 100_000))
                assert await quick.recv() == b"x" * 100_000
                assert sum(results[-1]) == 2
            kinds = [result.index(1) if 1 in result else 0 for result in results]
            assert {Published(2, 0, 0), Published(1, 1, 0), Published(1, 0, 1)} == set(results)
            assert kinds == sorted(kinds), "first both keep up, then one does not, then it is full"
            slow.close()
            await quick.close()

    run(main())


def test_who_does_not_keep_up_is_closed_where_the_options_say_so(run):
    async def handler(ws):
        ws.subscribe("room")
        await ws.wait_closed()

    async def main():
        async with serve(handler, send_high_water="256k", send_low_water="64k", send_limit="1m", send_full="close") as server:
            slow = await asyncio.get_running_loop().run_in_executor(None, peers.connect, server.port, 4096)
            await until(lambda: server.topic_count("room") == 1)
            (ws,) = server.connections
            while server.topic_count("room") == 1:
                server.publish("room", b"x" * 100_000)
                await asyncio.sleep(0)
            await ws.wait_closed()
            slow.close()

    run(main())


@pytest.mark.parametrize("compress, is_small", [(True, True), (False, False), (None, True)])
def test_a_published_message_is_compressed_as_it_is_said(run, compress, is_small):
    async def main():
        async with serve(join_the_path, deflate="shared") as server:
            client = await joined(server, "/room")
            before = server.stats()["bytes_out"]
            server.publish("room", "x" * 10_000, compress=compress)
            assert await client.recv() == "x" * 10_000
            await until(lambda: server.stats()["bytes_out"] > before)
            assert (server.stats()["bytes_out"] - before < 1000) == is_small
            await client.close()

    run(main())


# -- comings and goings ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_who_comes_into_a_topic_and_who_leaves_it_is_told(run, is_coroutine):
    told = []

    def tell(what):
        def at_once(ws, topic, members):
            told.append((what, ws.request.query, topic, members))

        async def later(ws, topic, members):
            await asyncio.sleep(0)
            at_once(ws, topic, members)

        return later if is_coroutine else at_once

    async def handler(ws):
        ws.subscribe("room")
        async for message in ws:
            ws.unsubscribe(message)

    async def main():
        async with serve(handler, on_join=tell("join"), on_leave=tell("leave")) as server:
            ada = await connect(url(server, "/?ada"))
            await until(lambda: len(told) == 1)
            bert = await connect(url(server, "/?bert"))
            await until(lambda: len(told) == 2)
            await ada.send("room")
            await until(lambda: len(told) == 3)
            await bert.close()
            await until(lambda: len(told) == 4)
            await ada.close()

    run(main())
    assert told == [("join", "ada", "room", 1), ("join", "bert", "room", 2), ("leave", "ada", "room", 1), ("leave", "bert", "room", 0)]


def test_the_topic_that_is_told_is_the_one_that_was_joined_also_when_it_is_no_text(run):
    name, told = b"caf\xe9\x00", []

    async def handler(ws):
        ws.subscribe(name)

    async def main():
        async with serve(handler, on_join=lambda ws, topic, members: told.append(topic)) as server:
            async with connect(url(server)) as client:
                await client.wait_closed()
            assert server.publish(told[0], "nobody is left") == Published(0, 0, 0)

    run(main())
    assert [topic.encode(errors="surrogateescape") for topic in told] == [name]


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_hook_that_fails_is_logged_and_the_connection_goes_on(run, caplog, is_coroutine):
    def at_once(ws, topic, members):
        raise LookupError

    async def later(ws, topic, members):
        raise LookupError

    async def main():
        async with serve(join_the_path, on_join=later if is_coroutine else at_once) as server:
            client = await joined(server, "/room")
            await until(lambda: caplog.records)
            server.publish("room", "still here")
            assert await client.recv() == "still here"
            await client.close()

    run(main())
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "fullduplex" and record.exc_info[0] is LookupError


# -- without asyncio -------------------------------------------------------------------------------


def test_callbacks_join_publish_and_hear_of_it():
    told = queue.Queue()

    def on_open(connection):
        connection.subscribe("room")
        connection.send("in")

    with fullduplex.Server(
        "127.0.0.1", 0, on_open=on_open,
        on_message=lambda connection, message: told.put(server.publish("room", message, exclude=connection)),
        on_join=lambda connection, topic, members: told.put(("join", connection.id, topic, members)),
        on_leave=lambda connection, topic, members: told.put(("leave", connection.id, topic, members)),
        on_close=lambda connection, code, reason: told.put(("close", connection.id)),
    ) as server:
        def take():
            return told.get(timeout=PATIENCE_SECONDS)

        with websockets.sync.client.connect(url(server)) as ada, websockets.sync.client.connect(url(server)) as bert:
            assert [client.recv(timeout=PATIENCE_SECONDS) for client in (ada, bert)] == ["in", "in"]
            (_, first, *joined_first), (_, second, *joined_second) = take(), take()
            assert (joined_first, joined_second) == (["room", 1], ["room", 2])
            ada.send("hello")
            assert take() == Published(1, 0, 0)
            assert bert.recv(timeout=PATIENCE_SECONDS) == "hello"
            bert.close()
            assert (take(), take()) == (("leave", second, "room", 1), ("close", second)), "it leaves before it closes"
        assert (take(), take()) == (("leave", first, "room", 0), ("close", first))


def test_any_thread_may_publish_and_each_keeps_its_order():
    threads, messages = 4, 200
    with fullduplex.Server("127.0.0.1", 0, on_open=lambda connection: connection.subscribe("room") and connection.send("in")) as server:
        with websockets.sync.client.connect(url(server)) as client:
            assert client.recv(timeout=PATIENCE_SECONDS) == "in"

            def publish(thread):
                for number in range(messages):
                    assert server.publish("room", f"{thread} {number}").dropped == 0

            publishing = [threading.Thread(target=publish, args=(thread,)) for thread in range(threads)]
            for thread in publishing:
                thread.start()
            heard = [client.recv(timeout=PATIENCE_SECONDS).split() for _ in range(threads * messages)]
            for thread in publishing:
                thread.join()
    for thread in range(threads):
        assert [int(number) for who, number in heard if int(who) == thread] == list(range(messages))


def test_a_program_that_polls_is_told_on_request():
    server = fullduplex.Server("127.0.0.1", 0, dispatch="queue", wants=["topic"]).start()
    try:
        told = []
        with websockets.sync.client.connect(url(server)):
            while not told or told[-1].type != "close":
                for event in server.poll(PATIENCE_SECONDS):
                    told.append(event)
                    if event.type == "open":
                        assert event.connection.subscribe("a") and event.connection.subscribe("b")
                    if event.type == "join" and event.data == "b":
                        event.connection.unsubscribe("a")
                    if event.type == "leave" and event.data == "a":
                        event.connection.close()
        assert [(event.type, event.data, event.members) for event in told if event.type in ("join", "leave")] == [
            ("join", "a", 1), ("join", "b", 1), ("leave", "a", 0), ("leave", "b", 0)]
        assert len({event.connection for event in told}) == 1
    finally:
        server.close()


def test_who_does_not_ask_is_not_told():
    server = fullduplex.Server("127.0.0.1", 0, dispatch="queue").start()
    try:
        with websockets.sync.client.connect(url(server)) as client:
            kinds = []
            while "message" not in kinds:
                for event in server.poll(PATIENCE_SECONDS):
                    kinds.append(event.type)
                    if event.type == "open":
                        event.connection.subscribe("room")
                        client.send("hello")
            assert kinds == ["open", "message"]
    finally:
        server.close()
