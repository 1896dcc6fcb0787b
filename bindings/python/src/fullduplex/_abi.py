"""The C ABI of the library: every constant, struct and function, once.

What include/fullduplex.h says stands here in the same order and under the same names (without
`FDX_`), and a test compares both. A new event type or status is a line here.
"""

import ctypes
import os
import struct
import sys
from ctypes import (
    CFUNCTYPE, POINTER, PYFUNCTYPE, Structure, c_char, c_char_p, c_int32, c_size_t, c_ssize_t, c_uint16, c_uint32, c_uint64,
    c_void_p, py_object,
)
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

# -- constants -------------------------------------------------------------------------------------

ABI = 0
# As the length of a string: it ends with NUL.
NTS = ctypes.c_size_t(-1).value

TEXT, BINARY = 1, 2
F_COMPRESS, F_NO_COMPRESS, F_MORE, F_SKIP_SENDER = 1, 2, 4, 0x20

EV_UPGRADE, EV_OPEN, EV_MESSAGE, EV_FRAGMENT, EV_DRAIN, EV_CLOSE, EV_PING, EV_PONG, EV_HTTP = range(1, 10)
EV_TOPIC, EV_BACKPLANE, EV_LISTENER, EV_FAULT, EV_STOPPED, EV_THREAD_START, EV_THREAD_STOP = range(10, 17)
EVF_FIN, EVF_BINARY = 1, 2
TOPIC_JOINED, TOPIC_LEFT = 1, 2
BP_UP, BP_DOWN, BP_GAP = 1, 2, 3

CLOSED_BY_PEER, CLOSED_BY_HOST, CLOSED_BY_TIMEOUT, CLOSED_BY_LIMIT = 1, 2, 3, 4
CLOSED_BY_PROTOCOL, CLOSED_BY_NETWORK, CLOSED_BY_SHUTDOWN = 5, 6, 7

OPTION_LIVE = 1
ROUTE_STREAM, ROUTE_HTTP, ROUTE_UPGRADE, ROUTE_OTHER, ROUTE_TOPIC = 1, 2, 4, 8, 0x10
CI_TLS, CI_DEFLATE = 1, 2

OK, HIGH_WATER, ALREADY = 0, 1, 2
E_INVALID_ARG = -1
E_NO_CONN = -2
E_CLOSING = -3
E_FULL = -4
E_TOO_BIG = -5
E_UTF8 = -6
E_STATE = -7
E_STOPPED = -8
E_NOMEM = -9
E_IO = -10
E_TLS = -11
E_ADDR_IN_USE = -12
E_DENIED = -13
E_UNSUPPORTED = -14
E_TIMEOUT = -15
E_VERSION = -16
E_PANIC = -17
E_NOT_FOUND = -18
E_BUFFER = -19
E_CONFIG = -20
E_BACKPLANE = -21
E_DEADLOCK = -22
E_FORKED = -23
E_INTERRUPTED = -24
E_LIMIT = -25

# -- structs ---------------------------------------------------------------------------------------


class Error(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("status", c_int32), ("os_error", c_int32), ("reserved", c_uint32),
        ("message", c_char * 240),
    ]


class OptionInfo(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("name", c_char_p), ("type", c_char_p),
        ("default_value", c_char_p), ("help", c_char_p),
    ]


class Event(Structure):
    _fields_ = [
        ("struct_size", c_uint16), ("type", c_uint16), ("flags", c_uint32), ("conn", c_uint64), ("conn_data", c_void_p),
        ("data", c_void_p), ("len", c_size_t), ("route", c_uint32), ("code", c_int32), ("arg", c_uint64),
        ("time_us", c_uint64),
    ]


# Their pointers are only passed on or read by address, so plain numbers will do.
EVENT_FN: Any = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)
DROP_FN: Any = CFUNCTYPE(None, c_void_p)
LOG_FN: Any = CFUNCTYPE(None, c_void_p, c_int32, c_uint64, c_char_p, c_void_p, c_size_t)
BACKPLANE_PUBLISH_FN: Any = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)
BACKPLANE_CHANNEL_FN: Any = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_size_t)


