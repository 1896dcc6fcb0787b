"""What goes wrong, and who sees it."""

from typing import Optional

from . import _abi


class Error(Exception):
    """The library said no. `status` is its answer, such as "FDX_E_CONFIG"."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status: str = _abi.fdx_status_name(status).decode()


class ConfigError(Error, ValueError):
    """An option that isn't one, or a value that is none of its; the message says what would be good."""


class ListenError(Error, OSError):
    """The server can't listen where it should. `errno` is the system's reason, if there is one."""

    def __init__(self, message: str, status: int = 0, os_error: int = 0) -> None:
        Error.__init__(self, message, status)
        self.errno = os_error or None
        self.strerror = message

    def __str__(self) -> str:
        return str(self.strerror)


class MessageTooBig(Error, ValueError):
    """The message is longer than `send.limit` lets any be."""


class ConcurrencyError(RuntimeError):
    """Two tasks want the messages of one connection."""


class ConnectionClosed(Exception):
    """The connection has ended. `code` and `reason` are the peer's, or ours if we closed for a
    violation; 1005 is a close without a code, 1006 an end without a close."""

    def __init__(self, code: int, reason: str = "", by: Optional[str] = None) -> None:
        super().__init__(code, reason, by)
        self.code = code
        self.reason = reason
        #: "peer", "host" (this program), "timeout", "limit", "protocol", "network" or "shutdown"
        self.by = by

    def __str__(self) -> str:
        reason = f" {self.reason}" if self.reason else ""
        return f"closed with {self.code}{reason} by {self.by}" if self.by else f"closed with {self.code}{reason}"


class ConnectionClosedOK(ConnectionClosed):
    """It ended as connections should: with 1000, 1001 or no code."""


class ConnectionClosedError(ConnectionClosed):
    """It ended in any other way."""


# How `ConnectionClosed.by` names who or what ended a connection.
CLOSED_BY = {
    _abi.CLOSED_BY_PEER: "peer",
    _abi.CLOSED_BY_HOST: "host",
    _abi.CLOSED_BY_TIMEOUT: "timeout",
    _abi.CLOSED_BY_LIMIT: "limit",
    _abi.CLOSED_BY_PROTOCOL: "protocol",
    _abi.CLOSED_BY_NETWORK: "network",
    _abi.CLOSED_BY_SHUTDOWN: "shutdown",
}


def connection_closed(code: int, reason: str, by: Optional[str]) -> ConnectionClosed:
    kind = ConnectionClosedOK if code in (1000, 1001, 1005) else ConnectionClosedError
    return kind(code, reason, by)


def check(status: int, error: Optional[_abi.Error] = None) -> int:
    """Raises what a status says, with the message of `error` if there is one."""
    if status >= 0:
        return status
    raise failure(status, error)


def check_or(expected: int, status: int) -> int:
    """The same, but one error is an answer."""
    return status if status == expected else check(status)


def failure(status: int, error: Optional[_abi.Error] = None) -> Error:
    message = error.message.decode(errors="replace") if error is not None and error.message else ""
    message = message or _abi.fdx_status_text(status).decode()
    if status == _abi.E_CONFIG:
        return ConfigError(message, status)
    if status in (_abi.E_ADDR_IN_USE, _abi.E_DENIED, _abi.E_IO):
        return ListenError(message, status, error.os_error if error is not None else 0)
    if status == _abi.E_TOO_BIG:
        return MessageTooBig(message, status)
    return Error(message, status)
