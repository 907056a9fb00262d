"""Replicas in hard times: histories that part, disks that fail, a store that gives no answer."""

import attrs
import pytest
import trio

from dduomq.actors.actor import ask
from dduomq.actors.partition_messages import Append, Purge, Restore
from dduomq.actors.replica_messages import Assign, Replicate
from dduomq.cluster.ports import MetadataUnavailable, MetadataUnknown
from dduomq.errors import (
    CorruptMessage,
    DduomqError,
    FencedLeaderEpoch,
    LeaderNotAvailable,
    NotLeader,
    RequestTimedOut,
    StorageError,
)
from dduomq.log.damage import NAME as QUARANTINE
from dduomq.log.plans import PendingBatch
from dduomq.log.segment import LOG, file_name
from dduomq.wire.batch import build, iter_headers, read_header
from tests.replica.cluster import DIRECTORY, batch_of, running


async def refused(cluster, node_id, *values, **options):
    with pytest.raises(DduomqError) as caught:
        await cluster.send(node_id, *values, **options)
    assert caught.value.retriable
    return caught.value


# --- histories that part ----------------------------------------------------------------------------


async def test_a_follower_that_starts_again_keeps_what_it_has_acked(autojump_clock):
    """KIP-101, the first scenario: it must not cut its log to a high watermark of long ago."""
    async with running(nodes=2) as cluster:
        for n in range(5):
            await cluster.send(1, b"%d" % n)
        before = cluster.nodes[2].values()
        assert len(before) == 5
        await cluster.nodes[2].kill(power=True)
        cluster.cuts.add((1, 2))
        await cluster.nodes[2].start()
        await trio.sleep(1)
        await cluster.nodes[1].kill(power=True)
        await cluster.elect(2, isr=(2,))
        await cluster.send_to_leader(b"5")
        assert cluster.nodes[2].values()[:5] == before
        cluster.cuts.clear()
        await cluster.nodes[1].start()
        await cluster.until_isr(1, 2)
        await cluster.until_alike(1, 2)


async def test_records_of_two_leaders_at_one_offset_do_not_stay_side_by_side(autojump_clock):
    """KIP-101, the second scenario: both lose power, and the one that has less comes back first."""
    async with running(nodes=2, durability="pagecache") as cluster:
        await cluster.send(1, b"0")
        cluster.cuts.add((1, 2))
        for n in range(3):
            await cluster.send(1, b"old %d" % n, acks=1)
        await cluster.nodes[2].kill()
        await cluster.nodes[1].kill()
        await cluster.elect(2, isr=(2,))
        await cluster.nodes[2].start()
        await cluster.send_to_leader(b"new 0", b"new 1")
        cluster.cuts.clear()
        assert [value for _, value in cluster.nodes[1].values()] == [b"0", b"old 0", b"old 1", b"old 2"]
        await cluster.nodes[1].start()
        await cluster.until_isr(1, 2)
        await cluster.until_alike(1, 2)
        assert [value for _, value in cluster.nodes[1].values()] == [b"0", b"new 0", b"new 1"]


async def test_a_leader_that_heard_nothing_is_cut_to_what_counts(autojump_clock):
    """Several epochs on both sides."""
    async with running() as cluster:
        await cluster.send(1, b"0")
        cluster.deaf.add(1)
        cluster.cuts.update({(1, 2), (1, 3)})
        await cluster.elect(2, isr=(2, 3))
        for n in range(4):
            await cluster.send(1, b"lost %d" % n, acks=1)
        await cluster.send_to_leader(b"kept 1")
        await cluster.elect(3)
        await cluster.send_to_leader(b"kept 2")
        with trio.move_on_after(5):
            await cluster.send(1, b"never acked")
            raise AssertionError("an ack that one node alone has given")
        cluster.deaf.clear()
        cluster.cuts.clear()
        record, version = await cluster.record()
        cluster.nodes[1].mailbox.post(Assign(record=record, version=version))
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)
        assert [value for _, value in cluster.nodes[1].values()] == [b"0", b"kept 1", b"kept 2"]


