"""The plain face: callbacks on the library's own thread, or events that a program polls.

No event loop is needed. With the library's default of one thread no two callbacks run at once.
"""

import atexit
import ctypes
import enum
import os
import select
import threading
import time
import weakref
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Union

from . import _abi
from ._backplane import Attached, Backplane, has_coroutines, split
from ._config import Config, Host, addresses
from ._handle import (
    NEWS, BaseConnection, BaseServer, Handle, Message, Newcomers, check_gone, close_reason, encode, send_to_many, topic_of_name,
)
from ._log import logger
from .exceptions import check, check_or
from .http import FAILED, NO_WEBSOCKET, Accept, Decision, Request, Response, decide, reply


class Sent(enum.IntEnum):
    """What became of a message. Only of the last two it is sure that it won't arrive."""

    #: It is on its way.
    SENT = _abi.OK
    #: It is on its way, but the peer does not keep up: please wait for `on_drain`.
    HIGH_WATER = _abi.HIGH_WATER
    #: `send.limit` is reached: it was dropped, and `send.full` decides whether the connection closes.
    FULL = _abi.E_FULL
    #: The connection is closing or gone.
    CLOSED = _abi.E_NO_CONN


_SENT = {int(each): each for each in Sent}
_SENT[_abi.E_CLOSING] = _SENT[_abi.E_STOPPED] = Sent.CLOSED