class Handlers(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("user_data", c_void_p), ("drop", DROP_FN),
        ("on_upgrade", EVENT_FN), ("on_open", EVENT_FN), ("on_message", EVENT_FN), ("on_close", EVENT_FN),
        ("on_drain", EVENT_FN), ("on_other", EVENT_FN),
    ]


class ConnInfo(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("route", c_uint32), ("opened_us", c_uint64), ("bytes_in", c_uint64),
        ("bytes_out", c_uint64), ("msgs_in", c_uint64), ("msgs_out", c_uint64), ("queued_bytes", c_uint64),
        ("dropped", c_uint64), ("rtt_us", c_uint32), ("remote_port", c_uint16), ("local_port", c_uint16),
        ("version", c_uint16), ("http", c_uint16), ("flags", c_uint32), ("remote_addr", c_char * 64),
        ("peer_addr", c_char * 64), ("subprotocol", c_char * 64),
    ]


class Stats(Structure):
    _fields_ = [("struct_size", c_uint32), ("threads", c_uint32)] + [
        (name, c_uint64) for name in (
            "connections", "peak_connections", "accepted", "rejected", "closed", "handshake_errors", "msgs_in", "msgs_out",
            "bytes_in", "bytes_out", "dropped_msgs", "slow_closed", "rate_limited", "queued_bytes", "event_queue_len",
            "deflate_bytes", "topics", "subscriptions", "backplane_in", "backplane_out", "backplane_lost", "faults",
        )
    ]


class BatchView(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("reserved", c_uint32), ("events", c_void_p), ("count", c_size_t), ("stride", c_size_t),
        ("block", c_void_p), ("block_len", c_size_t), ("batch", c_void_p),
    ]


class PublishResult(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("reserved", c_uint32), ("queued", c_uint64), ("high_water", c_uint64), ("dropped", c_uint64),
    ]


class Backplane(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("reserved", c_uint32), ("user_data", c_void_p), ("drop", DROP_FN),
        ("publish", BACKPLANE_PUBLISH_FN), ("subscribe", BACKPLANE_CHANNEL_FN), ("unsubscribe", BACKPLANE_CHANNEL_FN),
    ]


def sized(kind: Any) -> Any:
    """A struct of this kind that says its size."""
    made = kind()
    made.struct_size = ctypes.sizeof(kind)
    return made


# -- events in bulk --------------------------------------------------------------------------------

# One event as a tuple; the names are those of `Event`.
EVENT_TUPLE = ("type", "flags", "conn", "data", "len", "code", "arg")
_LETTERS: Dict[Any, str] = {
    c_uint16: "H", c_uint32: "I", c_int32: "i", c_uint64: "Q", c_void_p: "P", c_size_t: "N",
}
_unpackers: Dict[int, struct.Struct] = {}


def event_unpacker(stride: int) -> struct.Struct:
    """Takes `EVENT_TUPLE` out of events that lie `stride` bytes apart: a newer library's are longer."""
    if stride not in _unpackers:
        layout = "@" + "".join(
            _LETTERS[kind] if name in EVENT_TUPLE else f"{ctypes.sizeof(kind)}x" for name, kind in Event._fields_  # type: ignore[misc]
        )
        _unpackers[stride] = struct.Struct(f"{layout}{stride - struct.calcsize(layout)}x")
    return _unpackers[stride]


# The head of one record of fdx_submit; payload and padding to 8 bytes follow.
RECORD = struct.Struct("@QII")

# -- memory of the library's becomes objects of Python's ------------------------------------------

bytes_at: Callable[[int, int], bytes] = PYFUNCTYPE(py_object, c_void_p, c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi))
_text_at = PYFUNCTYPE(py_object, c_void_p, c_ssize_t, c_char_p)(("PyUnicode_DecodeUTF8", ctypes.pythonapi))


