"""Records that were lost, doubled, stuck, or in the wrong hands when several things came together.

Each of these has happened; `test_retry` tells the plain stories, `test_faults` those of what dies.
"""

import logging
from random import Random

import pytest
import trio

from dduomq.actors import coordinator_aside, coordinator_handover, coordinator_log
from dduomq.actors.actor import ask
from dduomq.actors.coordinator import CoordinatorActor
from dduomq.actors.coordinator_handover import Handover
from dduomq.actors.coordinator_messages import FetchAside
from dduomq.client import letter_admin
from dduomq.client.client import connect
from dduomq.errors import DeadLettersNotFound
from dduomq.groups import records
from tests.client.test_consuming import until
from tests.delay.helpers import fail_write
from tests.retry.helpers import Work, failing, kill, letters, one_machine, place_of, read, running, working


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


@pytest.mark.parametrize("delay", [0, 5])
async def test_a_group_that_begins_at_the_end(autojump_clock, delay):
    """What came again before a member had begun to read the retry topic was passed as if it were old."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        async with working(machine, work, failing("x", until_attempt=2), start="latest", retry=[delay]):
            await trio.sleep(1)
            await mq.send("t", "x")
            await trio.sleep(60)
        assert work.tries_of("x") == [1, 2]


async def test_a_commit_that_could_not_be_stored_beside_a_copy(autojump_clock, monkeypatch):
    """The question whether all before is stored went with a commit's batch, which met a full disk: nobody asked again,
    and no record was ever copied."""
    armed = [False]
    plain_commit, plain_target = CoordinatorActor._on_commit, Handover._target

    def on_commit(self, message):
        plain_commit(self, message)
        lanes = [lane for lane in self._handover._lanes.values() if lane.outbox]
        if armed[0] and lanes and self._handover._busy is None:
            armed[0] = False
            lanes[0].at = 0.0
            monkeypatch.setattr(Handover, "_target", plain_target)
            fail_write(monkeypatch, topic="__groups")

    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(10):
            await mq.send("t", str(n))
        monkeypatch.setattr(CoordinatorActor, "_on_commit", on_commit)
        monkeypatch.setattr(Handover, "_target", lambda *_: None)
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


async def test_a_group_that_can_t_be_served_holds_up_no_other(autojump_clock):
    """A topic of a user's had the name of a group's dead letters: all groups of its coordinator waited for ever."""
    async with running() as (_, node, mq):
        await mq.admin.create_topic("dlq.g", partitions=1)
        await mq.admin.create_topic("t", partitions=1)
        other = await neighbour(node, "g")
        await mq.send("t", "x")
        for group in ("g", other):
            async with mq.consumer("t", group=group) as consumer:
                (record,) = await consumer.pull(1)
                await record.reject("no")
        await trio.sleep(60)
        assert len(await resting(mq, other)) == 1


async def test_who_reads_all_topics_does_not_read_dead_letters(autojump_clock):
    """A pattern found the group's own topic of dead letters: each letter became another one, without end."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "x")
        async with (
            connect("sim:6086", dial=machine.network.dial_client, rng=Random(5), wall_ms=machine.clock.wall_ms) as own,
            own.consumer(pattern=".*", group="g", retry=[]) as consumer,
            trio.open_nursery() as nursery,
        ):

            async def handle(record):
                work.seen.append((record.raw_value.decode(), record.attempt))
                raise ValueError

            nursery.start_soon(consumer.run, handle)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert work.tries_of("x") == [1]
        assert len(await letters(mq)) == 1


