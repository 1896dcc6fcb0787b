"""An echo server with each of Python's WebSocket libraries, to measure ours against.

    python echo.py websockets|picows|aiohttp|socketify [--listen 127.0.0.1:0] [--loop uvloop|asyncio]
    python echo.py websockets|socketify --topic     says to everybody what anybody says

Each has what its authors recommend for speed: no compression, no access log, a message as bytes where there is a choice;
picows its own core interface, not the one that it shares with websockets. socketify brings its own loop.
"""
import argparse
import asyncio
import os
import signal

LISTEN_BACKLOG = 4096
MESSAGE_BYTES_MAX = 16 << 20


async def websockets(host, port, with_topic):
    from websockets.asyncio.server import broadcast, serve
    from websockets.exceptions import ConnectionClosed

    async def echo(socket):
        try:
            async for message in socket:
                if with_topic:
                    broadcast(server.connections, message)
                else:
                    await socket.send(message)
        except ConnectionClosed:
            pass  # without a close: how the load generator leaves

    server = await serve(
        echo, host, port, compression=None, ping_interval=None, max_size=MESSAGE_BYTES_MAX, backlog=LISTEN_BACKLOG
    )
    return server.sockets[0].getsockname()[1]


async def picows(host, port, _):
    from picows import WSListener, WSMsgType, ws_create_server

    class Echo(WSListener):
        def on_ws_frame(self, transport, frame):
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    server = await ws_create_server(
        lambda request: Echo(), host, port, max_frame_size=MESSAGE_BYTES_MAX, backlog=LISTEN_BACKLOG
    )
    return server.sockets[0].getsockname()[1]


async def aiohttp(host, port, _):
    from aiohttp import WSMsgType, web

    async def echo(request):
        socket = web.WebSocketResponse(compress=False, decode_text=False, max_msg_size=MESSAGE_BYTES_MAX)
        await socket.prepare(request)
        async for message in socket:
            await socket.send_frame(message.data, message.type)
        return socket

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=LISTEN_BACKLOG).start()
    return runner.addresses[0][1]


def socketify(host, port, with_topic):
    from socketify import App, AppListenOptions

    def echo(socket, message, opcode):
        socket.send(message, opcode)

    def join(socket):
        socket.subscribe("room")

    def publish(socket, message, opcode):
        application.publish("room", message, opcode)

    application = App()
    # What waits for a slow reader is not dropped, and nobody is too silent.
    unlimited = {"max_backpressure": 0, "idle_timeout": 0}
    behaviour = {"open": join, "message": publish} if with_topic else {"message": echo}
    application.ws("/*", {**behaviour, "compression": 0, "max_payload_length": MESSAGE_BYTES_MAX, **unlimited})
    application.listen(AppListenOptions(port=port, host=host), lambda config: announce(host, config.port))
    application.run()


def announce(host, port):
    print(f"listening on {host}:{port}", flush=True)


async def run(library, host, port, with_topic):
    announce(host, await library(host, port, with_topic))
    await asyncio.get_running_loop().create_future()


def main():
    libraries = {library.__name__: library for library in (websockets, picows, aiohttp, socketify)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=libraries)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--topic", action="store_true", help="websockets and socketify only")
    options = parser.parse_args()
    host, port = options.listen.rsplit(":", 1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    library = libraries[options.library]
    if library is socketify:
        socketify(host, int(port), options.topic)
    elif options.loop == "uvloop":
        import uvloop

        uvloop.run(run(library, host, int(port), options.topic))
    else:
        asyncio.run(run(library, host, int(port), options.topic))


if __name__ == "__main__":
    main()
