"""What every metadata engine must do alike: one suite, no exceptions."""

import pytest
import trio

from dduomq.cluster.ports import (
    Changed,
    Check,
    Del,
    MetadataConflict,
    MetadataUnavailable,
    Put,
    Resync,
    SessionLost,
)
from dduomq.errors import UsageError
from dduomq.limits import METADATA_WATCH_KEYS_MAX
from tests.stores.nodes import stores

TIMEOUT_S = 60


async def follow(store, prefix, until, seen=None):
    """Watch as the broker does, until `until(state)`; the state as the watcher has it."""
    state = {} if seen is None else seen
    with trio.fail_after(TIMEOUT_S):
        async with store.watch(prefix) as changes:
            await follow_on(store, prefix, changes, state, until)
    return state


async def follow_on(store, prefix, changes, state, until):
    """Take changes until `until(state)`."""
    async for change in changes:
        if isinstance(change, Resync):
            state.clear()
            state.update({item.key: item.value for item in await _scanned(store, prefix)})
        elif change.value is None:
            state.pop(change.key, None)
        else:
            state[change.key] = change.value
        if until(state):
            return


async def _scanned(store, prefix):
    """Everything, as soon as the engine can be reached."""
    while True:
        try:
            return await store.scan(prefix)
        except MetadataUnavailable:
            await trio.sleep(0.1)


async def eventually(get, wanted):
    """Wait until `await get()` gives `wanted`."""
    with trio.fail_after(TIMEOUT_S):
        while True:
            if await get() == wanted:
                return
            await trio.sleep(0.02)


# --- reading and writing ------------------------------------------------------------------------------


async def test_what_was_put_is_read(engine):
    """A key that is not there is None; one that was put has its value, and the version that the put gave."""
    async with stores(engine, 2) as (store, other):
        assert await store.get("/a") is None
        version = await store.txn([Put("/a", b"1")])
        assert version > 0
        for one in (store, other):
            held = await one.get("/a")
            assert (held.key, held.value, held.version) == ("/a", b"1", version)


async def test_empty_and_large_values(engine):
    """Nothing, every byte there is, and the 64 KiB that a value may have; one byte more is refused where it is sent."""
    async with engine.open() as store:
        for value in (b"", bytes(range(256)), b"x" * 65_536):
            await store.txn([Put("/v", value)])
            assert (await store.get("/v")).value == value


async def test_only_one_creates(engine):
    """`Check(key, 0)` lets the first one create it; the second is told, and leaves no trace."""
    async with stores(engine, 2) as (store, other):
        await store.txn([Check("/a", 0), Put("/a", b"first")])
        with pytest.raises(MetadataConflict):
            await other.txn([Put("/b", b"b"), Check("/a", 0), Put("/a", b"second")])
        assert (await other.get("/a")).value == b"first"
        assert await other.get("/b") is None


async def test_compare_and_set(engine):
    """A write on the version that was read succeeds and makes another one; on an older one it fails."""
    async with stores(engine, 2) as (store, other):
        first = await store.txn([Put("/a", b"1")])
        second = await other.txn([Check("/a", first), Put("/a", b"2")])
        assert second > first
        with pytest.raises(MetadataConflict):
            await store.txn([Check("/a", first), Put("/a", b"stale")])
        held = await store.get("/a")
        assert (held.value, held.version) == (b"2", second)


async def test_a_missing_key_is_at_no_version(engine):
    """A check of a version fails for a key that is gone; one for its absence holds again."""
    async with engine.open() as store:
        version = await store.txn([Put("/a", b"1")])
        await store.txn([Check("/a", version), Del("/a")])
        with pytest.raises(MetadataConflict):
            await store.txn([Check("/a", version), Put("/a", b"2")])
        await store.txn([Check("/a", 0), Put("/b", b"instead")])
        assert [item.key for item in await store.scan("/")] == ["/b"]