async def test_an_old_record_changes_nothing(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"0")
        old, version = await cluster.record()
        await cluster.elect(2)
        await cluster.send_to_leader(b"1")
        for node in cluster.nodes.values():
            node.mailbox.post(Assign(record=old, version=version))
        await trio.sleep(1)
        with pytest.raises(NotLeader):
            await cluster.send(1, b"2")
        assert (await cluster.send(2, b"2")).base_offset == 2


async def test_what_an_old_leader_sent_is_not_taken(autojump_clock):
    """It was on its way when the leadership moved; the batch would fit."""
    async with running() as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2, 3)
        await cluster.elect(2)
        await cluster.send_to_leader(b"1")
        await cluster.until_alike(1, 2, 3)
        data = batch_of(b"of the old one", base_offset=2, leader_epoch=1)
        with pytest.raises(FencedLeaderEpoch):
            await ask(
                cluster.nodes[3].mailbox,
                lambda reply: Replicate(
                    leader_epoch=0, offset=2, data=memoryview(data), high_watermark=3, log_start_offset=0,
                    log_end_offset=3, reply=reply,
                ),
            )  # fmt: skip
        assert len(cluster.nodes[3].values()) == 2


async def test_a_leader_can_have_no_batch_of_a_later_epoch(autojump_clock):
    """It would have come from a file that was cut and written anew under the leader's feet; its past is another one."""
    async with running(nodes=2) as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2)
        data = batch_of(b"of the next one", base_offset=1, leader_epoch=1)
        with pytest.raises(CorruptMessage, match="epoch 0 can have no batch of a later"):
            await ask(
                cluster.nodes[2].mailbox,
                lambda reply: Replicate(
                    leader_epoch=0, offset=1, data=memoryview(data), high_watermark=1, log_start_offset=0,
                    log_end_offset=2, reply=reply,
                ),
            )  # fmt: skip
        await cluster.send(1, b"1")
        await cluster.until_alike(1, 2)
        assert cluster.nodes[2].values() == [(0, b"0"), (1, b"1")]


@pytest.mark.parametrize("durability", ["fsync", "flushed", "pagecache"])
async def test_whoever_is_killed_everything_comes_back(autojump_clock, durability):
    """A process that dies loses nothing of what it has written, at any level."""
    async with running(durability=durability) as cluster:
        sent = []
        for turn in range(6):
            sent.append((await cluster.send_to_leader(b"%d" % turn)).base_offset)
            node_id = turn % 3 + 1
            await cluster.nodes[node_id].kill()
            await cluster.away(node_id)
            sent.append((await cluster.send_to_leader(b"%d again" % turn)).base_offset)
            await cluster.nodes[node_id].start()
            await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)
        assert sorted(set(sent)) == sent
        values = dict(cluster.nodes[1].values())
        assert all(offset in values for offset in sent)


async def test_a_leader_never_leads_twice_in_one_epoch(autojump_clock):
    """What it had not synced, and its followers have, must not be written anew under the same epoch."""
    async with running() as cluster:
        await cluster.send(1, b"0")
        await cluster.nodes[1].kill(power=True)
        await cluster.nodes[1].start()  # before anybody has missed it
        await cluster.send_to_leader(b"1")
        record, _ = await cluster.record()
        assert (record.leader, record.leader_epoch) == (1, 1)
        headers = [header for _, header in iter_headers(cluster.nodes[1].stored())]
        assert [header.leader_epoch for header in headers] == [0, 1]
        await cluster.until_alike(1, 2, 3)


async def test_a_leader_that_may_have_lost_acked_records_hands_over(autojump_clock):
    async with running(durability="pagecache") as cluster:
        for n in range(10):
            await cluster.send(1, b"%d" % n)
        await cluster.nodes[1].kill(power=True)
        await cluster.nodes[1].start()
        await cluster.send_to_leader(b"10")
        record, _ = await cluster.record()
        assert record.leader == 2
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)
        assert [value for _, value in cluster.nodes[1].values()] == [b"%d" % n for n in range(11)]


