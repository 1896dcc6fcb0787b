"""Slow handlers, slow peers, blocked loops, and a garbage collector that is always there."""

import asyncio
import gc
import os
import threading
import time
from contextlib import ExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.sync.client import connect as connect_from_thread

import fullduplex
import peers
from test_serve import serve, url


def in_thread(function, *arguments):
    """The peers of a loop that is blocked need a thread of their own."""
    return asyncio.get_running_loop().run_in_executor(None, function, *arguments)


# -- slow handlers ---------------------------------------------------------------------------------


@pytest.mark.once
def test_nothing_is_lost_and_the_order_is_kept_when_a_hundred_clients_pour_into_handlers_that_await(program):
    server = program("""
        import asyncio, fullduplex
        async def handler(ws):
            async for message in ws:
                await asyncio.sleep(0)
                await ws.send(message)
        async def main():
            async with fullduplex.serve(handler, "127.0.0.1", 0) as server:
                print(server.port, flush=True)
                await server.serve_forever()
        asyncio.run(main())
    """)
    poured = b"".join(peers.masked(b"%d" % number) for number in range(10_000))
    wanted = b"".join(peers.unmasked(b"%d" % number) for number in range(10_000))
    clients = [peers.connect(server.port) for _ in range(100)]
    heard = [None] * len(clients)
    threads = [threading.Thread(target=client.sendall, args=(poured,)) for client in clients]
    threads += [
        threading.Thread(target=lambda index=index, client=client: heard.__setitem__(index, peers.read(client, len(wanted))))
        for index, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [data == wanted for data in heard] == [True] * len(clients)
    for client in clients:
        client.close()


def test_a_handler_that_takes_its_time_holds_up_only_its_own_peer(run):
    # More than the kernel takes on its way.
    count = 20_000
    poured = b"".join(peers.masked(b"%0500d" % number) for number in range(count))
    slow = []

    async def handler(ws):
        if not slow:
            slow.append(ws)
            goes_on = ws.goes_on = asyncio.Event()
            await goes_on.wait()
        async for message in ws:
            await ws.send(message)

    async def main():
        async with serve(handler, max_queue=100) as server:
            flood = await in_thread(peers.connect, server.port)
            while not slow:
                await asyncio.sleep(0.001)
            pouring = in_thread(flood.sendall, poured)
            async with connect(url(server)) as other:
                for number in range(200):
                    await other.send(str(number))
                    assert await other.recv() == str(number)
            # What was read before the pause could take effect, and no more.
            held = len(slow[0]._messages)
            await asyncio.sleep(0.05)
            held_later, is_held_up = len(slow[0]._messages), not pouring.done()
            slow[0].goes_on.set()
            assert 100 <= held == held_later < 2000 and is_held_up
            wanted = b"".join(peers.unmasked(b"%0500d" % number) for number in range(count))
            assert await in_thread(peers.read, flood, len(wanted)) == wanted
            await pouring
            flood.close()
    run(main())


def test_a_peer_with_few_huge_messages_is_held_up_by_their_bytes(run):
    seen = []

    async def handler(ws):
        seen.append(ws)
        ws.goes_on = asyncio.Event()
        await ws.goes_on.wait()
        async for message in ws:
            seen.append(len(message))

    async def main():
        async with serve(handler) as server:
            peer = await in_thread(peers.connect, server.port)
            pouring = in_thread(peer.sendall, peers.masked(b"x" * 500_000) * 60)
            while not seen or not seen[0]._is_paused:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            held, is_held_up = len(seen[0]._messages), not pouring.done()
            seen[0].goes_on.set()
            assert held < 20 and is_held_up
            await pouring
            while len(seen) <= 60:
                await asyncio.sleep(0.001)
            peer.close()
    run(main())
    assert seen[1:] == [500_000] * 60


def test_a_paused_peer_can_be_closed_by_its_handler_and_by_the_server(run):
    codes = []

    async def handler(ws):
        while not ws._is_paused:
            await asyncio.sleep(0.001)
        if ws.request.path == "/closes":
            await ws.close(4000)
        else:
            await ws.wait_closed()
        codes.append(ws.close_code)

    async def main():
        async with serve(handler, max_queue=10, timeout_close=5) as server:
            began = time.monotonic()
            for path in ["/closes", "/waits"]:
                client = await connect(url(server, path))
                for _ in range(200):
                    await client.send("x")
                if path == "/closes":
                    await client.wait_closed()
            while not any(ws._is_paused for ws in server.connections):
                await asyncio.sleep(0.001)
        assert time.monotonic() - began < 4, "the peer's answer was not read"
    run(main())
    assert codes == [4000, 1001]


# -- slow peers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, options", [
    (20, {}), (5_000, {}), (100_000, {}), (5_000, {"send_limit": 20_000, "send_high_water": 10_000, "send_low_water": 5_000}),
    (19_000, {"send_limit": 20_000, "send_high_water": 19_000, "send_low_water": 5_000}),
], ids=["small", "middle", "large", "small limit", "one at a time"])
def test_a_send_waits_for_a_slow_peer_and_loses_nothing(run, size, options):
    count = 6_000_000 // size
    progress = [0, 0]

    async def handler(ws):
        for number in range(count):
            await ws.send(b"%0*d" % (size, number))
            progress[0] = number + 1
            if size > 20 or number % 100 == 0:
                progress[1] = max(progress[1], ws.info().get("queued_bytes", 0))

    async def main():
        async with serve(handler, **options) as server:
            peer = await in_thread(peers.connect, server.port, 4096)
            before = -1
            while before != progress[0]:
                before = progress[0]
                await asyncio.sleep(0.1)
            assert progress[0] < count, "nobody has read it"
            wanted = b"".join(peers.unmasked(b"%0*d" % (size, number), 2) for number in range(count))
            assert await in_thread(peers.read, peer, len(wanted)) == wanted
            peer.close()
    run(main())
    assert progress[1] <= max(65_536 * 2 + 32 * 4096, size + 65_536) + 65_536