async def test_a_transaction_guards_other_keys(engine):
    """A write may hang on keys that it does not write."""
    async with engine.open() as store:
        guard = await store.txn([Put("/guard", b"g")])
        await store.txn([Check("/guard", guard), Put("/x/1", b"1"), Put("/x/2", b"2")])
        await store.txn([Put("/guard", b"g")])
        with pytest.raises(MetadataConflict):
            await store.txn([Check("/guard", guard), Put("/x/1", b"no"), Del("/x/2"), Put("/x/3", b"no")])
        assert [(item.key, item.value) for item in await store.scan("/x/")] == [("/x/1", b"1"), ("/x/2", b"2")]


async def test_all_keys_of_a_transaction_have_its_version(engine):
    """One number says of every key that was written whether that transaction wrote it last."""
    async with engine.open() as store:
        await store.txn([Put("/t/old", b"")])
        version = await store.txn([Put("/t/new", b"1"), Put("/t/old", b"2"), Put("/u/other", b"3")])
        for key in ("/t/new", "/t/old", "/u/other"):
            assert (await store.get(key)).version == version


async def test_a_deposed_controller_leaves_no_trace(engine):
    """Who writes under an epoch that has passed is refused, whatever else the transaction says."""
    async with stores(engine, 2) as (old, new):
        first = await old.txn([Check("/controller-epoch", 0), Put("/controller-epoch", b"1")])
        await old.txn([Check("/controller-epoch", first), Put("/partitions/t/0", b"leader 1")])
        second = await new.txn([Check("/controller-epoch", first), Put("/controller-epoch", b"2")])
        with pytest.raises(MetadataConflict):
            await old.txn([Check("/controller-epoch", first), Put("/partitions/t/0", b"?"), Put("/more", b"?")])
        await new.txn([Check("/controller-epoch", second), Put("/partitions/t/1", b"leader 2")])
        assert (await old.get("/partitions/t/0")).value == b"leader 1"
        assert await old.get("/more") is None


async def test_deleting(engine):
    """A deleted key is gone; deleting what is not there does nothing, and hinders nothing."""
    async with engine.open() as store:
        await store.txn([Put("/a", b"1"), Put("/b", b"2")])
        await store.txn([Del("/a"), Del("/never/was"), Put("/c", b"3")])
        assert [item.key for item in await store.scan("/")] == ["/b", "/c"]


async def test_a_key_made_again_never_has_an_old_version(engine):
    """Deleted and made again with the same value, it is another key to all who knew the old one (ABA)."""
    async with stores(engine, 2) as (store, other):
        versions = []
        for _ in range(4):
            versions.append(await store.txn([Put("/a", b"same")]))
            await store.txn([Del("/a")])
        versions.append(await store.txn([Put("/a", b"same")]))
        assert len(set(versions)) == len(versions)
        for version in versions[:-1]:
            with pytest.raises(MetadataConflict):
                await other.txn([Check("/a", version), Put("/a", b"stale")])
        await other.txn([Check("/a", versions[-1]), Put("/a", b"good")])


async def test_scanning_is_sorted_and_exact(engine):
    """A scan gives the keys that begin with the prefix, by key, and none of their neighbours."""
    keys = [
        "/controller", "/n", "/nodes", "/nodes!", "/nodes/", "/nodes/1", "/nodes/10", "/nodes/2", "/nodes/2/x",
        "/nodes/%2F", "/nodes/a b", "/nodes/é", "/nodes0", "/o", "/topics/nodes/1",
    ]  # fmt: skip
    async with engine.open() as store:
        await store.txn([Put(key, key.encode()) for key in reversed(keys)])
        for prefix in ("/", "/n", "/nodes", "/nodes/", "/nodes/1", "/nodes/2/", "/topics/", "/none/", "/controller"):
            found = await store.scan(prefix)
            assert [item.key for item in found] == sorted(key for key in keys if key.startswith(prefix)), prefix
            assert [item.value for item in found] == [item.key.encode() for item in found]
        assert [item.key for item in await store.scan("")] == sorted(keys)


