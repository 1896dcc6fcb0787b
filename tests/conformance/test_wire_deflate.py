"""permessage-deflate (RFC 7692) on the wire, against Python's zlib."""

import zlib

import pytest

from support.programs import Program, own_program
from support.wire import BINARY, CONTINUATION, PING, TEXT, Wire, close_frame, frame, request

TAIL = b"\x00\x00\xff\xff"
COMPRESSED = 4
WORDS = b"a text that says the same again and again, " * 30


def deflated(payload, level=9):
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def opening(*offers, version=13):
    return request(
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Version: {version}",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *[f"Sec-WebSocket-Extensions: {offer}" for offer in offers],
    )


def opened(wire, *offers):
    answer = wire.send(opening(*offers)).read_head()
    assert answer.status == 101
    return answer["Sec-WebSocket-Extensions"]


class Inflater:
    """Reads a server's messages."""

    def __init__(self, wire, window_bits=15, keeps_context=True):
        self.wire, self.window_bits, self.keeps_context = wire, window_bits, keeps_context
        self.stream = zlib.decompressobj(-window_bits)

    def read(self):
        """(first byte, message, bytes it took)"""
        first, payload = self.wire.read_frame()
        if not first & 0x40:
            return first, payload, len(payload)
        if not self.keeps_context:
            self.stream = zlib.decompressobj(-self.window_bits)
        return first, self.stream.decompress(payload + TAIL), len(payload)


@pytest.fixture(scope="module", params=["shared", "dedicated"])
def deflating(request):
    with Program("echo", settings={"deflate": request.param}) as program:
        yield program


@pytest.fixture(scope="module")
def shared():
    with Program("echo", settings={"deflate": "shared"}) as program:
        yield program


@pytest.fixture(scope="module")
def dedicated():
    with Program("echo", settings={"deflate": "dedicated"}) as program:
        yield program


# ------------------------------------------------------------------------------- the handshake

ANSWERS = [
    # What Firefox, Chromium and the Autobahn suite offer, and what a dedicated connection answers.
    ("permessage-deflate", ""),
    ("permessage-deflate; client_max_window_bits", "; client_max_window_bits=15"),
    (
        "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_no_context_takeover; server_max_window_bits=9",
        "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=15",
    ),
    ("x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10", "; server_max_window_bits=10"),
    ('permessage-deflate; client_max_window_bits="9"', "; client_max_window_bits=9"),
]


@pytest.mark.parametrize("offer, answer", ANSWERS)
def test_an_offer_is_answered_byte_for_byte(dial, dedicated, offer, answer):
    assert opened(dial(dedicated), offer) == "permessage-deflate" + answer


def test_a_shared_connection_asks_the_client_not_to_remember(dial, shared):
    assert opened(dial(shared), "permessage-deflate") == "permessage-deflate; client_no_context_takeover"


@pytest.mark.parametrize("offer", [
    "permessage-deflate; unknown", "permessage-deflate; server_max_window_bits", "permessage-deflate; client_max_window_bits=16",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover", "permessage-deflate; client_no_context_takeover=1",
    "permessage-deflate; server_max_window_bits=08", "permessage-deflate; server_max_window_bits=\"", "deflate-stream",
])
def test_a_bad_offer_is_declined_and_the_connection_goes_on_without(dial, deflating, offer):
    wire = dial(deflating)
    assert opened(wire, offer) is None
    assert wire.send(frame(TEXT, WORDS)).read_frame() == (0x81, WORDS)
    assert wire.send(frame(TEXT, deflated(WORDS), reserved=COMPRESSED)).read_close() == 1002


@pytest.mark.parametrize("version", [8, 7])
def test_the_drafts_do_not_compress(dial, deflating, version):
    wire = dial(deflating).send(opening("permessage-deflate", version=version))
    assert wire.read_head()["Sec-WebSocket-Extensions"] is None


# -------------------------------------------------------------------------------- what is said

@pytest.mark.parametrize("parameters", ["", "; server_no_context_takeover", "; server_max_window_bits=9", "; client_no_context_takeover"])
def test_messages_come_back_compressed(dial, deflating, parameters):
    wire = dial(deflating)
    opened(wire, "permessage-deflate" + parameters)
    inflater = Inflater(wire, 9 if "bits" in parameters else 15)
    for payload in (WORDS, b"short", b"", WORDS * 50, WORDS[1:], b"x" * 200_000):
        wire.send(frame(TEXT, deflated(payload), reserved=COMPRESSED))
        first, heard, length = inflater.read()
        assert heard == payload
        assert first == (0xC1 if len(payload) >= 128 else 0x81)
        assert length < len(payload) / 5 or len(payload) < 128


