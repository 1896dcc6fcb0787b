"""Topics over NATS: a backplane of one's own, made with `pip install nats-py`.

    python examples/python/nats_backplane.py --listen 127.0.0.1:9990
    python examples/python/nats_backplane.py --listen 127.0.0.1:9991

Everybody hears what is said on the same path, on whichever server. NATS_URL says where NATS is.
"""

import asyncio
import os
from typing import Dict
from urllib.parse import quote_from_bytes, unquote_to_bytes

import fullduplex
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import SlowConsumerError
from options import Options, serve_until_signal


class NatsBackplane:
    """What `fullduplex.serve` asks of a backplane, asked of NATS."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = Client()
        self._server: fullduplex.AsyncServer
        self._subscriptions: Dict[bytes, Subscription] = {}

    async def connect(self, server: fullduplex.AsyncServer) -> None:
        """Returns when NATS is there; until then what is published waits in the library."""
        self._server = server
        await self._down()
        # no_echo: the server knows what it has published itself.
        await self._client.connect(
            self._url, no_echo=True, ping_interval=5, max_reconnect_attempts=-1, reconnect_time_wait=1,
            disconnected_cb=self._down, reconnected_cb=self._up, error_cb=self._trouble)
        await self._up()

    async def close(self) -> None:
        await self._client.close()

    # What the server asks for.

    async def publish(self, channel: bytes, envelope: bytes) -> None:
        await self._client.publish(subject_of(channel), envelope)

    async def subscribe(self, channel: bytes) -> None:
        if channel not in self._subscriptions:
            self._subscriptions[channel] = await self._client.subscribe(subject_of(channel), cb=self._heard)
        # When this returns, the server relies on NATS to know.
        await self._client.flush()

    async def unsubscribe(self, channel: bytes) -> None:
        await self._subscriptions.pop(channel).unsubscribe()

    # What the server is told.

    async def _heard(self, message: Msg) -> None:
        self._server.deliver(unquote_to_bytes(message.subject), message.data)

    async def _down(self) -> None:
        self._server.backplane_state("down")

    async def _up(self) -> None:
        # The server asks anew for what it wants now.
        for channel in list(self._subscriptions):
            await self.unsubscribe(channel)
        self._server.backplane_state("up")

    async def _trouble(self, error: Exception) -> None:
        if isinstance(error, SlowConsumerError):
            self._server.backplane_state("gap")


def subject_of(channel: bytes) -> str:
    """A channel is any bytes; a subject has no blanks, and dots, stars and `>` mean something in it."""
    return quote_from_bytes(channel, safe="").replace(".", "%2E")


async def talk(ws: fullduplex.WebSocket) -> None:
    ws.subscribe(ws.request.path)
    async for message in ws:
        ws.server.publish(ws.request.path, message)


def tell(news: str, why: str) -> None:
    print(f"backplane {news}: {why}", flush=True)


async def main() -> None:
    options = Options("topics over NATS", "127.0.0.1:9990")
    backplane = NatsBackplane(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    serving = fullduplex.serve(talk, listen=options.listen, backplane=backplane, on_backplane=tell, **options.settings)
    try:
        await serve_until_signal(serving, "the server is stopping", begin=backplane.connect)
    finally:
        await backplane.close()


asyncio.run(main())