async def test_a_large_scan_is_whole(engine):
    """Also where it takes the engine several answers."""
    async with engine.open() as store:
        keys = [f"/many/{n:05}" for n in range(2_100)]
        async with trio.open_nursery() as nursery:
            for at in range(0, len(keys), 30):
                nursery.start_soon(store.txn, [Put(key, b"") for key in keys[at : at + 30]])
        assert [item.key for item in await store.scan("/many/")] == keys


async def test_the_largest_transaction(engine):
    """32 operations are applied as one, checks among them."""
    async with engine.open() as store:
        await store.txn([Put(f"/k/{n:02}", b"1") for n in range(32)])
        version = (await store.get("/k/00")).version
        checks = [Check(f"/k/{n:02}", version) for n in range(16)]
        await store.txn([*checks, *(Put(f"/k/{n:02}", b"2") for n in range(16))])
        assert [item.value for item in await store.scan("/k/")] == [b"2"] * 16 + [b"1"] * 16


async def test_one_of_many_wins(engine):
    """Who wants the same key at once: one has it, all others know that they have not."""
    won, lost = [], []

    async def try_it(store, n):
        try:
            await store.txn([Check("/controller", 0), Put("/controller", b"%d" % n), Put(f"/tries/{n}", b"")])
        except MetadataConflict:
            lost.append(n)
        else:
            won.append(n)

    async with stores(engine, 3) as nodes:
        async with trio.open_nursery() as nursery:
            for n in range(15):
                nursery.start_soon(try_it, nodes[n % 3], n)
        assert len(won) == 1
        assert len(lost) == 14
        assert (await nodes[0].get("/controller")).value == b"%d" % won[0]
        assert [item.key for item in await nodes[1].scan("/tries/")] == [f"/tries/{won[0]}"]


async def test_counting_together_loses_nothing(engine):
    """Compare-and-set from several nodes at once, each tried again on conflict: every step is there."""

    async def add(store, times):
        while times:
            held = await store.get("/n")
            number, version = (0, 0) if held is None else (int(held.value), held.version)
            try:
                await store.txn([Check("/n", version), Put("/n", b"%d" % (number + 1))])
            except MetadataConflict:
                continue
            times -= 1

    async with stores(engine, 3) as nodes:
        async with trio.open_nursery() as nursery:
            for store in nodes:
                nursery.start_soon(add, store, 20)
        assert (await nodes[0].get("/n")).value == b"60"


async def test_many_make_keys_at_once(engine):
    """Nobody is in anybody's way who makes keys of his own."""
    async with stores(engine, 2) as nodes:
        async with trio.open_nursery() as nursery:
            for n in range(40):
                nursery.start_soon(nodes[n % 2].txn, [Check(f"/d/{n}", 0), Put(f"/d/{n}", b"")])
        assert len(await nodes[0].scan("/d/")) == 40


async def test_cancelled_calls_do_no_harm(engine):
    """Whoever stops waiting leaves the store as good as it was, and what he wrote is there whole, or not at all."""
    async with engine.open() as store:
        for n in range(60):
            with trio.move_on_after(n / 20_000):
                await store.txn([Put(f"/c/{n}/a", b""), Put(f"/c/{n}/b", b"")])
            with trio.move_on_after(n / 20_000):
                await store.scan("/c/")
        await store.txn([Put("/after", b"fine")])
        assert (await store.get("/after")).value == b"fine"
        found = {item.key for item in await store.scan("/c/")}
        assert all((f"/c/{n}/a" in found) == (f"/c/{n}/b" in found) for n in range(60))


# --- watching -----------------------------------------------------------------------------------------


async def test_a_watch_begins_with_a_scan(engine):
    """The first that a watcher hears is `Resync`; nothing that comes after it is lost."""
    async with stores(engine, 2) as (store, other):
        await store.txn([Put("/w/1", b"before")])
        with trio.fail_after(TIMEOUT_S):
            async with other.watch("/w/") as changes:
                assert await anext(changes) == Resync()
                version = await store.txn([Put("/w/2", b"after"), Put("/x/2", b"not asked for")])
                assert await anext(changes) == Changed("/w/2", b"after", version)