async def test_who_reads_all_topics_leaves_other_groups_their_retries(autojump_clock):
    """A pattern found another group's retry topic: its records were done a second time, in the name of their origin."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "x")
        async with mq.consumer("t", group="h") as consumer:
            (record,) = await consumer.pull(1)
            await record.nack(delay=1)
        await trio.sleep(5)
        seen = []
        async with mq.consumer(pattern=".*", group="g") as consumer:
            with trio.move_on_after(30):
                while True:
                    seen += [(place_of(one), one.attempt) for one in await consumer.pull(10)]
        assert seen == [(("t", 0, 0), 1)]


async def test_every_second_dead_letter(autojump_clock, monkeypatch):
    """So many gaps between those that were sent on that no letter could be sent on or taken away any more, ever."""
    monkeypatch.setattr(coordinator_aside, "ASIDE_RANGES_MAX", 5)
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(20):
            await mq.send("t", str(n), headers={"even": str(n % 2)})
        async with working(machine, work, failing(*map(str, range(20))), retry=[]):
            await until(lambda: len(work.seen) == 20)
            await trio.sleep(1)
        assert await mq.admin.purge_dead_letters("g", filter="even = '0'") == 10
        assert await mq.admin.purge_dead_letters("g") == 10
        assert await letters(mq) == []


async def test_a_record_that_holds_up_the_commits_may_always_step_aside(autojump_clock, monkeypatch):
    """The group had set aside as much as it may, apart from the one record all commits waited for."""
    monkeypatch.setattr(coordinator_aside, "ASIDE_RANGES_MAX", 5)
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(20):
            await mq.send("t", str(n))
        async with mq.consumer("t", group="g") as consumer:
            found = await consumer.pull(20)
            for n in range(19, 0, -1):
                if n % 2 or n > 10:
                    await found[n].ack()
                else:
                    await found[n].reject("no")
            with trio.fail_after(60):
                await found[0].reject("no")


@pytest.mark.parametrize(("key", "value"), [(3, 6 * 2**20), (7_500_000, 3)], ids=["value", "key"])
async def test_what_is_too_large_to_come_again_does_not_come_without_its_value(autojump_clock, key, value):
    """A value of 6 MiB came again as null, and was done; a key of 7 MiB held up every group of its coordinator."""
    async with running() as (_, node, mq):
        await mq.admin.create_topic("t", partitions=1, config={"max.message.bytes": str(8 * 2**20)})
        other = await neighbour(node, "g")
        await mq.send("t", "v" * value, key="k" * key)
        await mq.send("t", "small")
        async with mq.consumer("t", group="g") as consumer:
            (large,) = await consumer.pull(1)
            assert len(large.raw_value) == value
            await large.nack(delay=1)
            again = await consumer.pull(10) + await consumer.pull(10, timeout=30)
            assert [record.raw_value for record in again] == [b"small"]
        async with mq.consumer("t", group=other, auto_ack=False) as consumer:
            found = await consumer.pull(1) + await consumer.pull(1)
            await found[1].reject("no")
        await trio.sleep(60)
        assert len(await resting(mq, other)) == 1
        (letter,) = await resting(mq)
        assert letter.origin_offset == 0


async def test_a_record_that_is_read_again_may_fail_again(autojump_clock):
    """After a seek back, a record whose handler failed was committed already: the error ended the consumer."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", str(n))
        first = [True]

        async def handler(record):
            if not first[0] and record.raw_value == b"1" and record.attempt == 1:
                raise ValueError

        async with working(machine, work, handler, retry=[5], commit_interval=100) as consumer:
            await until(lambda: len(work.seen) == 3)
            await trio.sleep(1)
            await consumer.commit()
            first[0] = False
            await consumer.seek("t", 0, 0)
            await until(lambda: len(work.seen) >= 6)
            await trio.sleep(60)
        assert work.seen[3:] == [("0", 1), ("1", 1), ("2", 1), ("1", 2)]


