"""How nodes get into a cluster: founding, joining, coming back; and who must not."""

import pytest
import trio

from dduomq.cluster.formation import Found, Heard, JoinThrough, Wait, next_step, wanted_founders
from dduomq.cluster.ports import MetadataUnavailable, Put
from dduomq.cluster.quorum_state import cluster_id_of, first_snapshot
from dduomq.cluster.raft_refusals import InvalidChange
from dduomq.testing.quorum_host import quorum_cluster
from dduomq.wire.peer_hello import Founder, PeerFacts
from tests.cluster.test_quorum_store import others, until, until_led

WANTED = (1, 2, 3)
A, B, C = Founder(1, "a"), Founder(2, "b"), Founder(3, "c")


def heard(founder, wanted=WANTED, founders=()):
    cluster_id = cluster_id_of(founders) if founders else ""
    return Heard(founder.directory, PeerFacts(cluster_id, tuple(founders), wanted))


def test_who_founds():
    """The first three of the list as it is written; five of five or more."""
    assert wanted_founders([7, 3, 5]) == (3, 5, 7)
    assert wanted_founders([4, 1, 2, 3]) == (1, 2, 4)
    assert wanted_founders([6, 5, 4, 3, 2, 1]) == (2, 3, 4, 5, 6)
    assert wanted_founders([2]) == (2,)


def test_all_founders_come_to_the_same():
    """Whatever the order in which they hear each other; the first snapshot is the same to the byte."""
    steps = [
        next_step(A, WANTED, {2: heard(B), 3: heard(C)}),
        next_step(B, WANTED, {3: heard(C), 1: heard(A)}),
        next_step(C, WANTED, {1: heard(A), 2: heard(B)}),
    ]
    assert steps == [Found((A, B, C))] * 3
    assert first_snapshot((C, A, B)) == first_snapshot((A, B, C))
    assert cluster_id_of((A, B)) != cluster_id_of((A, Founder(2, "another")))


def test_what_a_founder_waits_for():
    """All of the others; and that they name the same founders."""
    assert next_step(A, WANTED, {2: heard(B)}) == Wait("waiting for nodes 3, to form the cluster with them")
    step = next_step(A, WANTED, {2: heard(B, (1, 2, 4)), 3: heard(C)})
    assert isinstance(step, Wait)
    assert step.is_wrong
    assert "node 2 was started with other --peers" in step.reason
    assert isinstance(next_step(Founder(4, "d"), WANTED, {1: heard(A), 2: heard(B), 3: heard(C)}), Wait)


def test_a_cluster_that_has_formed_is_taken_or_joined():
    """A founder takes it, with whatever founders it has; anybody else joins; two clusters are one too many."""
    formed = heard(B, founders=(A, B, C))
    assert next_step(A, WANTED, {2: formed}) == Found((A, B, C))
    assert next_step(A, (1, 5, 6), {2: formed}) == Found((A, B, C))
    wiped = Founder(1, "wiped")
    assert next_step(wiped, WANTED, {2: formed, 3: heard(C)}) == JoinThrough(2, cluster_id_of((A, B, C)))
    assert next_step(Founder(4, "d"), WANTED, {2: formed}) == JoinThrough(2, cluster_id_of((A, B, C)))
    step = next_step(wiped, WANTED, {2: formed, 3: heard(C, founders=(C,))})
    assert isinstance(step, Wait)
    assert step.is_wrong


@pytest.mark.parametrize("seed", range(3))
async def test_founders_wait_for_the_last_of_them(autojump_clock, seed):
    """Two of three are no cluster yet, however long it takes."""
    async with quorum_cluster(0, seed=seed) as cluster:
        await cluster.start(1, WANTED)
        await cluster.start(3, WANTED)
        await trio.sleep(30)
        assert {cluster.store(node).status().lifecycle for node in (1, 3)} == {"waiting"}
        with pytest.raises(MetadataUnavailable, match="waiting for nodes 2"):
            await cluster.store(1).txn([Put("/a", b"")])
        await cluster.start(2, WANTED)
        with trio.fail_after(5):
            await cluster.formed()
        assert len({cluster.store(node).status().cluster_id for node in (1, 2, 3)}) == 1
        assert "waiting for nodes 2, to form the cluster with them" in [
            one["reason"] for one in cluster.logged("cluster_waits")
        ]


@pytest.mark.parametrize("seed", range(8))
async def test_founders_that_die_in_the_midst_of_it(autojump_clock, seed):
    """At any moment, with the power: in the end there is one cluster, and all three are in it."""
    async with quorum_cluster(3, seed=seed) as cluster:
        for _ in range(4):
            await trio.sleep(cluster.rng.uniform(0, 0.3))
            node = cluster.rng.choice(WANTED)
            cluster.hosts[node].kill(is_power_lost=True)
            await trio.sleep(cluster.rng.uniform(0, 0.1))
            await cluster.start(node)
        with trio.fail_after(30):
            await cluster.formed()
        assert len({cluster.store(node).status().cluster_id for node in WANTED}) == 1
        assert len(cluster.store(1).status().voters) == 3
        await cluster.store(2).txn([Put("/a", b"")])


async def test_a_disk_that_fails_at_the_founding_is_told(autojump_clock):
    """Whoever waits for the cluster hears of it."""
    async with quorum_cluster(0) as cluster:
        for node in WANTED:
            await cluster.start(node, WANTED)
        cluster.hosts[2].platter.faults.is_full = True
        with trio.fail_after(10), pytest.raises(MetadataUnavailable, match="started again"):
            await cluster.formed(2)
        with trio.fail_after(10):
            await cluster.formed(1, 3)