class Connection(BaseConnection):
    """A connection of a `Server`. Every method may be called on any thread."""

    __slots__ = ("data", "_is_plain_request")

    def __init__(self, handle: Handle, conn: int) -> None:
        super().__init__(handle, conn)
        self._is_plain_request = False
        #: Yours.
        self.data: Any = None

    def send(self, message: Message) -> Sent:
        """Text for a str, binary for bytes. It never waits; see `Sent`."""
        kind, payload = encode(message)
        status = _abi.fdx_send(self._handle.pointer, self.id, kind, payload, len(payload), 0)
        return _SENT[status] if status in _SENT else _SENT[check(status)]

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begins to close; what was sent before goes first, and `on_close` follows."""
        text = close_reason(code, reason)
        check_gone(_abi.fdx_close(self._handle.pointer, self.id, code, text, len(text)))

    def ping(self, payload: bytes = b"") -> None:
        """Its pong comes to `on_pong` with the same bytes."""
        check_gone(_abi.fdx_ping(self._handle.pointer, self.id, payload, len(payload)))

    def pause(self) -> None:
        """Reads no more from the peer, so that TCP slows it down. What was read already may still come."""
        check_gone(_abi.fdx_pause(self._handle.pointer, self.id))

    def resume(self) -> None:
        check_gone(_abi.fdx_resume(self._handle.pointer, self.id))

    def accept(self, accept: Optional[Accept] = None) -> None:
        """Answers an event "upgrade" of `poll`."""
        check_gone(decide(self._handle.pointer, self.id, accept))

    def reply(self, response: Response) -> None:
        """Answers an event "http" of `poll`, or refuses an "upgrade"."""
        answer = reply if self._is_plain_request else decide
        check_gone(answer(self._handle.pointer, self.id, response))


class Event(NamedTuple):
    """One event of `Server.poll`."""

    #: "upgrade", "open", "message", "drain", "pong", "join", "leave", "http", "close" or "backplane"
    type: str
    #: Of a "backplane" it is nobody's: its `id` is 0.
    connection: Connection
    #: Of a message, or of a pong. The topic of a "join" or "leave". Of a "backplane": "up", "down" or "gap".
    data: Union[str, bytes] = b""
    #: Of a close.
    code: int = 0
    #: Of a close, or of a "backplane".
    reason: str = ""
    #: How many connections of this server are in the topic now.
    members: int = 0


OnOpen = Callable[[Connection], object]
OnMessage = Callable[[Connection, Union[str, bytes]], object]
OnClose = Callable[[Connection, int, str], object]
OnUpgrade = Callable[[Connection], Decision]
OnHttp = Callable[[Request], Response]
OnPong = Callable[[Connection, bytes], object]
OnTopic = Callable[[Connection, str, int], object]
OnBackplane = Callable[[str, str], object]

# A server that runs is kept, whether the program does so or not.
_running: "Set[Server]" = set()
# Callbacks that a server of the library may still make, by their number.
_callbacks: Dict[int, Any] = {}

_Ensure = ctypes.PYFUNCTYPE(ctypes.c_int)(("PyGILState_Ensure", ctypes.pythonapi))
_Release = ctypes.PYFUNCTYPE(None, ctypes.c_int)(("PyGILState_Release", ctypes.pythonapi))


class Server(BaseServer):
    """A WebSocket server.

        def on_message(connection, message):
            connection.send(message)

        with fullduplex.Server("127.0.0.1", 9990, on_message=on_message) as server:
            server.serve_forever()

    on_open(connection), on_message(connection, message), on_close(connection, code, reason),
    on_drain(connection), on_pong(connection, payload), on_join(connection, topic, members) and
    on_leave(connection, topic, members), which is how many of this server are in the topic then, and
    on_backplane(news, why), "up", "down" or "gap", are called on a thread of the library.
    on_upgrade(connection) decides on a request before it opens: None or an `Accept` lets it in, a
    `Response` refuses it. on_http(request) answers plain requests with a `Response`. An exception
    in a callback is logged and closes that connection with 1011.

    With `dispatch="queue"` nothing is called: the program takes events with `poll`. `wants` names
    those that it wants beside "open", "message", "drain" and "close": "upgrade", "http", "pong",
    "topic" ("join" and "leave"), "backplane".

    `backplane` is an address, such as "redis://127.0.0.1:6379", or a `Backplane` of yours.
    """

    def __init__(
        self,
        host: Host = None,
        port: Optional[int] = None,
        *,
        on_open: Optional[OnOpen] = None,
        on_message: Optional[OnMessage] = None,
        on_close: Optional[OnClose] = None,
        on_upgrade: Optional[OnUpgrade] = None,
        on_drain: Optional[OnOpen] = None,
        on_http: Optional[OnHttp] = None,
        on_pong: Optional[OnPong] = None,
        on_join: Optional[OnTopic] = None,
        on_leave: Optional[OnTopic] = None,
        on_backplane: Optional[OnBackplane] = None,
        listen: Union[None, str, Iterable[str]] = None,
        subprotocols: Optional[Iterable[str]] = None,
        dispatch: str = "io",
        wants: Iterable[str] = (),
        backplane: Union[None, str, Backplane] = None,
        **options: object,
    ) -> None:
        listening = addresses(host, port, listen, "tls_cert" in options)
        if subprotocols is not None:
            options["protocols"] = subprotocols
        address, own_backplane = split(backplane)
        if address is not None:
            options["backplane"] = address
        if own_backplane is not None and has_coroutines(own_backplane):
            raise TypeError("the calls of this backplane are coroutines: they need `serve`, which has a loop")
        asked_for = set(wants)
        self._connections: Dict[int, Connection] = {}
        self._newcomers: Newcomers[Connection] = Newcomers()
        self._is_started = False
        self._stopped = threading.Event()
        self._is_polled = dispatch == "queue"
        self._on_open, self._on_message, self._on_close = on_open, on_message, on_close
        self._on_upgrade, self._on_drain, self._on_http, self._on_pong = on_upgrade, on_drain, on_http, on_pong
        self._on_join, self._on_leave, self._on_backplane = on_join, on_leave, on_backplane
        self._tells_news = on_backplane is not None or "backplane" in asked_for
        self._stride = ctypes.sizeof(_abi.Event)
        self._unpack = _abi.event_unpacker(self._stride).unpack
        with Config() as config:
            config.set_all(options, listening)
            if self._is_polled:
                config.set("dispatch", "queue")
            self._add_route(config, asked_for)
            attached = None if own_backplane is None else Attached(config, own_backplane)
            self._handle = Handle(config, listening)
            if attached is not None:
                attached.handle = self._handle
        self._pid = os.getpid()

    # -- starting and stopping ---------------------------------------------------------------------

    def start(self) -> "Server":
        _running.add(self)
        try:
            self._handle.start()
        except BaseException:
            _running.discard(self)
            raise
        self._is_started = True
        return self

    def stop(self, code: int = 1001, reason: str = "", *, deadline: float = 5.0, spread: float = 0.0) -> None:
        """Begins to stop: every connection is closed, over `spread` seconds, and what is left after
        `deadline` seconds is cut. `wait` returns when all is done."""
        self._handle.stop(code, reason, spread, deadline)

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until the server has stopped; False if the time was over first."""
        ends = None if timeout is None else time.monotonic() + timeout
        if not self._is_polled and not self._stopped.wait(timeout):
            return False
        # Now and then out of the library: a signal of Python's waits for that.
        while True:
            left = 0.1 if ends is None else min(0.1, max(0.0, ends - time.monotonic()))
            if self._handle.wait(round(left * 1000)) == _abi.OK:
                return True
            if left == 0:
                return False

    def close(self) -> None:
        """Stops, waits, and gives the server back."""
        if self._handle.pointer is None:
            return
        if self._is_started:
            self.stop()
            while self._is_polled and self.running:
                self.poll(1)
            self.wait()
        _running.discard(self)
        self._handle.free()

    def serve_forever(self) -> None:
        """Starts, if it was not started, and waits for the end: `stop` on another thread, or Ctrl-C."""
        if not self._is_started:
            self.start()
        try:
            self._stopped.wait()
        finally:
            self.close()

    def __enter__(self) -> "Server":
        if not self._is_started:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            handle.free()

    @property
    def running(self) -> bool:
        return self._handle.pointer is not None and not self._stopped.is_set()

    # -- what can be asked and changed -------------------------------------------------------------

    @property
    def connections(self) -> List[Connection]:
        """Those that are open."""
        return list(self._connections.values())

    def broadcast(self, connections: Iterable[Connection], message: Message) -> None:
        """Sends one message to many, sharing its bytes. Who is gone or too slow is skipped."""
        send_to_many(self._handle, [connection.id for connection in connections], message)

    # -- callbacks ---------------------------------------------------------------------------------

    def _add_route(self, config: Config, wants: Set[str]) -> None:
        handlers = _abi.sized(_abi.Handlers)
        if self._on_http is not None or "http" in wants:
            handlers.flags |= _abi.ROUTE_HTTP
        if self._on_join is not None or self._on_leave is not None or "topic" in wants:
            handlers.flags |= _abi.ROUTE_TOPIC
        if self._is_polled:
            if "upgrade" in wants:
                handlers.flags |= _abi.ROUTE_UPGRADE
            if "pong" in wants:
                handlers.flags |= _abi.ROUTE_OTHER
            config.route("/*", handlers)
            return
        # The library's pointers reach the server only while somebody else has it, too: else a
        # server that was forgotten would live for ever.
        myself = weakref.ref(self)
        message, other = _message_callback(myself, self._unpack), _other_callback(myself, self._unpack)
        handlers.on_open = handlers.on_close = handlers.on_other = other
        if self._on_message is not None:
            handlers.on_message = message
        if self._on_upgrade is not None:
            handlers.on_upgrade = other
        if self._on_drain is not None:
            handlers.on_drain = other
        number = id(handlers)
        handlers.user_data = number
        handlers.drop = _drop
        _callbacks[number] = handlers, message, other
        config.route("/*", handlers)

    def _message(self, conn: int, flags: int, data: int, length: int) -> None:
        connection = self._connections[conn]
        message = _abi.bytes_at(data, length) if flags & _abi.EVF_BINARY else _abi.text_at(data, length)
        self._on_message(connection, message)  # type: ignore[misc]

    def _other(self, kind: int, flags: int, conn: int, data: int, length: int, code: int, arg: int) -> None:
        event = self._event(kind, flags, conn, data, length, code, arg)
        if event is None:
            return
        if kind == _abi.EV_OPEN:
            if self._on_open is not None:
                self._on_open(event.connection)
        elif kind == _abi.EV_CLOSE:
            if self._on_close is not None:
                self._on_close(event.connection, event.code, event.reason)
        elif kind == _abi.EV_DRAIN:
            if self._on_drain is not None:
                self._on_drain(event.connection)
        elif kind == _abi.EV_PONG:
            if self._on_pong is not None:
                self._on_pong(event.connection, event.data)  # type: ignore[arg-type]
        elif kind == _abi.EV_TOPIC:
            on_topic = self._on_join if code == _abi.TOPIC_JOINED else self._on_leave
            if on_topic is not None:
                on_topic(event.connection, event.data, event.members)  # type: ignore[arg-type]
        elif kind == _abi.EV_BACKPLANE:
            self._on_backplane(event.data, event.reason)  # type: ignore[arg-type, misc]
        elif kind == _abi.EV_UPGRADE:
            check_gone(decide(self._handle.pointer, conn, self._on_upgrade(event.connection)))  # type: ignore[misc]
        elif kind == _abi.EV_HTTP:
            response = self._on_http(event.connection.request) or NO_WEBSOCKET  # type: ignore[misc]
            check_gone(reply(self._handle.pointer, conn, response))

    def _failed(self, kind: int, conn: int) -> None:
        """An exception left a callback; the interpreter knows which."""
        logger.error("a callback failed (connection %d)", conn, exc_info=True)
        server = self._handle.pointer
        if kind == _abi.EV_UPGRADE:
            decide(server, conn, FAILED)
        elif kind == _abi.EV_HTTP:
            reply(server, conn, FAILED)
        elif conn:
            _abi.fdx_close(server, conn, 1011, None, 0)

    def _event(self, kind: int, flags: int, conn: int, data: int, length: int, code: int, arg: int) -> Optional[Event]:
        """What an event of the library is to a program; None: nothing."""
        if kind == _abi.EV_MESSAGE:
            message = _abi.bytes_at(data, length) if flags & _abi.EVF_BINARY else _abi.text_at(data, length)
            return Event("message", self._connections[conn], message)
        if kind == _abi.EV_OPEN:
            connection = self._newcomers.take(conn) or self._new_connection(conn)
            self._connections[conn] = connection
            connection.subprotocol = _abi.text_at(data, length) or None
            return Event("open", connection)
        if kind == _abi.EV_CLOSE:
            gone = self._connections.pop(conn)
            return Event("close", gone, code=code, reason=_abi.text_at(data, length))
        if kind == _abi.EV_DRAIN:
            return Event("drain", self._connections[conn])
        if kind == _abi.EV_PONG:
            return Event("pong", self._connections[conn], _abi.bytes_at(data, length) if length else b"")
        if kind == _abi.EV_TOPIC:
            what = "join" if code == _abi.TOPIC_JOINED else "leave"
            return Event(what, self._connections[conn], topic_of_name(_abi.bytes_at(data, length)), members=arg)
        if kind == _abi.EV_BACKPLANE and self._tells_news:
            return Event("backplane", Connection(self._handle, 0), NEWS[code], reason=_abi.text_at(data, length))
        if kind == _abi.EV_UPGRADE:
            asking = self._new_connection(conn)
            self._newcomers.add(asking)
            return Event("upgrade", asking)
        if kind == _abi.EV_HTTP:
            body = _abi.bytes_at(data, length) if length else b""
            asking = Connection(self._handle, conn)
            asking._is_plain_request = True
            asking.learn(Request.of(self._handle.pointer, conn, body))
            return Event("http", asking)
        if kind == _abi.EV_STOPPED:
            _running.discard(self)
            self._stopped.set()
        return None

    def _new_connection(self, conn: int) -> Connection:
        connection = Connection(self._handle, conn)
        connection.learn(Request.of(self._handle.pointer, conn))
        return connection

    # -- polling -----------------------------------------------------------------------------------

    def poll(self, timeout: Optional[float] = None, *, queue: int = 0, limit: int = 0) -> List[Event]:
        """Events of a server with `dispatch="queue"`, at most `limit` (0: all there are). It waits
        for the first for `timeout` seconds (None: for ever) and returns an empty list when the
        time is over, after `wake`, and when the server has stopped (then `running` is False)."""
        view = _abi.sized(_abi.BatchView)
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            status = _abi.fdx_poll(self._handle.pointer, queue, limit, 0, ctypes.byref(view))
            if status == _abi.OK:
                events = self._take(view)
                # The library's own events are nothing to a program.
                if events:
                    return events
                continue
            if status == _abi.E_STOPPED:
                self._stopped.set()
            if status in (_abi.E_STOPPED, _abi.E_INTERRUPTED):
                return []
            check_or(_abi.E_TIMEOUT, status)
            left = None if ends is None else ends - time.monotonic()
            if left is not None and left <= 0:
                return []
            # Not in the library: a signal of Python's would have to wait for its return.
            poller = select.poll()
            poller.register(self.fileno(queue), select.POLLIN)
            poller.poll(None if left is None else left * 1000)

    def wake(self, queue: int = 0) -> None:
        """Makes a `poll` on another thread return."""
        check(_abi.fdx_wake(self._handle.pointer, queue))

    def fileno(self, queue: int = 0) -> int:
        """A descriptor that is readable while `poll` has something; for a loop of your own."""
        descriptor = ctypes.c_ssize_t()
        check(_abi.fdx_queue_fd(self._handle.pointer, queue, ctypes.byref(descriptor)))
        return descriptor.value

    def _take(self, view: Any) -> List[Event]:
        try:
            tuples = list(_abi.event_unpacker(view.stride).iter_unpack(
                _abi.bytes_at(view.events, view.count * view.stride)))
            found = []
            for event_tuple in tuples:
                event = self._event(*event_tuple)
                if event is not None:
                    found.append(event)
            return found
        finally:
            _abi.fdx_batch_free(view.batch)


