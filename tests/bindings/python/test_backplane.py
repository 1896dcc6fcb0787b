"""A backplane of the program's own, in both faces: what is asked of it, and what it tells."""

import asyncio
import logging
import queue
import threading

import pytest
import websockets.sync.client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import fullduplex
from fullduplex import Published

PATIENCE_SECONDS = 20


def url(server, path="/"):
    return f"ws://127.0.0.1:{server.port}{path}"


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


class Wire:
    """Joins servers of one process. What it was asked for stands in `asked`."""

    def __init__(self):
        self.ends = []
        self.asked = queue.Queue()

    def end(self):
        self.ends.append(End(self))
        return self.ends[-1]

    def carry(self, channel, envelope):
        for end in self.ends:
            if channel in end.channels:
                end.server.deliver(channel, envelope)


class End:
    """A backplane of functions."""

    def __init__(self, wire):
        self.wire = wire
        self.channels = set()
        self.threads = set()
        self.server = None

    def publish(self, channel, envelope):
        self.threads.add(threading.get_ident())
        self.wire.carry(channel, envelope)

    def subscribe(self, channel):
        self.channels.add(channel)
        self.wire.asked.put(("subscribe", channel))

    def unsubscribe(self, channel):
        self.channels.remove(channel)
        self.wire.asked.put(("unsubscribe", channel))


class LateEnd(End):
    """The same of coroutines that take their time."""

    async def publish(self, channel, envelope):
        await asyncio.sleep(0)
        super().publish(channel, envelope)

    async def subscribe(self, channel):
        await asyncio.sleep(0.01)
        super().subscribe(channel)

    async def unsubscribe(self, channel):
        await asyncio.sleep(0)
        super().unsubscribe(channel)


class Recorder:
    """Keeps what it is asked for; `answer` may do more."""

    def __init__(self, answer=lambda *_: None):
        self.asked = []
        self.answer = answer

    def _note(self, *call):
        self.asked.append(call)
        return self.answer(*call)

    def publish(self, channel, envelope):
        return self._note("publish", channel, envelope)

    def subscribe(self, channel):
        return self._note("subscribe", channel)

    def unsubscribe(self, channel):
        return self._note("unsubscribe", channel)


async def relay(ws):
    topic = ws.request.path
    ws.subscribe(topic)
    async for message in ws:
        ws.server.publish(topic, message)


def serve(backplane, handler=relay, **options):
    return fullduplex.serve(handler, "127.0.0.1", 0, backplane=backplane, **options)


# -- asyncio ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [End, LateEnd])
def test_every_message_reaches_the_subscribers_of_both_servers_once_and_in_order(run, kind):
    count = 300

    async def main():
        wire = Wire()
        first, second = kind(wire), kind(wire)
        wire.ends = [first, second]
        async with serve(first) as one, serve(second) as two:
            first.server, second.server = one, two
            async with connect(url(one)) as ada, connect(url(two)) as bert:
                await until(lambda: first.channels and second.channels)
                for number in range(count):
                    await ada.send(f"ada {number}")
                    await bert.send(f"bert {number}".encode())
                for client in (ada, bert):
                    heard = [await client.recv() for _ in range(2 * count)]
                    assert [text for text in heard if isinstance(text, str)] == [f"ada {number}" for number in range(count)]
                    assert [data for data in heard if isinstance(data, bytes)] == [b"bert %d" % number for number in range(count)]
            await until(lambda: not first.channels and not second.channels)
        assert first.threads | second.threads == {threading.get_ident()}, "all is asked for on the loop"

    run(main())


def test_a_channel_is_subscribed_to_while_somebody_here_is_in_its_topic(run):
    async def main():
        backplane = Recorder()
        async with serve(backplane) as server:
            async with connect(url(server, "/a")), connect(url(server, "/a")):
                await until(lambda: server.topic_count("/a") == 2 and backplane.asked)
            await until(lambda: len(backplane.asked) == 2)
        assert backplane.asked == [("subscribe", b"fdx:/a"), ("unsubscribe", b"fdx:/a")]

    run(main())


def test_what_is_published_goes_out_also_when_nobody_here_is_in_its_topic(run):
    async def main():
        backplane = Recorder()
        async with serve(backplane, backplane_prefix="mine:") as server:
            assert server.publish(b"\x00\xff", "hello") == Published(0, 0, 0)
            await until(lambda: backplane.asked)
        ((what, channel, envelope),) = backplane.asked
        assert (what, channel) == ("publish", b"mine:\x00\xff")
        assert isinstance(envelope, bytes) and b"hello" in envelope

    run(main())