async def test_lists_that_differ_form_nothing(autojump_clock):
    """Each says who differs; mended, it forms."""
    async with quorum_cluster(0) as cluster:
        await cluster.start(1, (1, 2, 3))
        await cluster.start(2, (1, 2, 4))
        await cluster.start(3, (1, 2, 3))
        await trio.sleep(10)
        wrong = [one["reason"] for one in cluster.logged("cluster_waits") if one["level"] == "error"]
        assert any("node 2 was started with other --peers: there nodes 1, 2, 4" in reason for reason in wrong)
        cluster.hosts[2].kill()
        await cluster.start(2, (3, 2, 1))
        with trio.fail_after(10):
            await cluster.formed()


@pytest.mark.parametrize("count", [4, 6])
async def test_nodes_beyond_the_founders_learn(autojump_clock, count):
    """Three of four, five of six have votes; the others have all the data, and may write as well."""
    async with quorum_cluster(count, seed=count) as cluster:
        with trio.fail_after(30):
            await cluster.formed()
        await until(lambda: len(cluster.store(1).status().learners) == 1)
        status = cluster.store(count).status()
        assert [peer.node for peer in status.voters] == list(range(1, count))
        await cluster.store(count).txn([Put("/a", b"1")])
        assert (await cluster.store(1).get("/a")).value == b"1"
        cluster.hosts[count].kill(is_power_lost=True)
        await cluster.start(count)
        with trio.fail_after(30):
            await cluster.formed()
        assert (await cluster.store(count).get("/a")).value == b"1"


@pytest.mark.parametrize("seed", range(3))
async def test_a_new_node_joins_a_cluster_that_has_formed(autojump_clock, seed):
    """By any member, be it the leader or not; the lists of the others need not name it, and are not looked at again."""
    async with quorum_cluster(3, seed=seed) as cluster:
        await cluster.formed()
        await cluster.store(1).txn([Put("/a", b"1")])
        through = others(cluster, cluster.leader())[0]
        await cluster.start(9, (9, through))
        with trio.fail_after(30):
            await cluster.formed(9)
        assert (await cluster.store(9).get("/a")).value == b"1"
        await cluster.store(9).txn([Put("/b", b"2")])
        cluster.hosts[2].kill()
        await cluster.start(2, (2, 7, 8))
        with trio.fail_after(30):
            await cluster.formed(2)
        assert (await cluster.store(2).get("/b")).value == b"2"
        assert [one["at"] for one in cluster.logged("peers_ignored")] == [2]


@pytest.mark.parametrize("seed", range(3))
async def test_a_wiped_member_is_refused_until_it_is_removed(autojump_clock, seed):
    """It has forgotten its votes; removed, it joins as a new one, and has a vote again when it has caught up."""
    async with quorum_cluster(3, seed=seed) as cluster:
        await cluster.formed()
        await cluster.store(1).txn([Put("/a", b"1")])
        node = others(cluster, cluster.leader())[0]
        cluster.hosts[node].kill()
        cluster.hosts.pop(node)
        await cluster.start(node, WANTED)
        await trio.sleep(5)
        assert cluster.store(node).status().lifecycle == "waiting"
        assert f"cluster remove {node}" in cluster.store(node).status().reason
        assert any(f"cluster remove {node}" in str(one.get("reason")) for one in cluster.events if one["at"] == node)
        other = others(cluster, node)[0]
        with pytest.raises(InvalidChange):
            await cluster.store(other).remove_member(77)
        await cluster.store(other).remove_member(node)
        with trio.fail_after(30):
            await cluster.formed(node)
        assert (await cluster.store(node).get("/a")).value == b"1"
        await until(lambda: len(cluster.store(other).status().voters) == 3)
        assert not cluster.store(other).status().learners


async def test_a_leader_may_be_removed(autojump_clock):
    """The others go on; it does not come back by itself."""
    async with quorum_cluster(3, seed=11) as cluster:
        await cluster.formed()
        old = cluster.leader()
        await cluster.store(others(cluster, old)[0]).remove_member(old)
        new = await until_led(cluster, but=old)
        await trio.sleep(5)
        status = cluster.store(new).status()
        assert [peer.node for peer in status.voters] == others(cluster, old)
        await cluster.store(new).txn([Put("/a", b"1")])
        cluster.hosts[old].kill()
        await cluster.start(old)
        await trio.sleep(5)
        assert len(cluster.store(new).status().voters) == 2


async def test_a_log_that_is_gone_is_not_forgotten(autojump_clock):
    """A directory that has voted and lost its log is refused at the start, not founded anew."""
    async with quorum_cluster(3, seed=1) as cluster:
        await cluster.formed()
        host = cluster.hosts[2]
        host.kill()
        files = host.platter.files
        for path in [path for path in files.inodes if "/wal-" in path or "/snapshot-" in path]:
            files.remove(path)
        await cluster.start(2)
        assert "its log is gone" in host.error.message
        host.kill()
        host.platter.files.remove("data/quorum/member")
        await cluster.start(2)
        await trio.sleep(3)
        assert host.store.status().lifecycle == "waiting"


async def test_another_secret_or_number(autojump_clock):
    """A node with the wrong secret, and a second one with a number that is taken, stay outside, and know why."""
    async with quorum_cluster(3, seed=1) as cluster:
        await cluster.formed()
        stranger = await cluster.start(4, (1, 2, 3, 4), secret="another")
        twin = await cluster.start(2, (1, 2, 3), machine="node-8")
        await trio.sleep(5)
        for host in (stranger, twin):
            assert host.store.status().lifecycle == "waiting"
        assert "another --cluster-secret" in stranger.door.links.link(1).reason
        assert "node 2 is a member with another directory" in twin.door.links.link(1).reason
        await cluster.store(2).txn([Put("/a", b"1")])
        twin.kill()
