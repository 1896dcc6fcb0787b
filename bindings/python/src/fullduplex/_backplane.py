"""A backplane in Python: what carries published messages between servers, where that isn't Redis."""

import asyncio
import atexit
import inspect
import itertools
import os
import threading
from collections import deque
from typing import Deque, Dict, Optional, Protocol, Tuple

from . import _abi
from ._config import Config
from ._handle import Handle
from ._log import logger

# What waits for the loop, at most; an envelope that is longer than all of it waits alone.
WAITING_BYTES_MAX = 1 << 20
# Counted for each call beside its bytes.
CALL_BYTES = 256
# The loop's other work is not held up by more.
CALLS_AT_ONCE = 64


class Backplane(Protocol):
    """What a server asks of a backplane of yours: `serve(handler, ..., backplane=yours)`.

    It publishes envelopes, which it need not understand, on channels, which are any bytes:
    `backplane_prefix` and a topic. What comes for a channel that was subscribed to is given to
    `server.deliver`; `server.backplane_state` tells of trouble. One call is made at a time, in
    their order. `serve` makes them on its loop, and they may be coroutines; `Server` makes them on
    a thread of the library's, where they may block. An exception in one is logged.
    """

    def publish(self, channel: bytes, envelope: bytes) -> object: ...

    def subscribe(self, channel: bytes) -> object: ...

    def unsubscribe(self, channel: bytes) -> object: ...


def split(backplane: object) -> Tuple[Optional[str], Optional[Backplane]]:
    """The option's text, or an object of the program's."""
    if backplane is None or isinstance(backplane, str):
        return backplane, None
    for name in _CALLS:
        if not callable(getattr(backplane, name, None)):
            raise TypeError(f"a backplane is an address, or has publish, subscribe and unsubscribe; {backplane!r} has no {name}")
    return None, backplane  # type: ignore[return-value]


def has_coroutines(backplane: Backplane) -> bool:
    return any(inspect.iscoroutinefunction(getattr(backplane, name)) for name in _CALLS)


class Attached:
    """A backplane that the library may call, until it says that it won't any more."""

    def __init__(self, config: Config, backplane: Backplane) -> None:
        self.backplane = backplane
        #: The server that calls, when it is made.
        self.handle: Optional[Handle] = None
        self.pid = os.getpid()
        number = next(_numbers)
        calls = _abi.sized(_abi.Backplane)
        calls.user_data, calls.drop = number, _drop
        calls.publish, calls.subscribe, calls.unsubscribe = _publish, _subscribe, _unsubscribe
        config.backplane(calls)
        # From here on the library has it.
        _attached[number] = self

    def stop(self) -> None:
        if isinstance(self.backplane, OnLoop):
            self.backplane.close()
        handle = self.handle
        if handle is not None and handle.pointer is not None:
            handle.stop(1001, "", 0, 1.0)
            handle.wait(3000)


class OnLoop:
    """Makes the calls on an event loop, where they may be coroutines.

    The library's thread does not wait for each publish: the loop may be busy, and each turn of it
    takes many. For a subscription it waits: what it says behind it relies on it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, backplane: Backplane) -> None:
        self._loop = loop
        self._backplane = backplane
        self._changed = threading.Condition()
        self._waiting: Deque[_Call] = deque()
        self._waiting_bytes = 0
        self._is_running = False
        self._is_closed = False
        self._task: Optional["asyncio.Task[None]"] = None

    # On the library's thread.

    def publish(self, channel: bytes, envelope: bytes) -> None:
        self._put(_Call("publish", channel, envelope))

    def subscribe(self, channel: bytes) -> None:
        self._put_and_wait(_Call("subscribe", channel))

    def unsubscribe(self, channel: bytes) -> None:
        self._put_and_wait(_Call("unsubscribe", channel))

    def _put(self, call: "_Call") -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or not self._waiting or self._waiting_bytes + call.bytes <= WAITING_BYTES_MAX)
            if self._is_closed:
                return
            self._waiting.append(call)
            self._waiting_bytes += call.bytes
            if self._is_running:
                return
            self._is_running = True
        try:
            self._loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            # The loop is closed.
            self.close()

    def _put_and_wait(self, call: "_Call") -> None:
        self._put(call)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or call.is_done)

    # On any thread.

    def close(self) -> None:
        """Nothing more is called, and nobody waits."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._waiting_bytes = 0
            self._changed.notify_all()

    # On the loop.

    async def wait_done(self) -> None:
        """Until everything is done that was asked for."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def give_up(self) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            for count in itertools.count(1):
                call = self._next()
                if call is None:
                    return
                try:
                    result = getattr(self._backplane, call.name)(*call.arguments)
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    _log_failure(call.name)
                if count % CALLS_AT_ONCE == 0:
                    await asyncio.sleep(0)
                with self._changed:
                    call.is_done = True
                    self._changed.notify_all()
        except BaseException:
            # The loop ends.
            self.close()
            raise

    def _next(self) -> Optional["_Call"]:
        with self._changed:
            if not self._waiting:
                self._is_running = False
                return None
            call = self._waiting.popleft()
            self._waiting_bytes -= call.bytes
            return call


class _Call:
    __slots__ = ("name", "arguments", "bytes", "is_done")

    def __init__(self, name: str, *arguments: bytes) -> None:
        self.name = name
        self.arguments = arguments
        self.bytes = CALL_BYTES + sum(map(len, arguments))
        self.is_done = False


def _log_failure(name: str) -> None:
    logger.error("the backplane failed to %s", name, exc_info=True)


# -- what the library calls ------------------------------------------------------------------------

_CALLS = ("publish", "subscribe", "unsubscribe")
_numbers = itertools.count(1)
_attached: Dict[int, Attached] = {}


@_abi.BACKPLANE_PUBLISH_FN  # type: ignore[untyped-decorator]
def _publish(number: int, _: int, channel: int, channel_length: int, envelope: int, envelope_length: int) -> None:
    try:
        _attached[number].backplane.publish(_abi.bytes_at(channel, channel_length), _abi.bytes_at(envelope, envelope_length))
    except BaseException:
        _log_failure("publish")


@_abi.BACKPLANE_CHANNEL_FN  # type: ignore[untyped-decorator]
def _subscribe(number: int, _: int, channel: int, length: int) -> None:
    try:
        _attached[number].backplane.subscribe(_abi.bytes_at(channel, length))
    except BaseException:
        _log_failure("subscribe")


@_abi.BACKPLANE_CHANNEL_FN  # type: ignore[untyped-decorator]
def _unsubscribe(number: int, _: int, channel: int, length: int) -> None:
    try:
        _attached[number].backplane.unsubscribe(_abi.bytes_at(channel, length))
    except BaseException:
        _log_failure("unsubscribe")


@_abi.DROP_FN  # type: ignore[untyped-decorator]
def _drop(number: int) -> None:
    _attached.pop(number, None)


@atexit.register
def _stop_all() -> None:
    # A call that came in while the interpreter goes would be stuck for ever.
    for attached in list(_attached.values()):
        if attached.pid == os.getpid():
            try:
                attached.stop()
            except Exception:
                logger.error("a server did not stop", exc_info=True)
