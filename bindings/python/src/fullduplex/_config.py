"""Options: keywords of Python become rows of the library's own table.

Nothing here knows an option by name, so that a new one needs no change: `send_limit=…` is the row
`send.limit`, and its type says what a number means.
"""

import ctypes
import os
from datetime import timedelta
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from . import _abi
from .exceptions import ConfigError, check

Host = Union[None, str, Iterable[str]]


class Option(NamedTuple):
    """A row of the option table."""

    name: str
    type: str
    default: str
    help: str
    is_live: bool


def option_table() -> List[Option]:
    """Every option of the library, with its type, its default and what it does."""
    table: List[Option] = []
    while True:
        row = _abi.fdx_option(len(table))
        if not row:
            return table
        row = row.contents
        table.append(Option(row.name.decode(), row.type.decode(), row.default_value.decode(), row.help.decode(),
                            bool(row.flags & _abi.OPTION_LIVE)))


_BY_KEYWORD: Dict[str, Option] = {option.name.replace(".", "_"): option for option in option_table()}


def name_and_text(keyword: str, value: object) -> Optional[Tuple[str, str]]:
    """What the library is told for a keyword; None: nothing, its default is wanted."""
    option = _BY_KEYWORD.get(keyword.replace(".", "_"))
    if option is None:
        # The library's own error names the nearest.
        return keyword, "" if value is None else str(value)
    text = _text(option, value)
    return None if text is None else (option.name, text)


def _text(option: Option, value: object) -> Optional[str]:
    if value is None:
        # As elsewhere in asyncio: no time is no timeout.
        return "0" if option.type == "time" else None
    if option.type == "time":
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, (int, float)):
            return f"{round(value * 1_000_000)}us"
    if isinstance(value, os.PathLike):
        return os.fspath(value)  # type: ignore[no-any-return]
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return ", ".join(os.fspath(each) if isinstance(each, os.PathLike) else str(each) for each in value if each is not None)
    return str(value)


def addresses(host: Host, port: Optional[int], listen: Union[None, str, Iterable[str]], is_secure: bool) -> List[str]:
    """Where to listen, in the library's words. A host without a port is such an address already."""
    found = [listen] if isinstance(listen, str) else list(listen or ())
    if host is None and port is None:
        if not found:
            raise ConfigError("say where to listen: a host and a port, or listen=", _abi.E_CONFIG)
        return found
    hosts = [host] if host is None or isinstance(host, str) else list(host)
    for each in hosts:
        if port is None:
            found.append(each or "")
            continue
        name = each or ""
        address = f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"
        found.append(f"{address}?tls=1" if is_secure else address)
    return found


class Config:
    """Options and a route, until a server is made of them."""

    def __init__(self) -> None:
        self._pointer = _abi.fdx_config_new()
        if not self._pointer:
            raise MemoryError

    def set(self, name: str, text: str) -> None:
        error = _abi.sized(_abi.Error)
        check(_abi.fdx_config_set(self._pointer, name.encode(), text.encode(), ctypes.byref(error)), error)

    def set_all(self, options: Mapping[str, object], listen: Sequence[str]) -> None:
        for address in listen:
            self.set("listen", address)
        for keyword, value in options.items():
            pair = name_and_text(keyword, value)
            if pair is not None:
                self.set(*pair)

    def get(self, name: str) -> str:
        from ._call import read_text

        return read_text(_abi.fdx_config_get, self._pointer, name.encode())

    def route(self, pattern: str, handlers: Any) -> None:
        error = _abi.sized(_abi.Error)
        check(_abi.fdx_config_route(self._pointer, pattern.encode(), 0, ctypes.byref(handlers), ctypes.byref(error)), error)

    def backplane(self, calls: Any) -> None:
        error = _abi.sized(_abi.Error)
        check(_abi.fdx_config_backplane(self._pointer, ctypes.byref(calls), ctypes.byref(error)), error)

    def new_server(self) -> int:
        error, server = _abi.sized(_abi.Error), ctypes.c_void_p()
        check(_abi.fdx_server_new(self._pointer, ctypes.byref(server), ctypes.byref(error)), error)
        assert server.value is not None
        return server.value

    def __enter__(self) -> "Config":
        return self

    def __exit__(self, *_: object) -> None:
        _abi.fdx_config_free(self._pointer)
        self._pointer = None