def _message_callback(reference: "weakref.ref[Server]", unpack: Any) -> Any:
    size = ctypes.sizeof(_abi.Event)

    @_abi.EVENT_FN  # type: ignore[untyped-decorator]
    def on_message(_: int, __: int, event: int) -> None:
        conn = 0
        server = None
        try:
            _, flags, conn, data, length, _, _ = unpack(_abi.bytes_at(event, size))
            server = reference()
            if server is not None:
                server._message(conn, flags, data, length)
        except BaseException:
            if server is not None:
                server._failed(_abi.EV_MESSAGE, conn)

    return on_message


def _other_callback(reference: "weakref.ref[Server]", unpack: Any) -> Any:
    size = ctypes.sizeof(_abi.Event)

    @_abi.EVENT_FN  # type: ignore[untyped-decorator]
    def on_event(_: int, __: int, event: int) -> None:
        kind = conn = 0
        server = None
        try:
            kind, flags, conn, data, length, code, arg = unpack(_abi.bytes_at(event, size))
            if kind == _abi.EV_THREAD_START:
                # One more than ctypes' own, which is given back when this returns: the thread
                # keeps its interpreter state, and does not make one for each callback: from Python
                # 3.11 on that would cost 8 us more for each.
                _Ensure()
            elif kind == _abi.EV_THREAD_STOP:
                _Release(0)
            else:
                server = reference()
                if server is not None:
                    server._other(kind, flags, conn, data, length, code, arg)
        except BaseException:
            if server is not None:
                server._failed(kind, conn)

    return on_event


@_abi.DROP_FN  # type: ignore[untyped-decorator]
def _drop(number: int) -> None:
    _callbacks.pop(number, None)


@atexit.register
def _stop_all() -> None:
    # A callback that came in while the interpreter goes would be stuck for ever.
    for server in list(_running):
        if server._pid == os.getpid() and not server._is_polled:
            try:
                server.stop(deadline=1.0)
                # Unless a callback never returns.
                server._handle.wait(3000)
            except Exception:
                logger.error("a server did not stop", exc_info=True)
