"""Sessions of nodes with the quorum: they outlive what does not concern them, and end soon when their node does."""

from random import Random

import pytest
import trio

from dduomq.cluster.ports import Changed, MetadataUnavailable, Put, SessionLost
from dduomq.cluster.quorum_state import SessionRecord
from dduomq.cluster.sessions import SessionClock
from dduomq.testing.quorum_host import quorum_cluster
from tests.cluster.test_quorum_store import others, until, until_led

KEY = "/nodes/{}"


async def live(cluster, node, sessions):
    """What a node does: it has a session, and says so, for as long as it runs."""
    try:
        async with cluster.store(node).session() as session:
            await cluster.store(node).txn([Put(KEY.format(node), b"here", is_ephemeral=True)])
            sessions[node] = session
            await session.wait_lost()
    except MetadataUnavailable:
        return


async def all_live(cluster, nursery):
    sessions = {}
    for node in cluster.hosts:
        nursery.start_soon(live, cluster, node, sessions)
    await until(lambda: len(sessions) == len(cluster.hosts))
    return sessions


async def gone_after(cluster, reader, key):
    """How long it takes until a watcher on that node sees the key go, and a read does not find it either."""
    begun = trio.current_time()
    async with cluster.store(reader).watch(key) as changes:
        with trio.fail_after(10):
            async for change in changes:
                if isinstance(change, Changed) and change.value is None:
                    break
    passed = trio.current_time() - begun
    assert await cluster.store(reader).get(key) is None
    return passed


@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize("seed", range(12))
async def test_a_killed_node_is_gone_within_a_second_and_a_half(autojump_clock, role, seed):
    """With the default time-out of a second, be it the leader or not; nobody else's session is lost for it."""
    rng = Random(seed)
    async with quorum_cluster(5 if seed % 4 == 0 else 3, seed=seed) as cluster, trio.open_nursery() as nursery:
        await cluster.formed()
        sessions = await all_live(cluster, nursery)
        await trio.sleep(rng.uniform(1, 3))
        leader = cluster.leader()
        victim = leader if role == "leader" else rng.choice(others(cluster, leader))
        cluster.hosts[victim].kill()
        witness = rng.choice(others(cluster, victim))
        passed = await gone_after(cluster, witness, KEY.format(victim))
        assert 0.75 < passed < 1.6
        await trio.sleep(5)
        left = [one.key for one in await cluster.store(witness).scan("/nodes/")]
        assert left == [KEY.format(node) for node in others(cluster, victim)]
        assert all(sessions[node].is_valid for node in others(cluster, victim))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(5))
async def test_a_session_outlives_the_leaders(autojump_clock, seed):
    """One leader after another dies and comes back, once all voters but one are away: no key goes, nobody is told."""
    async with quorum_cluster(3, seed=seed) as cluster, trio.open_nursery() as nursery:
        await cluster.formed()
        await cluster.start(4, (1, 2, 3, 4))
        await cluster.formed()
        sessions = {}
        nursery.start_soon(live, cluster, 4, sessions)
        await until(lambda: 4 in sessions)
        for _ in range(3):
            leader = await until_led(cluster)
            cluster.hosts[leader].kill()
            await until_led(cluster, but=leader)
            await cluster.start(leader)
            await trio.sleep(2)
            assert sessions[4].is_valid
        for node in (1, 2):
            cluster.hosts[node].kill()
        await trio.sleep(5)
        assert not sessions[4].is_valid
        assert not sessions[4].is_over
        for node in (1, 2):
            await cluster.start(node)
        await until(lambda: sessions[4].is_valid)
        assert (await cluster.store(4).get(KEY.format(4))).value == b"here"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(5))
async def test_who_is_cut_off_knows_it_in_time(autojump_clock, seed):
    """It is not valid any more before anybody sees its keys go; it hears that it was lost when the way is mended."""
    async with quorum_cluster(3, seed=seed) as cluster, trio.open_nursery() as nursery:
        await cluster.formed()
        sessions = await all_live(cluster, nursery)
        await trio.sleep(1)
        node = cluster.leader() if seed % 2 else others(cluster, cluster.leader())[0]
        invalid_at = []

        async def watch_validity():
            await until(lambda: not sessions[node].is_valid)
            invalid_at.append(trio.current_time())

        nursery.start_soon(watch_validity)
        cluster.network.isolate(f"node-{node}", [f"node-{other}" for other in others(cluster, node)])
        await gone_after(cluster, others(cluster, node)[0], KEY.format(node))
        assert invalid_at
        await trio.sleep(5)
        assert not sessions[node].is_over
        cluster.network.mend_all()
        with trio.fail_after(10):
            await sessions[node].wait_lost()
        with pytest.raises(SessionLost):
            await cluster.store(node).txn([Put("/again", b"", is_ephemeral=True)])
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_session_takes_its_keys_at_once(autojump_clock):
    """Left in good order there is nothing to wait for; what was made permanent since stays."""
    async with quorum_cluster(3, seed=9) as cluster:
        await cluster.formed()
        store = cluster.store(2)
        async with store.session() as session:
            await store.txn([Put("/e", b"1", is_ephemeral=True), Put("/p", b"1", is_ephemeral=True), Put("/q", b"")])
            await store.txn([Put("/p", b"2")])
            assert session.is_valid
        assert [one.key for one in await cluster.store(1).scan("/")] == ["/p", "/q"]


async def test_a_node_that_comes_back_ends_its_own_old_session(autojump_clock):
    """Its old keys go in the very step in which the new session begins: nobody takes them for its own."""
    async with quorum_cluster(3, seed=9, session_timeout_ms=60_000) as cluster, trio.open_nursery() as nursery:
        await cluster.formed()
        sessions = await all_live(cluster, nursery)
        cluster.hosts[2].kill()
        await cluster.start(2)
        await cluster.formed()
        assert await cluster.store(2).get(KEY.format(2)) is not None
        async with cluster.store(2).session():
            assert await cluster.store(1).get(KEY.format(2)) is None
        assert not sessions[1].is_over
        nursery.cancel_scope.cancel()


def test_a_leader_waits_for_what_it_may_have_missed():
    """Heard lately, heard long ago, never heard, begun just now; and nobody but a leader lets anything end."""
    clock = SessionClock(50, 8)
    sessions = [SessionRecord(5, 1, 1_000)]
    for _ in range(100):
        assert clock.tick(sessions, 10) == []
    clock.heard(5)
    clock.leads(is_leader=True)
    ends = [clock.now for _ in range(30) if clock.tick(sessions, 10)]
    assert ends == [121]
    clock.leads(is_leader=False)
    clock.leads(is_leader=True)
    begun = clock.now
    assert [clock.now - begun for _ in range(20) if clock.tick(sessions, 10)] == [13]
    sessions.append(SessionRecord(20, 2, 500))
    begun = clock.now
    due = {session: clock.now - begun for _ in range(15) for session in clock.tick(sessions, 20)}
    assert due[20] == 12
