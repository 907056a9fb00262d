"""Routes: where requests belong, what is believed of leaders."""

import pytest

from dduomq.client.routing import (
    ANYWHERE,
    KeptBy,
    LedBy,
    Routes,
    join_answers,
    places_of,
    spot_of,
    take_parts,
    trouble_in,
)
from dduomq.errors import NotLeader
from dduomq.wire import native, native_delay, native_groups, native_letters, native_queue


def answer(*leaders, cluster="c", topic_id="id", nodes=(1, 2), name="t", code=0):
    """`leaders`: (node, epoch) of each partition."""
    parts = tuple(native.PartitionMetadata(0, at, *leader) for at, leader in enumerate(leaders))
    topics = (native.TopicMetadata(code, None, name, topic_id, False, 0, parts),)
    addresses = tuple(native.NodeAddress(node, f"h{node}", 6086) for node in nodes)
    return native.MetadataAnswer(cluster, 1, addresses, topics)


def leaders(routes, count=2):
    found = [routes.leader("t", at) for at in range(count)]
    return [None if one is None else (one.node_id, one.epoch) for one in found]


@pytest.mark.parametrize(
    ("body", "spot"),
    [
        (native.Fetch(0, 0, 0, 0, (native.FetchPart("t", 3, 0, 1),)), LedBy("t", 3)),
        (native.ListOffsets(0, (native.OffsetQuery("t", 1, -1),)), LedBy("t", 1)),
        (native.ListOffsets(0, ()), ANYWHERE),
        (native.DeleteRecords((native.PurgePart("t", 2, 0),)), LedBy("t", 2)),
        (native_groups.Push("t", 4, 0, 1), LedBy("t", 4)),
        (native_groups.GroupHeartbeat("g", "m", 0), KeptBy("group", "g")),
        (native_letters.SetAside("g", "m", 0, ()), KeptBy("group", "g")),
        (native_queue.TakeRecords("g", "m", (), 1, 1, 1), KeptBy("group", "g")),
        (native_queue.SettleRecords("g", "m", ()), KeptBy("group", "g")),
        (native_groups.ListGroups(), ANYWHERE),
        (native_letters.MoveLetters("g", 0, (1,), "retry"), ANYWHERE),
        (native_delay.CancelDelayed("x"), ANYWHERE),
        (native.Metadata(("t",)), ANYWHERE),
        (native.InitProducer(), ANYWHERE),
    ],
)
def test_each_request_has_its_place(body, spot):
    assert spot_of(body) == spot


def test_leaders_are_known_by_partition_and_so_is_their_absence():
    routes = Routes()
    assert (leaders(routes), routes.knows("t", 0)) == ([None, None], False)
    routes.learn(answer((1, 4), (-1, 2)))
    assert leaders(routes) == [(1, 4), None]
    assert routes.knows("t", 1), "it is there, and nobody leads it"
    assert routes.is_cluster


def test_an_older_epoch_is_not_believed():
    """Of one partition; the other is news."""
    routes = Routes()
    routes.learn(answer((2, 4), (2, 4)))
    before = routes.version
    routes.learn(answer((1, 3), (1, 5)))
    assert leaders(routes) == [(2, 4), (1, 5)]
    assert routes.version > before
    before = routes.version
    routes.learn(answer((1, 2), (1, 5)))
    assert routes.version == before, "nothing was new"


def test_a_topic_made_again_or_another_cluster_begins_anew():
    """Their epochs have nothing to do with one another."""
    routes = Routes()
    routes.learn(answer((2, 9), (2, 9)))
    routes.learn(answer((1, 0), topic_id="other"))
    assert leaders(routes) == [(1, 0), None]
    routes.learn(answer((3, 0), cluster="d", nodes=(3,)))
    assert leaders(routes) == [(3, 0), None]
    assert routes.nodes == {3: ("h3", 6086)}


def test_a_node_that_has_not_heard_of_a_topic_makes_nobody_forget_it():
    routes = Routes()
    routes.learn(answer((2, 4), (2, 4)))
    routes.learn(answer(code=3, nodes=(1,)))
    assert leaders(routes) == [(2, 4), (2, 4)]
    assert sorted(routes.nodes) == [1, 2]


def test_a_node_without_a_listener_has_no_address():
    routes = Routes()
    routes.learn_node(1, "", 0)
    assert routes.nodes == {}


def test_what_many_nodes_lead_is_divided_and_joined():
    body = native.ListOffsets(0, tuple(native.OffsetQuery("t", at, -1) for at in range(4)))
    assert places_of(body) == [("t", 0), ("t", 1), ("t", 2), ("t", 3)]
    assert places_of(native.Metadata(None)) == []
    assert [query.partition for query in take_parts(body, [3, 1]).queries] == [3, 1]
    assert join_answers(4, [([3, 1], [["d", "b"]]), ([0, 2], [["a", "c"]])]) == [["a", "b", "c", "d"]]


def test_a_part_that_was_asked_for_at_the_wrong_node_is_seen():
    """Other errors are the asker's."""
    body = native.Fetch(0, 0, 0, 0, (native.FetchPart("t", 0, 0, 1),))
    fine, out_of_range = [0, None, 9, 9, 0, 0, []], [1, "x", -1, -1, -1, 0, []]
    assert trouble_in(body, [[fine, out_of_range]]) is None
    assert isinstance(trouble_in(body, [[fine, [6, None, -1, -1, -1, 0, []]]]), NotLeader)
    for nonsense in (None, [], [1], [[[]]], [["x"]], {}):
        assert trouble_in(body, nonsense) is None
