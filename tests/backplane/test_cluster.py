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
        is_untouched = is_sharded and room != rooms[0]
        for at, speaker in enumerate(speakers[room]):
            for member in members[room] if is_untouched else [members[room][at]]:
                audience.wait_until_heard([member], speaker.name, [speaker.said - 1])
                assert member.numbers[speaker.name] == list(range(speaker.said)), "a delivery is missing"
        assert in_order(members[room][0], speakers[room][1].name) and in_order(members[room][1], speakers[room][0].name)


def test_a_topic_whose_slot_moves_to_another_master_is_followed(broker, nodes, audience):
    cluster = broker(Cluster)
    room, other_room = rooms_of(cluster)[:2]
    a, b = nodes(2, cluster.url, {"backplane.sharded": "on"})
    wait_until_up(a, b)
    members, others = ([audience.join(node, name) for node in (a, b)] for name in (room, other_room))
    for name in (room, other_room):
        wait_until_subscribed(cluster, f"fdx:{name}", 2, is_sharded=True)
    ann, eve = Speaker(a, room, "ann"), Speaker(a, other_room, "eve")
    hear_each_other(audience, [ann], members)
    hear_each_other(audience, [eve], others)

    slot = cluster.nodes[0].ask("CLUSTER", "KEYSLOT", f"fdx:{room}")
    target = cluster.masters[2]
    identity = target.ask("CLUSTER", "MYID")
    with Chatter(ann, 200), Chatter(eve, 200):
        # There are no keys to be moved before.
        for master in (target, cluster.masters[0], cluster.masters[1]):
            master.ask("CLUSTER", "SETSLOT", slot, "NODE", identity)
        for node in (a, b):
            node.await_news("gap")
        assert target.subscribers(f"fdx:{room}", is_sharded=True) == 2
        first = ann.said
        audience.wait_until_heard(members, "ann", [first + 200])
    for member in members:
        audience.wait_until_heard([member], "ann", [ann.said - 1])
        assert [number for number in member.numbers["ann"] if number >= first] == list(range(first, ann.said))
    assert members[0].numbers["ann"] == list(range(ann.said)) and in_order(members[1], "ann")
    # The link that it left goes on.
    audience.wait_until_heard(others, "eve", [eve.said - 1])
    assert all(member.numbers["eve"] == list(range(eve.said)) for member in others)