async def test_a_leader_that_has_lost_everything_hands_over(autojump_clock):
    """As one of a topic in memory, or with a new disk, that is back before anybody has missed it."""
    async with running(storage="memory") as cluster:
        for n in range(10):
            await cluster.send(1, b"%d" % n)
        await cluster.nodes[1].kill()
        await cluster.nodes[1].start()
        assert (await cluster.send_to_leader(b"10")).base_offset == 10
        assert (await cluster.record())[0].leader == 2
        await cluster.until_isr(1, 2, 3)
        state = await cluster.nodes[1].describe()
        assert (state.log.log_start_offset, state.log.log_end_offset) == (0, 11)


async def test_a_leader_that_follows_says_only_what_it_has_synced(autojump_clock):
    """What it wrote as a leader, and its successor has, may not be on its own disk yet."""
    async with running() as cluster:
        await cluster.send(1, b"0")
        cluster.nodes[1].platter.faults.slowness = 3_000
        await cluster.send_aside(1, b"1")

        async def have_it():
            return len(cluster.nodes[2].values()) == 2

        await cluster.until(have_it, 5)
        await cluster.elect(2)
        told = set()
        for _ in range(3_000):
            await trio.sleep(0.01)
            state, replicas = await cluster.nodes[1].describe(), (await cluster.nodes[2].describe()).replicas
            position = dict(replicas.positions).get(1, -1)
            assert position <= state.log.flushed_offset
            told.add(position)
        assert {-1, 2} <= told


async def test_an_append_that_nobody_follows_ends(autojump_clock):
    """Neither are they in sync nor can they be taken out: there is no store to write that down."""
    async with running() as cluster:
        await cluster.send(1, b"0")

        def fault(operations):
            raise MetadataUnavailable

        cluster.store.fault = fault
        cluster.cuts.update({(1, 2), (1, 3)})
        with trio.fail_after(60), pytest.raises(RequestTimedOut):
            await ask(
                cluster.nodes[1].mailbox,
                lambda reply: Append(batch=_pending(b"1"), deadline=trio.current_time() + 20, reply=reply),
            )
        assert trio.current_time() > 20
        cluster.store.fault = lambda operations: None
        cluster.cuts.clear()
        assert (await cluster.send_to_leader(b"2", timeout_s=60)).base_offset == 2


async def test_a_crashed_actor_leads_again_in_a_new_epoch(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"0")
        cluster.nodes[1].platter.bugs = 1
        await refused(cluster, 1, b"1")
        acked = await cluster.send_to_leader(b"2")
        record, _ = await cluster.record()
        assert (record.leader, record.leader_epoch) == (1, 1)
        assert dict(cluster.nodes[2].values())[acked.base_offset] == b"2"
        await cluster.until_alike(1, 2, 3)


async def test_a_crashed_follower_goes_on(autojump_clock):
    async with running() as cluster:
        cluster.nodes[3].platter.bugs = 1
        for n in range(5):
            await cluster.send(1, b"%d" % n)
        await cluster.until_alike(1, 2, 3)
        assert (await cluster.record())[0].isr == (1, 2, 3)


# --- producers --------------------------------------------------------------------------------------


async def test_a_retry_at_the_next_leader_is_known_as_a_duplicate(autojump_clock):
    async with running() as cluster:
        for n in range(3):
            first = await cluster.send(1, b"%d" % n, producer_id=7, producer_epoch=0, base_sequence=n)
        await cluster.nodes[1].kill(power=True)
        await cluster.away(1)
        again = await cluster.send_to_leader(b"2", producer_id=7, producer_epoch=0, base_sequence=2)
        assert again.base_offset == first.base_offset == 2
        more = await cluster.send_to_leader(b"3", producer_id=7, producer_epoch=0, base_sequence=3)
        assert more.base_offset == 3


