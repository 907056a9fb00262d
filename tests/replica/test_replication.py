"""Three nodes keep one partition: what is acked is on all, and stays."""

import pytest
import trio

from dduomq.errors import LeaderNotAvailable, NotEnoughReplicas, NotLeader
from tests.replica.cluster import running


async def test_what_is_acked_is_on_all(autojump_clock):
    async with running() as cluster:
        for n in range(20):
            acked = await cluster.send(1, b"%d" % n)
            assert acked.base_offset == n
            assert all((n, b"%d" % n) in node.values() for node in cluster.nodes.values())
        await cluster.until_alike(1, 2, 3)
        record, _ = await cluster.record()
        assert record.isr == (1, 2, 3)
        assert record.leader_epoch == 0


async def test_followers_refuse_and_name_the_leader(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"x")
        for attempt in (cluster.send(2, b"y"), cluster.read(2), cluster.offset(3)):
            with pytest.raises(NotLeader, match="node 1 leads"):
                await attempt


async def test_one_node_alone_in_sync_acks_at_once(autojump_clock):
    async with running(nodes=1) as cluster:
        await cluster.send(1, b"x")
        assert (await cluster.offset(1)).offset == 1
        assert (await cluster.nodes[1].describe()).is_idle


async def test_a_follower_takes_over_and_nothing_acked_is_lost(autojump_clock):
    async with running() as cluster:
        acked = [(await cluster.send(1, b"%d" % n)).base_offset for n in range(50)]
        await cluster.nodes[1].kill(power=True)
        await cluster.away(1)
        await cluster.send_to_leader(b"after")
        values = dict(cluster.nodes[2].values())
        assert [values[at] for at in acked] == [b"%d" % n for n in range(50)]
        await cluster.nodes[1].start()
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)


async def test_a_slow_follower_leaves_and_comes_back(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"before")
        cluster.cuts.add((1, 3))
        acked = await cluster.send(1, b"during", timeout_s=60)
        assert acked.base_offset == 1
        record, _ = await cluster.record()
        assert record.isr == (1, 2)
        assert trio.current_time() > 9
        cluster.cuts.clear()
        await cluster.until_isr(1, 2, 3)
        await cluster.until_alike(1, 2, 3)


async def test_too_few_in_sync_refuse_acks_of_all_only(autojump_clock):
    async with running(min_insync_replicas="2") as cluster:
        await cluster.send(1, b"0")
        for other in (2, 3):
            await cluster.nodes[other].kill()
            await cluster.away(other)
        await cluster.until_isr(1)
        await trio.sleep(1)
        with pytest.raises(NotEnoughReplicas, match=r"min\.insync\.replicas is 2"):
            await cluster.send(1, b"1")
        assert (await cluster.send(1, b"1", acks=1)).base_offset == 1
        plan = await cluster.read(1)
        plan.close()
        assert plan.high_watermark == 1  # what one node alone has does not count
        await cluster.nodes[2].start()
        await cluster.until_isr(1, 2)
        assert (await cluster.send(1, b"2")).base_offset == 2


async def test_acks_of_the_leader_alone_don_t_wait_for_others(autojump_clock):
    async with running() as cluster:
        cluster.cuts.update({(1, 2), (1, 3)})
        began = trio.current_time()
        assert (await cluster.send(1, b"x", acks=1)).base_offset == 0
        assert trio.current_time() - began < 1
        plan = await cluster.read(1)
        assert (plan.size, plan.high_watermark) == (0, 0)


async def test_who_loses_the_lead_refuses_what_waits(autojump_clock):
    async with running() as cluster:
        cluster.cuts.update({(1, 2), (1, 3)})
        async with trio.open_nursery() as nursery:
            errors = []

            async def send():
                try:
                    await cluster.send(1, b"x")
                except NotLeader as error:
                    errors.append(error)

            nursery.start_soon(send)
            await trio.sleep(0.5)
            await cluster.elect(2, isr=(2, 3))
        assert len(errors) == 1
        cluster.cuts.clear()
        await cluster.send_to_leader(b"y")
        await cluster.until_alike(1, 2, 3)
        assert cluster.nodes[1].values() == [(0, b"y")]


async def test_a_new_leader_does_not_know_the_end_until_its_followers_have_asked(autojump_clock):
    async with running() as cluster:
        await cluster.send(1, b"x")
        await cluster.until_alike(1, 2, 3)
        cluster.cuts.update({(2, 3), (1, 2)})
        await cluster.send(1, b"y", acks=1)
        cluster.cuts.add((1, 3))
        cluster.cuts.discard((1, 2))
        await trio.sleep(2)
        cluster.cuts.add((1, 2))
        await cluster.nodes[1].kill()
        await cluster.elect(2, isr=(2, 3))
        await trio.sleep(1)
        state = await cluster.nodes[2].describe()
        assert state.log.log_end_offset == 2
        assert not state.is_idle
        for timestamp_ms in (-1, 2**50):  # the end; the first record that is as late as that: there may be one
            with pytest.raises(LeaderNotAvailable, match="waits for its followers"):
                await cluster.offset(2, timestamp_ms)
        assert (await cluster.offset(2, 0)).offset == 0
        plan = await cluster.read(2)
        plan.close()
        assert (plan.next_offset, plan.high_watermark) == (1, 1)
        cluster.cuts.clear()

        async def is_known():
            return (await cluster.nodes[2].describe()).is_idle

        await cluster.until(is_known)
        assert (await cluster.offset(2)).offset == 2
        assert (await cluster.offset(2, 2**50)).offset == -1
