"""python -m fullduplex echo|chat: a server to try things with."""

import argparse
import asyncio
import re
import signal
import sys
from pathlib import Path
from typing import Dict, List, Optional

from . import Error, Request, Response, WebSocket, library_version, serve

DEFAULT_ADDRESS = "127.0.0.1:9990"

_LOBBY = "/chat"


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def chat(ws: WebSocket) -> None:
    # A room is a topic.
    room = ws.request.path if ws.request.path.startswith("/room/") else _LOBBY
    ws.subscribe(room)
    async for message in ws:
        ws.server.publish(room, message)


def chat_page(ws: WebSocket, request: Request) -> Optional[Response]:
    if request.path not in ("/", _LOBBY) and not re.fullmatch("/room/[^/]{1,200}", request.path):
        return ws.respond(404, "There is nothing here.\n")
    if request.is_websocket:
        return None
    return Response(200, {"Content-Type": "text/html; charset=utf-8"}, _find_page().read_bytes())


def _find_page() -> Path:
    here = Path(__file__).resolve()
    in_wheel = here.with_name("chat.html")
    return in_wheel if in_wheel.exists() else here.parents[4] / "examples" / "web" / "chat.html"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fullduplex", description="A server to try things with.")
    parser.add_argument("what", choices=["echo", "chat"], help="sends every message back; or a room with its page")
    parser.add_argument("--listen", metavar="ADDR", action="append", help=f"where, also more than once (default {DEFAULT_ADDRESS})")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="an option, such as max.message=1m")
    parser.add_argument("--version", action="version", version=library_version)
    return parser.parse_args()


async def run(what: str, listen: List[str], settings: Dict[str, str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    handler, page = (echo, None) if what == "echo" else (chat, chat_page)
    async with serve(handler, listen=listen, process_request=page, **settings) as server:  # type: ignore[arg-type]
        for address in server.addresses:
            print(f"listening on {address}")
        if what == "chat" and server.port:
            print(f"open http://127.0.0.1:{server.port}/")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    arguments = read_arguments()
    settings = dict(setting.partition("=")[::2] for setting in arguments.set)
    try:
        asyncio.run(run(arguments.what, arguments.listen or [DEFAULT_ADDRESS], settings))
    except Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
