"""Records that were lost, doubled, stuck, or in the wrong hands when several things came together.

Each of these has happened; `test_retry` tells the plain stories, `test_faults` those of what dies.
"""

import trio

from dduomq.actors import coordinator_aside, coordinator_log
from dduomq.actors.coordinator import CoordinatorActor
from dduomq.actors.coordinator_aside import SettingAside
from dduomq.errors import DeadLettersNotFound
from dduomq.groups import records
from tests.delay.helpers import fail_write
from tests.retry.helpers import kill, letters, one_machine, running


async def neighbour(node, group):
    """Another group of the same coordinator."""
    mailbox = await node.services.groups.coordinator(group)
    for at in range(1_000):
        if await node.services.groups.coordinator(f"h{at}") is mailbox:
            return f"h{at}"
    raise AssertionError("a thousand groups are elsewhere")


async def resting(mq, group="g"):
    """What rests, also of a group that never had anything."""
    try:
        return await letters(mq, group)
    except DeadLettersNotFound:
        return []


async def test_many_large_records_that_step_aside_out_of_order(autojump_clock):
    """The last one first: what is copied at once was read from the lowest offset on, as much as fits, and never came
    to the first in the queue; nothing of any group of that coordinator was copied ever after."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(12):
            await mq.send("t", chr(65 + n) * 900_000)
        async with mq.consumer("t", group="g", auto_ack=False) as consumer:
            found = []
            while len(found) < 12:
                found += await consumer.pull(12)
            async with trio.open_nursery() as nursery:
                for record in reversed(found):
                    nursery.start_soon(record.reject)
                    await trio.lowlevel.checkpoint()
            await trio.sleep(60)
            assert len(await resting(mq)) == 12


async def test_a_commit_that_could_not_be_stored_beside_a_copy(autojump_clock, monkeypatch):
    """The question whether all before is stored went with a commit's batch, which met a full disk: nobody asked again,
    and no record was ever copied."""
    armed = [False]
    plain_commit, plain_target = CoordinatorActor._on_commit, SettingAside._target

    def on_commit(self, message):
        plain_commit(self, message)
        if armed[0] and self._aside.outbox and not self._aside._is_busy:
            armed[0] = False
            self._aside._retry_at = 0.0
            monkeypatch.setattr(SettingAside, "_target", plain_target)
            fail_write(monkeypatch, topic="__groups")

    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(10):
            await mq.send("t", str(n))
        monkeypatch.setattr(CoordinatorActor, "_on_commit", on_commit)
        monkeypatch.setattr(SettingAside, "_target", lambda *_: None)
        async with mq.consumer("t", group="g") as consumer:
            found = await consumer.pull(10)
            await found[5].reject()
            await trio.sleep(1)
            armed[0] = True
            for record in found:
                await record.ack()
                await consumer.commit()
                await trio.sleep(0.7)
            assert not armed[0]
            await trio.sleep(60)
        assert [letter.value for letter in await letters(mq)] == [b"5"]


async def test_a_refusal_leaves_nothing_in_the_log_that_can_t_be_read(autojump_clock, monkeypatch):
    """Who was refused because too many wait left an empty set; written anew, it ended every life of its coordinator."""
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            await mq.send("t", "x")
            other = await neighbour(node, "g")
            async with mq.consumer("t", group="g", auto_ack=False, auto_commit=False) as consumer:
                (record,) = await consumer.pull(1)
                with monkeypatch.context() as patch:
                    patch.setattr(coordinator_aside, "ASIDE_WAITING_MAX", 0)
                    with trio.move_on_after(1):
                        await record.nack()
                    patch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 0)
                    async with mq.consumer("t", group=other) as consumer:
                        await consumer.pull(1)
                    await trio.sleep(1)
            kill(machine)
        async with running(machine) as (_, _, mq):
            with trio.fail_after(60):
                assert len(await mq.admin.list_groups()) == 2


def test_an_empty_set_of_marks_can_be_read():
    assert records.decode_marks(records.encode_marks(())) == ()