def test_a_dedicated_connection_remembers_in_both_directions(dial, dedicated):
    wire = dial(dedicated)
    assert opened(wire, "permessage-deflate") == "permessage-deflate"
    stream, inflater = zlib.compressobj(9, zlib.DEFLATED, -15), Inflater(wire)
    lengths = []
    for _ in range(4):
        payload = (stream.compress(WORDS) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
        _, heard, length = (wire.send(frame(BINARY, payload, reserved=COMPRESSED)), *inflater.read()[1:])
        assert heard == WORDS
        lengths.append((len(payload), length))
    assert lengths[1][0] < lengths[0][0] and lengths[1][1] < lengths[0][1]


def test_fragments_and_pings_between_them(dial, deflating):
    wire = dial(deflating)
    opened(wire, "permessage-deflate")
    payload = deflated(WORDS * 20)
    parts = [payload[:10], b"", payload[10:-1], payload[-1:]]
    wire.send(frame(TEXT, parts[0], fin=False, reserved=COMPRESSED))
    for part in parts[1:-1]:
        wire.send(frame(PING, b"?"), frame(CONTINUATION, part, fin=False))
        assert wire.read_frame() == (0x8A, b"?")
    wire.send(frame(CONTINUATION, parts[-1]))
    assert Inflater(wire).read()[:2] == (0xC1, WORDS * 20)


@pytest.mark.parametrize("reserved, opcode, fin", [(4, CONTINUATION, True), (4, PING, True), (6, TEXT, True), (2, TEXT, True), (1, TEXT, True)])
def test_only_the_first_frame_of_a_message_has_the_bit(dial, deflating, reserved, opcode, fin):
    wire = dial(deflating)
    opened(wire, "permessage-deflate")
    if opcode == CONTINUATION:
        wire.send(frame(TEXT, deflated(WORDS)[:20], fin=False, reserved=COMPRESSED))
    assert wire.send(frame(opcode, b"x", reserved=reserved, fin=fin)).read_close() == 1002


@pytest.mark.parametrize("payload", [b"\x07", b"\x06\x00", deflated(WORDS)[:-8], deflated(WORDS) + b"\x07rubbish", b"not compressed at all"])
def test_what_is_no_deflate_costs_1007(dial, deflating, payload):
    wire = dial(deflating)
    opened(wire, "permessage-deflate")
    assert wire.send(frame(BINARY, payload, reserved=COMPRESSED)).read_close() == 1007


def test_bad_text_costs_1007_as_soon_as_it_is_inflated(dial, deflating):
    wire = dial(deflating)
    opened(wire, "permessage-deflate")
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    bad = stream.compress(WORDS + b"\xff") + stream.flush(zlib.Z_SYNC_FLUSH)
    # The rest of the message never comes.
    assert wire.send(frame(TEXT, bad, fin=False, reserved=COMPRESSED)).read_close() == 1007


def test_what_came_before_the_close_is_answered_before_it(dial, deflating):
    wire = dial(deflating)
    opened(wire, "permessage-deflate")
    wire.send(frame(TEXT, deflated(WORDS), reserved=COMPRESSED), close_frame(1000))
    assert Inflater(wire).read()[1] == WORDS
    assert wire.read_close() == 1000


# --------------------------------------------------------------------------------------- limits

def test_a_bomb_of_a_gibibyte_costs_no_more_memory_than_a_message(start):
    echo = start("echo", settings={"deflate": "shared"})
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1 << 20)
    bomb = b"".join(stream.compress(zeros) for _ in range(1024)) + stream.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 1.1 * (1 << 20)
    with Wire(echo.port) as wire:
        opened(wire, "permessage-deflate")
        before = memory(echo, "VmRSS")
        wire.send(frame(BINARY, bomb, reserved=COMPRESSED)[: 128 << 10])
        assert wire.read_close() == 1009
        try:
            wire.send(bomb[128 << 10 :])
        except OSError:
            pass  # nobody listens any more
        growth = memory(echo, "VmHWM") - before
    assert growth < 20 << 20, f"{growth >> 10} KiB for max.message = 16m"


def test_idle_shared_connections_cost_what_plain_ones_cost(start):
    growths = []
    for offers in ([], ["permessage-deflate"]):
        echo = start("echo", settings={"deflate": "shared"})
        with Wire(echo.port) as first:
            opened(first, *offers)
            before = memory(echo, "VmRSS")
            wires = [Wire(echo.port) for _ in range(400)]
            for wire in wires:
                opened(wire, *offers)
                payload = deflated(WORDS) if offers else WORDS
                wire.send(frame(TEXT, payload, reserved=COMPRESSED if offers else 0)).read_frame()
            growths.append(memory(echo, "VmRSS") - before)
            for wire in wires:
                wire.close()
    plain, compressed = growths
    # One connection with a window would cost 40 KiB at the least.
    assert compressed < plain + 400 * 2048, growths


def test_a_message_with_a_secret_can_stay_uncompressed(start):
    program = start(own_program("secrets"), settings={"deflate": "shared"})
    with Wire(program.port) as wire:
        opened(wire, "permessage-deflate")
        for word, first in [("plain", 0x81), ("compressed", 0xC1), ("message plain", 0x81), ("message", 0xC1)]:
            wire.send(frame(TEXT, word))
            assert Inflater(wire).read()[:2] == (first, b"secret " * 40), word
        wire.send(frame(TEXT, "short"))
        assert Inflater(wire).read()[:2] == (0xC1, (b"secret " * 40)[:100])
        assert wire.send(frame(TEXT, "both")).read_frame() == (0x81, b"-1 -1"), "FDX_E_INVALID_ARG"


def test_a_connection_tells_that_it_is_compressed_and_the_server_what_that_takes(start):
    program = start(own_program("secrets"), settings={"deflate": "dedicated"})

    def known(wire):
        return [int(number) for number in wire.send(frame(TEXT, "?")).read_frame()[1].split()]

    with Wire(program.port) as plain, Wire(program.port) as first, Wire(program.port) as second:
        opened(plain)
        assert known(plain) == [0, 0]
        opened(first, "permessage-deflate")
        flags, one = known(first)
        assert flags == 2 and 400 << 10 < one < 450 << 10
        opened(second, "permessage-deflate; server_max_window_bits=9")
        flags, both = known(second)
        assert flags == 2 and one < both < 2 * one
        second.send(close_frame(1000)).read_close()
        second.read_to_end()
        assert known(plain) == [0, one]


def memory(program, name):
    with open(f"/proc/{program.process.pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(name + ":"))
