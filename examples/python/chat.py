"""A chat room: one port serves the page and relays what one person says to all.

    python examples/python/chat.py --listen 127.0.0.1:9990 --page examples/web/chat.html
"""

import asyncio
from pathlib import Path
from typing import Optional, Set

import fullduplex
from options import Options, give_up, serve_until_signal

people: Set[fullduplex.WebSocket] = set()


async def chat(ws: fullduplex.WebSocket) -> None:
    people.add(ws)
    try:
        async for message in ws:
            if isinstance(message, bytes):
                await ws.close(1003, "this room takes text only")
            else:
                fullduplex.broadcast(people, message)
    finally:
        people.remove(ws)


def answer(ws: fullduplex.WebSocket, request: fullduplex.Request) -> Optional[fullduplex.Response]:
    if request.path == "/chat":
        return None  # come in
    if request.path in ("/", "/index.html"):
        return fullduplex.Response(200, {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-cache"}, page)
    return ws.respond(404, "There is nothing here.\n")


options = Options("a chat room with its page", "127.0.0.1:9990", page="examples/web/chat.html")
try:
    page = Path(str(options.page)).read_bytes()
except OSError as error:
    give_up(f"{options.page}: {error.strerror}")
serving = fullduplex.serve(chat, listen=options.listen, process_request=answer, **options.settings)
asyncio.run(serve_until_signal(serving, "the chat is closing", link=True))
