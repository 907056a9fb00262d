"""What only etcd does: compaction, leases, several members, releases that must not be used."""

import httpx
import pytest
import trio

from dduomq import limits
from dduomq.cluster.ports import Changed, Check, MetadataUnavailable, MetadataUnknown, Put, Resync, SessionLost
from dduomq.errors import ConfigError, UsageError
from dduomq.stores.etcd import _check_version, _Follower, open_etcd
from dduomq.stores.etcd_http import _error, open_gateway
from dduomq.stores.feed import Feed
from tests.stores.nodes import SESSION_MS, make_engine
from tests.stores.servers import EtcdServer, free_ports
from tests.stores.test_conformance import TIMEOUT_S, follow_on
from tests.stores.test_server_faults import working


@pytest.fixture
def own(tmp_path):
    """An etcd that this test may do anything to, and a cluster's name on it."""
    server = EtcdServer(tmp_path / "server")
    yield make_engine("etcd", tmp_path, lambda _kind: server)
    server.stop()


async def test_a_watch_over_a_compaction_scans_again(own):
    """The history that a watcher who was cut off would need is thrown away: it is told to scan, then what follows."""
    async with own.open() as store, open_gateway([own.server.url]) as gateway:
        old = await store.txn([Put("/w/k", b"1")])
        for n in range(5):
            version = await store.txn([Put("/w/k", b"%d" % n)])
        own.server.compact(version)
        feed = Feed()
        follower = _Follower(gateway, store._root, store._range("/w/"), feed)
        follower._seen = old
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            with trio.fail_after(TIMEOUT_S):
                assert await anext(feed) == Resync()
                version = await store.txn([Put("/w/after", b"")])
                assert await anext(feed) == Changed("/w/after", b"", version)
            nursery.cancel_scope.cancel()


async def test_a_watch_that_was_cut_off_goes_on_where_it_was(own):
    """What happened meanwhile comes from etcd's history, without a scan."""
    async with own.open() as store, open_gateway([own.server.url]) as gateway:
        old = await store.txn([Put("/w/k", b"1")])
        versions = [await store.txn([Put(f"/w/{n}", b"")]) for n in range(3)]
        feed = Feed()
        follower = _Follower(gateway, store._root, store._range("/w/"), feed)
        follower._seen = old
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            with trio.fail_after(TIMEOUT_S):
                for n, version in enumerate(versions):
                    assert await anext(feed) == Changed(f"/w/{n}", b"", version)
            nursery.cancel_scope.cancel()


async def test_a_lease_that_etcd_ended_ends_the_session(own):
    """Whoever revokes a lease, or whatever ends it: the node learns it, and its next ephemeral put is refused."""
    async with own.open() as store, store.session() as session:
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        async with httpx.AsyncClient(base_url=own.server.url, trust_env=False) as plain:
            leases = (await plain.post("/v3/lease/leases", json={})).json()["leases"]
            for lease in leases:
                await plain.post("/v3/lease/revoke", json={"ID": lease["ID"]})
        with pytest.raises(SessionLost):
            await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        with trio.fail_after(TIMEOUT_S):
            await session.wait_lost()
        assert not session.is_valid
        assert await store.get("/nodes/1") is None


async def test_clusters_do_not_see_one_another(own):
    """Two names on one etcd are two clusters, also when one name begins with the other."""
    async with (
        open_etcd([own.server.url], "a", SESSION_MS) as one,
        open_etcd([own.server.url], "ab", SESSION_MS) as other,
    ):
        await one.txn([Put("/k", b"one")])
        await other.txn([Put("/k", b"other"), Put("/b/k", b"other")])
        for prefix in ("", "/", "/k"):
            assert [(item.key, item.value) for item in await one.scan(prefix)] == [("/k", b"one")]


async def test_too_much_is_refused_before_it_is_sent(own):
    """More operations, larger values or more of them than every engine takes; keys written twice or ill-formed."""
    large = b"x" * limits.METADATA_VALUE_BYTES_MAX
    async with own.open() as store:
        for operations in (
            [Put(f"/{n}", b"") for n in range(limits.METADATA_OPERATIONS_MAX + 1)],
            [Put("/v", large + b"x")],
            [Put(f"/{n}", large) for n in range(9)],
            [Put("/v", b"1"), Put("/v", b"2")],
            [Put("v", b"1")],
        ):
            with pytest.raises(UsageError):
                await store.txn(operations)
        assert await store.scan("") == []


