"""The asyncio face: `serve`, and the connections that its handlers get.

One descriptor tells the loop that the library has events. They are taken in batches: a batch is
copied and given back at once, its messages go to their connections' queues, and then the tasks
that wait for them go on. What they send meanwhile is gathered and goes to the library in one call.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import os
import struct
import time
import types
import warnings
from collections import deque
from types import TracebackType
from typing import (
    Any, Awaitable, Callable, Deque, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, Type, Union,
)

from . import _abi
from ._backplane import Attached, Backplane, OnLoop, split
from ._config import Config, Host, addresses
from ._handle import (
    NEWS, BaseConnection, BaseServer, Handle, Message, Newcomers, Published, Topic, check_gone, close_reason, encode, send_to_many,
    topic_of_name,
)
from ._log import logger
from ._waiting import Waiters, Wakeup
from .exceptions import (
    CLOSED_BY, ConcurrencyError, ConfigError, ConnectionClosed, ConnectionClosedOK, Error, MessageTooBig, check, connection_closed, failure,
)
from .http import FAILED, NO_WEBSOCKET, Decision, Request, Response, decide, reply, respond

Data = Union[str, bytes]
Handler = Callable[["WebSocket"], Awaitable[Any]]
ProcessRequest = Callable[["WebSocket", Request], Union[Decision, Awaitable[Decision]]]
OnTopic = Callable[["WebSocket", str, int], object]
OnBackplane = Callable[[str, str], object]

# A batch of more would hold up the loop's other work.
BATCH_EVENTS_MAX = 1024
# A longer block is not copied as a whole: each message is copied alone.
BLOCK_COPY_BYTES_MAX = 1 << 16

# Shorter payloads are packed in one step, and counted by the record.
SMALL_BYTES = 256
# What waits to be submitted, at most: so many records, or so many bytes of longer payloads.
OUTBOX_RECORDS_MAX = 256
OUTBOX_BYTES_MAX = 1 << 16

# Messages up to this length are limited by their number alone.
COUNTED_LENGTH = 4096
QUEUE_LENGTH_MAX = 1 << 20

# So long may a backplane of the program's take to publish what is left at the end.
BACKPLANE_END_SECONDS = 2.0

# The versions that have no binary messages.
_TEXT_ONLY = (75, 76)
# In the one loop that every message passes a global is quicker than an attribute.
_MESSAGE, _IS_BINARY, _TEXT, _BINARY = _abi.EV_MESSAGE, _abi.EVF_BINARY, _abi.TEXT, _abi.BINARY

_RECORDS: List[Callable[..., bytes]] = [struct.Struct(f"@QII{length}s{-length % 8}x").pack for length in range(SMALL_BYTES)]
_PADDING = [b"\0" * (-length % 8) for length in range(8)]


class Hooks(NamedTuple):
    """What a program wants to be asked or told."""

    process_request: Optional[ProcessRequest]
    on_join: Optional[OnTopic]
    on_leave: Optional[OnTopic]
    on_backplane: Optional[OnBackplane]


class serve:
    """Starts a server.

        async with fullduplex.serve(handler, "127.0.0.1", 9990) as server:
            await server.serve_forever()

    or `server = await fullduplex.serve(...)`. `handler(ws)` is a coroutine, one for each
    connection; when it returns the connection is closed with 1000, and with 1011 when it fails.

    host and port are an address, or host alone: "127.0.0.1:9990", "unix:/run/chat.sock"; `listen`
    adds more. `process_request(ws, request)`, a function or a coroutine, answers what comes in:
    None or an `Accept` lets it in, a `Response` refuses it, or answers a plain HTTP request.
    `origins` and `subprotocols` are lists. `max_queue` messages of a connection wait for its
    handler at most; above it the peer is not read. Every option of the library is a keyword:
    `max_message=1 << 20, ping_interval=10, send_limit="4m", tls_cert="cert.pem", ...`.

    on_join(ws, topic, members) and on_leave(ws, topic, members) tell who comes into a topic and who
    leaves it, and how many connections of this server are in it then. `backplane` is the address of
    a Redis, or a `Backplane` of yours; on_backplane(news, why) tells that it is "up", "down", or had
    a "gap". All three are functions or coroutines.
    """

    def __init__(
        self,
        handler: Handler,
        host: Host = None,
        port: Optional[int] = None,
        *,
        listen: Union[None, str, Iterable[str]] = None,
        process_request: Optional[ProcessRequest] = None,
        on_join: Optional[OnTopic] = None,
        on_leave: Optional[OnTopic] = None,
        on_backplane: Optional[OnBackplane] = None,
        backplane: Union[None, str, Backplane] = None,
        origins: Optional[Iterable[Optional[str]]] = None,
        subprotocols: Optional[Iterable[str]] = None,
        max_queue: int = 256,
        **options: object,
    ) -> None:
        if origins is not None:
            options["origins"] = origins
        if subprotocols is not None:
            options["protocols"] = subprotocols
        address, self._backplane = split(backplane)
        if address is not None:
            options["backplane"] = address
        self._handler, self._max_queue = handler, max_queue
        self._hooks = Hooks(process_request, on_join, on_leave, on_backplane)
        self._listen = addresses(host, port, listen, "tls_cert" in options)
        self._options = options
        self._server: Optional[AsyncServer] = None

    async def _begin(self) -> AsyncServer:
        server = AsyncServer(
            asyncio.get_running_loop(), self._handler, self._hooks, self._backplane, self._max_queue, self._listen,
            dict(self._options))
        try:
            server._start()
        except BaseException:
            server._handle.free()
            raise
        self._server = server
        return server

    def __await__(self) -> Generator[Any, None, AsyncServer]:
        return self._begin().__await__()

    async def __aenter__(self) -> AsyncServer:
        return await self._begin()

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType],
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


def broadcast(connections: Iterable[WebSocket], message: Message) -> None:
    """Sends one message to many, sharing its bytes, and waits for nobody. Who is gone is skipped;
    who has `send_limit` bytes waiting for it is cut, unless `send_full="drop"` was said."""
    by_server: Dict[AsyncServer, List[WebSocket]] = {}
    for ws in connections:
        if not ws._is_closing:
            by_server.setdefault(ws._server, []).append(ws)
    for server, members in by_server.items():
        server._flush()
        status, results = send_to_many(server._handle, [ws.id for ws in members], message)
        if status == _abi.OK:
            continue
        for ws, result in zip(members, results):
            if result == _abi.E_FULL:
                if server._cuts_slow:
                    logger.warning("cut connection %d: it is too slow for what is broadcast", ws.id)
                    ws.abort()
            elif result == _abi.E_TOO_BIG:
                raise failure(result)
            elif result != _abi.E_UNSUPPORTED:
                ws._sent(result)


class WebSocket(BaseConnection):
    """A connection. Its messages come by `async for message in ws` or `await ws.recv()`: str for
    text, bytes for binary."""

    __slots__ = (
        "_server", "_outbox", "_messages", "_long_length", "_wakeup", "_is_paused", "_is_counted", "_is_held", "_is_full",
        "_is_closing", "_closed", "_drained", "_ended", "_pongs", "__dict__",
    )

    def __init__(self, server: AsyncServer, conn: int) -> None:
        super().__init__(server._handle, conn)
        self._server = server
        self._outbox = server._outbox
        self._messages: Deque[Data] = deque()
        # Of the messages that are longer than `COUNTED_LENGTH`.
        self._long_length = 0
        self._wakeup = Wakeup(server._loop)
        self._is_paused = False
        # It is paused or has long messages, so what is taken matters.
        self._is_counted = False
        # A send has to look closer: the peer does not keep up, the connection ends, or has no binary messages.
        self._is_held = False
        self._is_full = False
        self._is_closing = False
        self._closed: Optional[Tuple[int, str, Optional[str]]] = None
        self._drained = Waiters(server._loop)
        self._ended = Waiters(server._loop)
        self._pongs: Dict[bytes, Tuple[asyncio.Future[float], float]] = {}

    @property
    def server(self) -> AsyncServer:
        return self._server

    # -- receiving ---------------------------------------------------------------------------------

    def __aiter__(self) -> WebSocket:
        return self

    @types.coroutine
    def __anext__(self) -> Generator[Any, None, Data]:
        # One generator for each message and nothing else to await: every message passes here.
        messages = self._messages
        while not messages:
            if self._closed is not None:
                closed = self._exception()
                if isinstance(closed, ConnectionClosedOK):
                    raise StopAsyncIteration
                raise closed
            wakeup = self._wakeup
            if wakeup.callback is not None:
                raise ConcurrencyError("another task waits for the messages of this connection")
            wakeup._asyncio_future_blocking = True
            yield wakeup
        message = messages.popleft()
        if self._is_counted:
            self._took(message)
        return message

    async def recv(self) -> Data:
        """The next message. Raises `ConnectionClosed` when there will be none."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise self._exception() from None

    def _took(self, message: Data) -> None:
        if len(message) > COUNTED_LENGTH:
            self._long_length -= len(message)
        if self._is_paused and not self._is_crowded(2):
            self._is_paused = False
            _abi.fdx_resume(self._handle.pointer, self.id)
        self._is_counted = self._is_paused or self._long_length > 0

    def _is_crowded(self, divisor: int) -> bool:
        return (len(self._messages) > self._server._queue_max // divisor or self._long_length > QUEUE_LENGTH_MAX // divisor)

    # -- sending -----------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Sends text for a str, binary for bytes. While the peer does not keep up it waits, so that
        a slow peer slows down who sends to it. Raises `ConnectionClosed`."""
        # The way of a short message: every step of it counts.
        if type(message) is str:
            kind, payload = _TEXT, message.encode()
        elif type(message) is bytes:
            kind, payload = _BINARY, message
        else:
            kind, payload = encode(message)
        if self._is_held:
            await self._can_send(kind)
        server = self._server
        length = len(payload)
        if length < server._small_bytes:
            outbox = self._outbox
            outbox.append(_RECORDS[length](self.id, kind, length, payload))
            if len(outbox) < OUTBOX_RECORDS_MAX:
                if not server._will_flush:
                    server._flush_soon()
                return
            server._flush()
        elif length < server._gathered_bytes:
            server._outbox.append(_abi.RECORD.pack(self.id, kind, length) + payload + _PADDING[length & 7])
            server._outbox_bytes += length
            if server._outbox_bytes >= OUTBOX_BYTES_MAX:
                server._flush()
            elif not server._will_flush:
                server._flush_soon()
        else:
            await self._send_alone(kind, payload)
        if self._is_held:
            await self._can_send(kind)

    async def _can_send(self, kind: int) -> None:
        while self._is_full and not self._is_closing:
            await self._drained.wait()
        if self._is_closing:
            # How it ended is known at its end only.
            await self.wait_closed()
            raise self._exception()
        if kind == _abi.BINARY and self.version in _TEXT_ONLY:
            raise failure(_abi.E_UNSUPPORTED)

    async def _send_alone(self, kind: int, payload: bytes) -> None:
        server = self._server
        server._flush()
        if len(payload) > self._handle.send_limit_bytes:
            raise MessageTooBig(
                f"{len(payload)} bytes are more than send_limit, which is {self._handle.send_limit_bytes}", _abi.E_TOO_BIG)
        refusals = 0
        while True:
            if self._is_held:
                await self._can_send(kind)
            status = _abi.fdx_send(self._handle.pointer, self.id, kind, payload, len(payload), 0)
            if status != _abi.E_FULL:
                break
            self._hold()
            refusals += 1
            if refusals > 1:
                # Little is queued, but with this message it would be too much.
                await asyncio.sleep(0.005)
        self._sent(status)

    def _sent(self, status: int) -> None:
        """What became of a message of ours."""
        if status == _abi.OK:
            return
        if status == _abi.HIGH_WATER:
            self._hold()
        elif status in (_abi.E_NO_CONN, _abi.E_CLOSING, _abi.E_STOPPED):
            # Its CLOSE is on the way.
            self._is_held = self._is_closing = True
            self._drained.wake()
        else:
            raise failure(status)

    def _hold(self) -> None:
        self._is_held = self._is_full = True

    async def ping(self, data: Union[None, str, bytes] = None) -> Awaitable[float]:
        """Sends a ping; the result can be awaited for the seconds until its pong.

            latency = await (await ws.ping())
        """
        payload = os.urandom(4) if data is None else data.encode() if isinstance(data, str) else data
        if self._is_closing:
            await self.wait_closed()
            raise self._exception()
        if payload in self._pongs:
            raise ConcurrencyError("a ping with the same data is under way")
        server = self._server
        server._flush()
        future: asyncio.Future[float] = server._loop.create_future()
        self._pongs[payload] = future, time.perf_counter()
        status = _abi.fdx_ping(self._handle.pointer, self.id, payload, len(payload))
        if status < 0:
            del self._pongs[payload]
            self._sent(status)
            await self.wait_closed()
            raise self._exception()
        return future

    # -- closing -----------------------------------------------------------------------------------

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes and waits for the end, for `timeout_close` at most. What was sent before goes first."""
        self._begin_close(code, reason)
        await self.wait_closed()

    def _begin_close(self, code: int, reason: str = "") -> None:
        text = close_reason(code, reason)
        if self._closed is not None:
            return
        self._server._flush()
        _abi.fdx_close(self._handle.pointer, self.id, code, text, len(text))
        self._is_held = self._is_closing = True
        self._drained.wake()

    async def wait_closed(self) -> None:
        while self._closed is None:
            await self._ended.wait()

    @property
    def close_code(self) -> Optional[int]:
        """None while it is open."""
        return None if self._closed is None else self._closed[0]

    @property
    def close_reason(self) -> Optional[str]:
        return None if self._closed is None else self._closed[1]

    def _exception(self) -> ConnectionClosed:
        assert self._closed is not None
        return connection_closed(*self._closed)

    def _end(self, code: int, reason: str, by: Optional[str]) -> None:
        """CLOSE was told."""
        self._closed = code, reason, by
        self._is_held = self._is_closing = True
        self._drained.wake()
        self._ended.wake()
        for future, _ in self._pongs.values():
            if not future.done():
                future.set_exception(self._exception())
                future.exception()  # who does not wait for it shall not be bothered
        self._pongs.clear()

    # -- for process_request -----------------------------------------------------------------------

    def respond(self, status: int, text: str) -> Response:
        """An answer for `process_request`: plain text."""
        return respond(status, text)


class AsyncServer(BaseServer):
    """A server that runs; `serve` makes it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handler: Handler, hooks: Hooks, backplane: Optional[Backplane], max_queue: int,
        listen: List[str], options: Dict[str, object],
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._hooks = hooks
        self._backplane = None if backplane is None else OnLoop(loop, backplane)
        self._ending: Optional[asyncio.Task[None]] = None
        self._queue_max = max_queue
        self._connections: Dict[int, WebSocket] = {}
        self._newcomers: Newcomers[WebSocket] = Newcomers()
        self._tasks: Set[asyncio.Task[None]] = set()
        self._view = _abi.sized(_abi.BatchView)
        self._view_pointer = ctypes.byref(self._view)
        # The rest of a batch.
        self._events: Optional[Iterator[Tuple[Any, ...]]] = None
        self._block: Optional[bytes] = None
        # Whose first message of late has just come.
        self._ready: Deque[WebSocket] = deque()
        self._has_newcomers = False
        self._crowded: List[WebSocket] = []
        self._outbox: List[bytes] = []
        self._outbox_bytes = 0
        self._results = (ctypes.c_int32 * (2 * OUTBOX_RECORDS_MAX))()
        self._will_flush = False
        self._is_stopped = False
        self._is_closing = False
        self._stopping = Waiters(loop)
        self._reads_fd: Optional[int] = None

        for taken in {"dispatch", "queues"} & options.keys():
            raise ConfigError(f"serve sets {taken} itself; `fullduplex.Server` has a choice", _abi.E_CONFIG)
        with Config() as config:
            # A message that finds no room is sent again when there is some: nothing is closed for it.
            self._cuts_slow = not {"send_full", "send.full"} & options.keys()
            if self._cuts_slow:
                options["send_full"] = "drop"
            config.set_all(options, listen)
            config.set("dispatch", "queue")
            config.set("queues", "1")
            handlers = _abi.sized(_abi.Handlers)
            handlers.flags = _abi.ROUTE_OTHER
            if hooks.process_request is not None:
                handlers.flags |= _abi.ROUTE_UPGRADE | _abi.ROUTE_HTTP
            if hooks.on_join is not None or hooks.on_leave is not None:
                handlers.flags |= _abi.ROUTE_TOPIC
            config.route("/*", handlers)
            attached = None if self._backplane is None else Attached(config, self._backplane)
            self._handle = Handle(config, listen)
            if attached is not None:
                attached.handle = self._handle
        self._set_limits()

    def _set_limits(self) -> None:
        # Only where what is gathered can't reach the limit by itself are results looked at later.
        gathers = self._handle.send_limit_bytes >= self._handle.high_water_bytes + 4 * OUTBOX_BYTES_MAX
        self._small_bytes = SMALL_BYTES if gathers else 0
        self._gathered_bytes = OUTBOX_BYTES_MAX if gathers else 0

    def _start(self) -> None:
        self._handle.start()
        descriptor = ctypes.c_ssize_t()
        check(_abi.fdx_queue_fd(self._handle.pointer, 0, ctypes.byref(descriptor)))
        self._reads_fd = descriptor.value
        self._loop.add_reader(self._reads_fd, self._read)

    # -- for programs ------------------------------------------------------------------------------

    @property
    def connections(self) -> Set[WebSocket]:
        """Those that are open."""
        return set(self._connections.values())

    def is_serving(self) -> bool:
        return not self._is_closing

    def set(self, **options: object) -> None:
        """Changes options while it runs: those that the option table marks as live."""
        super().set(**options)
        self._set_limits()

    def publish(
        self, topic: Topic, message: Message, *, exclude: Optional[BaseConnection] = None, compress: Optional[bool] = None,
    ) -> Published:
        # Behind what was sent before.
        self._flush()
        return super().publish(topic, message, exclude=exclude, compress=compress)

    def close(self, code: int = 1001, reason: str = "", *, deadline: float = 5.0, spread: float = 0.0) -> None:
        """Begins to stop: nobody comes in any more, every connection is closed, over `spread`
        seconds, and what is left after `deadline` seconds is cut."""
        if self._is_closing or self._is_stopped:
            return
        self._flush()
        self._handle.stop(code, reason, spread, deadline)
        self._is_closing = True

    async def wait_closed(self) -> None:
        """Waits until it has stopped and every handler has returned."""
        while not self._is_stopped:
            await self._stopping.wait()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks)

    async def serve_forever(self) -> None:
        """Waits until it is closed, or this is cancelled; then it closes."""
        try:
            while not self._is_stopped:
                await self._stopping.wait()
        finally:
            self.close()
            await self.wait_closed()

    async def __aenter__(self) -> "AsyncServer":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None and handle.pointer is not None:
            if self._reads_fd is not None:
                warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self)
            if self._backplane is not None:
                self._backplane.close()
            handle.free()

    def __repr__(self) -> str:
        return f"<fullduplex.AsyncServer {' '.join(self._handle.addresses()) if self._handle.pointer else 'stopped'}>"

    # -- events ------------------------------------------------------------------------------------

    def _read(self) -> None:
        """The queue is not empty, or an interrupted batch has a rest."""
        view = self._view
        events = self._events
        if events is None:
            if self._handle.pointer is None:
                return
            status = _abi.fdx_poll(self._handle.pointer, 0, BATCH_EVENTS_MAX, 0, self._view_pointer)
            if status != _abi.OK:
                self._read_nothing(status)
                return
            stride = view.stride
            events = self._events = _abi.event_unpacker(stride).iter_unpack(_abi.bytes_at(view.events, view.count * stride))
            length = view.block_len
            self._block = _abi.bytes_at(view.block, length) if 0 < length <= BLOCK_COPY_BYTES_MAX else None
        # What handlers send in the meantime is flushed at the end.
        self._will_flush = True
        try:
            self._distribute(events)
        except BaseException:
            # The event that failed is lost; those behind it must not be.
            self._loop.call_soon(self._read)
            raise
        self._events = self._block = None
        # Once, also where a handler has run the loop inside of itself.
        batch, view.batch = view.batch, None
        _abi.fdx_batch_free(batch)
        if self._has_newcomers:
            # Their handlers begin first: what somebody says after they came must find them there.
            self._has_newcomers = False
            self._loop.call_soon(self._wake_ready)
        else:
            self._wake_ready()

    def _distribute(self, events: Iterator[Tuple[Any, ...]]) -> None:
        # A connection is unknown only where Ctrl-C has interrupted its OPEN.
        connections, ready, block, queue_max = self._connections, self._ready, self._block, self._queue_max
        base = self._view.block
        for kind, flags, conn, data, length, code, arg in events:
            if kind == _MESSAGE:
                ws = connections.get(conn)
                if ws is None:
                    continue
                message: Data
                if block is not None:
                    data -= base
                    message = block[data:data + length]
                    if not flags & _IS_BINARY:
                        message = message.decode()
                elif flags & _IS_BINARY:
                    message = _abi.bytes_at(data, length) if length else b""
                else:
                    message = _abi.text_at(data, length)
                messages = ws._messages
                if not messages:
                    ready.append(ws)
                elif len(messages) >= queue_max:
                    self._crowded.append(ws)
                messages.append(message)
                if length > COUNTED_LENGTH and len(message) > COUNTED_LENGTH:
                    ws._long_length += len(message)
                    ws._is_counted = True
                    if ws._long_length > QUEUE_LENGTH_MAX:
                        self._crowded.append(ws)
            else:
                self._event(kind, conn, data, length, code, arg)

    def _wake_ready(self) -> None:
        """The tasks that wait for messages go on."""
        ready = self._ready
        try:
            while ready:
                wakeup = ready.popleft()._wakeup
                callback = wakeup.callback
                if callback is not None:
                    wakeup.callback = None
                    wakeup.context.run(callback, wakeup)
        except BaseException:
            self._loop.call_soon(self._wake_ready)
            raise
        self._flush()
        if self._crowded:
            for ws in self._crowded:
                if not ws._is_paused and not ws._is_closing and ws._is_crowded(1):
                    ws._is_paused = ws._is_counted = True
                    _abi.fdx_pause(self._handle.pointer, ws.id)
            self._crowded.clear()

    def _event(self, kind: int, conn: int, data: int, length: int, code: int, arg: int) -> None:
        ws: Optional[WebSocket]
        if kind == _abi.EV_OPEN:
            ws = self._newcomers.take(conn) or self._new_connection(conn)
            ws.subprotocol = _abi.text_at(data, length) or None
            ws._is_held = ws.version in _TEXT_ONLY
            self._connections[conn] = ws
            self._has_newcomers = True
            self._spawn(self._run_handler(ws))
        elif kind == _abi.EV_CLOSE:
            ws = self._connections.pop(conn, None)
            if ws is not None:
                ws._end(code, _abi.text_at(data, length), CLOSED_BY.get(arg))
                self._ready.append(ws)
        elif kind == _abi.EV_DRAIN:
            ws = self._connections.get(conn)
            if ws is not None:
                ws._is_full = False
                ws._is_held = ws._is_closing or ws.version in _TEXT_ONLY
                ws._drained.wake()
        elif kind == _abi.EV_PONG:
            ws = self._connections.get(conn)
            pong = ws._pongs.pop(_abi.bytes_at(data, length) if length else b"", None) if ws is not None else None
            if pong is not None and not pong[0].done():
                pong[0].set_result(time.perf_counter() - pong[1])
        elif kind == _abi.EV_TOPIC:
            ws = self._connections.get(conn)
            on_topic = self._hooks.on_join if code == _abi.TOPIC_JOINED else self._hooks.on_leave
            if ws is not None and on_topic is not None:
                self._tell(on_topic, ws, topic_of_name(_abi.bytes_at(data, length)), arg)
        elif kind == _abi.EV_BACKPLANE:
            if self._hooks.on_backplane is not None:
                self._tell(self._hooks.on_backplane, NEWS[code], _abi.text_at(data, length))
        elif kind == _abi.EV_UPGRADE:
            self._decide(conn)
        elif kind == _abi.EV_HTTP:
            asking = WebSocket(self, conn)
            asking.learn(Request.of(self._handle.pointer, conn, _abi.bytes_at(data, length) if length else b""))
            self._answer(asking, self._reply)
        elif kind == _abi.EV_STOPPED:
            self._stopped()

    def _read_nothing(self, status: int) -> None:
        if status == _abi.E_STOPPED:
            self._stopped()
        elif status not in (_abi.E_TIMEOUT, _abi.E_INTERRUPTED):
            # After a fork, say: it would be told again at once, and for ever.
            self._stop_reading()
            raise failure(status)

    def _stop_reading(self) -> None:
        if self._reads_fd is not None:
            self._loop.remove_reader(self._reads_fd)
            self._reads_fd = None

    def _stopped(self) -> None:
        self._stop_reading()
        self._is_closing = True
        # None, unless an interrupted batch lost a CLOSE.
        for ws in list(self._connections.values()):
            ws._end(1006, "", "shutdown")
            self._ready.append(ws)
        self._connections.clear()
        if self._backplane is None:
            # Its threads have nothing left to do but to end.
            self._end()
        elif self._ending is None:
            self._ending = self._loop.create_task(self._end_with_backplane(self._backplane))

    async def _end_with_backplane(self, backplane: OnLoop) -> None:
        limit = self._loop.call_later(BACKPLANE_END_SECONDS, backplane.give_up)
        try:
            # The library's thread may still have calls for this loop.
            await self._loop.run_in_executor(None, self._handle.wait)
            await backplane.wait_done()
        finally:
            limit.cancel()
            # Where the loop ends before, that thread must not wait for it.
            backplane.close()
        self._end()

    def _end(self) -> None:
        if self._handle.pointer is not None:
            self._handle.wait()
            self._handle.free()
        self._is_stopped = True
        self._stopping.wake()

    # -- requests ----------------------------------------------------------------------------------

    def _new_connection(self, conn: int) -> WebSocket:
        ws = WebSocket(self, conn)
        ws.learn(Request.of(self._handle.pointer, conn))
        return ws

    def _decide(self, conn: int) -> None:
        ws = self._new_connection(conn)
        self._newcomers.add(ws)
        self._answer(ws, self._admit)

    def _answer(self, ws: WebSocket, give: Callable[[WebSocket, Decision], None]) -> None:
        """Asks `process_request` and gives its answer, at once or when it has been awaited."""
        process_request = self._hooks.process_request
        assert process_request is not None
        try:
            decision = process_request(ws, ws.request)
            if inspect.isawaitable(decision):
                self._spawn(self._answer_later(ws, decision, give))
            else:
                give(ws, decision)
        except Exception:
            logger.error("process_request failed for %r", ws.request, exc_info=True)
            give(ws, FAILED)

    async def _answer_later(
        self, ws: WebSocket, decision: Awaitable[Decision], give: Callable[[WebSocket, Decision], None],
    ) -> None:
        try:
            give(ws, await decision)
        except Exception:
            logger.error("process_request failed for %r", ws.request, exc_info=True)
            give(ws, FAILED)
        except BaseException:
            give(ws, FAILED)
            raise

    def _admit(self, ws: WebSocket, decision: Decision) -> None:
        status = decide(self._handle.pointer, ws.id, decision)
        if isinstance(decision, Response) or status < 0:
            self._newcomers.take(ws.id)
        check_gone(status)

    def _reply(self, ws: WebSocket, decision: Decision) -> None:
        # Who would have been let in wanted no WebSocket.
        response = decision if isinstance(decision, Response) else NO_WEBSOCKET
        check_gone(reply(self._handle.pointer, ws.id, response))

    # -- what is told ------------------------------------------------------------------------------

    def _tell(self, hook: Callable[..., object], *arguments: object) -> None:
        try:
            result = hook(*arguments)
            if inspect.isawaitable(result):
                self._spawn(self._tell_later(hook, result))
        except Exception:
            _log_failed_hook(hook)

    async def _tell_later(self, hook: Callable[..., object], result: Awaitable[object]) -> None:
        try:
            await result
        except ConnectionClosed:
            pass  # whom it was about has gone
        except Exception:
            _log_failed_hook(hook)

    # -- handlers ----------------------------------------------------------------------------------

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_handler(self, ws: WebSocket) -> None:
        code = 1001
        try:
            await self._handler(ws)
            code = 1000
        except ConnectionClosed:
            # That of another connection is an error like any.
            if not ws._is_closing:
                code = 1011
                logger.error("connection handler failed", exc_info=True)
        except Exception:
            code = 1011
            logger.error("connection handler failed", exc_info=True)
        finally:
            ws._begin_close(code)

    # -- sending -----------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        self._will_flush = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Everything that was gathered goes to the library."""
        self._will_flush = False
        outbox = self._outbox
        if not outbox:
            return
        records = b"".join(outbox)
        outbox.clear()
        self._outbox_bytes = 0
        status = _abi.fdx_submit(self._handle.pointer, records, len(records), self._results, len(self._results))
        if status != _abi.OK:
            self._look_at_results(status, records)

    def _look_at_results(self, worst: int, records: bytes) -> None:
        if self._handle.pointer is None:
            return
        if worst in (_abi.E_FORKED, _abi.E_INVALID_ARG):
            raise failure(worst)
        offset = 0
        for status in self._results:
            if offset == len(records):
                break
            conn, _, length = _abi.RECORD.unpack_from(records, offset)
            offset += _abi.RECORD.size + length + -length % 8
            ws = self._connections.get(conn) if status != _abi.OK else None
            if ws is not None:
                try:
                    ws._sent(status)
                except Error as error:
                    # What was promised to be sent can't be.
                    logger.error("cut connection %d, whose message was not taken: %s", conn, error)
                    ws.abort()


def _log_failed_hook(hook: Callable[..., object]) -> None:
    logger.error("%s failed", getattr(hook, "__name__", hook), exc_info=True)