def test_a_message_over_the_limit_is_an_error_of_its_sender_alone(run):
    async def handler(ws):
        with pytest.raises(fullduplex.MessageTooBig, match="300001 bytes are more than send_limit, which is 300000"):
            await ws.send(b"x" * 300_001)
        await ws.send("still here")
        await ws.wait_closed()

    async def main():
        async with serve(handler, send_limit=300_000) as server, connect(url(server)) as client:
            assert await client.recv() == "still here"
    run(main())


def test_a_send_that_waits_ends_when_the_peer_goes(run):
    ends = []

    async def handler(ws):
        try:
            while True:
                await ws.send(b"x" * 10_000)
        except fullduplex.ConnectionClosed as closed:
            ends.append(closed.code)

    async def main():
        async with serve(handler) as server:
            peer = await in_thread(peers.connect, server.port, 4096)
            await asyncio.sleep(0.1)
            assert not ends
            peer.close()
            while not ends:
                await asyncio.sleep(0.001)
    run(main())
    assert ends == [1006]


@pytest.mark.parametrize("full, stays", [(None, False), ("drop", True)])
def test_a_broadcast_waits_for_nobody(run, full, stays, caplog):
    options = {} if full is None else {"send_full": full}

    async def main():
        async with serve(send_limit=200_000, **options) as server, connect(url(server)) as good:
            slow = await in_thread(peers.connect, server.port, 4096)
            while len(server.connections) < 2:
                await asyncio.sleep(0.001)
            (its,) = [ws for ws in server.connections if ws.info()["remote_port"] == slow.getsockname()[1]]
            count = 0
            while count < 3000 and its.close_code is None:
                fullduplex.broadcast(server.connections, b"x" * 10_000)
                count += 1
                await good.recv()
            assert (its in server.connections) == stays
            fullduplex.broadcast(server.connections, "last")
            assert await good.recv() == "last"
            slow.close()
    run(main())


# -- blocked loops ---------------------------------------------------------------------------------


def test_while_the_loop_is_blocked_no_peer_is_taken_for_dead_and_memory_stays_bounded(run):
    """Times are some hundredths of the defaults, so two seconds are what some minutes are to them."""
    poured = peers.masked(b"x" * 1000) * 30_000
    blocked = threading.Event()

    async def handler(ws):
        async for message in ws:
            if message == "block":
                blocked.set()
                time.sleep(2)
            elif message == "hello":
                await ws.send(message)

    async def main():
        async with serve(handler, ping_interval=0.2, ping_timeout=0.2) as server:
            address = url(server)
            clients = await in_thread(lambda: [enter(connect_from_thread(address)) for _ in range(10)])
            flood = await in_thread(peers.connect, server.port)
            await asyncio.sleep(0.1)
            before = resident_bytes()

            def pour():
                clients[0].send("block")
                assert blocked.wait(20)
                return peers.pour(flood, poured, 0.7)
            taken = await in_thread(pour)
            assert taken < len(poured) / 2, "it was not held up"
            assert resident_bytes() - before < 20 << 20
            assert len(server.connections) == 11

            def all_speak():
                for client in clients:
                    client.send("hello")
                    assert client.recv(timeout=20) == "hello"
            await in_thread(all_speak)
            await in_thread(open_clients.close)
            flood.close()

    with ExitStack() as open_clients:
        enter = open_clients.enter_context
        run(main())


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- garbage, and many servers ---------------------------------------------------------------------


def test_garbage_collection_at_any_time_harms_nothing(run):
    async def main():
        async with serve(process_request=lambda ws, request: fullduplex.Accept({"X-Yes": "1"})) as server:
            async def talk(number):
                async with connect(url(server)) as client:
                    for message in [f"{number} {count}" for count in range(20)]:
                        await client.send(message)
                        assert await client.recv() == message
            for _ in range(3):
                await asyncio.gather(*(talk(number) for number in range(10)))

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        run(main())
    finally:
        gc.set_threshold(*before)


@pytest.mark.once
def test_a_thousand_servers_leave_nothing_behind(program):
    child = program("""
        import asyncio, fullduplex, gc, os
        from fullduplex import plain
        def figures():
            gc.collect()
            with open("/proc/self/statm") as statm:
                pages = int(statm.read().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") // 1024, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        async def handler(ws):
            pass
        async def some(count):
            for _ in range(count):
                async with fullduplex.serve(handler, "127.0.0.1", 0):
                    pass
        def some_plain(count):
            for _ in range(count):
                with fullduplex.Server("127.0.0.1", 0, on_message=lambda connection, message: None):
                    pass
        asyncio.run(some(100))
        some_plain(100)
        before = figures()
        asyncio.run(some(500))
        some_plain(500)
        print(*before, *figures(), len(plain._callbacks))
    """)
    before_kib, before_files, before_threads, after_kib, after_files, after_threads, callbacks = map(int, child.first_line.split())
    assert (after_files, after_threads, callbacks) == (before_files, before_threads, 0)
    assert after_kib - before_kib < 1500


def test_a_server_that_was_not_closed_is_given_back_with_a_warning():
    async def main():
        await serve()
    with pytest.warns(ResourceWarning, match="was not closed"):
        asyncio.run(main())
        gc.collect()
