"""A server of the library and a connection of it: what both faces have below them."""

import ctypes
from contextlib import contextmanager
from typing import Any, Callable, Dict, Generic, Iterator, List, Mapping, NamedTuple, Optional, Tuple, TypeVar, Union

from . import _abi, _log
from ._call import read_text
from ._config import Config, name_and_text
from .exceptions import check, check_or
from .http import Request

Message = Union[str, bytes, bytearray, memoryview]
#: A name of 1 to 255 bytes. That of a str is UTF-8; a lone surrogate in it stands for a byte that is none.
Topic = Union[str, bytes]


class Published(NamedTuple):
    """What became of a message for a topic; each of its subscribers in this process counts once."""

    #: It is on its way to so many,
    queued: int
    #: to so many that do not keep up,
    high_water: int
    #: and so many miss it: they have `send.limit` bytes waiting, or no binary messages.
    dropped: int


class Handle:
    """One reference to a server. After `free` every call is answered with an error and does nothing."""

    def __init__(self, config: Config, listen: List[str]) -> None:
        _log.attach()
        self.pointer: Optional[int] = config.new_server()
        self.send_limit_bytes = _bytes_of(config.get("send.limit"))
        self.high_water_bytes = _bytes_of(config.get("send.high_water"))
        self._listen = listen
        # While it ran.
        self._added: List[str] = []

    def start(self) -> None:
        error = _abi.sized(_abi.Error)
        check(_abi.fdx_server_start(self.pointer, ctypes.byref(error)), error)

    def stop(self, code: int, reason: str, spread: float, deadline: float) -> None:
        text = reason.encode()
        check(_abi.fdx_server_stop(self.pointer, code, text, len(text), round(spread * 1000), round(deadline * 1000)))

    def wait(self, timeout_ms: int = -1) -> int:
        return check_or(_abi.E_TIMEOUT, _abi.fdx_server_wait(self.pointer, timeout_ms))

    def free(self) -> None:
        pointer, self.pointer = self.pointer, None
        if pointer is not None:
            _abi.fdx_server_unref(pointer)

    def set(self, options: Mapping[str, object]) -> None:
        error = _abi.sized(_abi.Error)
        for keyword, value in options.items():
            pair = name_and_text(keyword, value)
            if pair is not None:
                name, text = pair
                check(_abi.fdx_server_set(self.pointer, name.encode(), text.encode(), ctypes.byref(error)), error)
                if name == "send.limit":
                    self.send_limit_bytes = _bytes_of(text)
                elif name == "send.high_water":
                    self.high_water_bytes = _bytes_of(text)

    def listen(self, address: str) -> int:
        error, port = _abi.sized(_abi.Error), ctypes.c_uint16()
        check(_abi.fdx_listen(self.pointer, address.encode(), None, ctypes.byref(port), ctypes.byref(error)), error)
        self._added.append(_with_port(address, port.value))
        return port.value

    def set_certificate(self, certificate: bytes, key: bytes, name: Optional[str]) -> None:
        error = _abi.sized(_abi.Error)
        sni = None if name is None else name.encode()
        check(_abi.fdx_set_certificate(
            self.pointer, sni, certificate, len(certificate), key, len(key), ctypes.byref(error)), error)

    def addresses(self) -> List[str]:
        """Where it listens, with the ports that were free where 0 was asked for."""
        return [_with_port(address, self._port(index)) for index, address in enumerate(self._listen)] + self._added

    def port(self) -> int:
        """The first that it listens at; 0 if all are Unix sockets."""
        for index in range(len(self._listen)):
            port = self._port(index)
            if port:
                return port
        return 0

    def _port(self, index: int) -> int:
        port = ctypes.c_uint16()
        status = _abi.fdx_listener_port(self.pointer, index, ctypes.byref(port))
        return 0 if check_or(_abi.E_NOT_FOUND, status) < 0 else port.value

    def stats(self) -> Dict[str, int]:
        stats = _abi.sized(_abi.Stats)
        check(_abi.fdx_get_stats(self.pointer, ctypes.byref(stats)))
        return {name: getattr(stats, name) for name, *_ in _abi.Stats._fields_ if name != "struct_size"}

    def metrics(self) -> str:
        return read_text(_abi.fdx_metrics_text, self.pointer)

    def publish(
        self, topic: Topic, message: Message, exclude: Optional["BaseConnection"], compress: Optional[bool],
    ) -> Published:
        name = name_of_topic(topic)
        flags = 0 if compress is None else _abi.F_COMPRESS if compress else _abi.F_NO_COMPRESS
        sender = 0
        if exclude is not None:
            flags |= _abi.F_SKIP_SENDER
            sender = exclude.id
        result = _abi.sized(_abi.PublishResult)
        with shared(message) as pointer:
            if self.pointer is not None:
                check_or(_abi.E_STOPPED, _abi.fdx_publish(
                    self.pointer, name, len(name), pointer, flags, sender, ctypes.byref(result)))
        return Published(result.queued, result.high_water, result.dropped)

    def topic_count(self, topic: Topic) -> int:
        name, count = name_of_topic(topic), ctypes.c_uint64()
        if self.pointer is not None:
            check_or(_abi.E_STOPPED, _abi.fdx_topic_count(self.pointer, name, len(name), ctypes.byref(count)))
        return count.value

    def deliver(self, channel: bytes, envelope: bytes) -> None:
        if self.pointer is not None:
            check_or(_abi.E_STOPPED, _abi.fdx_backplane_deliver(self.pointer, channel, len(channel), envelope, len(envelope)))

    def backplane_state(self, state: str) -> None:
        if state not in _STATES:
            raise ValueError(f"a backplane is up or down, or had a gap, not {state!r}")
        if self.pointer is not None:
            check_or(_abi.E_STOPPED, _abi.fdx_backplane_state(self.pointer, _STATES[state]))