def text_at(address: int, length: int) -> str:
    return _text_at(address, length, None) if length else ""


# -- the library -----------------------------------------------------------------------------------


def _candidates() -> Iterator[Path]:
    file_name = {"win32": "fullduplex.dll", "darwin": "libfullduplex.dylib"}.get(sys.platform, "libfullduplex.so")
    named = os.environ.get("FULLDUPLEX_LIBRARY")
    if named:
        yield Path(named)
        return
    here = Path(__file__).resolve()
    yield here.with_name(file_name)
    if len(here.parents) > 4:
        # In a checkout: bindings/python/src/fullduplex/_abi.py
        yield here.parents[4] / "target" / "release" / file_name


def _find() -> Path:
    tried = []
    for path in _candidates():
        if path.is_file():
            return path
        tried.append(str(path))
    raise ImportError(f"the fullduplex library is not there; looked for {' and '.join(tried)}")


PATH = str(_find())
# Its functions are called in two ways. A quick one returns at once and waits for nothing, so giving
# up the interpreter's lock would cost more than the call. One that may wait gives it up.
_quick_calls = ctypes.PyDLL(PATH)
_waiting_calls = ctypes.CDLL(PATH)


def _declare(library: ctypes.CDLL, name: str, result: Any, arguments: Tuple[Any, ...]) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function  # type: ignore[no-any-return]


