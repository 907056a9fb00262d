"""What only ZooKeeper does: its own paths and sessions, and a version that it counts anew."""

import pytest
import trio
from kazoo.client import KazooClient

from dduomq.cluster.ports import Changed, Check, MetadataConflict, MetadataUnknown, Put, Resync, SessionLost
from dduomq.stores.zookeeper import open_zookeeper
from dduomq.stores.zookeeper_client import Keeper, each
from dduomq.stores.zookeeper_names import Names
from tests.stores.nodes import make_engine
from tests.stores.servers import TICK_MS, ZooKeeperServer, free_ports
from tests.stores.test_conformance import TIMEOUT_S, follow_on
from tests.stores.test_server_faults import working


@pytest.fixture
def own(tmp_path):
    """A ZooKeeper that this test may do anything to, and a cluster's name on it."""
    server = ZooKeeperServer(tmp_path / "server")
    yield make_engine("zookeeper", tmp_path, lambda _kind: server)
    server.stop()


@pytest.fixture
def shared(tmp_path, server):
    return make_engine("zookeeper", tmp_path, server)


@pytest.mark.parametrize(
    "key", ["/controller", "/topics/a", "/topics/a/b", "/topics/", "/a b/ü%2F", "/x/.", "/x/..", "/..", "/=/="]
)
def test_every_key_has_a_path_of_its_own(key):
    """Whatever stands in a key, it is two names below `keys`, and comes back as it was."""
    names = Names("/dduomq/n")
    path = names.path(key)
    assert path.startswith(names.directory(key) + "/=")
    assert path.count("/") == 5
    assert names.key(path) == key
    assert not {".", ".."} & set(path.split("/"))


def test_a_prefix_knows_its_directories():
    """A whole first part names one directory; less of it, all those that may have such keys."""
    names = Names("/dduomq/n")
    assert names.fixed("/topics/a") == names.directory("/topics/b")
    assert names.fixed("/top") is None
    there = ["=", "=%2Ftopics%2F", "=%2Fnodes%2F"]
    assert names.matching(there, "/to") == [names.directory("/x"), names.directory("/topics/x")]
    assert len(names.matching(there, "")) == 3


async def test_a_node_made_anew_does_not_pass_for_the_old_one(shared):
    """ZooKeeper counts its versions anew for it: the same number there, and still another key here."""
    async with shared.open() as store:
        await store.txn([Put("/d/guarded", b"")])
        old = await store.txn([Put("/d/guarded", b"1")])
        path = store._names.path("/d/guarded")
        _, stat = store._main.client.get(path)
        async with shared.open() as other:
            raw = other._main.client
            made_anew = trio.Event()

            async def in_between(transaction, commit=store._main.commit):
                """Whoever is quicker deletes the key and makes it again, up to the same number."""
                if not made_anew.is_set():
                    made_anew.set()
                    raw.delete(path)
                    await other.txn([Put("/d/guarded", b"")])
                    await other.txn([Put("/d/guarded", b"anew")])
                    assert raw.get(path)[1].version == stat.version
                return await commit(transaction)

            store._main.commit = in_between
            with pytest.raises(MetadataConflict):
                await store.txn([Check("/d/guarded", old), Put("/d/written", b"stale")])
            assert made_anew.is_set()
            assert await store.get("/d/written") is None


async def test_a_lost_answer_to_a_commit_is_unknown(own):
    """The server gets it and does not answer."""
    async with own.open() as store:
        await store.txn([Put("/a", b"1")])
        transaction = store._main.client.transaction()
        transaction.set_data(store._names.path("/a"), b"2")
        own.server.freeze()
        with trio.fail_after(TIMEOUT_S), pytest.raises(MetadataUnknown):
            await store._main.commit(transaction)
        own.server.thaw()


