"""Decides who may come in, before a connection opens.

    ws://127.0.0.1:9002/?token=letmein   opens: says "welcome" and sends every message back
    without the token                    401, and how to get in
    from a page of another site          403

A client that offers chat.v2 gets it as the subprotocol, else chat.v1 if it offers that.
"""

import asyncio
import re
from typing import Union

import fullduplex
from options import Options, serve_until_signal

LOCAL_PAGE = re.compile(r"http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?")


def comes_from_here(request: fullduplex.Request) -> bool:
    """Browsers always tell the page they act for; a program that tells nothing is no browser."""
    for name in ("Origin", "Sec-WebSocket-Origin"):  # the second is that of HyBi-07 and -08
        origin = request.headers.get(name)
        # As a whole, or http://localhost.evil.example would pass.
        if origin is not None and not LOCAL_PAGE.fullmatch(origin):
            return False
    return True


def decide(
    ws: fullduplex.WebSocket, request: fullduplex.Request,
) -> Union[fullduplex.Accept, fullduplex.Response]:
    if request.parameters.get("token", [])[:1] != ["letmein"]:
        return fullduplex.Response(401, {"WWW-Authenticate": "Bearer"}, "A token is needed: connect to /?token=letmein\n")
    if not comes_from_here(request):
        return fullduplex.Response(403, {}, "Only pages of this machine may come in.\n")
    offers = [offer.strip() for offer in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    subprotocol = next((name for name in ("chat.v2", "chat.v1") if name in offers), None)
    return fullduplex.Accept({"X-Gatekeeper": "open"}, subprotocol)


async def welcome(ws: fullduplex.WebSocket) -> None:
    await ws.send("welcome")
    async for message in ws:
        await ws.send(message)


options = Options("decides who may come in", "127.0.0.1:9002")
serving = fullduplex.serve(welcome, listen=options.listen, process_request=decide, **options.settings)
asyncio.run(serve_until_signal(serving, "the server is stopping"))