def start_three(directory):
    names = ["n1", "n2", "n3"]
    ports = {name: free_ports(2) for name in names}
    cluster = {name: ports[name][1] for name in names}
    return [EtcdServer(directory / name, name, ports[name], cluster) for name in names]


@pytest.mark.slow
async def test_three_members_lose_one_after_the_other(tmp_path):
    """With a quorum all goes on, session and watch included; without one nothing does, and the calls say so."""
    servers = start_three(tmp_path)
    try:
        async with (
            open_etcd([server.url for server in servers], "three", 10_000) as store,
            open_etcd([server.url for server in reversed(servers)], "three", 10_000) as watcher,
            watcher.watch("/w/") as changes,
            store.session() as session,
        ):
            state = {}
            with trio.fail_after(TIMEOUT_S):
                assert await anext(changes) == Resync()
            await store.txn([Put("/w/node", b"", is_ephemeral=True)])
            for server in servers:
                version = await working(store, lambda: store.txn([Put("/w/k", b"before")]))
                server.kill()
                await working(store, lambda s=server: store.txn([Put("/w/k", s.name.encode())]))
                assert (await working(store, lambda: store.get("/w/k"))).version > version
                with trio.fail_after(TIMEOUT_S):
                    name = server.name.encode()
                    await follow_on(watcher, "/w/", changes, state, lambda state, name=name: state.get("/w/k") == name)
                server.start()
                await trio.to_thread.run_sync(server.wait_ready)
            assert session.is_valid
            assert (await working(store, lambda: store.get("/w/node"))) is not None
            servers[0].kill()
            servers[1].kill()
            with trio.fail_after(TIMEOUT_S):
                with pytest.raises((MetadataUnavailable, MetadataUnknown)):
                    await store.txn([Put("/w/k", b"no quorum")])
                with pytest.raises(MetadataUnavailable):
                    await store.get("/w/k")
                await session.wait_lost()
    finally:
        for server in servers:
            server.stop()


@pytest.mark.parametrize("version", ["3.3.27", "2.3.8", "3.5.0", "3.5.1", "3.5.2", "?"])
def test_bad_releases_are_refused(version):
    """Those that are too old, and those that may lose what they acknowledged."""
    with pytest.raises(ConfigError, match=r"3\.4 or newer|3\.5\.3 or newer"):
        _check_version("http://127.0.0.1:2379", version)


@pytest.mark.parametrize("version", ["3.4.23", "3.5.3", "3.5.21", "3.6.0", "3.7.1-rc.0", "4.0.0"])
def test_good_releases_are_taken(version):
    """All that keep what they acknowledge."""
    _check_version("http://127.0.0.1:2379", version)


ERRORS = [
    (503, {"code": 14, "message": "etcdserver: request timed out"}, MetadataUnknown, MetadataUnavailable),
    (503, {"code": 14, "message": "etcdserver: leader changed"}, MetadataUnknown, MetadataUnavailable),
    (503, {"code": 14, "message": "etcdserver: no leader"}, MetadataUnavailable, MetadataUnavailable),
    (429, {"code": 8, "error": "etcdserver: too many requests"}, MetadataUnavailable, MetadataUnavailable),
    (404, {"code": 5, "error": "etcdserver: requested lease not found"}, SessionLost, SessionLost),
    (400, {"code": 3, "error": "etcdserver: duplicate key given in txn request"}, UsageError, UsageError),
    (401, {"code": 16, "error": "etcdserver: invalid auth token"}, MetadataUnavailable, MetadataUnavailable),
    (502, None, MetadataUnknown, MetadataUnavailable),
    (404, None, MetadataUnavailable, MetadataUnavailable),
]


@pytest.mark.parametrize(("status", "body", "of_write", "of_read"), ERRORS)
def test_errors_say_what_is_known(status, body, of_write, of_read):
    """A write that etcd does not say to have refused may have been applied."""
    request = httpx.Request("POST", "http://127.0.0.1:2379/v3/kv/txn")
    made = {"text": "Bad Gateway"} if body is None else {"json": body}
    response = httpx.Response(status, request=request, **made)
    assert type(_error(response, is_write=True)) is of_write
    assert type(_error(response, is_write=False)) is of_read


async def test_a_check_of_an_old_revision_fails_after_compaction(own):
    """Compaction takes the history, not the versions."""
    async with own.open() as store:
        first = await store.txn([Put("/a", b"1")])
        second = await store.txn([Check("/a", first), Put("/a", b"2")])
        own.server.compact(second)
        assert (await store.get("/a")).version == second
        await store.txn([Check("/a", second), Put("/a", b"3")])
