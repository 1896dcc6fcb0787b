"""`nats_backplane`, servers joined by NATS: what a backplane of a program's own can rely on. Only Python has it."""

from contextlib import contextmanager

import pytest
from websockets.sync.client import connect

from support.brokers import Nats, wait_until
from support.programs import Program, speaking

PATIENCE_SECONDS = 20


@pytest.fixture
def nats(broker):
    return broker(Nats)


@pytest.fixture
def servers(nats, monkeypatch):
    """Two, which have found NATS."""
    with two_servers(nats, monkeypatch) as servers:
        for server in servers:
            wait_for_news(server, "gap")
        yield servers


@contextmanager
def two_servers(nats, monkeypatch):
    monkeypatch.setenv("NATS_URL", nats.url)
    with speaking("python"), Program("nats_backplane") as one, Program("nats_backplane") as two:
        yield one, two


def wait_for_news(server, news):
    told = ""
    while not told.startswith(f"backplane {news}: "):
        told = server.lines.get(timeout=PATIENCE_SECONDS)


def enter(server, path="/room"):
    return connect(f"ws://127.0.0.1:{server.port}{path}", compression=None)


def hear(client, count=1):
    """The next messages, without the knocks, and without what was said while NATS was away: that may come late or never."""
    heard = []
    while len(heard) < count:
        message = client.recv(timeout=PATIENCE_SECONDS)
        if message != "knock" and not str(message).startswith("meanwhile"):
            heard.append(message)
    return heard


def say_meanwhile(client, which):
    client.send(f"meanwhile {which}")
    while client.recv(timeout=PATIENCE_SECONDS) != f"meanwhile {which}":
        pass


def meet(ada, bert):
    """Each knocks until the other has heard it: then both servers have subscribed."""
    for knocks, listens in ((ada, bert), (bert, ada)):
        def is_heard():
            knocks.send("knock")
            return knocks.recv(timeout=PATIENCE_SECONDS) and listens_now(listens)

        wait_until(is_heard, "a knock is heard on the other server")
        knocks.send("met")
        assert (hear(knocks), hear(listens)) == (["met"], ["met"])


def listens_now(client):
    try:
        return client.recv(timeout=0.05) == "knock"
    except TimeoutError:
        return False


def test_every_message_is_heard_on_both_servers_once_and_in_order(servers):
    one, two = servers
    with enter(one) as ada, enter(two) as bert, enter(two) as chioma, enter(one, "/elsewhere") as dmitri:
        meet(ada, bert)
        hear(chioma, 2)
        for number in range(300):
            ada.send(f"ada {number}")
            bert.send(b"bert %d" % number)
        for client in (ada, bert, chioma):
            heard = hear(client, 600)
            assert [text for text in heard if isinstance(text, str)] == [f"ada {number}" for number in range(300)]
            assert [data for data in heard if isinstance(data, bytes)] == [b"bert %d" % number for number in range(300)]
        dmitri.send("alone")
        assert hear(dmitri) == ["alone"]


def test_a_topic_may_have_names_that_mean_something_else_to_nats(servers):
    one, two = servers
    with enter(one, "/a.c") as chioma:
        for path in ["/a.b", "/..", "/*", "/>", "/%20%0D%0A", "/" + "x" * 254]:
            with enter(one, path) as ada, enter(two, path) as bert:
                meet(ada, bert)
        chioma.send("alone")
        assert hear(chioma) == ["alone"]


def test_after_a_restart_of_nats_a_gap_is_told_and_then_nothing_is_lost(servers, nats):
    one, two = servers
    with enter(one) as ada, enter(two) as bert:
        meet(ada, bert)
        for outage in range(2):
            nats.kill()
            for server in servers:
                wait_for_news(server, "down")
            for client in (ada, bert):
                say_meanwhile(client, f"{outage}: local delivery goes on")
            nats.start()
            for server in servers:
                wait_for_news(server, "gap")
            for number in range(100):
                ada.send(str(number))
            assert hear(ada, 100) == hear(bert, 100) == [str(number) for number in range(100)]


def test_servers_start_without_nats_and_find_it_when_it_comes(nats, monkeypatch):
    nats.kill()
    with two_servers(nats, monkeypatch) as (one, two), enter(one) as ada, enter(two) as bert:
        say_meanwhile(ada, "local delivery goes on")
        nats.start()
        for server in (one, two):
            wait_for_news(server, "gap")
        bert.send("hello")
        assert hear(ada) == hear(bert) == ["hello"]