def test_what_a_server_has_published_itself_or_heard_before_is_nothing_to_it(run):
    async def main():
        first, second = Recorder(), Recorder()
        async with serve(first) as one, serve(second) as two, connect(url(one)) as ada, connect(url(two)) as bert:
            await until(lambda: ("subscribe", b"fdx:/") in first.asked and ("subscribe", b"fdx:/") in second.asked)
            await ada.send("hello")
            await until(lambda: len(first.asked) == 2)
            _, channel, envelope = first.asked[1]
            for server in (one, two, two):
                server.deliver(channel, envelope)
            await bert.send("good-bye")
            assert [await bert.recv() for _ in range(2)] == ["hello", "good-bye"]
            one.publish("/", "the end")
            assert [await ada.recv() for _ in range(2)] == ["hello", "the end"]

    run(main())


@pytest.mark.parametrize("channel, envelope", [(b"fdx:/", b"nonsense"), (b"fdx:/", b""), (b"fdx", b"nonsense"), (b"", b"")])
def test_what_is_no_envelope_is_refused(run, channel, envelope):
    async def main():
        async with serve(Recorder()) as server:
            with pytest.raises(fullduplex.Error):
                server.deliver(channel, envelope)

    run(main())


def test_the_loop_goes_on_while_a_backplane_takes_its_time(run):
    async def main():
        may_go_on = asyncio.Event()

        async def wait_long(*_):
            await may_go_on.wait()

        backplane = Recorder(wait_long)
        async with serve(backplane) as server, connect(url(server)) as client:
            for number in range(50):
                await client.send(str(number))
                assert await client.recv() == str(number)
            assert len(backplane.asked) == 1, "one call at a time"
            may_go_on.set()
            await until(lambda: len(backplane.asked) == 51)
        assert [call[0] for call in backplane.asked if call[0] != "unsubscribe"] == ["subscribe"] + ["publish"] * 50

    run(main())


def test_what_was_published_before_the_end_goes_out_at_the_end(run):
    async def main():
        async def take_time(*_):
            await asyncio.sleep(0.001)

        backplane = Recorder(take_time)
        async with serve(backplane) as server:
            for number in range(50):
                server.publish("room", str(number))
        assert [call[0] for call in backplane.asked] == ["publish"] * 50

    run(main())


def test_a_backplane_that_never_answers_keeps_no_server_from_stopping(run, monkeypatch):
    monkeypatch.setattr("fullduplex.aio.BACKPLANE_END_SECONDS", 0.1)

    async def main():
        async def never(*_):
            await asyncio.Event().wait()

        server = await serve(Recorder(never))
        client = await connect(url(server))
        await client.send("hello")
        assert await client.recv() == "hello"
        server.close()
        await server.wait_closed()
        await client.wait_closed()

    run(main())


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_call_that_fails_is_logged_and_the_next_is_made(run, caplog, is_coroutine):
    def at_once(*_):
        raise LookupError("of the backplane")

    async def later(*_):
        raise LookupError("of the backplane")

    async def main():
        backplane = Recorder(later if is_coroutine else at_once)
        async with serve(backplane) as server, connect(url(server)) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            await until(lambda: [call[0] for call in backplane.asked] == ["subscribe", "publish"])

    run(main())
    failed = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failed) >= 2 and {record.name for record in failed} == {"fullduplex"}
    assert {record.exc_info[0] for record in failed} == {LookupError}


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_while_it_is_down_what_is_published_waits_and_then_a_gap_is_told(run, is_coroutine):
    news = []

    def at_once(what, why):
        news.append((what, why))

    async def later(what, why):
        news.append((what, why))

    async def main():
        backplane = Recorder()
        async with serve(backplane, on_backplane=later if is_coroutine else at_once) as server, connect(url(server)) as client:
            await until(lambda: backplane.asked == [("subscribe", b"fdx:/")])
            server.backplane_state("down")
            await until(lambda: news and news[-1][0] == "down")
            for number in range(10):
                await client.send(str(number))
                assert await client.recv() == str(number), "here it goes on"
            assert len(backplane.asked) == 1
            server.backplane_state("up")
            await until(lambda: news[-1][0] == "gap")
            assert backplane.asked[:2] == [("subscribe", b"fdx:/")] * 2, "first it is subscribed anew"
            await until(lambda: len(backplane.asked) == 12)
            server.backplane_state("gap")
            await until(lambda: [what for what, _ in news].count("gap") == 2)
            assert server.stats()["backplane_lost"] == 0

    run(main())
    assert [what for what, _ in news if what != "up"] == ["down", "gap", "gap"]
    assert all(isinstance(why, str) for _, why in news)


