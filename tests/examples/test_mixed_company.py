"""The chat and the gatekeeper among clients that are old, rude or early."""

import socket

import pytest
from websockets.sync.client import connect

from support.wire import TEXT, Wire, frame, request

pytestmark = pytest.mark.usefixtures("language")

HIXIE_75 = ["Upgrade: WebSocket", "Connection: Upgrade", "Origin: http://localhost"]
HIXIE_76 = [*HIXIE_75, "Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5", "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00"]
EIGHT_BYTES, SIXTEEN_BYTES = b"^n:ds[4U", b"8jKS'y:G*Co,Wxa-"
VERSION_13 = [
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"
]


def room(chat):
    return connect(f"{chat.url}chat")


@pytest.mark.parametrize(
    "text", ['{"name":"Ada","text":"hello"}', "not JSON at all", "  blanks stay  ", "\0 你好 😀", "x" * 70_000, ""], ids=range(6)
)
def test_the_chat_relays_texts_verbatim(start, text):
    with room(start("chat")) as client:
        client.send(text)
        assert client.recv(timeout=5) == text


def test_the_chat_keeps_the_order_of_each_speaker(start):
    chat = start("chat")
    with room(chat) as speaker, room(chat) as listener:
        for number in range(500):
            speaker.send(str(number))
        for client in (listener, speaker):
            assert [client.recv(timeout=5) for _ in range(500)] == [str(number) for number in range(500)]


def test_the_chat_goes_on_when_somebody_vanishes(start):
    chat = start("chat")
    with room(chat) as ada, room(chat) as bert, room(chat) as rude:
        rude.socket.shutdown(socket.SHUT_RDWR)
        for number in range(20):
            ada.send(str(number))
            assert bert.recv(timeout=5) == str(number)
            assert ada.recv(timeout=5) == str(number)


def test_the_chat_brings_browsers_of_2010_and_of_today_together(start):
    chat = start("chat")
    with room(chat) as today, Wire(chat.port) as hixie75, Wire(chat.port) as hixie76:
        assert hixie75.send(request(*HIXIE_75, target="/chat")).read_head().status == 101
        assert hixie76.send(request(*HIXIE_76, target="/chat"), EIGHT_BYTES).read_head().status == 101
        # The location is part of no checksum: the draft's answer is right for every path.
        assert hixie76.read(16) == SIXTEEN_BYTES

        hixie75.send(b"\x00from 2009\xff")
        hixie76.send(b"\x00\xe4\xbd\xa0\xff")
        today.send("from today")
        said = {b"from 2009", b"\xe4\xbd\xa0", b"from today"}
        assert {today.recv(timeout=5).encode() for _ in range(3)} == said
        for old in (hixie75, hixie76):
            received = old.read(sum(len(text) + 2 for text in said))
            assert set(received[1:-1].split(b"\xff\x00")) == said


def test_the_gatekeeper_keeps_what_is_sent_before_it_has_decided(start):
    with Wire(start("gatekeeper").port) as wire:
        wire.send(request(*VERSION_13, target="/?token=letmein"), frame(TEXT, "early"))
        assert wire.read_head().status == 101
        assert wire.read(9 + 7) == b"\x81\x07welcome\x81\x05early"


@pytest.mark.parametrize("query", ["?a=b&token=letmein", "?token=letmein&a=b", "?token=%6cetmein"])
def test_the_gatekeeper_finds_the_token_anywhere_in_the_query(start, query):
    with connect(start("gatekeeper").url + query) as client:
        assert client.recv(timeout=5) == "welcome"


@pytest.mark.parametrize("query", ["?nottoken=letmein", "?x=token=letmein", "?token", "?letmein"])
@pytest.mark.parametrize("dialect", [HIXIE_75, HIXIE_76, VERSION_13], ids=["Hixie-75", "Hixie-76", "version 13"])
def test_the_gatekeeper_answers_401_in_every_dialect(start, dialect, query):
    with Wire(start("gatekeeper").port) as wire:
        head = wire.send(request(*dialect, target=f"/{query}")).read_head()
        assert head.status == 401
        assert head["WWW-Authenticate"]
        assert len(wire.read_to_end()) == int(head["Content-Length"]) > 10, "something that a human can read"


def test_the_gatekeeper_welcomes_the_old_dialects(start):
    gatekeeper = start("gatekeeper")
    with Wire(gatekeeper.port) as wire:
        assert wire.send(request(*HIXIE_75, target="/?token=letmein")).read_head().status == 101
        assert wire.read(9) == b"\x00welcome\xff"
    with Wire(gatekeeper.port) as wire:
        wire.send(request(*HIXIE_76, target="/?token=letmein"), EIGHT_BYTES)
        assert wire.read_head().status == 101
        assert wire.read(16 + 9) == SIXTEEN_BYTES + b"\x00welcome\xff"
