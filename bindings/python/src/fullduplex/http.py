"""What is asked before a connection opens, and what can be answered."""

from http import HTTPStatus
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union
from urllib.parse import parse_qs

from . import _abi
from ._call import read_text

HeadersLike = Union["Headers", Mapping[str, str], Iterable[Tuple[str, str]]]


class Headers(Mapping[str, str]):
    """Headers by name in any case. Several lines of one name are joined with a comma; `get_all` has each."""

    def __init__(self, headers: HeadersLike = ()) -> None:
        pairs = headers.raw_items() if isinstance(headers, Headers) else (
            headers.items() if isinstance(headers, Mapping) else headers)
        self._lines: List[Tuple[str, str]] = list(pairs)
        self._by_name: Dict[str, List[str]] = {}
        for name, value in self._lines:
            self._by_name.setdefault(name.lower(), []).append(value)

    @classmethod
    def parse(cls, text: str) -> "Headers":
        lines = (line.partition(":") for line in text.split("\r\n") if line)
        return cls((name, value.strip(" \t")) for name, _, value in lines)

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._by_name[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter({name.lower(): name for name, _ in reversed(self._lines)}.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def get_all(self, name: str) -> List[str]:
        return list(self._by_name.get(name.lower(), ()))

    def raw_items(self) -> List[Tuple[str, str]]:
        """Name and value of every line, in order."""
        return list(self._lines)

    def __repr__(self) -> str:
        return f"Headers({self._lines!r})"


class Request:
    """The request that a connection began with, or a plain one."""

    __slots__ = ("method", "path", "query", "body", "is_websocket", "_head", "_headers")

    def __init__(self, method: str, path: str, query: str, head: str, body: Optional[bytes] = None) -> None:
        self.method = method
        #: Does it ask for a WebSocket? Else it is a plain one.
        self.is_websocket = body is None
        #: Without the query, as it was sent.
        self.path = path
        #: What stands behind the question mark, as it was sent.
        self.query = query
        #: Of a plain request.
        self.body = body or b""
        self._head = head
        self._headers: Optional[Headers] = None

    @classmethod
    def of(cls, server: Optional[int], conn: int, body: Optional[bytes] = None) -> "Request":
        """While the library has it: until OPEN was told, or its batch freed."""
        return cls(
            # Only a plain request may be something else.
            "GET" if body is None else read_text(_abi.fdx_request_get, server, conn, b":method"),
            read_text(_abi.fdx_request_get, server, conn, b":path"),
            read_text(_abi.fdx_request_get, server, conn, b":query"),
            read_text(_abi.fdx_request_headers, server, conn),
            body,
        )

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = Headers.parse(self._head)
        return self._headers

    @property
    def parameters(self) -> Dict[str, List[str]]:
        """What the query says, decoded: `?token=a&token=b` is `{"token": ["a", "b"]}`."""
        return parse_qs(self.query, keep_blank_values=True)

    def __repr__(self) -> str:
        query = f"?{self.query}" if self.query else ""
        return f"<Request {self.method} {self.path}{query}>"


class Accept:
    """The answer of `process_request` that lets a client in, with more than None does: headers of
    your own, and one of the subprotocols that the client offers ("": none of them)."""

    __slots__ = ("headers", "subprotocol")

    def __init__(self, headers: HeadersLike = (), subprotocol: Optional[str] = None) -> None:
        self.headers = Headers(headers)
        self.subprotocol = subprotocol


class Response:
    """An answer in HTTP: a refusal, from status 300 on, or a reply to a plain request."""

    __slots__ = ("status", "headers", "body")

    def __init__(self, status: int, headers: HeadersLike = (), body: Union[str, bytes] = b"") -> None:
        self.status = int(status)
        self.headers = Headers(headers)
        if isinstance(body, str):
            body = body.encode()
            if "Content-Type" not in self.headers:
                self.headers = Headers([*self.headers.raw_items(), ("Content-Type", "text/plain; charset=utf-8")])
        self.body = body

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.body)} bytes>"


def respond(status: int, text: str) -> Response:
    return Response(status, (), text)


Decision = Union[None, Accept, Response]

FAILED = respond(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed to answer.\n")
# To a WebSocket where `process_request` has a page for others.
ONLY_A_PAGE = respond(HTTPStatus.NOT_FOUND, "There is no WebSocket here.\n")
NO_WEBSOCKET = respond(HTTPStatus.UPGRADE_REQUIRED, "Only WebSockets are served here.\n")


def lines_of(headers: Headers) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.raw_items()).encode()


def decide(server: Optional[int], conn: int, decision: Decision) -> int:
    """Answers an UPGRADE; returns the library's status."""
    if isinstance(decision, Response):
        return _answer(_abi.fdx_reject, server, conn, decision if decision.status >= 300 else ONLY_A_PAGE)
    if decision is None:
        return _abi.fdx_accept(server, conn, None, None, 0)  # type: ignore[no-any-return]
    if not isinstance(decision, Accept):
        raise TypeError(f"the answer to a request must be None, Accept or Response, not {type(decision).__name__}")
    protocol = None if decision.subprotocol is None else decision.subprotocol.encode()
    lines = lines_of(decision.headers)
    return _abi.fdx_accept(server, conn, protocol, lines, len(lines))  # type: ignore[no-any-return]


def reply(server: Optional[int], conn: int, response: Response) -> int:
    """Answers a plain request; returns the library's status."""
    if not isinstance(response, Response):
        raise TypeError(f"the answer to a plain request must be a Response, not {type(response).__name__}")
    return _answer(_abi.fdx_http_reply, server, conn, response)


def _answer(function: Callable[..., Any], server: Optional[int], conn: int, response: Response) -> int:
    lines = lines_of(response.headers)
    return function(server, conn, response.status, lines, len(lines), response.body, len(response.body))  # type: ignore[no-any-return]