def test_a_state_that_no_backplane_has_is_the_callers_mistake(run):
    async def main():
        async with serve(Recorder()) as server:
            with pytest.raises(ValueError, match="sideways"):
                server.backplane_state("sideways")

    run(main())


def test_without_a_backplane_of_ones_own_there_is_nothing_to_deliver_to(run):
    async def main():
        async with serve(None) as server:
            for call in (lambda: server.deliver(b"fdx:a", b"x"), lambda: server.backplane_state("up")):
                with pytest.raises(fullduplex.Error) as refused:
                    call()
                assert refused.value.status == "FDX_E_STATE"

    run(main())


class Half:
    def publish(self, channel, envelope):
        pass

    def subscribe(self, channel):
        pass


@pytest.mark.parametrize("make", [lambda backplane: fullduplex.serve(relay, "127.0.0.1", 0, backplane=backplane),
                                  lambda backplane: fullduplex.Server("127.0.0.1", 0, backplane=backplane)], ids=["asyncio", "plain"])
def test_an_object_that_is_no_backplane_is_refused(make):
    with pytest.raises(TypeError, match="unsubscribe"):
        make(Half())


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1/", "redis://"])
def test_an_address_that_is_no_backplanes_is_refused(address):
    with pytest.raises(fullduplex.ConfigError):
        fullduplex.Server("127.0.0.1", 0, backplane=address)


# -- without asyncio -------------------------------------------------------------------------------


def plain(backplane, **options):
    return fullduplex.Server("127.0.0.1", 0, backplane=backplane, **options)


def test_servers_with_callbacks_are_joined_too():
    wire = Wire()
    first, second = wire.end(), wire.end()

    def on_open(connection):
        connection.subscribe("room")

    with plain(first, on_open=on_open, on_message=lambda connection, message: one.publish("room", message)) as one, \
            plain(second, on_open=on_open) as two:
        first.server, second.server = one, two
        with websockets.sync.client.connect(url(one)) as ada, websockets.sync.client.connect(url(two)) as bert:
            assert [wire.asked.get(timeout=PATIENCE_SECONDS) for _ in range(2)] == [("subscribe", b"fdx:room")] * 2
            for number in range(300):
                ada.send(str(number))
            for client in (ada, bert):
                assert [client.recv(timeout=PATIENCE_SECONDS) for _ in range(300)] == [str(number) for number in range(300)]
        assert [wire.asked.get(timeout=PATIENCE_SECONDS) for _ in range(2)] == [("unsubscribe", b"fdx:room")] * 2
        assert threading.get_ident() not in first.threads


def test_a_call_may_block_and_holds_up_no_connection():
    may_go_on = threading.Event()
    backplane = Recorder(lambda *_: may_go_on.wait(PATIENCE_SECONDS))
    with plain(backplane, on_open=lambda connection: connection.subscribe("room"),
               on_message=lambda connection, message: server.publish("room", message)) as server:
        with websockets.sync.client.connect(url(server)) as client:
            for number in range(50):
                client.send(str(number))
                assert client.recv(timeout=PATIENCE_SECONDS) == str(number)
            assert len(backplane.asked) == 1
            may_go_on.set()
    # When it is left does not matter here.
    assert [call[0] for call in backplane.asked if call[0] != "unsubscribe"] == ["subscribe"] + ["publish"] * 50


def test_callbacks_hear_of_the_backplane():
    news = queue.Queue()
    with plain(Recorder(), on_backplane=lambda what, why: news.put(what)) as server:
        server.backplane_state("down")
        server.backplane_state("up")
        told = []
        while "gap" not in told:
            told.append(news.get(timeout=PATIENCE_SECONDS))
        assert [what for what in told if what != "up"] == ["down", "gap"]


