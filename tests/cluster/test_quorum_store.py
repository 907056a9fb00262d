"""A cluster that keeps its own metadata, on simulated disks and a simulated network: what it promises, node by node."""

from random import Random

import pytest
import trio

from dduomq.actors import quorum as quorum_actor
from dduomq.actors.quorum_messages import Stepped
from dduomq.cluster.ports import (
    Changed,
    Check,
    Del,
    MetadataConflict,
    MetadataUnavailable,
    MetadataUnknown,
    Put,
    Resync,
    SessionLost,
)
from dduomq.cluster.raft_ready import Settings
from dduomq.testing.quorum_host import quorum_cluster
from dduomq.wire.raft_messages import Heartbeat


async def until(holds, seconds=60):
    with trio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110  # any condition, in virtual time
            await trio.sleep(0.01)


async def until_led(cluster, but=None):
    await until(lambda: cluster.leader() not in {None, but})
    return cluster.leader()


def others(cluster, node):
    return [other for other in cluster.hosts if other != node]


@pytest.mark.parametrize(("count", "seed"), [(1, 1), (2, 1), (3, 1), (3, 2), (5, 3)])
async def test_every_node_reads_what_any_wrote(autojump_clock, count, seed):
    """Through the leader or not: what was acknowledged is seen everywhere at once."""
    async with quorum_cluster(count, seed=seed) as cluster:
        await cluster.formed()
        version = 0
        for node in cluster.hosts:
            written = await cluster.store(node).txn([Put("/x", str(node).encode()), Put(f"/by/{node}", b"")])
            assert written > version
            version = written
            for reader in cluster.hosts:
                found = await cluster.store(reader).get("/x")
                assert (found.value, found.version) == (str(node).encode(), version)
        for reader in cluster.hosts:
            assert [one.key for one in await cluster.store(reader).scan("/by/")] == [f"/by/{n}" for n in cluster.hosts]
        await cluster.store(1).txn([Del("/x")])
        assert await cluster.store(count).get("/x") is None
        status = cluster.store(count).status()
        assert (status.leader, len(status.voters)) == (cluster.leader(), count)


async def test_of_two_that_want_the_same_one_gets_it(autojump_clock):
    """Checks are looked at when the log's order has decided; who comes second has changed nothing."""
    async with quorum_cluster(3, seed=5) as cluster:
        await cluster.formed()
        won, lost = [], []

        async def race(node):
            try:
                await cluster.store(node).txn([Check("/c", 0), Put("/c", bytes([node])), Put(f"/trace/{node}", b"")])
            except MetadataConflict as error:
                lost.append(error.message)
            else:
                won.append(node)

        async with trio.open_nursery() as nursery:
            for node in (1, 2, 3):
                nursery.start_soon(race, node)
        assert len(won) == 1
        assert lost == ["/c has changed meanwhile"] * 2
        assert (await cluster.store(1).get("/c")).value == bytes(won)
        assert [one.key for one in await cluster.store(2).scan("/trace/")] == [f"/trace/{won[0]}"]
        with pytest.raises(SessionLost):
            await cluster.store(1).txn([Put("/mine", b"", is_ephemeral=True)])


async def test_watchers_see_the_newest_state_and_scan_when_they_must(autojump_clock):
    """Changes come on every node; one that takes nothing for long is told to look again; order is kept."""
    async with quorum_cluster(3, seed=2) as cluster:
        await cluster.formed()
        store = cluster.store(1)
        async with cluster.store(3).watch("/w/") as changes:
            assert await anext(changes) == Resync()
            await store.txn([Put("/w/a", b"1"), Put("/other", b"")])
            await store.txn([Put("/w/b", b"2")])
            first, second = await anext(changes), await anext(changes)
            assert (first.key, first.value, second.key, second.value) == ("/w/a", b"1", "/w/b", b"2")
            version = await store.txn([Put("/w/a", b"3"), Del("/w/b")])
            await store.txn([Put("/w/c", b"4")])
            await cluster.store(3).get("/")
            assert [await anext(changes) for _ in range(3)] == [
                Changed("/w/a", b"3", version), Changed("/w/b", None, version), Changed("/w/c", b"4", version + 1)
            ]  # fmt: skip
            for start in range(0, 1_500, 500):
                await store.txn([Put(f"/w/{number}", b"") for number in range(start, start + 500)])
            await cluster.store(3).get("/")
            assert await anext(changes) == Resync()


