"""What only the embedded store does: it starts again on its own log."""

import pytest

from dduomq.cluster.ports import Changed, Check, MetadataConflict, Put, Resync
from dduomq.limits import METADATA_WATCH_KEYS_MAX
from dduomq.stores import embedded
from dduomq.stores.feed import Feed
from tests.stores.nodes import Embedded


async def test_no_start_finds_an_ephemeral_key(tmp_path):
    """Not after a stop in good order, and not after one in the middle of a session; what is lasting is there."""
    engine = Embedded(tmp_path)
    async with engine.open() as store:
        await store.txn([Put("/was/lasting", b"")])
        async with store.session():
            version = await store.txn([Put("/nodes/1", b"", is_ephemeral=True), Put("/lasting", b"")])
            await store.txn([Put("/was/lasting", b"", is_ephemeral=True)])
            async with Embedded(tmp_path).open() as after_a_crash:
                assert [item.key for item in await after_a_crash.scan("/")] == ["/lasting"]
                assert (await after_a_crash.get("/lasting")).version == version
    async with engine.open() as again:
        assert [item.key for item in await again.scan("/")] == ["/lasting"]


async def test_no_version_comes_twice_over_restarts(tmp_path):
    """An ephemeral key that is made at every start has another version each time."""
    versions = []
    for _ in range(4):
        async with Embedded(tmp_path).open() as store, store.session():
            if versions:
                with pytest.raises(MetadataConflict):
                    await store.txn([Check("/nodes/1", versions[-1]), Put("/x", b"")])
            versions.append(await store.txn([Check("/nodes/1", 0), Put("/nodes/1", b"", is_ephemeral=True)]))
    assert len(set(versions)) == 4


async def test_a_snapshot_has_no_ephemeral_keys(tmp_path, monkeypatch):
    """When the log is made shorter, what will be gone at the next start is left out."""
    monkeypatch.setattr(embedded, "COMPACT_BYTES", 500)
    async with Embedded(tmp_path).open() as store, store.session():
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        for n in range(30):
            await store.txn([Put("/lasting", b"%d" % n * 50)])
        assert (await store.get("/nodes/1")) is not None
        async with Embedded(tmp_path).open() as after_a_crash:
            assert [item.key for item in await after_a_crash.scan("/")] == ["/lasting"]


async def test_a_feed_keeps_the_newest_of_each_key():
    """Older states of a key are dropped, never the newest; too many keys are one `Resync`, and nothing old follows."""
    feed = Feed()
    for n in range(10):
        feed.put(Changed("/a", b"%d" % n, n))
    feed.put(Changed("/b", None, 10))
    assert await anext(feed) == Changed("/a", b"9", 9)
    assert await anext(feed) == Changed("/b", None, 10)
    for n in range(METADATA_WATCH_KEYS_MAX + 1):
        feed.put(Changed(f"/{n}", b"", 11 + n))
    feed.put(Changed("/last", b"", 5_000))
    assert await anext(feed) == Resync()
    assert await anext(feed) == Changed("/last", b"", 5_000)
