"""The members of share groups: who reads what, and when they are told."""

from collections import Counter

import pytest

from dduomq.errors import FencedMemberEpoch, GroupFull, InvalidRequest, InvalidSessionTimeout, UnknownMember
from dduomq.groups import share as share_module
from dduomq.groups.consumer_member import JOIN, LEAVE
from dduomq.groups.records import ShareKey, decode_key, decode_share, encode_key
from dduomq.groups.share import EMPTY, STABLE, ShareBeat, ShareGroup
from tests.groups.test_consumer import Topics


def join(group, catalog, member, *topics, now=0.0, **said):
    return group.heartbeat(ShareBeat(member, JOIN, topics=topics or ("t",), **said), now, catalog)


def places(group):
    return {member_id: sorted(at for _, at in member.assigned) for member_id, member in group.members.items()}


def test_everybody_gets_everything_while_that_is_not_too_much():
    """Members times partitions decides."""
    group, catalog = ShareGroup("g"), Topics(t=3)
    assert group.state == EMPTY
    join(group, catalog, "a")
    join(group, catalog, "b")
    assert places(group) == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert group.state == STABLE


@pytest.mark.parametrize(("members", "partitions"), [(30, 50), (1_500, 1), (101, 10), (3, 400), (1, 2_000)])
def test_a_large_group_shares_out(members, partitions):
    """Each partition has two members at least, where there are two; nobody has much more than another."""
    group, catalog = ShareGroup("g"), Topics(t=partitions)
    for at in range(members):
        group._hear(group._joining(ShareBeat(f"m{at:04}", JOIN)), ShareBeat(f"m{at:04}", JOIN, topics=("t",)))
    group.refresh(catalog)
    held = Counter(at for assigned in places(group).values() for at in assigned)
    assert set(held) == set(range(partitions))
    assert min(held.values()) >= min(2, members)
    sizes = {len(assigned) for assigned in places(group).values()}
    assert max(sizes) - min(sizes) <= max(2, max(held.values()))
    assert min(sizes) >= 1


def test_members_are_told_of_changes():
    """With the epoch, and with their partitions where these are not as before."""
    group, catalog = ShareGroup("g"), Topics(t=2, u=1)
    first = join(group, catalog, "a")
    assert len(first.assignment) == 2
    assert group.heartbeat(ShareBeat("a", first.epoch), 1.0, catalog).assignment is None
    assert group.look("a", catalog) is None
    join(group, catalog, "b", "t", "u")
    news = group.look("a", catalog)
    assert (news.epoch, news.assignment) == (group.epoch, None)
    catalog.partitions["t"] = 3
    catalog.version = object()
    news = group.look("a", catalog)
    assert news.epoch == group.epoch
    assert len(news.assignment) == 3
    again = group.heartbeat(ShareBeat("a", news.epoch, topics=("u",)), 2.0, catalog)
    assert again.assignment == {("id-u", 0)}


def test_who_has_missed_an_answer_is_told_again():
    """A member that comes with an epoch from before."""
    group, catalog = ShareGroup("g"), Topics(t=1)
    first = join(group, catalog, "a")
    catalog.partitions["t"] = 2
    catalog.version = object()
    group.look("a", catalog)
    assert len(group.heartbeat(ShareBeat("a", first.epoch), 1.0, catalog).assignment) == 2
    with pytest.raises(FencedMemberEpoch):
        group.heartbeat(ShareBeat("a", group.epoch + 1), 1.0, catalog)


def test_members_leave_and_run_out_of_time():
    """The epoch rises each time; nobody is out twice."""
    group, catalog = ShareGroup("g"), Topics(t=1)
    for member in "abc":
        join(group, catalog, member, session_ms=1_000)
    epoch = group.epoch
    assert epoch == 3
    group.heartbeat(ShareBeat("a", LEAVE), 0.5, catalog)
    with pytest.raises(UnknownMember):
        group.heartbeat(ShareBeat("a", LEAVE), 0.5, catalog)
    group.heartbeat(ShareBeat("b", group.members["b"].epoch), 0.5, catalog)
    assert group.next_due() == 1.0
    assert group.tick(1.0) == ["c"]
    assert group.next_due() == 1.5
    assert group.epoch == epoch + 2
    assert list(group.members) == ["b"]


@pytest.mark.parametrize(
    ("beat", "error"),
    [
        (ShareBeat("", JOIN, topics=("t",)), InvalidRequest),
        (ShareBeat("x" * 1_001, JOIN, topics=("t",)), InvalidRequest),
        (ShareBeat("a", JOIN), InvalidRequest),
        (ShareBeat("a", JOIN, topics=()), InvalidRequest),
        (ShareBeat("a", -2, topics=("t",)), InvalidRequest),
        (ShareBeat("a", JOIN, topics=("t",) * 10_001), InvalidRequest),
        (ShareBeat("a", JOIN, topics=("t",), session_ms=1), InvalidSessionTimeout),
        (ShareBeat("a", JOIN, topics=("t",), deliveries=0), InvalidRequest),
        (ShareBeat("a", JOIN, topics=("t",), deliveries=1_001), InvalidRequest),
        (ShareBeat("a", 3), UnknownMember),
        (ShareBeat("a", LEAVE), UnknownMember),
    ],
)
def test_bad_beats_change_nothing(beat, error):
    group = ShareGroup("g")
    group.changes(0)
    with pytest.raises(error):
        group.heartbeat(beat, 0.0, Topics(t=1))
    assert (group.members, group.epoch, group.is_dirty) == ({}, 0, False)


def test_a_group_is_full(monkeypatch):
    monkeypatch.setattr(share_module, "GROUP_MEMBERS_MAX", 2)
    group, catalog = ShareGroup("g"), Topics(t=1)
    join(group, catalog, "a")
    join(group, catalog, "b")
    join(group, catalog, "a")
    with pytest.raises(GroupFull):
        join(group, catalog, "c")


def test_what_is_stored_of_a_group():
    """Its epoch and its settings; after a restart the epoch goes on, and members join again."""
    group, catalog = ShareGroup("g"), Topics(t=1)
    join(group, catalog, "a", deliveries=7)
    [(key, value)] = group.changes(123)
    assert group.changes(124) == []
    assert decode_key(encode_key(key)) == ShareKey("g") == key
    after = ShareGroup("g", decode_share(value))
    assert (after.epoch, after.record.deliveries, after.record.changed_ms) == (group.epoch, 7, 123)
    with pytest.raises(UnknownMember):
        after.heartbeat(ShareBeat("a", group.epoch), 0.0, catalog)
    assert join(after, catalog, "a").epoch == group.epoch + 1
