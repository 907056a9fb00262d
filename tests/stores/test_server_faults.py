"""What every engine with servers does when they are killed, frozen and started again."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from dduomq.cluster.ports import (
    Changed,
    Check,
    MetadataConflict,
    MetadataUnavailable,
    MetadataUnknown,
    Put,
    Resync,
    SessionLost,
)
from tests.stores.nodes import stores
from tests.stores.test_conformance import TIMEOUT_S, eventually, follow_on

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


async def working(store, call):
    """`await call()`, again and again until the engine is there again."""
    with trio.fail_after(TIMEOUT_S):
        while True:
            try:
                return await call()
            except (MetadataUnavailable, MetadataUnknown):
                await trio.sleep(0.05)


async def test_without_a_server_nothing_is_applied(fallible):
    """Nobody there: calls end by themselves and say that nothing was done; later they work again."""
    async with fallible.open() as store:
        version = await store.txn([Put("/a", b"1")])
        fallible.server.kill()
        with trio.fail_after(TIMEOUT_S):
            with pytest.raises((MetadataUnavailable, MetadataUnknown)):  # a connection that just broke may not tell
                await store.txn([Put("/a", b"2")])
            for call in (lambda: store.txn([Put("/a", b"3")]), lambda: store.get("/a"), lambda: store.scan("/")):
                with pytest.raises(MetadataUnavailable):
                    await call()
            with pytest.raises(MetadataUnavailable):
                async with store.session():
                    pass
        fallible.server.start()
        held = await working(store, lambda: store.get("/a"))
        assert (held.value, held.version) == (b"1", version)
        await store.txn([Check("/a", version), Put("/a", b"4")])


async def test_a_lost_answer_is_unknown(fallible):
    """A server that does not answer: what is called Unknown may be applied or not, Unavailable never is."""
    async with fallible.open() as store:
        version = await store.txn([Put("/a", b"1")])
        fallible.server.freeze()
        with trio.fail_after(TIMEOUT_S), pytest.raises((MetadataUnknown, MetadataUnavailable)) as told:
            await store.txn([Check("/a", version), Put("/a", b"2")])
        with trio.fail_after(TIMEOUT_S), pytest.raises(MetadataUnavailable):
            await store.get("/a")
        fallible.server.thaw()
        held = await working(store, lambda: store.get("/a"))
        if held.version == version:
            assert held.value == b"1"
        else:
            assert told.type is MetadataUnknown
            assert held.value == b"2"
            with pytest.raises(MetadataConflict):
                await store.txn([Check("/a", version), Put("/a", b"3")])


async def test_a_watch_goes_on_after_a_restart(fallible):
    """The server dies and comes back: the watcher learns what changed since, and the last state is right."""
    async with fallible.open() as watcher:
        state = {}
        async with watcher.watch("/w/") as changes:
            with trio.fail_after(TIMEOUT_S):
                assert await anext(changes) == Resync()
            async with fallible.open() as store:
                for n in range(3):
                    await working(store, lambda n=n: store.txn([Put("/w/k", b"before %d" % n)]))
                    fallible.server.kill()
                    fallible.server.start()
                    await working(store, lambda n=n: store.txn([Put("/w/k", b"after %d" % n), Put(f"/w/{n}", b"")]))
                with trio.fail_after(TIMEOUT_S):
                    await follow_on(
                        watcher, "/w/", changes, state, lambda s: s.get("/w/k") == b"after 2" and "/w/2" in s
                    )
                version = await store.txn([Put("/w/last", b"")])
            with trio.fail_after(TIMEOUT_S):
                while (change := await anext(changes)) != Changed("/w/last", b"", version):
                    assert isinstance(change, Resync | Changed)


async def test_a_frozen_server_costs_the_session(fallible):
    """By its own clock the node gives up, before the engine does; a new session is another one."""
    async with stores(fallible, 2) as (store, other):
        async with store.session() as session:
            await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
            fallible.server.freeze()
            with trio.fail_after(TIMEOUT_S):
                await session.wait_lost()
            assert not session.is_valid
            with pytest.raises(SessionLost):
                await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
            fallible.server.thaw()
        await eventually(lambda: working(other, lambda: other.scan("/nodes/")), [])
        assert not session.is_valid
        async with store.session() as again:
            await store.txn([Check("/nodes/1", 0), Put("/nodes/1", b"", is_ephemeral=True)])
            assert again.is_valid


async def test_a_session_outlives_a_short_fault(fallible):
    """A server that is away for less than the session's time costs nothing."""
    async with fallible.open() as store, store.session() as session:
        await store.txn([Put("/nodes/1", b"", is_ephemeral=True)])
        for _ in range(3):
            fallible.server.freeze()
            await trio.sleep(0.2)
            fallible.server.thaw()
            await trio.sleep(0.5)
        assert session.is_valid
        assert await store.get("/nodes/1") is not None


@contextmanager
def holding(engine, key):
    """Another process, which holds an ephemeral key."""
    command = [sys.executable, "-m", "tests.stores.holder", engine.kind, engine.server.address, engine.name, key]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert holder.stdout.readline() == b"held\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


async def test_a_dead_nodes_keys_go(fallible):
    """A process that is killed says goodbye to nobody; its ephemeral keys go all the same, and a watcher hears it."""
    with holding(fallible, "/nodes/7") as holder:
        async with fallible.open() as store, store.watch("/nodes/") as changes:
            assert await anext(changes) == Resync()
            assert [item.value for item in await store.scan("/nodes/")] == [b"held"]
            holder.kill()
            with trio.fail_after(TIMEOUT_S):
                gone = await anext(changes)
            assert (gone.key, gone.value) == ("/nodes/7", None)
            assert await store.scan("/nodes/") == []


async def test_a_cancelled_watch_and_session_end_while_the_server_is_frozen(fallible):
    """Stopping a node never waits for an engine that does not answer."""
    async with fallible.open() as store:
        with trio.fail_after(TIMEOUT_S):
            async with store.watch("/") as changes, store.session():
                assert await anext(changes) == Resync()
                fallible.server.freeze()
        fallible.server.thaw()