async def test_batches_with_holes_come_over_as_they_are(autojump_clock):
    """One record of many, at the end, and none at all: as records that come later and compaction leave them."""
    async with running(segment_bytes="1024") as cluster:
        for number in range(30):
            plain = batch_of(b"%d" % number)
            header = read_header(plain)
            is_empty = number % 3 == 0
            data = build(
                b"" if is_empty else bytes(plain[61:]), count=0 if is_empty else 1, last_offset_delta=number % 5,
                base_timestamp=header.base_timestamp, max_timestamp=header.max_timestamp,
            )  # fmt: skip
            await cluster.append(1, PendingBatch(memoryview(data), read_header(data), is_own=True))
        await cluster.until_alike(1, 2, 3)
        await cluster.elect(2)
        acked = await cluster.send_to_leader(b"end")
        assert acked.base_offset == sum(number % 5 + 1 for number in range(30))
        await cluster.until_alike(1, 2, 3)


# --- logs that are gone, full or spoilt -------------------------------------------------------------


async def test_a_follower_that_is_behind_the_start_begins_anew(autojump_clock):
    async with running(segment_bytes="1024") as cluster:
        await cluster.send(1, b"0")
        await cluster.nodes[3].kill()
        await cluster.away(3)
        for n in range(1, 40):
            await cluster.send(1, b"%d" % n * 100)
        await ask(cluster.nodes[1].mailbox, lambda reply: Purge(offset=30, reply=reply))
        await cluster.nodes[3].start()
        await cluster.until_isr(1, 2, 3)
        state = (await cluster.nodes[3].describe()).log
        assert (state.log_start_offset, state.log_end_offset) == (30, 40)
        assert [offset for offset, _ in cluster.nodes[3].values()][-10:] == list(range(30, 40))
        await cluster.elect(3)
        assert (await cluster.send_to_leader(b"after")).base_offset == 40


async def test_a_follower_begins_anew_where_the_start_lies_inside_a_batch(autojump_clock):
    """The leader sends the whole batch, which begins before its log does."""
    async with running(segment_bytes="1024") as cluster:
        await cluster.send(1, b"0")
        await cluster.nodes[3].kill()
        await cluster.away(3)
        for _ in range(10):
            await cluster.send(1, *[b"x" * 100] * 4)
        await ask(cluster.nodes[1].mailbox, lambda reply: Purge(offset=31, reply=reply))
        await cluster.nodes[3].start()
        await cluster.until_isr(1, 2, 3)
        state = (await cluster.nodes[3].describe()).log
        assert (state.log_start_offset, state.log_end_offset) == (31, 41)
        await cluster.elect(3)
        assert (await cluster.send_to_leader(b"after")).base_offset == 41


async def test_what_was_purged_stays_so_under_the_next_leader(autojump_clock):
    """Who may lead next has made it, too, before it is answered; a follower that is away leaves the set first."""
    async with running(segment_bytes="1024") as cluster:
        for n in range(40):
            await cluster.send(1, b"%d" % n * 100)
        assert await ask(cluster.nodes[1].mailbox, lambda reply: Purge(offset=25, reply=reply)) == 25
        starts = [(await node.describe()).log.log_start_offset for node in cluster.nodes.values()]
        assert starts == [25, 25, 25]
        cluster.cuts.add((1, 3))
        assert await ask(cluster.nodes[1].mailbox, lambda reply: Purge(offset=30, reply=reply)) == 30
        assert (await cluster.nodes[2].describe()).log.log_start_offset == 30
        assert (await cluster.record())[0].isr == (1, 2)
        cluster.cuts.clear()
        await cluster.until_isr(1, 2, 3)
        assert (await cluster.nodes[3].describe()).log.log_start_offset == 30


async def test_the_start_of_the_log_is_followed(autojump_clock):
    async with running(segment_bytes="1024") as cluster:
        for n in range(40):
            await cluster.send(1, b"%d" % n * 100)
        await ask(cluster.nodes[1].mailbox, lambda reply: Purge(offset=25, reply=reply))

        async def is_followed():
            states = [await node.describe() for node in cluster.nodes.values()]
            return all(state.log.log_start_offset == 25 for state in states)

        await cluster.until(is_followed)
        assert (await cluster.send(1, b"more")).base_offset == 40


