"""Calls that need more than one line."""

import ctypes
from typing import Any, Callable

from . import _abi
from .exceptions import check


def read_text(function: Callable[..., Any], *arguments: Any) -> str:
    """What a function of the shape (…, buf, cap, *needed) says."""
    room = 2048
    needed = ctypes.c_size_t()
    while True:
        buffer = ctypes.create_string_buffer(room)
        status = function(*arguments, buffer, room, ctypes.byref(needed))
        if status != _abi.E_BUFFER:
            break
        room = needed.value
    if status == _abi.E_NOT_FOUND:
        return ""
    check(status)
    return ctypes.string_at(buffer, needed.value - 1).decode(errors="surrogateescape")