async def test_a_record_that_is_gone_when_its_handler_fails(autojump_clock):
    """Retention had taken it meanwhile: the error ended the consumer."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", str(n))

        async def handler(record):
            if record.raw_value == b"0":
                await mq.admin.purge("t", 0, 2)
                raise ValueError("too late")

        async with working(machine, work, handler):
            await until(lambda: len(work.seen) >= 2)
            await trio.sleep(10)
        assert work.seen[-1] == ("2", 1)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Mute(), FileNotFoundError("\udcff.txt")], ids=["no words", "no UTF-8"])
async def test_an_error_that_can_t_be_told(autojump_clock, caplog, error):
    """Its text could not be made, or not be sent: that ended the consumer."""
    caplog.set_level(
        logging.CRITICAL + 1, "dduomq"
    )  # the runner's processes can't tell one another such a text, either
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "0")

        async def handler(record):
            raise error

        async with working(machine, work, handler, retry=[1]):
            await until(lambda: len(work.seen) == 2)
            await trio.sleep(10)
        (letter,) = await letters(mq)
        assert type(error).__name__ in letter.error


async def test_two_subscriptions_of_one_group(autojump_clock):
    """The retry topic was everybody's: a record came again to a member that does not read its topic."""
    ours, theirs = Work(), Work()
    async with running() as (machine, _, mq):
        for topic in ("orders", "payments"):
            await mq.admin.create_topic(topic, partitions=4)
        many = map(str, range(20))
        async with (
            working(machine, ours, failing(*many, until_attempt=2), "orders", seed=6, retry=[1]),
            working(machine, theirs, failing(), "payments", seed=7, retry=[1]),
        ):
            await trio.sleep(2)
            for n in range(20):
                await mq.send("orders", str(n), partition=n % 4)
            await trio.sleep(60)
        assert theirs.seen == []
        assert len(ours.seen) == 40


async def test_a_filter_of_another_member(autojump_clock):
    """A record came again to a member whose filter it does not match, and was lost."""
    ours, theirs = Work(), Work()
    async with running() as (machine, _, mq):
        for topic in ("orders", "payments"):
            await mq.admin.create_topic(topic, partitions=4)
        many = map(str, range(20))
        async with (
            working(machine, ours, failing(*many, until_attempt=2), "orders", seed=6, retry=[1]),
            working(machine, theirs, failing(), "payments", seed=7, retry=[1], filter="region = 'eu'"),
        ):
            await trio.sleep(2)
            for n in range(20):
                await mq.send("orders", str(n), partition=n % 4)
            await trio.sleep(60)
        assert sorted(ours.seen + theirs.seen) == sorted((str(n), attempt) for n in range(20) for attempt in (1, 2))


async def test_letters_of_a_group_that_was_deleted_are_not_sent_on_again(autojump_clock):
    """Which had been sent on was forgotten with the group: all of them could be sent on once more."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", str(n))
        async with mq.consumer("t", group="g") as consumer:
            for record in await consumer.pull(3):
                await record.reject("no")
        await trio.sleep(5)
        assert await mq.admin.redrive("g", to="origin") == 3
        await trio.sleep(5)
        await mq.admin.delete_group("g")
        assert await resting(mq) == []
        assert await mq.admin.redrive("g", to="origin") == 0
        await trio.sleep(5)
        assert len(await read(mq, "t")) == 6


async def test_who_reads_dead_letters_does_not_bring_them_back(autojump_clock):
    """A commit of the group in its own topic of dead letters took away the marks of those that had been sent on."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(3):
            await mq.send("t", str(n))
        async with mq.consumer("t", group="g") as consumer:
            for record in await consumer.pull(3):
                await record.reject("no")
        await trio.sleep(5)
        (first, *_) = await letters(mq)
        assert await mq.admin.redrive("g", [first.letter_id], to="origin") == 1
        async with mq.consumer("dlq.g", group="g") as consumer:
            assert len(await consumer.pull(10)) == 2
        assert len(await letters(mq)) == 2
        assert await mq.admin.redrive("g", to="origin") == 2


