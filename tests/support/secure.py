"""A TLS connection to a server, of which the records on the wire are written here: `Wire`, with TLS in between."""

import ssl

from support.dialects import RFC_6455
from support.wire import SILENCE_SECONDS, Wire

SECURE = "127.0.0.1:0?tls=1"


class SecureWire(Wire):
    """`send` makes a record of each part (at least one) and hands all of them to `write` as one piece, so
    `write` decides how records are split and merged on their way.

    `before` goes ahead of TLS. Without `handshake` nothing is sent until `shake_hands`. What the server
    ends without close_notify fails as truncated.
    """

    def __init__(self, port, context, name="localhost", write=None, *, before=b"", handshake=True, session=None, sock=None):
        super().__init__(port, write, sock=sock)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        if before:
            self.socket.sendall(before)
        if handshake:
            self.shake_hands()

    def shake_hands(self):
        try:
            self._drive(self.tls.do_handshake)
        except BaseException:
            self.close()
            raise
        return self

    def say_hello(self):
        """Sends the first message of the handshake and no more."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        return self

    def send(self, *parts):
        for part in parts:
            self.tls.write(part)
        self._flush()
        return self

    def records(self, *parts):
        """The bytes that `send` would write."""
        for part in parts:
            self.tls.write(part)
        return self.outgoing.read()

    def say_goodbye(self):
        """Sends close_notify: nothing more will come from us, but we still listen."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            # What the server has said before its own close_notify is still to be read.
            assert error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY", error
        self._flush()
        return self

    def is_silent_for(self, seconds):
        assert not self.unread, f"unread: {self.unread!r}"
        self.socket.settimeout(seconds)
        try:
            # Session tickets are no sound.
            self.unread = self._drive(lambda: self.tls.read(1 << 16), receive=lambda: self.socket.recv(1 << 16))
            return False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(SILENCE_SECONDS)

    def read_to_fin(self):
        """Everything up to close_notify, which only FIN may follow."""
        everything = self.read_to_end()
        assert super()._receive() == b"", "bytes after close_notify"
        return everything

    def _receive(self):
        try:
            return self._drive(lambda: self.tls.read(1 << 16))
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLEOFError:
            raise AssertionError(f"the server ended without close_notify, after {self.unread!r}") from None

    def _drive(self, step, receive=None):
        """Does a step of TLS, with as many bytes from the server as it takes."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                if chunk := (receive or super()._receive)():
                    self.incoming.write(chunk)
                else:
                    self.incoming.write_eof()
            except ssl.SSLError:
                self._flush()  # an alert
                raise
            else:
                self._flush()
                return result

    def _flush(self):
        if records := self.outgoing.read():
            self.write(self.socket, records)


def open_wire(port, context, *headers, dialect=RFC_6455, **wire):
    """An open WebSocket over TLS with nothing unread."""
    wire = SecureWire(port, context, **wire).send(dialect.opening(*headers))
    dialect.read_opening(wire)
    return wire