class BaseServer:
    """What can be asked and changed while a server runs."""

    _handle: Handle

    @property
    def port(self) -> int:
        """The first that it listens at; 0 if all are Unix sockets."""
        return self._handle.port()

    @property
    def addresses(self) -> List[str]:
        """Where it listens, such as "127.0.0.1:9990"."""
        return self._handle.addresses()

    def listen(self, address: str) -> int:
        """Listens at one address more; returns its port."""
        return self._handle.listen(address)

    def set(self, **options: object) -> None:
        """Changes options: those that the option table marks as live."""
        self._handle.set(options)

    def set_certificate(self, certificate: bytes, key: bytes, name: Optional[str] = None) -> None:
        """Shows another certificate from now on; both in PEM. `name` is whom it is shown for, if not
        for the names in it."""
        self._handle.set_certificate(certificate, key, name)

    def publish(
        self, topic: Topic, message: Message, *, exclude: Optional["BaseConnection"] = None, compress: Optional[bool] = None,
    ) -> Published:
        """Sends one message to the subscribers of a topic, on this server and, with a `backplane`,
        on all others. It waits for nobody. `exclude` does not get it: who said it, say. `compress`
        makes sure that it is compressed, or that it is not."""
        return self._handle.publish(topic, message, exclude, compress)

    def topic_count(self, topic: Topic) -> int:
        """How many connections of this server are in a topic."""
        return self._handle.topic_count(topic)

    def deliver(self, channel: bytes, envelope: bytes) -> None:
        """What a `Backplane` of yours has received, on any thread. What this server has published
        itself, and what came before, does nothing."""
        self._handle.deliver(channel, envelope)

    def backplane_state(self, state: str) -> None:
        """A `Backplane` of yours is "down", "up" again, or had a "gap"; on any thread. It begins up.
        While it is down, what is published waits, up to `backplane_limit` bytes. When it is up again
        every channel is subscribed anew, then what waits is published."""
        self._handle.backplane_state(state)

    def stats(self) -> Dict[str, int]:
        """The library's sums."""
        return self._handle.stats()

    def metrics(self) -> str:
        """The same for Prometheus."""
        return self._handle.metrics()


class BaseConnection:
    """What is known of a connection, and what ends it."""

    __slots__ = ("id", "request", "subprotocol", "remote_address", "is_secure", "version", "_handle", "__weakref__")

    def __init__(self, handle: Handle, conn: int) -> None:
        self._handle = handle
        #: A number that no other connection of the server has.
        self.id = conn
        #: The request that it began with.
        self.request: Request
        self.subprotocol: Optional[str] = None
        #: The client's address and port: what a trusted proxy says, or else the socket's; a Unix
        #: socket's is ("unix", 0).
        self.remote_address: Tuple[str, int] = ("", 0)
        #: Is it encrypted?
        self.is_secure = False
        #: The protocol's version: 13, 8, 7, 76 (Hixie-76) or 75 (Hixie-75).
        self.version = 0

    def learn(self, request: Request) -> None:
        """To be called while the library has it."""
        self.request = request
        info = _abi.sized(_abi.ConnInfo)
        # It may have gone before it was looked at; then its CLOSE is on the way.
        if _abi.fdx_conn_get_info(self._handle.pointer, self.id, ctypes.byref(info)) == _abi.OK:
            self.remote_address = info.remote_addr.decode(), info.remote_port
            self.is_secure = bool(info.flags & _abi.CI_TLS)
            self.version = info.version

    def subscribe(self, topic: Topic) -> bool:
        """From now on it gets what is published to a topic, until it leaves it or closes. False if
        it is in it already, or is gone."""
        return self._change(_abi.fdx_subscribe, topic)

    def unsubscribe(self, topic: Topic) -> bool:
        """Leaves a topic. False if it is not in it, or is gone."""
        return self._change(_abi.fdx_unsubscribe, topic)

    def _change(self, function: Callable[..., int], topic: Topic) -> bool:
        name = name_of_topic(topic)
        return self._handle.pointer is not None and check_gone(function(self._handle.pointer, self.id, name, len(name))) == _abi.OK

    def info(self) -> Dict[str, Any]:
        """The library's figures for it: bytes and messages in and out, what is queued, the last
        round trip, and more; empty when it is gone."""
        info = _abi.sized(_abi.ConnInfo)
        status = _abi.fdx_conn_get_info(self._handle.pointer, self.id, ctypes.byref(info))
        if status < 0:
            return {}
        values = ((name, getattr(info, name)) for name, *_ in _abi.ConnInfo._fields_ if name != "struct_size")
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in values}

    @property
    def latency(self) -> float:
        """Seconds of the last round trip of a ping of the library's own; 0 before the first."""
        return float(self.info().get("rtt_us", 0)) / 1_000_000

    def abort(self) -> None:
        """Ends it at once, without a close; what is queued for it is lost."""
        _abi.fdx_abort(self._handle.pointer, self.id)

    def __repr__(self) -> str:
        host, port = self.remote_address
        return f"<{type(self).__name__} {self.id} {host}:{port}>"