async def test_a_topic_that_was_made_again_has_nothing_aside(autojump_clock):
    """What a member had once heard of a partition was taken for true when it got that of another topic of the name."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=2)
        for n in range(6):
            await mq.send("t", str(n), partition=n % 2)
        async with mq.consumer("t", group="g", auto_commit=False) as stays:
            async with mq.consumer("t", group="g", auto_commit=False, auto_ack=False) as leaves:
                await trio.sleep(5)
                for consumer in (stays, leaves):
                    for record in await consumer.pull(10):
                        await record.nack(delay=1_000)
                await trio.sleep(5)
            await trio.sleep(5)  # it has both partitions now, and what is aside of them
            async with mq.consumer("t", group="g") as comes:
                await trio.sleep(5)
                assert {topic for topic, _ in comes.assignment} >= {"t"}
                await mq.admin.delete_topic("t")
                await trio.sleep(5)
            await mq.admin.create_topic("t", partitions=2)
            for n in range(6):
                await mq.send("t", f"new {n}", partition=n % 2)
            seen = []
            with trio.move_on_after(30):
                while len(seen) < 6:
                    seen += [record.raw_value for record in await stays.pull(10)]
            assert sorted(seen) == [b"new %d" % n for n in range(6)]


async def test_only_the_newest_of_each_topic(autojump_clock):
    """Two records of two topics with one key came again together: only one of them was handed out."""
    work = Work()
    async with running() as (machine, _, mq):
        for topic in ("t", "u"):
            await mq.admin.create_topic(topic, partitions=1)
            await mq.send(topic, topic, key="k")
        async with mq.consumer("t", "u", group="g") as consumer:
            found = []
            while len(found) < 2:
                found.append(await anext(consumer))
                await found[-1].nack(delay=5)
        await trio.sleep(10)
        async with working(machine, work, failing(), "t", "u", latest_only=True):
            await trio.sleep(30)
        assert sorted(work.seen) == [("t", 2), ("u", 2)]


async def test_a_state_larger_than_what_may_grow_is_not_written_anew_for_ever(autojump_clock, monkeypatch):
    """Writing the state down counted as growth: when that alone was enough, it was written again at once, for ever."""
    plain, times = coordinator_log.CoordinatorLog._rewrite, []

    def rewrite(self):
        times.append(trio.current_time())
        assert len(times) < 100
        plain(self)

    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(20):
            await mq.send("t", str(n))
        monkeypatch.setattr(Handover, "_target", lambda *_: None)
        async with mq.consumer("t", group="g", auto_commit=False) as consumer:
            for record in await consumer.pull(20):
                await record.nack(error="x" * 1_000)
            monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 10_000)
            monkeypatch.setattr(coordinator_log.CoordinatorLog, "_rewrite", rewrite)
            await consumer.commit()
            await trio.sleep(10)
        assert len(times) <= 2


async def test_a_pull_that_ends_while_an_expired_record_is_buried(autojump_clock, monkeypatch):
    """The record was nobody's: neither handed out nor done, and no commit passed it."""
    plain = CoordinatorActor._on_set_aside
    asked = []

    def on_set_aside(self, message):
        asked.append(message)
        if len(asked) > 1:
            plain(self, message)

    async with running() as (_, _, mq):
        await mq.admin.create_topic(
            "t", partitions=1, config={"message.ttl.ms": "1000", "message.ttl.action": "dead-letter"}
        )
        await mq.send("t", "old")
        await trio.sleep(2)
        await mq.send("t", "new")
        monkeypatch.setattr(CoordinatorActor, "_on_set_aside", on_set_aside)
        async with mq.consumer("t", group="g") as consumer:
            seen = []
            with trio.move_on_after(30):
                while not seen:
                    seen += await consumer.pull(10, timeout=0.5)
            await trio.sleep(10)
            await consumer.commit()
            assert consumer.position("t", 0) >= 1
        await trio.sleep(5)
        assert [letter.value for letter in await resting(mq)] == [b"old"]


async def test_a_full_queue_holds_up_a_redrive_and_does_not_end_it(autojump_clock, monkeypatch):
    """Letters were sent on faster than they could be copied: in the middle of them, that was an error."""
    monkeypatch.setattr(coordinator_aside, "ASIDE_WAITING_MAX", 40)
    monkeypatch.setattr(letter_admin, "ASIDE_OFFSETS_MAX", 20)
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(200):
            await mq.send("t", str(n))
        async with working(machine, work, failing(*map(str, range(200))), retry=[]):
            await until(lambda: len(work.seen) == 200)
            await trio.sleep(1)
        monkeypatch.setattr(coordinator_handover, "HANDOVER_RECORDS_MAX", 5)
        assert await mq.admin.redrive("g") == 200
        await trio.sleep(30)
        assert len(await read(mq, "retry.g")) == 200


