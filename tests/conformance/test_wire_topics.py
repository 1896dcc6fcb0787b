"""What is published reaches each member of a topic in the form that its connection speaks."""

import pytest
from websockets.sync.client import connect

from support.dialects import DIALECTS, HIXIE, RFC_6455
from support.nodes import Node, order
from support.programs import PATIENCE_SECONDS
from support.secure import SECURE, SecureWire
from support.wire import BINARY, TEXT, frame

WELCOME = b"in room"
TEXTS = ["Grüße, 世界 👋", "", "long enough to be compressed, " * 300]


@pytest.mark.parametrize("deflate", ["shared", "dedicated"])
def test_members_of_every_dialect_plain_compressed_and_encrypted_hear_the_same(authority, here, deflate):
    with Node(listen=["127.0.0.1:0", SECURE], settings={"deflate": deflate, **here.settings}) as node:
        secure_port = int(node.addresses[1].rpartition(":")[2])
        bare = [(dialect, dialect.open(node.port, target="/t/room")) for dialect in DIALECTS]
        secure = SecureWire(secure_port, authority.client()).send(RFC_6455.opening(target="/t/room"))
        RFC_6455.read_opening(secure)
        bare.append((RFC_6455, secure))
        for dialect, wire in bare:
            assert wire.read(len(dialect.echo(WELCOME))) == dialect.echo(WELCOME)
        with connect(f"{node.url}t/room") as compressed, node.open("/from/room") as publisher, node.open("/commands") as commands:
            assert compressed.protocol.extensions and compressed.recv(timeout=PATIENCE_SECONDS) == WELCOME.decode()
            for text in TEXTS:
                publisher.send(frame(TEXT, text))
                for dialect, wire in bare:
                    expected = dialect.echo(text.encode())
                    assert wire.read(len(expected)) == expected
                assert compressed.recv(timeout=PATIENCE_SECONDS) == text

            # Hixie has no binary messages.
            assert order(commands, "publish", "room", 1, 20) == f"queued {len(bare) + 1 - len(HIXIE)} high_water 0 dropped {len(HIXIE)}"
            for dialect, wire in bare:
                if not dialect.is_hixie:
                    assert wire.read_frame() == (0x80 | BINARY, bytes(20))
            assert compressed.recv(timeout=PATIENCE_SECONDS) == bytes(20)
            # And is still there for the next text.
            publisher.send(frame(TEXT, "bye"))
            for dialect, wire in bare:
                assert wire.read(len(dialect.echo(b"bye"))) == dialect.echo(b"bye")
        for _, wire in bare:
            wire.close()
