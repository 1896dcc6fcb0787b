"""A WebSocket server: the protocol in a native library, the shape that asyncio people know.

    import asyncio, fullduplex

    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    async def main():
        async with fullduplex.serve(echo, "127.0.0.1", 9990) as server:
            await server.serve_forever()

    asyncio.run(main())

`Server` is the same without asyncio.
"""

from ._abi import fdx_version_string as _version_string
from ._backplane import Backplane
from ._config import Option, option_table
from ._handle import Published
from ._version import __version__
from .aio import AsyncServer, WebSocket, broadcast, serve
from .exceptions import (
    ConcurrencyError, ConfigError, ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, Error, ListenError, MessageTooBig,
)
from .http import Accept, Headers, Request, Response
from .plain import Connection, Event, Sent, Server

#: The library's version and what is built in.
library_version: str = _version_string().decode()

__all__ = [
    "Accept", "AsyncServer", "Backplane", "ConcurrencyError", "ConfigError", "Connection", "ConnectionClosed", "ConnectionClosedError",
    "ConnectionClosedOK", "Error", "Event", "Headers", "ListenError", "MessageTooBig", "Option", "Published", "Request", "Response", "Sent",
    "Server", "WebSocket", "__version__", "broadcast", "library_version", "option_table", "serve",
]