Known = TypeVar("Known", bound=BaseConnection)


class Newcomers(Generic[Known]):
    """Connections between UPGRADE and OPEN, so that both tell of the same object. Of those that
    never open nothing is told: they are forgotten now and then."""

    def __init__(self) -> None:
        self._by_id: Dict[int, Known] = {}
        self._looked_over_at = 64

    def add(self, connection: Known) -> None:
        self._by_id[connection.id] = connection
        if len(self._by_id) > self._looked_over_at:
            # Piece by piece: other threads may add and take meanwhile.
            for conn, each in list(self._by_id.items()):
                if not each.info():
                    self._by_id.pop(conn, None)
            self._looked_over_at = 64 + 2 * len(self._by_id)

    def take(self, conn: int) -> Optional[Known]:
        return self._by_id.pop(conn, None)

    def __len__(self) -> int:
        return len(self._by_id)


def encode(message: Message) -> Tuple[int, bytes]:
    """The kind and the bytes of a message."""
    if isinstance(message, str):
        return _abi.TEXT, message.encode()
    if isinstance(message, bytes):
        return _abi.BINARY, message
    if isinstance(message, (bytearray, memoryview)):
        return _abi.BINARY, bytes(message)
    raise TypeError(f"a message is str or bytes-like, not {type(message).__name__}")


@contextmanager
def shared(message: Message) -> Iterator[int]:
    """The library's, for many."""
    kind, payload = encode(message)
    pointer = _abi.fdx_msg_new(kind, payload, len(payload))
    if not pointer:
        raise MemoryError
    try:
        yield pointer
    finally:
        _abi.fdx_msg_unref(pointer)


def name_of_topic(topic: Topic) -> bytes:
    name = topic.encode(errors="surrogateescape") if isinstance(topic, str) else topic
    if not 1 <= len(name) <= TOPIC_BYTES_MAX:
        raise ValueError(f"the name of a topic has 1 to {TOPIC_BYTES_MAX} bytes, not {len(name)}")
    return name


def topic_of_name(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def close_reason(code: int, reason: str) -> bytes:
    """Checked before anything is sent: what is wrong with it is the caller's mistake."""
    text = reason.encode()
    if len(text) > 123:
        raise ValueError(f"a reason has at most 123 bytes, not {len(text)}")
    if not (code == 0 or 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ValueError(f"{code} is no code that a close can have: 1000 to 1003, 1007 to 1014, 3000 to 4999, or 0 for none")
    return text


def check_gone(status: int) -> int:
    """A connection that has just gone is nobody's mistake."""
    return status if status in (_abi.E_NO_CONN, _abi.E_CLOSING, _abi.E_STOPPED) else check(status)


def send_to_many(handle: Handle, conns: List[int], message: Message) -> Tuple[int, Any]:
    """The worst status and each one's."""
    with shared(message) as pointer:
        count = len(conns)
        results = (ctypes.c_int32 * count)()
        status = _abi.fdx_send_msg(handle.pointer, (ctypes.c_uint64 * count)(*conns), count, pointer, 0, results)
        return status, results


TOPIC_BYTES_MAX = 255
_STATES = {"up": _abi.BP_UP, "down": _abi.BP_DOWN, "gap": _abi.BP_GAP}
#: What `on_backplane` is told.
NEWS = {code: news for news, code in _STATES.items()}


def _with_port(address: str, port: int) -> str:
    address = address.partition("?")[0]
    is_to_be_chosen = port and address.endswith(":0") and not address.startswith("fd:")
    return f"{address[:-1]}{port}" if is_to_be_chosen else address


_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _bytes_of(text: str) -> int:
    text = text.strip().lower()
    return int(text[:-1]) * _UNITS[text[-1]] if text[-1:] in _UNITS else int(text)
