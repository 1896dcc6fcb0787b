"""A Redis Cluster between the servers, with channels that all of it knows, and with sharded ones."""

from contextlib import ExitStack
from itertools import count

import pytest

from support.brokers import Cluster
from support.nodes import Chatter, Speaker, wait_until_subscribed, wait_until_up
from test_redis import hear_each_other, in_order


def rooms_of(cluster):
    """A topic for each master: its channel's slot is there."""
    rooms = {}
    for number in count():
        slot = int(cluster.nodes[0].ask("CLUSTER", "KEYSLOT", f"fdx:room-{number}"))
        (master,) = [at for at, (first, last) in enumerate(cluster.SLOTS) if first <= slot <= last]
        rooms.setdefault(master, f"room-{number}")
        if len(rooms) == len(cluster.SLOTS):
            return [rooms[master] for master in sorted(rooms)]


@pytest.mark.parametrize("is_sharded", [False, True], ids=["known everywhere", "sharded"])
def test_a_cluster_carries_every_topic_and_survives_a_master(broker, nodes, audience, is_sharded):
    cluster = broker(Cluster)
    rooms = rooms_of(cluster)
    a, b = nodes(2, cluster.url, {"backplane.sharded": "on" if is_sharded else "off"})
    wait_until_up(a, b)
    members = {room: [audience.join(node, room) for node in (a, b)] for room in rooms}
    for room in rooms:
        wait_until_subscribed(cluster, f"fdx:{room}", 2, is_sharded=is_sharded)
    speakers = {room: [Speaker(node, room, f"{name}-{room}") for node, name in [(a, "ann"), (b, "bob")]] for room in rooms}
    for room in rooms:
        hear_each_other(audience, speakers[room], members[room], 500)

    with ExitStack() as talking:
        for room in rooms:
            for speaker in speakers[room]:
                talking.enter_context(Chatter(speaker, 50))
        cluster.masters[0].kill()
        for node in (a, b):
            node.await_news("gap")
        after_the_gap = [(room, speaker, speaker.said) for room in rooms for speaker in speakers[room]]
        for room, speaker, first in after_the_gap:
            audience.wait_until_heard(members[room], speaker.name, [first + 50])
            for member in members[room]:
                heard = [number for number in member.numbers[speaker.name] if number >= first]
                assert heard[:50] == list(range(first, first + 50))
    for room in rooms:
        for member, speaker in zip(members[room], speakers[room]):
            audience.wait_until_heard([member], speaker.name, [speaker.said - 1])
            assert member.numbers[speaker.name] == list(range(speaker.said)), "local delivery missed something"
        assert in_order(members[room][0], speakers[room][1].name) and in_order(members[room][1], speakers[room][0].name)
