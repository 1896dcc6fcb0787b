"""What tasks wait on: one kind for messages, which must be quick, and one for the rest."""

import asyncio
import contextvars
from typing import Any, Callable, Dict, Optional


class Wakeup:
    """What one task waits on for the next message.

    A future would send the task through the loop once more for each message. This is awaited like
    one, but its task goes on at once, inside of `AsyncServer._wake_ready`.
    """

    __slots__ = ("_asyncio_future_blocking", "_loop", "callback", "context")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Set by who yields this; the task takes it back.
        self._asyncio_future_blocking = False
        self._loop = loop
        self.callback: Optional[Callable[[Any], object]] = None
        self.context: contextvars.Context

    # What a task wants of a future. (`_loop` is asked for where there is no `get_loop`.)

    def add_done_callback(self, callback: Callable[[Any], object], *, context: contextvars.Context) -> None:
        self.callback = callback
        self.context = context

    def cancel(self, msg: Any = None) -> bool:
        callback = self.callback
        if callback is None:
            return False
        self.callback = None
        self._loop.call_soon(callback, _CANCELLED, context=self.context)
        return True

    def result(self) -> None:
        return None


class _Cancelled:
    def result(self) -> None:
        raise asyncio.CancelledError


_CANCELLED = _Cancelled()


class Waiters:
    """Tasks that wait for something that seldom happens."""

    __slots__ = ("_loop", "_futures")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # In the order they came.
        self._futures: Dict["asyncio.Future[None]", None] = {}

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._futures[future] = None
        try:
            await future
        finally:
            self._futures.pop(future, None)

    def wake(self) -> None:
        futures, self._futures = self._futures, {}
        for future in futures:
            if not future.done():
                future.set_result(None)