async def test_a_session_that_zookeeper_ended_is_lost(own):
    """Somebody else ends it: the node learns it, its keys go, and its next ephemeral put is refused."""
    async with own.open() as store, store.session() as session:
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        taken = KazooClient(own.server.address, client_id=store._session.keeper.client.client_id, timeout=1.0)
        await trio.to_thread.run_sync(taken.start)
        await trio.to_thread.run_sync(taken.stop)
        taken.close()
        with trio.fail_after(TIMEOUT_S):
            await session.wait_lost()
        with pytest.raises(SessionLost):
            await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        assert await store.scan("/nodes/") == []


async def test_the_sessions_time_is_what_the_server_grants(shared):
    """It bounds what is asked for by its ticks, both ways; a node's own clock must go by the shorter one."""
    for asked_s, granted_s in ((0.01, 2 * TICK_MS / 1000), (1.0, 1.0), (3600.0, 20 * TICK_MS / 1000)):
        keeper = Keeper(shared.server.address, asked_s)
        await keeper.open()
        assert keeper.granted_s == granted_s
        await keeper.close()


async def test_a_watch_outlives_an_expired_connection(own):
    """ZooKeeper forgets the connection, and all its watches: the watcher scans, then hears what follows."""
    async with own.open() as store, own.open() as watcher, watcher.watch("/w/") as changes:
        with trio.fail_after(TIMEOUT_S):
            assert await anext(changes) == Resync()
            own.server.kill()
            await trio.sleep(1.0)
            own.server.start()
            taken = KazooClient(own.server.address, client_id=watcher._main.client.client_id, timeout=1.0)
            await trio.to_thread.run_sync(taken.start)
            await trio.to_thread.run_sync(taken.stop)
            taken.close()
            while await anext(changes) != Resync():
                pass
            version = await store.txn([Put("/w/k", b"")])
            seen = None
            while seen != Changed("/w/k", b"", version):
                seen = await anext(changes)
                if seen == Resync() and [item.version for item in await watcher.scan("/w/")] == [version]:
                    break


@pytest.mark.slow
async def test_three_servers_lose_one_after_the_other(tmp_path):
    """With a majority all goes on, session and watch included, and what was acknowledged is read everywhere."""
    ensemble = {number: free_ports(2) for number in (1, 2, 3)}
    servers = [ZooKeeperServer(tmp_path / str(number), number, ensemble) for number in ensemble]
    hosts = ",".join(server.address for server in servers)
    try:
        async with (
            open_zookeeper(hosts, "three", 10_000) as store,
            open_zookeeper(hosts, "three", 10_000) as watcher,
            watcher.watch("/w/") as changes,
            store.session() as session,
        ):
            state = {}
            with trio.fail_after(TIMEOUT_S):
                assert await anext(changes) == Resync()
            await store.txn([Put("/w/node", b"", is_ephemeral=True)])
            for server in servers:
                server.kill()
                name = b"%d" % server.number
                await working(store, lambda name=name: store.txn([Put("/w/k", name)]))
                assert (await working(watcher, lambda: watcher.get("/w/k"))).value == name
                with trio.fail_after(TIMEOUT_S):
                    await follow_on(watcher, "/w/", changes, state, lambda state, name=name: state.get("/w/k") == name)
                server.start()
                await trio.to_thread.run_sync(server.wait_ready)
            assert session.is_valid
            assert await working(store, lambda: store.get("/w/node")) is not None
    finally:
        for server in servers:
            server.stop()


async def test_no_thread_stays(own):
    """kazoo's threads end with the store, cancelled calls or not."""
    import threading

    before = threading.active_count()
    async with own.open() as store, store.session():
        for n in range(200):
            with trio.move_on_after(0.0002):
                await store.txn([Put(f"/c/{n}", b"")])
        await store._main.read(each("exists_async", [store._names.root]))
        assert threading.active_count() <= before + 7  # two clients of three threads, and trio's own
    await trio.sleep(0.1)
    names = [thread.name for thread in threading.enumerate() if "kazoo" in repr(getattr(thread, "_target", ""))]
    assert not names