def _quick(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return _declare(_quick_calls, name, result, arguments)


def _waits(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return _declare(_waiting_calls, name, result, arguments)


_error_p, _size_p, _status_p = POINTER(Error), POINTER(c_size_t), POINTER(c_int32)

fdx_version_string = _quick("fdx_version_string", c_char_p)
fdx_check_abi = _quick("fdx_check_abi", c_int32, c_uint32)
fdx_status_name = _quick("fdx_status_name", c_char_p, c_int32)
fdx_status_text = _quick("fdx_status_text", c_char_p, c_int32)

fdx_config_new = _quick("fdx_config_new", c_void_p)
fdx_config_free = _quick("fdx_config_free", None, c_void_p)
fdx_config_set = _quick("fdx_config_set", c_int32, c_void_p, c_char_p, c_char_p, _error_p)
fdx_config_get = _quick("fdx_config_get", c_int32, c_void_p, c_char_p, c_char_p, c_size_t, _size_p)
fdx_option = _quick("fdx_option", POINTER(OptionInfo), c_size_t)
fdx_config_route = _quick("fdx_config_route", c_int32, c_void_p, c_char_p, c_uint32, POINTER(Handlers), _error_p)

fdx_server_new = _waits("fdx_server_new", c_int32, c_void_p, POINTER(c_void_p), _error_p)
fdx_server_unref = _waits("fdx_server_unref", None, c_void_p)
fdx_server_start = _waits("fdx_server_start", c_int32, c_void_p, _error_p)
fdx_server_stop = _waits("fdx_server_stop", c_int32, c_void_p, c_uint16, c_char_p, c_size_t, c_uint32, c_uint32)
fdx_server_wait = _waits("fdx_server_wait", c_int32, c_void_p, c_int32)
fdx_server_set = _waits("fdx_server_set", c_int32, c_void_p, c_char_p, c_char_p, _error_p)
fdx_listen = _waits("fdx_listen", c_int32, c_void_p, c_char_p, POINTER(c_uint32), POINTER(c_uint16), _error_p)
fdx_set_certificate = _waits(
    "fdx_set_certificate", c_int32, c_void_p, c_char_p, c_char_p, c_size_t, c_char_p, c_size_t, _error_p)
fdx_listener_port = _waits("fdx_listener_port", c_int32, c_void_p, c_uint32, POINTER(c_uint16))

fdx_accept = _quick("fdx_accept", c_int32, c_void_p, c_uint64, c_char_p, c_char_p, c_size_t)
fdx_reject = _quick(
    "fdx_reject", c_int32, c_void_p, c_uint64, c_uint16, c_char_p, c_size_t, c_char_p, c_size_t)
fdx_http_reply = _quick(
    "fdx_http_reply", c_int32, c_void_p, c_uint64, c_uint16, c_char_p, c_size_t, c_char_p, c_size_t)
fdx_request_get = _quick("fdx_request_get", c_int32, c_void_p, c_uint64, c_char_p, c_char_p, c_size_t, _size_p)
fdx_request_headers = _quick("fdx_request_headers", c_int32, c_void_p, c_uint64, c_char_p, c_size_t, _size_p)

fdx_send = _quick("fdx_send", c_int32, c_void_p, c_uint64, c_uint32, c_char_p, c_size_t, c_uint32)
fdx_msg_new = _quick("fdx_msg_new", c_void_p, c_uint32, c_char_p, c_size_t)
fdx_msg_unref = _quick("fdx_msg_unref", None, c_void_p)
fdx_send_msg = _quick(
    "fdx_send_msg", c_int32, c_void_p, POINTER(c_uint64), c_size_t, c_void_p, c_uint32, _status_p)
fdx_subscribe = _quick("fdx_subscribe", c_int32, c_void_p, c_uint64, c_char_p, c_size_t)
fdx_unsubscribe = _quick("fdx_unsubscribe", c_int32, c_void_p, c_uint64, c_char_p, c_size_t)
fdx_publish = _quick(
    "fdx_publish", c_int32, c_void_p, c_char_p, c_size_t, c_void_p, c_uint32, c_uint64, POINTER(PublishResult))
fdx_topic_count = _quick("fdx_topic_count", c_int32, c_void_p, c_char_p, c_size_t, POINTER(c_uint64))
fdx_config_backplane = _quick("fdx_config_backplane", c_int32, c_void_p, POINTER(Backplane), _error_p)
fdx_backplane_deliver = _quick("fdx_backplane_deliver", c_int32, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t)
fdx_backplane_state = _quick("fdx_backplane_state", c_int32, c_void_p, c_int32)
fdx_close = _quick("fdx_close", c_int32, c_void_p, c_uint64, c_uint16, c_char_p, c_size_t)
fdx_abort = _quick("fdx_abort", c_int32, c_void_p, c_uint64)
fdx_pause = _quick("fdx_pause", c_int32, c_void_p, c_uint64)
fdx_resume = _quick("fdx_resume", c_int32, c_void_p, c_uint64)
fdx_ping = _quick("fdx_ping", c_int32, c_void_p, c_uint64, c_char_p, c_size_t)
fdx_conn_get_info = _quick("fdx_conn_get_info", c_int32, c_void_p, c_uint64, POINTER(ConnInfo))
fdx_get_stats = _quick("fdx_get_stats", c_int32, c_void_p, POINTER(Stats))
fdx_metrics_text = _quick("fdx_metrics_text", c_int32, c_void_p, c_char_p, c_size_t, _size_p)
fdx_set_log = _waits("fdx_set_log", None, c_int32, LOG_FN, c_void_p, DROP_FN)

# With a timeout of 0 only; see `fdx_poll_waiting`.
fdx_poll = _quick("fdx_poll", c_int32, c_void_p, c_uint32, c_size_t, c_int32, POINTER(BatchView))
fdx_poll_waiting = _waits("fdx_poll", c_int32, c_void_p, c_uint32, c_size_t, c_int32, POINTER(BatchView))
fdx_batch_free = _quick("fdx_batch_free", None, c_void_p)
fdx_wake = _quick("fdx_wake", c_int32, c_void_p, c_uint32)
fdx_queue_fd = _quick("fdx_queue_fd", c_int32, c_void_p, c_uint32, POINTER(c_ssize_t))
fdx_submit = _quick("fdx_submit", c_int32, c_void_p, c_char_p, c_size_t, _status_p, c_size_t)

if fdx_check_abi(ABI) != OK:
    raise ImportError(f"{PATH} is {fdx_version_string().decode()}, but this package was made for abi {ABI}")
