"""The metadata engine of the tests keeps what the real ones promise."""

from random import Random

import pytest
import trio

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
from dduomq.testing.store import Faults, MemoryEngine


@pytest.fixture
def engine(nursery):
    made = MemoryEngine(Random(1))
    nursery.start_soon(made.run)
    return made


async def test_a_transaction_is_applied_whole_or_not_at_all(engine, autojump_clock):
    """A check that fails leaves no trace; versions rise."""
    store = engine.store(1)
    first = await store.txn([Check("/a", 0), Put("/a", b"1"), Put("/b", b"1")])
    with pytest.raises(MetadataConflict):
        await store.txn([Put("/b", b"2"), Check("/a", 0)])
    assert (await store.get("/b")).value == b"1"
    assert await store.txn([Check("/a", first), Del("/a")]) > first
    assert [held.key for held in await store.scan("/")] == ["/b"]


async def test_ephemeral_keys_go_with_their_session(engine, autojump_clock):
    """At its end at once; without a session there are none."""
    store = engine.store(1)
    with pytest.raises(SessionLost):
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
    async with store.session() as session:
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True), Put("/stays", b"")])
        await trio.sleep(30)
        assert session.is_valid
        assert await store.get("/nodes/1") is not None
    assert [held.key for held in await store.scan("/")] == ["/stays"]


async def test_a_node_knows_before_the_engine_that_its_session_is_over(engine, autojump_clock):
    """A node that is cut off counts from its last beat; the engine ends the session no earlier."""
    store = engine.store(1)
    async with store.session() as session:
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        engine.pause(1)
        await session.wait_lost()
        assert not session.is_valid
        assert engine.state.get("/nodes/1") is not None
        await trio.sleep(1)
        assert engine.state.get("/nodes/1") is None
        engine.resume(1)
        await trio.sleep(3)
        assert not session.is_valid


async def test_a_node_that_is_cut_off_is_told_so(engine, autojump_clock):
    """A call that never went out was not applied; one whose answer got lost may have been."""
    store = engine.store(1)
    engine.pause(1)
    with pytest.raises(MetadataUnavailable):
        await store.txn([Put("/a", b"")])
    engine.resume(1)
    assert await store.get("/a") is None
    engine.faults.latency_s = (1.0, 1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pause_later, engine)
        with pytest.raises(MetadataUnknown):
            await store.txn([Put("/a", b"")])
    assert engine.state.get("/a") is not None


async def _pause_later(engine):
    await trio.sleep(0.7)
    engine.pause(1)


async def test_an_outage_of_the_engine_ends_no_session_by_itself(engine, autojump_clock):
    """Afterwards everybody has a whole time-out again, for the engine; nodes may have given up."""
    store = engine.store(1, session_timeout_s=5)
    async with store.session() as session:
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        engine.stop()
        await trio.sleep(3)
        engine.start()
        await trio.sleep(30)
        assert session.is_valid
        assert engine.state.get("/nodes/1") is not None


async def test_a_watch_ends_up_with_the_newest_state(engine, autojump_clock):
    """It begins with Resync, and says so again after the node was cut off."""
    store = engine.store(1)
    async with store.watch("/a") as changes:
        seen = aiter(changes)
        assert await anext(seen) == Resync()
        version = engine.put("/a/1", b"x")
        engine.put("/b", b"x")
        assert await anext(seen) == Changed("/a/1", b"x", version)
        engine.pause(1)
        engine.put("/a/2", b"x")
        engine.resume(1)
        assert await anext(seen) == Resync()
        engine.delete("/a/1")
        gone = await anext(seen)
        assert (gone.key, gone.value) == ("/a/1", None)


async def test_faults_come_by_seed(engine, autojump_clock):
    """Conflict and Unavailable mean not applied; Unknown means either."""
    store, told = engine.store(1), []
    engine.faults = Faults(conflict=0.2, unknown=0.3, unavailable=0.2)
    for at in range(200):
        try:
            await store.txn([Put(f"/{at}", b"")])
            told.append((type(None), engine.state.get(f"/{at}") is not None))
        except (MetadataConflict, MetadataUnavailable, MetadataUnknown) as error:
            told.append((type(error), engine.state.get(f"/{at}") is not None))
    assert set(told) == {
        (type(None), True),
        (MetadataConflict, False),
        (MetadataUnavailable, False),
        (MetadataUnknown, False),
        (MetadataUnknown, True),
    }