@pytest.mark.parametrize("seed", range(4))
async def test_a_leader_that_is_cut_off_commits_and_reads_nothing(autojump_clock, seed):
    """The others go on without it; what it says it can't have done is done by nobody, later neither."""
    async with quorum_cluster(3, seed=seed) as cluster:
        await cluster.formed()
        await cluster.store(1).txn([Put("/k", b"before")])
        old = cluster.leader()
        cluster.network.isolate(f"node-{old}", [f"node-{node}" for node in others(cluster, old)])
        refused = []

        async def write():
            try:
                await cluster.store(old).txn([Put("/k", b"of the old leader")])
            except (MetadataUnavailable, MetadataUnknown) as error:
                refused.append(error)

        async def read():
            try:
                await cluster.store(old).get("/k")
            except MetadataUnavailable as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(read)
            new = await until_led(cluster, but=old)
            await cluster.store(new).txn([Put("/k", b"after")])
            for node in others(cluster, old):
                assert (await cluster.store(node).get("/k")).value == b"after"
        assert len(refused) == 2
        assert all("majority" in error.message for error in refused)
        cluster.network.mend_all()
        await until(lambda: cluster.store(old).status().leader == cluster.leader())
        assert (await cluster.store(old).get("/k")).value == b"after"


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_acknowledged_outlives_all_of_them(autojump_clock, seed):
    """Every node dies at once, with the power; versions are the same afterwards."""
    async with quorum_cluster(3, seed=seed) as cluster:
        await cluster.formed()
        rng = Random(seed)
        for round_number in range(3):
            for number in range(10):
                await cluster.store(rng.choice((1, 2, 3))).txn([Put(f"/{round_number}/{number}", rng.randbytes(50))])
            before = await cluster.store(1).scan("/")
            for host in cluster.hosts.values():
                host.kill(is_power_lost=rng.random() < 0.7)
            for node in (1, 2, 3):
                await cluster.start(node)
            await cluster.formed()
            assert await cluster.store(rng.choice((1, 2, 3))).scan("/") == before


async def test_who_was_away_for_long_gets_a_snapshot(autojump_clock, monkeypatch):
    """It has all, versions too; its watchers scan again; sessions and outcomes are in it."""
    monkeypatch.setattr(quorum_actor, "QUORUM_SNAPSHOT_ENTRIES", 20)
    monkeypatch.setattr(quorum_actor, "Settings", lambda **given: Settings(entries_kept=5, **given))
    async with quorum_cluster(3, seed=8) as cluster:
        await cluster.formed()
        late = others(cluster, cluster.leader())[0]
        cluster.network.isolate(f"node-{late}", [f"node-{node}" for node in others(cluster, late)])
        leader = cluster.store(cluster.leader())
        async with cluster.store(late).watch("/") as changes:
            assert await anext(changes) == Resync()
            for number in range(60):
                await leader.txn([Put(f"/{number % 7}", bytes([number]) * 3_000)])
            await trio.sleep(5)
            cluster.network.mend_all()
            with trio.fail_after(20):
                while await anext(changes) != Resync():
                    pass
        assert await cluster.store(late).scan("/") == await leader.scan("/")
        cluster.hosts[late].kill(is_power_lost=True)
        await cluster.start(late)
        await cluster.formed()
        assert await cluster.store(late).scan("/") == await leader.scan("/")


