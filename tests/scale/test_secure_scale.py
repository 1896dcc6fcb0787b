"""What a TLS connection costs that has nothing to say."""

import ssl
from contextlib import ExitStack

import pytest

from support.secure import SECURE, open_wire
from support.wire import TEXT, frame
from test_scale import resident_bytes

IDLE_CONNECTION_BYTES_MAX = 12 * 1024
CROWD = 400


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("has_spoken", [False, True], ids=["silent since it opened", "silent after large messages"])
def test_an_idle_tls_connection_costs_less_than_12_kib(start, authority, here, record_property, has_spoken, version):
    echo = start("echo", listen=[SECURE], settings=here.settings)
    context = authority.client(versions=(version, version))
    large = b"x" * 100_000

    with ExitStack() as wires:

        def crowd(count):
            for _ in range(count):
                wire = wires.enter_context(open_wire(echo.port, context))
                if has_spoken:
                    wire.send(frame(TEXT, large))
                    assert wire.read_frame() == (0x80 | TEXT, large)

        # What the first ones need, the later ones share: tables, tickets, a turn's memory.
        crowd(100)
        base = resident_bytes(echo)
        crowd(CROWD)
        each = (resident_bytes(echo) - base) / CROWD
    print(f"an idle TLS connection costs {each:.0f} bytes")
    record_property("idle_tls_connection_bytes", each)
    assert each < IDLE_CONNECTION_BYTES_MAX
