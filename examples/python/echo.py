"""Sends every message back to the one who sent it.

    python examples/python/echo.py --listen 127.0.0.1:9001
"""

import asyncio

import fullduplex
from options import Options, serve_until_signal


async def echo(ws: fullduplex.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)  # a peer that does not read is not read either


options = Options("sends every message back", "127.0.0.1:9001")
serving = fullduplex.serve(echo, listen=options.listen, **options.settings)
asyncio.run(serve_until_signal(serving, "the server is stopping"))