async def test_a_watch_tells_of_each_key_in_order(engine):
    """A later state is never followed by an earlier one, and the last one comes."""
    async with stores(engine, 2) as (store, other):
        with trio.fail_after(TIMEOUT_S):
            async with other.watch("/w/") as changes:
                assert await anext(changes) == Resync()
                written = [await store.txn([Put("/w/k", b"%d" % n)]) for n in range(30)]
                seen = []
                while not seen or seen[-1].version != written[-1]:
                    seen.append(await anext(changes))
        assert [change.version for change in seen] == sorted(change.version for change in seen)
        assert all(change.value == b"%d" % written.index(change.version) for change in seen)


async def test_a_watch_tells_of_deletions(engine):
    """A key that goes is told as gone, with a version that is not older than the transaction that took it."""
    async with stores(engine, 2) as (store, other):
        await store.txn([Put("/w/k", b"")])
        with trio.fail_after(TIMEOUT_S):
            async with other.watch("/w/") as changes:
                assert await anext(changes) == Resync()
                version = await store.txn([Del("/w/k")])
                gone = await anext(changes)
        assert (gone.key, gone.value) == ("/w/k", None)
        assert gone.version >= version


async def test_a_watcher_ends_with_the_last_state(engine):
    """Puts, deletions and keys made again, by two nodes at once: what the watcher has at last is what is there."""

    async def write(store, mine):
        for n in range(40):
            key = f"/w/{mine}{n % 7}"
            await store.txn([Del(key) if n % 3 == 2 else Put(key, b"%d" % n)])

    async with stores(engine, 3) as (store, other, watcher):
        state = {}

        async def watch():
            await follow(watcher, "/w", lambda state: "/w-end" in state, state)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with trio.open_nursery() as writers:
                writers.start_soon(write, store, "a")
                writers.start_soon(write, other, "b")
            wanted = {item.key: item.value for item in await store.scan("/w")}
            await eventually(_state_without_end(state), wanted)
            await store.txn([Put("/w-end", b"")])


def _state_without_end(state):
    async def get():
        return {key: value for key, value in state.items() if key != "/w-end"}

    return get


async def test_a_watcher_that_sleeps_ends_with_the_last_state(engine):
    """More changes than a watcher is kept: it is told to scan, and no old change comes after that."""
    async with stores(engine, 2) as (store, watcher):
        state = {}
        with trio.fail_after(TIMEOUT_S):
            async with watcher.watch("/w/") as changes:
                assert await anext(changes) == Resync()
                for text in (b"early", b"late"):
                    async with trio.open_nursery() as nursery:
                        for at in range(0, METADATA_WATCH_KEYS_MAX + 60, 30):
                            nursery.start_soon(store.txn, [Put(f"/w/{n}", text) for n in range(at, at + 30)])
                await store.txn([Put("/w/end", b"")])
                await follow_on(watcher, "/w/", changes, state, lambda state: "/w/end" in state)
        wanted = {item.key: item.value for item in await store.scan("/w/")}
        assert set(wanted) - set(state) == set()
        async with watcher.watch("/w/") as changes:
            await follow_on(watcher, "/w/", changes, state, lambda state: state == wanted)
        assert state == wanted


async def test_watches_of_one_store_do_not_mix(engine):
    """Each is told of its own keys, also when a watch beside it ends."""
    async with engine.open() as store:
        with trio.fail_after(TIMEOUT_S):
            async with store.watch("/a/") as first:
                async with store.watch("/b/") as second:
                    assert await anext(first) == Resync()
                    assert await anext(second) == Resync()
                    await store.txn([Put("/a/1", b""), Put("/b/1", b"")])
                    assert (await anext(second)).key == "/b/1"
                await store.txn([Put("/b/2", b""), Put("/a/2", b"")])
                assert [(await anext(first)).key, (await anext(first)).key] == ["/a/1", "/a/2"]


