"""How a leader serves its followers, and what catching up may not take from others."""

import pytest
import trio

from dduomq.actors.partition import PartitionActor
from dduomq.listeners import peer_replication
from dduomq.listeners.connection import FilePart
from dduomq.wire.batch import iter_headers
from dduomq.wire.peer_replication import PeerFetch, PeerFetchPart
from tests.replica.cluster import TOPIC_ID, Asker, running

LARGE = bytes(100_000)


async def fetched(cluster, offset, last_epoch=-1):
    """What node 2 gets from node 1 by a connection of its own: the part's answer and its chunks."""
    node = cluster.nodes[2]
    part = PeerFetchPart(TOPIC_ID, 0, 0, offset, last_epoch, 10_000_000, 0)
    body = PeerFetch(node.epoch, 100, 10_000_000, (part,))
    answer, chunks = await cluster.nodes[1].server.fetch(Asker(2, connection=9), body, memoryview(b""))
    return answer.parts[0], chunks


async def test_what_counts_goes_from_the_file(autojump_clock):
    """It is never cut, so it may go whenever the socket takes it, without a copy."""
    async with running(nodes=2, segment_bytes="10000000") as cluster:
        await cluster.send(1, LARGE)
        await cluster.until_alike(1, 2)
        part, (chunk,) = await fetched(cluster, 0)
        assert isinstance(chunk, FilePart)
        assert (part.size, chunk.size) == (len(cluster.nodes[1].stored()),) * 2
        assert chunk.lease.read(chunk.position, chunk.size) == cluster.nodes[1].stored()
        chunk.lease.close()


async def test_what_may_be_cut_is_read_at_once(autojump_clock):
    """Were it sent from the file later, another leader's records might lie there by then."""
    async with running(nodes=2, segment_bytes="10000000") as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2)
        cluster.cuts.add((1, 2))
        await cluster.send_aside(1, LARGE)
        await cluster.until(lambda: _ends_at(cluster, 2))
        part, (chunk,) = await fetched(cluster, 1, last_epoch=0)
        assert part.high_watermark == 1
        assert [header.base_offset for _, header in iter_headers(chunk)] == [1]


async def test_what_is_small_is_sent_with_the_answer(autojump_clock):
    async with running(nodes=2) as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2)
        _, chunks = await fetched(cluster, 0)
        assert chunks == [cluster.nodes[1].stored()]


async def test_what_a_deposed_leader_reads_is_not_sent(autojump_clock, monkeypatch):
    """Its log has been cut since it planned; at that place lies another past, of an older epoch than its own."""
    held, go, is_armed = trio.Event(), trio.Event(), []

    async def slow(disk, lease, position, size):
        if is_armed:
            is_armed.clear()
            held.set()
            await go.wait()

    monkeypatch.setattr(peer_replication, "make_resident", slow)
    async with running(nodes=3, segment_bytes="10000000") as cluster:
        nodes = cluster.nodes
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2, 3)
        cluster.cuts |= {(1, 2), (2, 3)}  # epoch 0: only node 3 gets what node 1 has
        await cluster.send_aside(1, b"a")
        await cluster.until(lambda: _keeps(nodes[3], 2))
        cluster.deaf |= {1, 3}
        await cluster.elect(2)  # epoch 1: node 2, for itself
        await cluster.until(lambda: _leads(cluster, 2))
        await cluster.send_aside(2, b"b")
        await cluster.send_aside(2, b"c")
        await cluster.until(lambda: _keeps(nodes[2], 3))
        cluster.deaf.clear()
        cluster.deaf.add(2)
        await cluster.elect(1)  # epoch 2: node 1 plans to send what it gets now
        await cluster.until(lambda: _leads(cluster, 1, epoch=2))
        await trio.sleep(0.1)
        is_armed.append(True)
        await cluster.send_aside(1, b"x")
        with trio.fail_after(5):
            await held.wait()
        cluster.deaf = {3}
        cluster.cuts.discard((1, 2))
        await cluster.elect(2)  # epoch 3: node 1 is cut, and gets b and c
        await cluster.until(lambda: _alike(nodes[1], nodes[2]))
        go.set()
        await trio.sleep(0.5)
        cluster.deaf.clear()
        cluster.cuts.clear()
        await cluster.send_to_leader(b"later")
        await cluster.until_alike(1, 2, 3)
        assert [value for _, value in nodes[3].values()] == [b"0", b"b", b"c", b"later"]


