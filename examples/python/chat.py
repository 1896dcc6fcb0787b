"""A chat: one port serves the page and relays what one person says to all in the same room.

    python examples/python/chat.py --listen 127.0.0.1:9990 --page examples/web/chat.html

The room is in the path: "/room/any-name", and the lobby is at "/" and "/chat". Each is a topic of
the library's, so with --set backplane=redis://127.0.0.1:6379 several chats are one.
"""

import asyncio
import re
from pathlib import Path
from typing import Optional

import fullduplex
from options import Options, give_up, serve_until_signal

LOBBY = "/chat"


def room_of(path: str) -> Optional[str]:
    if path in (LOBBY, "/", "/index.html"):
        return LOBBY
    return path if re.fullmatch("/room/[^/]+", path) else None


async def chat(ws: fullduplex.WebSocket) -> None:
    room = room_of(ws.request.path) or LOBBY
    try:
        ws.subscribe(room)
    except ValueError:
        await ws.close(1008, "the name of this room is too long")
    async for message in ws:
        if isinstance(message, bytes):
            await ws.close(1003, "this room takes text only")
        else:
            ws.server.publish(room, message)


def answer(ws: fullduplex.WebSocket, request: fullduplex.Request) -> Optional[fullduplex.Response]:
    if room_of(request.path) is None:
        return ws.respond(404, "There is nothing here.\n")
    if request.is_websocket:
        return None  # come in
    return fullduplex.Response(200, {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-cache"}, page)


options = Options("a chat with its page", "127.0.0.1:9990", page="examples/web/chat.html")
try:
    page = Path(str(options.page)).read_bytes()
except OSError as error:
    give_up(f"{options.page}: {error.strerror}")
# Who is too slow to follow a room is closed and comes again; nobody waits for him.
settings = {"send_full": "close", **options.settings}
serving = fullduplex.serve(chat, listen=options.listen, process_request=answer, **settings)
asyncio.run(serve_until_signal(serving, "the chat is closing", link=True))