async def test_another_group_s_dead_letter_is_tried_as_often_as_any_record(autojump_clock):
    """The first failure of a record that was read from a topic of dead letters was not counted."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "x")
        async with mq.consumer("t", group="g") as consumer:
            (record,) = await consumer.pull(1)
            await record.reject("no")
        await trio.sleep(5)
        async with working(machine, work, failing("x"), "dlq.g", group="h", retry=[1, 1]):
            await trio.sleep(60)
        assert work.tries_of("x") == [1, 2, 3]


async def test_a_group_that_was_deleted_stays_so(autojump_clock, monkeypatch):
    """What was still to be copied brought the group back when the log was written anew and read again."""
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            await mq.send("t", "x")
            other = await neighbour(node, "g")
            monkeypatch.setattr(Handover, "_target", lambda *_: None)
            async with mq.consumer("t", group="g", auto_commit=False, auto_ack=False) as consumer:
                (record,) = await consumer.pull(1)
                await record.nack(delay=1_000)
            await mq.admin.delete_group("g")
            monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 0)
            async with mq.consumer("t", group=other) as consumer:
                await consumer.pull(1)
            await trio.sleep(1)
            monkeypatch.setattr(coordinator_log, "GROUPS_REWRITE_BYTES", 2**30)
            before = sorted(group.name for group in await mq.admin.list_groups())
            kill(machine)
        async with running(machine) as (_, _, mq):
            assert sorted(group.name for group in await mq.admin.list_groups()) == before == [other]


async def test_marks_of_a_deleted_topic_are_forgotten(autojump_clock):
    """Each topic that came and went left something behind in the group, for ever."""
    async with running() as (_, node, mq):
        async with mq.consumer("t", group="g", auto_ack=False, auto_commit=False) as consumer:
            await mq.send("t", "x")
            (record,) = await consumer.pull(1)
            await record.reject("no")
            await trio.sleep(5)
        async with mq.consumer("other", group="g"):
            await mq.admin.delete_topic("t")
            await trio.sleep(1_300)
            mailbox = await node.services.groups.coordinator("g")
            assert await ask(mailbox, lambda reply: FetchAside(group="g", reply=reply)) == {}


async def test_the_time_to_live_of_a_topic_that_comes_by_another_way(autojump_clock):
    """A member that has only partitions of the retry topic did not know how long the records were worth the work."""
    first, second = Work(), Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=1, config={"message.ttl.ms": "3000"})
        handler = failing(*map(str, range(3)), until_attempt=2)
        async with (
            working(machine, second, handler, seed=7, retry=[10]),
            working(machine, first, handler, seed=6, retry=[10]),
        ):
            await trio.sleep(2)
            for n in range(3):
                await mq.send("t", str(n))
            await trio.sleep(5)
            await trio.sleep(60)
        assert sorted(first.seen + second.seen) == [("0", 1), ("1", 1), ("2", 1)]


async def test_a_copy_whose_retry_topic_is_gone_says_where_it_was_first_stored(autojump_clock):
    """It became a dead letter of a delayed message, with headers of both places, and only the wrong one was shown."""
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await mq.send("t", "x")
        async with mq.consumer("t", group="g") as consumer:
            (record,) = await consumer.pull(1)
            await record.nack(delay=20)
        await trio.sleep(5)
        await mq.admin.delete_topic("retry.g")
        await trio.sleep(60)
        (letter,) = await resting(mq, "__delayed")
        assert (letter.origin_topic, letter.origin_partition, letter.origin_offset) == ("t", 0, 0)
        assert await mq.admin.redrive("__delayed") == 1
        await trio.sleep(5)
        assert [record.raw_value for record in await read(mq, "t")] == [b"x", b"x"]
