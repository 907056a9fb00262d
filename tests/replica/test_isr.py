"""Changes of records: tried until their outcome is certain, and told once."""

import attrs
import pytest
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.isr import RecordWriter
from dduomq.actors.replica_messages import Change, CheckReplicas
from dduomq.cluster.image import NODES, PartitionRecord, encode_partition
from dduomq.cluster.ports import (
    Check,
    MetadataConflict,
    MetadataUnavailable,
    MetadataUnknown,
    Put,
    SessionLost,
    Versioned,
)
from dduomq.observe import silent_log

RECORD = PartitionRecord("t", "f" * 32, 0, (1, 2, 3), 1, 4, (1, 2), 9)
OTHER = attrs.evolve(RECORD, leader=2, leader_epoch=5)


class Script:
    """A store whose transactions come to what stands in a list; then they hold."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.asked = []
        self.held = Versioned(OTHER.key, encode_partition(OTHER), 33)

    async def txn(self, operations):
        self.asked.append(list(operations))
        await trio.sleep(0.01)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome
        return 50 + len(self.asked)

    async def get(self, key):
        return self.held


def change(mailbox, serial=1, number=0, epochs=None):
    return Change(mailbox, serial, attrs.evolve(RECORD, partition=number), 12, epochs or {})


async def told(store, *changes, seconds=30):
    """What the partitions hear."""
    async with trio.open_nursery() as nursery:
        writer = RecordWriter(store, silent_log())
        nursery.start_soon(writer.run)
        for one in changes:
            writer.propose(one)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    heard = []
    for mailbox in {id(one.mailbox): one.mailbox for one in changes}.values():
        while mailbox.statistics().messages:
            heard += await mailbox.drain()
    return [(message.serial, message.record, message.version) for message in heard]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], (1, RECORD, 51)),
        ([MetadataConflict()], (1, OTHER, 33)),
        ([MetadataUnavailable()], (1, None, 12)),
        ([SessionLost()], (1, None, 12)),
        ([MetadataUnknown(), MetadataUnknown()], (1, RECORD, 53)),
        ([MetadataUnknown(), MetadataConflict()], (1, OTHER, 33)),
        ([MetadataUnknown(), MetadataUnavailable()], (1, RECORD, 53)),  # the first one may still come to hold
        ([MetadataUnknown(), MetadataUnavailable(), MetadataConflict()], (1, OTHER, 33)),
    ],
)
async def test_an_outcome_is_told_once_and_when_it_is_certain(autojump_clock, outcomes, expected):
    assert await told(Script(*outcomes), change(Mailbox("t-0"))) == [expected]


async def test_everything_is_checked_that_it_rests_on(autojump_clock):
    store = Script()
    await told(store, change(Mailbox("t-0"), epochs={3: 77}))
    assert store.asked == [
        [Check(RECORD.key, 12), Check(f"{NODES}3", 77), Put(RECORD.key, encode_partition(RECORD))]
    ]  # fmt: skip


async def test_many_go_in_one_transaction(autojump_clock):
    store = Script()
    changes = [change(Mailbox(f"t-{at}"), at, at) for at in range(10)]
    assert {serial for serial, *_ in await told(store, *changes)} == set(range(10))
    assert len(store.asked) == 1


async def test_one_that_does_not_hold_holds_up_no_other(autojump_clock):
    """Together nothing holds; alone all but one do."""
    store = Script(MetadataConflict(), MetadataConflict())
    heard = await told(store, *(change(Mailbox(f"t-{at}"), at, at) for at in range(5)))
    assert len(heard) == 5
    assert [record == OTHER for _, record, _ in heard].count(True) == 1
    assert len(store.asked) == 6


async def test_what_may_have_held_together_is_not_given_up_alone(autojump_clock):
    store = Script(MetadataUnknown(), MetadataUnavailable(), MetadataUnavailable())
    heard = await told(store, *(change(Mailbox(f"t-{at}"), at, at) for at in range(2)))
    assert [record is None for _, record, _ in heard] == [False, False]


async def test_the_newest_wish_of_a_partition_counts(autojump_clock):
    """One is on its way, and of those that wait the last one goes next."""
    mailbox, store = Mailbox("t-0"), Script()
    async with trio.open_nursery() as nursery:
        writer = RecordWriter(store, silent_log())
        nursery.start_soon(writer.run)
        writer.propose(change(mailbox, 1))
        await trio.sleep(0.001)
        for serial in (2, 3, 4):
            writer.propose(change(mailbox, serial))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [message.serial for message in await mailbox.drain()] == [1, 4]


async def test_leaders_are_asked_evenly(autojump_clock):
    mailboxes = [Mailbox(f"t-{at}") for at in range(40)]
    async with trio.open_nursery() as nursery:
        writer = RecordWriter(Script(), silent_log(), check_ms=5_000)
        nursery.start_soon(writer.run)
        for mailbox in mailboxes:
            writer.lead(mailbox)
        writer.unlead(mailboxes[0])
        await trio.sleep(1.1)
        assert 4 <= sum(mailbox.statistics().messages for mailbox in mailboxes) <= 10
        await trio.sleep(9)
        nursery.cancel_scope.cancel()
    assert mailboxes[0].statistics().messages == 0
    for mailbox in mailboxes[1:]:
        asked = await mailbox.drain()
        assert 1 <= len(asked) <= 3
        assert all(type(message) is CheckReplicas for message in asked)