async def test_a_large_snapshot_comes_in_pieces(autojump_clock, monkeypatch):
    """More than a frame may hold."""
    monkeypatch.setattr(quorum_actor, "QUORUM_SNAPSHOT_ENTRIES", 10)
    monkeypatch.setattr(quorum_actor, "Settings", lambda **given: Settings(entries_kept=1, **given))
    monkeypatch.setattr("dduomq.actors.quorum_wire.LINK_PIECE_BYTES", 10_000)
    async with quorum_cluster(3, seed=3) as cluster:
        await cluster.formed()
        late = others(cluster, cluster.leader())[0]
        cluster.hosts[late].kill()
        leader = cluster.store(cluster.leader())
        for number in range(30):
            await leader.txn([Put(f"/{number}", bytes(3_000))])
        await cluster.start(late)
        await cluster.formed()
        assert len(await cluster.store(late).scan("/")) == 30


async def test_a_member_that_can_not_write_is_offline(autojump_clock):
    """It says so once and takes no part; the others go on; started again when that is mended, it is back."""
    async with quorum_cluster(3, seed=4) as cluster:
        await cluster.formed()
        broken = cluster.leader()
        cluster.hosts[broken].platter.faults.is_full = True
        writer = others(cluster, broken)[0]
        await cluster.store(writer).txn([Put("/k", b"1")])
        await until(lambda: cluster.store(broken).status().lifecycle == "offline")
        assert [line["at"] for line in cluster.logged("metadata_offline")] == [broken]
        for attempt in (lambda: cluster.store(broken).get("/k"), lambda: cluster.store(broken).txn([Put("/k", b"")])):
            with pytest.raises(MetadataUnavailable, match="started again"):
                await attempt()
        await cluster.store(writer).txn([Put("/k", b"2")])
        await until(lambda: cluster.hosts[broken].error is not None)  # the node would end
        cluster.hosts[broken].kill()
        cluster.hosts[broken].platter.faults.is_full = False
        await cluster.start(broken)
        await cluster.formed()
        assert (await cluster.store(broken).get("/k")).value == b"2"


async def test_a_damaged_log_is_refused_at_the_start(autojump_clock):
    """With what to do; nothing of it is used."""
    async with quorum_cluster(3, seed=4) as cluster:
        await cluster.formed()
        for number in range(5):
            await cluster.store(1).txn([Put(f"/{number}", bytes(600))])
        host = cluster.hosts[2]
        host.kill()
        path = next(path for path in sorted(host.platter.files.inodes) if "/wal-" in path)
        host.platter.flip(path, 60, 3)
        await cluster.start(2)
        assert "is damaged" in host.error.message
        assert host.store.status().lifecycle == "offline"


@pytest.mark.parametrize("seed", range(3))
async def test_a_member_that_crashes_begins_anew_from_its_log(autojump_clock, seed):
    """A leader meets what can't be, a second one in its term: whoever waits is answered, and nothing is lost."""
    async with quorum_cluster(3, seed=seed) as cluster:
        await cluster.formed()
        await cluster.store(1).txn([Put("/a", b"1")])
        leader = cluster.store(cluster.leader())
        status = leader.status()
        me, other, *_ = sorted(status.voters, key=lambda peer: peer.node != status.leader)
        lie = Heartbeat(source=other, target=me, term=status.term, commit=0, round=0)

        async def count():
            for number in range(20):
                await leader.txn([Put(f"/count/{number}", b"")])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(3):
                await trio.sleep(0.02)
                leader.mailbox.post(Stepped(messages=(lie,)))
                await trio.sleep(1)
        assert cluster.logged("actor_crashed")
        assert len(await leader.scan("/count/")) == 20
        assert (await leader.get("/a")).value == b"1"


