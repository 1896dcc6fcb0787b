"""The rooms of the chat: apart from each other, and each the same on every server of one backplane."""

import urllib.request
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from support.brokers import Redis, wait_until
from support.programs import Program, speaking

pytestmark = pytest.mark.usefixtures("language")
PATIENCE_SECONDS = 20


@pytest.fixture(scope="module")
def chat(language):
    with Program("chat") as program:
        yield program


def enter(chat, path="/chat"):
    return connect(f"ws://127.0.0.1:{chat.port}{path}", compression=None)


def hear(client):
    return client.recv(timeout=PATIENCE_SECONDS)


def numbered(client, count):
    """That many messages, each of which is a number."""
    return [int(hear(client)) for _ in range(count)]


# -- on one server ---------------------------------------------------------------------------------


def test_what_is_said_in_a_room_is_heard_in_that_room_only(chat):
    paths = ["/chat", "/room/cats", "/room/dogs", "/room/Cats"]
    with ExitStack() as stack:
        people = {path: [stack.enter_context(enter(chat, path)) for _ in range(2)] for path in paths}
        for path, (speaker, _) in people.items():
            speaker.send(f"in {path}")
        for path, (speaker, _) in people.items():
            speaker.send(f"still in {path}")
        for path, both in people.items():
            for listener in both:
                assert [hear(listener), hear(listener)] == [f"in {path}", f"still in {path}"]


def test_the_lobby_has_two_doors(chat):
    with enter(chat, "/") as front, enter(chat, "/chat") as back, enter(chat, "/?x=1") as query:
        for speaker in (front, back, query):
            speaker.send("hello")
            assert [hear(listener) for listener in (front, back, query)] == ["hello"] * 3


def test_the_query_is_no_part_of_a_rooms_name(chat):
    with enter(chat, "/room/cats?name=ada") as ada, enter(chat, "/room/cats?") as bert:
        ada.send("miaow")
        assert (hear(ada), hear(bert)) == ("miaow", "miaow")


@pytest.mark.parametrize("name", ["a", "%F0%9F%90%88", "a.b~c_d-e", "100%25", "%2F", "x" * 249], ids=range(6))
def test_a_room_may_have_any_name(chat, name):
    with enter(chat, f"/room/{name}") as ada, enter(chat, f"/room/{name}") as bert, enter(chat) as somebody_else:
        ada.send("hello")
        assert (hear(ada), hear(bert)) == ("hello", "hello")
        somebody_else.send("alone")
        assert hear(somebody_else) == "alone"


def test_a_name_that_is_too_long_is_refused_politely(chat):
    with enter(chat, "/room/" + "x" * 250) as client:
        with pytest.raises(ConnectionClosed) as closed:
            hear(client)
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize("path", ["/room", "/room/", "/room/a/b", "/rooms/a", "/chat/a", "/nowhere"])
def test_elsewhere_there_is_no_room(chat, path):
    with pytest.raises(InvalidStatus) as refused:
        with enter(chat, path):
            pass
    assert 400 <= refused.value.response.status_code < 500


@pytest.mark.parametrize("path", ["/", "/room/cats", "/room/cats?x=1", "/room/%F0%9F%90%88"])
def test_the_page_of_a_room_has_its_address(chat, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{chat.port}{path}", timeout=PATIENCE_SECONDS) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert b"new WebSocket" in answer.read()


def test_a_room_takes_text_only(chat):
    with enter(chat, "/room/cats") as client:
        client.send(b"\x00")
        with pytest.raises(ConnectionClosed) as closed:
            hear(client)
    assert closed.value.rcvd.code == 1003


def test_who_stays_hears_everything_while_others_come_and_go(chat):
    visits, each = 20, 20
    with enter(chat, "/room/hall") as speaker, enter(chat, "/room/hall") as stays:
        for first in range(0, visits * each, each):
            with enter(chat, "/room/hall") as visitor, enter(chat, "/room/elsewhere"):
                for number in range(first, first + each):
                    speaker.send(str(number))
                heard = numbered_until(visitor, first + each - 1)
                assert first <= heard[0]
                assert heard == list(range(heard[0], first + each)), "from when it came on, without a gap"
        for client in (speaker, stays):
            assert numbered(client, visits * each) == list(range(visits * each))


def numbered_until(client, last):
    heard = numbered(client, 1)
    while heard[-1] != last:
        heard += numbered(client, 1)
    return heard


# -- on two servers --------------------------------------------------------------------------------


@pytest.fixture
def redis(broker):
    return broker(Redis)


def chats(start, redis, count=2):
    return [start("chat", settings={"backplane": redis.url}) for _ in range(count)]


def wait_until_heard(redis, topics, servers):
    """Every server has subscribed to these."""
    for topic in topics:
        wait_until(lambda: redis.subscribers(f"fdx:{topic}") == servers, f"{servers} servers are in {topic}")


def test_two_chats_on_two_ports_are_one(start, redis):
    one, two = chats(start, redis)
    with enter(one) as ada, enter(two) as bert, enter(one, "/room/cats") as chioma, enter(two, "/room/cats") as dmitri:
        wait_until_heard(redis, ["/chat", "/room/cats"], servers=2)
        for number in range(200):
            ada.send(str(number))
            dmitri.send(str(-number))
        for client in (ada, bert):
            assert numbered(client, 200) == list(range(200))
        for client in (chioma, dmitri):
            assert numbered(client, 200) == [-number for number in range(200)]
        for speaker in (ada, bert):
            speaker.send("nothing comes twice")
            assert (hear(ada), hear(bert)) == ("nothing comes twice",) * 2


def test_who_comes_later_on_another_server_hears_what_is_said_from_then_on(start, redis):
    one, two = chats(start, redis)
    with enter(one, "/room/cats") as ada:
        ada.send("before")
        assert hear(ada) == "before"
        wait_until_heard(redis, ["/room/cats"], servers=1)
        with enter(two, "/room/cats") as bert:
            wait_until_heard(redis, ["/room/cats"], servers=2)
            ada.send("after")
            assert (hear(ada), hear(bert)) == ("after", "after")
        wait_until_heard(redis, ["/room/cats"], servers=1)
        ada.send("alone again")
        assert hear(ada) == "alone again"
    wait_until_heard(redis, ["/room/cats"], servers=0)


def test_chats_in_every_language_are_one(start, redis, language):
    (one,) = chats(start, redis, count=1)
    with speaking("python" if language == "c" else "c"):
        (two,) = chats(start, redis, count=1)
    with enter(one, "/room/%F0%9F%90%88") as ada, enter(two, "/room/%F0%9F%90%88") as bert, enter(one) as chioma, enter(two) as dmitri:
        wait_until_heard(redis, ["/room/%F0%9F%90%88", "/chat"], servers=2)
        for speaker, listeners in [(ada, (ada, bert)), (bert, (ada, bert)), (chioma, (chioma, dmitri)), (dmitri, (chioma, dmitri))]:
            speaker.send("grüß Gott")
            assert [hear(listener) for listener in listeners] == ["grüß Gott"] * 2
