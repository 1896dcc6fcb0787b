"""The library's log lines go to Python's logger `fullduplex`."""

import atexit
import ctypes
import logging
import os
import threading
from typing import Optional

from . import _abi

logger = logging.getLogger("fullduplex")

# Of Python by level of the library: error, warning, info, debug, trace.
_LEVELS = {1: logging.ERROR, 2: logging.WARNING, 3: logging.INFO, 4: logging.DEBUG, 5: logging.DEBUG}

_installed: Optional[int] = None
_is_dropped = threading.Event()


def attach() -> None:
    """The library asks for no more lines than the logger would take now."""
    global _installed
    wanted = max((level for level, of_python in _LEVELS.items() if logger.isEnabledFor(of_python)), default=0)
    if wanted != _installed:
        _installed = wanted
        _is_dropped.clear()
        _abi.fdx_set_log(wanted, _log, None, _drop)


@_abi.LOG_FN  # type: ignore[untyped-decorator]
def _log(_: Optional[int], level: int, conn: int, target: bytes, text: int, length: int) -> None:
    try:
        message = ctypes.string_at(text, length).decode(errors="replace")
        if conn:
            logger.log(_LEVELS.get(level, logging.DEBUG), "%s (connection %d)", message, conn)
        else:
            logger.log(_LEVELS.get(level, logging.DEBUG), "%s", message)
    except Exception:
        pass  # a handler that fails has said so; nothing may reach the library


@_abi.DROP_FN  # type: ignore[untyped-decorator]
def _drop(_: Optional[int]) -> None:
    _is_dropped.set()


def _detach(pid: int = os.getpid()) -> None:
    # A thread of the library that came in while the interpreter goes would be stuck for ever.
    # In a forked child there is none.
    if _installed is not None and os.getpid() == pid:
        _is_dropped.clear()
        _abi.fdx_set_log(0, _abi.LOG_FN(), None, _abi.DROP_FN())
        _is_dropped.wait(1)


atexit.register(_detach)