async def test_a_full_disk_holds_up_one_follower_only(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"0")
        cluster.nodes[3].platter.faults.is_full = True
        assert (await cluster.send(1, b"1", timeout_s=60)).base_offset == 1
        assert (await cluster.record())[0].isr == (1, 2)
        cluster.nodes[3].platter.faults.is_full = False
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)


async def test_a_spoilt_batch_of_a_follower_is_fetched_again(autojump_clock):
    """The leader has it whole, so nothing is lost for one bit."""
    async with running() as cluster:
        for n in range(20):
            await cluster.send(1, b"%d" % n * 50)
        await cluster.until_alike(1, 2, 3)
        await cluster.nodes[3].kill()
        await cluster.away(3)
        node = cluster.nodes[3]
        places = [at for at, _ in iter_headers(node.stored())]
        node.platter.flip(f"{DIRECTORY}/{file_name(0, LOG)}", places[7] + 70, 3)
        spoilt = node.stored()
        await node.start()
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)
        assert node.stored() != spoilt
        files = node.platter.files
        assert not files.exists(f"{DIRECTORY}/{QUARANTINE}") or not files.read(f"{DIRECTORY}/{QUARANTINE}")


async def test_a_spoilt_batch_of_a_leader_is_served_by_another(autojump_clock):
    """It comes back before anybody has missed it, and does not lead on with what it can't serve."""
    async with running() as cluster:
        for n in range(20):
            await cluster.send(1, b"%d" % n * 50)
        await cluster.until_alike(1, 2, 3)
        await cluster.nodes[1].kill()
        node = cluster.nodes[1]
        places = [at for at, _ in iter_headers(node.stored())]
        node.platter.flip(f"{DIRECTORY}/{file_name(0, LOG)}", places[7] + 70, 3)
        spoilt = node.stored()
        await node.start()
        await cluster.send_to_leader(b"more")
        record, _ = await cluster.record()
        assert record.leader == 2
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)
        assert node.stored() != spoilt


async def test_a_leader_whose_disk_fails_names_another(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"0")
        cluster.nodes[1].platter.faults.sync_fails = 1.0
        await refused(cluster, 1, b"1", acks=1)
        cluster.nodes[1].platter.faults.sync_fails = 0.0
        await cluster.send_to_leader(b"2")
        record, _ = await cluster.record()
        assert (record.leader, record.leader_epoch, record.isr) == (2, 1, (2, 3))
        with pytest.raises(StorageError, match="offline"):
            await cluster.read(1)
        await ask(cluster.nodes[1].mailbox, lambda reply: Restore(reply=reply))
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)


async def test_a_follower_whose_disk_fails_leaves(autojump_clock):
    async with running() as cluster:
        cluster.nodes[3].platter.faults.sync_fails = 1.0
        await cluster.send(1, b"0", timeout_s=60)
        assert (await cluster.record())[0].isr == (1, 2)
        cluster.nodes[3].platter.faults.sync_fails = 0.0
        await ask(cluster.nodes[3].mailbox, lambda reply: Restore(reply=reply))
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)


# --- the store --------------------------------------------------------------------------------------


def is_of_partition(operations):
    return any(one.key.startswith("/partitions/") for one in operations)


async def test_until_an_outcome_is_known_the_largest_set_counts(autojump_clock):
    """No answer comes, and nothing was applied: nobody may act on the smaller set."""
    async with running() as cluster:
        await cluster.send(1, b"0")

        def fault(operations):
            if is_of_partition(operations) and trio.current_time() < 40:
                raise MetadataUnknown

        cluster.store.fault = fault
        cluster.cuts.add((1, 3))
        acked = await cluster.send(1, b"1", timeout_s=120)
        assert trio.current_time() > 40
        assert acked.base_offset == 1
        assert (await cluster.record())[0].isr == (1, 2)