def test_a_program_that_polls_hears_of_the_backplane_on_request():
    backplane = Recorder()
    server = plain(backplane, dispatch="queue", wants=["backplane"]).start()
    try:
        server.backplane_state("down")
        server.backplane_state("up")
        told = []
        while "gap" not in [event.data for event in told]:
            told += server.poll(PATIENCE_SECONDS)
        assert {event.type for event in told} == {"backplane"} and {event.connection.id for event in told} == {0}
        assert [event.data for event in told if event.data != "up"] == ["down", "gap"]
    finally:
        server.close()


def test_a_failure_without_asyncio_is_logged_and_the_server_goes_on(caplog):
    def fail(*_):
        raise SystemExit

    backplane = Recorder(fail)
    with plain(backplane, on_open=lambda connection: connection.subscribe("room"),
               on_message=lambda connection, message: server.publish("room", message)) as server:
        with websockets.sync.client.connect(url(server)) as client:
            for _ in range(2):
                client.send("hello")
                assert client.recv(timeout=PATIENCE_SECONDS) == "hello"
    assert {record.exc_info[0] for record in caplog.records if record.levelno >= logging.ERROR} == {SystemExit}


def test_coroutines_need_a_loop():
    with pytest.raises(TypeError, match="coroutines"):
        plain(LateEnd(Wire()))


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["plain", "queue", "asyncio", "asyncio, never closed"])
def test_a_program_can_end_while_its_backplane_is_busy(program, face):
    server = program(f"""
import asyncio, fullduplex, sys, threading, time
class Busy:
    def publish(self, channel, envelope): time.sleep(0.001)
    def subscribe(self, channel): pass
    def unsubscribe(self, channel): pass
def publish(server):
    for _ in range(300):
        server.publish("room", "x" * 100)
    print("ready", flush=True)
if {face == "plain"} or {face == "queue"}:
    server = fullduplex.Server("127.0.0.1", 0, backplane=Busy(), dispatch="io" if {face == "plain"} else "queue").start()
    publish(server)
else:
    async def main():
        global server
        server = await fullduplex.serve(lambda ws: None, "127.0.0.1", 0, backplane=Busy())
        publish(server)
        if {face == "asyncio"}:
            server.close()
            await server.wait_closed()
    asyncio.run(main())
""")
    assert server.end()[0] == 0


@pytest.mark.parametrize("prelude", ["", "import uvloop; uvloop.install()"], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("takes", ["await asyncio.sleep(0)", "await asyncio.Event().wait()"], ids=["quick", "stuck"])
def test_ctrl_c_ends_a_program_with_a_backplane_politely(program, prelude, takes):
    server = program(f"""
import asyncio, fullduplex, fullduplex.aio
{prelude}
fullduplex.aio.BACKPLANE_END_SECONDS = 0.2
class Backplane:
    async def publish(self, channel, envelope): {takes}
    async def subscribe(self, channel): {takes}
    async def unsubscribe(self, channel): {takes}
async def talk(ws):
    ws.subscribe("room")
    async for message in ws:
        ws.server.publish("room", message)
async def main():
    async with fullduplex.serve(talk, "127.0.0.1", 0, backplane=Backplane()) as server:
        print(server.port, flush=True)
        await server.serve_forever()
asyncio.run(main())
""")
    with websockets.sync.client.connect(f"ws://127.0.0.1:{server.port}/") as client:
        client.send("hello")
        assert client.recv(timeout=PATIENCE_SECONDS) == "hello"
        server.interrupt()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE_SECONDS)
        assert closed.value.rcvd.code == 1001
    code, out, err = server.end()
    assert code == -2 and out == ""
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    # One story, and nothing that was ignored, never awaited or left pending.
    assert not [word for word in ("Error", "never", "ignored", "pending", "Fatal") if word in err.replace("CancelledError", "")]


def test_a_server_that_has_stopped_lets_go_of_its_backplane(program):
    server = program("""
import fullduplex, gc, threading, weakref
class Backplane:
    def publish(self, channel, envelope): pass
    def subscribe(self, channel): pass
    def unsubscribe(self, channel): pass
backplane = Backplane()
gone = weakref.ref(backplane)
with fullduplex.Server("127.0.0.1", 0, backplane=backplane) as server:
    backplane.server = server
    server.publish("room", "hello")
del backplane, server
gc.collect()
deadline = threading.Event()
for _ in range(1000):
    if gone() is None: break
    deadline.wait(0.01)
print("gone" if gone() is None else "still there")
""")
    assert server.first_line == "gone"
    assert server.end()[0] == 0