async def test_an_error_inside_a_watch_or_session_comes_out_as_itself(engine):
    """Whoever uses them meets his own errors, not groups of them."""
    async with engine.open() as store:
        with pytest.raises(ZeroDivisionError):
            async with store.watch("/a/"):
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            async with store.session():
                raise ZeroDivisionError


# --- sessions -----------------------------------------------------------------------------------------


async def test_no_ephemeral_key_without_a_session(engine):
    """Such a key needs a session, before one has begun and after it has ended."""
    async with engine.open() as store:
        with pytest.raises(SessionLost):
            await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        async with store.session() as session:
            assert session.is_valid
        assert not session.is_valid
        with pytest.raises(SessionLost):
            await store.txn([Put("/other", b""), Put("/nodes/1", b"", is_ephemeral=True)])
        assert await store.scan("/") == []


async def test_one_session_at_a_time(engine):
    """A second one is refused as long as the first lasts; then it is a new one."""
    async with engine.open() as store:
        async with store.session():
            with pytest.raises(UsageError):
                async with store.session():
                    pass
            await store.txn([Put("/nodes/1", b"first", is_ephemeral=True)])
        async with store.session() as session:
            assert session.is_valid
            assert await store.scan("/nodes/") == []
            await store.txn([Check("/nodes/1", 0), Put("/nodes/1", b"again", is_ephemeral=True)])


async def test_ephemeral_keys_go_with_the_session(engine):
    """At its end all that it held are gone, at once and for everybody; what is not ephemeral stays."""
    async with stores(engine, 2) as (store, other), other.watch("/") as changes:
        assert await anext(changes) == Resync()
        async with store.session():
            await store.txn([Put("/nodes/1", b"", is_ephemeral=True), Put("/epoch", b"1")])
            await store.txn([Put("/controller", b"1", is_ephemeral=True)])
            assert len(await other.scan("/")) == 3
        assert [item.key for item in await other.scan("/")] == ["/epoch"]
        state = {}
        with trio.fail_after(TIMEOUT_S):
            await follow_on(other, "/", changes, {"/nodes/1": b"", "/controller": b"1"}, lambda s: set(s) <= {"/epoch"})
        assert state == {}


async def test_an_ephemeral_key_is_checked_and_changed_like_any(engine):
    """Its version is the node's epoch: it can be guarded, and a new registration has another one."""
    async with engine.open() as store:
        async with store.session():
            first = await store.txn([Check("/nodes/1", 0), Put("/nodes/1", b"a", is_ephemeral=True)])
            await store.txn([Check("/nodes/1", first), Put("/partitions/t/0", b"isr")])
            second = await store.txn([Check("/nodes/1", first), Put("/nodes/1", b"b", is_ephemeral=True)])
            with pytest.raises(MetadataConflict):
                await store.txn([Check("/nodes/1", first), Put("/partitions/t/0", b"stale")])
            assert (await store.get("/nodes/1")).version == second
        async with store.session():
            third = await store.txn([Check("/nodes/1", 0), Put("/nodes/1", b"c", is_ephemeral=True)])
        assert len({first, second, third}) == 3
        with pytest.raises(MetadataConflict):
            await store.txn([Check("/nodes/1", third), Put("/partitions/t/0", b"stale")])
        assert (await store.get("/partitions/t/0")).value == b"isr"


async def test_a_key_may_become_ephemeral_and_lasting(engine):
    """The last put decides whether a key goes with the session."""
    async with engine.open() as store:
        await store.txn([Put("/lasting", b"1"), Put("/passing", b"1")])
        async with store.session():
            await store.txn([Put("/lasting", b"2", is_ephemeral=True), Put("/passing", b"2", is_ephemeral=True)])
            await store.txn([Put("/lasting", b"3")])
        assert [(item.key, item.value) for item in await store.scan("/")] == [("/lasting", b"3")]


async def test_a_session_is_kept_up(engine):
    """It lasts longer than its time without a beat."""
    async with engine.open() as store, store.session() as session:
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        with trio.move_on_after(5.0):
            await session.wait_lost()
        assert session.is_valid
        assert (await store.get("/nodes/1")) is not None