async def test_catching_up_is_read_and_written_beside_the_event_loop(autojump_clock, monkeypatch):
    """Who is served at the same time does not wait for a disk's cache to be copied."""
    inline, hot, is_inline = [], [], PartitionActor._is_inline

    def judged(actor, plan):
        inline.append(plan.end_offset)
        return is_inline(actor, plan)

    monkeypatch.setattr(PartitionActor, "_is_inline", judged)
    async with running(nodes=2, start=False, isr=(1,), segment_bytes="10000000") as cluster:
        await cluster.nodes[1].start()
        for _ in range(50):
            await cluster.send(1, LARGE)
        inline.clear()
        monkeypatch.setattr(cluster.nodes[1].platter.files, "hot", hot.append, raising=False)
        await cluster.nodes[2].start()
        await cluster.until_isr(1, 2)
        await cluster.until_alike(1, 2)
        assert not hot
        assert set(inline) <= {50}  # no write but the last


@pytest.mark.parametrize("size", [1, 100_000])
async def test_what_is_removed_meanwhile_is_an_error_of_its_part(autojump_clock, monkeypatch, size):
    """The file is shorter than was planned: the follower is told, and asks again."""
    async with running(nodes=2, segment_bytes="10000000") as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2)
        cluster.cuts.add((1, 2))
        await cluster.send_aside(1, bytes(size))
        await cluster.until(lambda: _ends_at(cluster, 2))
        lease = cluster.nodes[1].platter.files.lease
        monkeypatch.setattr(cluster.nodes[1].platter.files, "lease", lambda path: _Short(lease(path)))
        part, chunks = await fetched(cluster, 1, last_epoch=0)
        assert "fetch again" in part.message
        assert chunks == []
        assert _Short.open == 0


class _Short:
    """A lease on a file that has been cut."""

    open = 0

    def __init__(self, lease):
        self._lease = lease
        _Short.open += 1

    def is_resident(self, position, size):
        return True

    def read(self, position, size):
        return self._lease.read(position, size)[:-1]

    def close(self):
        _Short.open -= 1
        self._lease.close()


async def test_a_new_leader_says_whether_it_knows_the_high_watermark(autojump_clock):
    """The last word of the leader before, that two records count, has reached nobody but its readers."""
    async with running(nodes=3, min_insync_replicas="2") as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2, 3)
        for other in (2, 3):
            replica = cluster.nodes[other]
            state = await replica.describe()
            assert state.log.high_watermark == 1
        await cluster.nodes[3].kill()
        await cluster.away(3)
        await cluster.send(1, b"1")
        marks = (await cluster.nodes[2].describe()).log
        assert (marks.high_watermark, marks.log_end_offset) == (1, 2)  # it acked, and has not heard that all have
        cluster.cuts.add((1, 2))
        await cluster.elect(2)
        await cluster.until(lambda: _leads(cluster, 2))
        for offset in (0, 1):
            plan = await cluster.read(2, offset)
            plan.close()
            assert (plan.high_watermark, plan.is_mark_known) == (1, False)
        cluster.cuts.clear()
        await cluster.until(lambda: _knows(cluster, 2, 2))


async def _knows(cluster, node_id, mark):
    plan = await cluster.read(node_id, mark)
    plan.close()
    return plan.high_watermark == mark and plan.is_mark_known


async def _leads(cluster, node_id, epoch=None):
    state = await cluster.nodes[node_id].describe()
    is_it = state.replicas is not None and state.replicas.role == "leading"
    return is_it and epoch in {None, state.leader_epoch}


async def _keeps(node, count):
    return len(node.values()) == count


async def _alike(one, other):
    return one.stored() == other.stored()


async def _ends_at(cluster, offset):
    state = await cluster.nodes[1].describe()
    return state.log is not None and state.log.log_end_offset == offset
