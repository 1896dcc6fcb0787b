"""Every dialect as a client speaks it: how it opens, and what a text looks like on its way out and back."""

from dataclasses import dataclass

from support.wire import MASK, TEXT, Wire, frame, request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HIXIE_KEYS = ("Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5", "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00")
EIGHT_BYTES, SIXTEEN_BYTES = b"^n:ds[4U", b"8jKS'y:G*Co,Wxa-"


@dataclass(frozen=True)
class Dialect:
    name: str
    # The header lines of a handshake beside Host.
    headers: tuple
    # What follows the head of the request, and the head of the answer.
    body: bytes = b""
    proof: bytes = b""
    is_hixie: bool = False

    def opening(self, *more, **request_line):
        """A whole handshake. `more` are header lines, `request_line` is what `request` takes."""
        return request(*self.headers, *more, **request_line) + self.body

    def open(self, port, *more, **request_line):
        """An open connection with nothing unread."""
        wire = Wire(port).send(self.opening(*more, **request_line))
        self.read_opening(wire)
        return wire

    def read_opening(self, wire):
        head = wire.read_head()
        assert head.status == 101, head.raw
        assert wire.read(len(self.proof)) == self.proof
        return head

    def text(self, text, mask=MASK):
        """A text message of a client."""
        return b"\x00" + text + b"\xff" if self.is_hixie else frame(TEXT, text, mask=mask)

    def echo(self, text):
        """The same message of a server."""
        return b"\x00" + text + b"\xff" if self.is_hixie else frame(TEXT, text, mask=None)

    def __str__(self):
        return self.name


def _hybi(name, version):
    lines = "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Version: {version}"
    return Dialect(name, lines)


RFC_6455, HYBI_08, HYBI_07 = _hybi("RFC 6455", 13), _hybi("HyBi-08", 8), _hybi("HyBi-07", 7)
HIXIE_75 = Dialect("Hixie-75", ("Upgrade: WebSocket", "Connection: Upgrade"), is_hixie=True)
HIXIE_76 = Dialect("Hixie-76", (*HIXIE_75.headers, *HIXIE_KEYS), EIGHT_BYTES, SIXTEEN_BYTES, is_hixie=True)

HYBI = [RFC_6455, HYBI_08, HYBI_07]
HIXIE = [HIXIE_76, HIXIE_75]
DIALECTS = [*HYBI, *HIXIE]