async def test_a_change_that_was_applied_without_an_answer_is_found_out(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"0")
        lost = []

        def after(operations):
            if is_of_partition(operations) and len(lost) < 2:
                lost.append(operations)
                raise MetadataUnknown

        cluster.store.after = after
        cluster.deaf.add(1)  # it has no other way to learn of it
        cluster.cuts.add((1, 3))
        assert (await cluster.send(1, b"1", timeout_s=60)).base_offset == 1
        record, _ = await cluster.record()
        assert (record.isr, record.partition_epoch) == ((1, 2), 1)
        assert len(lost) == 1
        assert (await cluster.nodes[1].describe()).replicas.isr == (1, 2)


async def test_without_the_store_a_leader_goes_on_under_the_last_set(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"0")

        def fault(operations):
            raise MetadataUnavailable

        cluster.store.fault = fault
        for n in range(1, 20):
            assert (await cluster.send(1, b"%d" % n)).base_offset == n
            await trio.sleep(3)
        cluster.cuts.add((1, 3))
        with trio.move_on_after(30) as scope:
            await cluster.send(1, b"waits")
        assert scope.cancelled_caught
        cluster.store.fault = lambda operations: None
        await cluster.until_isr(1, 2)
        assert (await cluster.send(1, b"goes on")).base_offset == 21


async def test_who_was_away_meanwhile_does_not_join_on_what_it_had(autojump_clock):
    """KIP-903: what a fetch said holds for that life of the node only."""
    async with running(durability="pagecache") as cluster:
        await cluster.send(1, b"0")
        await cluster.nodes[3].kill()
        await cluster.away(3)
        await cluster.send(1, b"1")
        await cluster.nodes[3].start()
        cluster.nodes[3].epoch -= 1  # as a fetch on its way from its former life would say
        await trio.sleep(20)
        assert (await cluster.record())[0].isr == (1, 2)
        cluster.nodes[3].epoch += 1
        await cluster.until_isr(1, 2, 3)


async def test_two_changes_at_once_don_t_undo_one_another(autojump_clock):
    """The controller and the leader write the same record: one of them looks again."""
    async with running() as cluster:
        await cluster.send(1, b"0")
        for turn in range(6):
            cluster.cuts.add((1, 3))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.send_to_leader, b"%d" % turn)
                await trio.sleep(9.5 + turn / 10)
                await cluster.change(lambda record: attrs.evolve(record, controller_epoch=record.controller_epoch + 1))
            await cluster.until_isr(1, 2)
            cluster.cuts.clear()
            await cluster.until_isr(1, 2, 3)
        record, _ = await cluster.record()
        assert record.controller_epoch == 6
        await cluster.until_alike(1, 2, 3)


# --- closing, opening -------------------------------------------------------------------------------


async def test_appends_that_come_before_the_log_is_open_wait(autojump_clock):
    async with running(start=False) as cluster:
        node = cluster.nodes[1]
        await node.start()
        with trio.fail_after(60):
            acked = await ask(
                node.mailbox,
                lambda reply: Append(
                    batch=_pending(b"early"), deadline=float("inf"), acks=1, reply=reply
                ),
            )  # fmt: skip
        assert acked.base_offset == 0


def _pending(*values):
    data = batch_of(*values)
    return PendingBatch(memoryview(data), read_header(data), is_own=True)


async def test_without_a_leader_nobody_serves(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"0")
        await cluster.change(lambda record: attrs.evolve(record, leader=-1))
        await trio.sleep(1)
        for node_id in cluster.nodes:
            with pytest.raises(LeaderNotAvailable, match="no leader"):
                await cluster.send(node_id, b"1")
        await cluster.lead()
        assert (await cluster.send_to_leader(b"1")).base_offset == 1


async def test_who_keeps_no_replica_serves_nothing_and_gets_nothing(autojump_clock):
    async with running(nodes=3, replicas=(1, 2)) as cluster:
        await cluster.send(1, b"0")
        await trio.sleep(1)
        assert cluster.nodes[3].values() == []
        with pytest.raises(NotLeader):
            await cluster.read(3)
        await cluster.change(lambda record: attrs.evolve(record, replicas=(1, 2, 3), adding=(3,)))
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)