@pytest.mark.parametrize("seed", range(3))
async def test_a_leader_that_stops_in_good_order_is_not_missed(autojump_clock, seed):
    """Another one leads before it goes: nobody waits for an election. Whoever does not lead has nothing to do."""
    async with quorum_cluster(3, seed=seed) as cluster:
        await cluster.formed()
        old = cluster.leader()
        for node in others(cluster, old):
            await cluster.store(node).hand_over()
        assert cluster.leader() == old
        begun = trio.current_time()
        await cluster.store(old).hand_over()
        cluster.hosts[old].kill()
        await cluster.store(others(cluster, old)[0]).txn([Put("/a", b"1")])
        assert trio.current_time() - begun < 0.3
    async with quorum_cluster(1, seed=seed) as cluster:
        await cluster.formed()
        await cluster.store(1).hand_over()
        await cluster.store(1).txn([Put("/a", b"1")])


async def test_commands_are_many_at_once(autojump_clock):
    """They share syncs: far fewer rounds than commands."""
    async with quorum_cluster(3, seed=6) as cluster:
        await cluster.formed()
        begun = trio.current_time()

        async def write(node, number):
            await cluster.store(node).txn([Put(f"/{node}/{number}", b"x")])

        async with trio.open_nursery() as nursery:
            for node in (1, 2, 3):
                for number in range(300):
                    nursery.start_soon(write, node, number)
        assert trio.current_time() - begun < 2
        assert len(await cluster.store(1).scan("/")) == 900


@pytest.mark.parametrize("seed", range(12))
async def test_counting_through_hard_times(autojump_clock, seed):
    """Nodes die, ways are cut, disks are slow: whoever was told that his step counts finds it counted, once."""
    rng = Random(seed)
    counted, unknown = [], []
    async with quorum_cluster(5 if seed % 3 == 0 else 3, seed=seed) as cluster:
        await cluster.formed()
        nodes = list(cluster.hosts)
        over = trio.Event()

        async def count(node):
            number = 0
            while not over.is_set():
                await trio.sleep(rng.uniform(0, 0.3))
                if not cluster.hosts[node].is_running:
                    continue
                store, number = cluster.store(node), number + 1
                mark = f"/marks/{node}/{number}"
                with trio.move_on_after(rng.choice((0.05, 30))) as scope:  # some callers lose patience
                    try:
                        held = await store.get("/count")
                        value = 0 if held is None else int(held.value)
                        check = Check("/count", 0 if held is None else held.version)
                        await store.txn([check, Put("/count", str(value + 1).encode()), Put(mark, b"")])
                    except (MetadataConflict, MetadataUnavailable):
                        continue
                    except MetadataUnknown:
                        unknown.append(mark)
                    else:
                        counted.append(mark)
                if scope.cancelled_caught:
                    unknown.append(mark)

        async def trouble():
            for _ in range(12):
                await trio.sleep(rng.uniform(0.1, 2))
                node = rng.choice(nodes)
                match rng.randrange(5):
                    case 0:
                        cluster.hosts[node].kill(is_power_lost=rng.random() < 0.5)
                        await trio.sleep(rng.uniform(0, 2))
                        await cluster.start(node)
                    case 1:
                        cluster.network.isolate(f"node-{node}", [f"node-{other}" for other in nodes if other != node])
                    case 2:
                        other = rng.choice([other for other in nodes if other != node])
                        cluster.network.cut(f"node-{node}", f"node-{other}", both=False)
                    case 3:
                        cluster.network.mend_all()
                    case 4:
                        cluster.network.break_one()
                        cluster.hosts[node].platter.faults.slowness = rng.choice((1.0, 10.0))
            cluster.network.mend_all()
            await trio.sleep(8)
            over.set()

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(count, node)
            nursery.start_soon(trouble)
        assert not [line for line in cluster.events if line["event"] in {"actor_crashed", "metadata_offline"}]
        states = [await cluster.store(node).scan("/") for node in nodes]
        assert all(state == states[0] for state in states)
        marks = {one.key for one in states[0] if one.key.startswith("/marks/")}
        assert set(counted) <= marks <= {*counted, *unknown}
        total = int(next(one.value for one in states[0] if one.key == "/count"))
        assert total == len(marks) >= 20
