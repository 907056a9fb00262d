"""Apps, and handlers that do their work once."""

import sqlite3
from functools import partial

import anyio
import pytest
import trio

import dduomq
from dduomq.client.idempotence import MemoryStore, RedisStore, SqliteStore, once, place_of
from dduomq.client.record import Record
from dduomq.errors import UsageError


def record(offset, **headers):
    return Record("t", 0, offset, 0, b"k", b"v", [(name, content.encode()) for name, content in headers.items()])


class Redis:
    """As much of an asynchronous client of Redis as is asked of it."""

    def __init__(self):
        self.held = {}

    async def exists(self, key):
        return int(key in self.held)

    async def set(self, key, value, ex=None):
        self.held[key] = (value, ex)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_what_is_done_is_not_done_again(kind, tmp_path):
    """By any store; under both event loops."""
    store = {"memory": MemoryStore(), "sqlite": SqliteStore(str(tmp_path / "done.db")), "redis": RedisStore(Redis())}
    done = []

    async def work():
        handle = once(lambda found: done.append(found.offset), store=store[kind])
        for offset in (0, 1, 0, 1, 2):
            await handle(record(offset))

    for backend in ("trio", "asyncio"):
        anyio.run(work, backend=backend)
    store["sqlite"].close()
    assert done == [0, 1, 2]


async def test_a_handler_that_fails_is_done_again():
    done = []

    async def flaky(found):
        done.append(found.offset)
        if len(done) == 1:
            raise RuntimeError("not yet")

    handle = once(flaky)
    with pytest.raises(RuntimeError):
        await handle(record(5))
    await handle(record(5))
    await handle(record(5))
    assert done == [5, 5]


async def test_a_header_tells_what_was_sent_twice():
    done = []
    handle = once(lambda found: done.append(found.offset), mark="order")
    for offset, order in ((0, "a"), (1, "b"), (2, "a")):
        await handle(record(offset, order=order))
    assert done == [0, 1]
    with pytest.raises(UsageError, match="t/0/3"):
        await handle(record(3))


async def test_marks_in_memory_are_bounded():
    store = MemoryStore(marks_max=3)
    for offset in range(5):
        await store.add(place_of(record(offset)))
    assert [await store.has(place_of(record(offset))) for offset in range(5)] == [False, False, True, True, True]


async def test_marks_in_a_file_are_kept_and_let_go(tmp_path):
    path = str(tmp_path / "done.db")
    with SqliteStore(path) as store:
        await store.add("a")
    with SqliteStore(path) as store:
        assert await store.has("a")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE done SET at = at - 10 * 86400")
    connection.close()
    with SqliteStore(path) as store:
        assert not await store.has("a")


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_app(backend):
    """Async and plain handlers, more than one group; it ends in good order when it is cancelled."""
    seen = {"billing": [], "audit": []}

    async def serve():
        async with dduomq.open_node(topic={"durability": "pagecache"}) as node:
            await use(node.address)

    async def use(address):
        app = dduomq.App(address)
        with pytest.raises(UsageError):
            await app.run()
        with pytest.raises(UsageError):
            _ = app.client

        @app.consumer("orders", group="billing", concurrency=4, ordered="key")
        async def bill(order):
            seen["billing"].append(int(order.raw_value))
            if order.raw_value == b"0":
                await app.client.send("bills", "one", partition=0)

        @app.consumer("orders", group="audit")
        def audit(order):
            seen["audit"].append(int(order.raw_value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.run)
            async with dduomq.connect(address) as mq:
                for number in range(20):
                    await mq.send("orders", str(number), key=str(number % 3))
                for _ in range(1_000):
                    if min(map(len, seen.values())) == 20 and await mq.pull("bills", wait=0.1):
                        break
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        async with dduomq.connect(address) as mq:
            for group in seen:
                assert sum((await mq.admin.group_offsets(group)).values()) == 20
                assert (await mq.admin.describe_group(group)).members == ()

    anyio.run(serve, backend=backend)
    assert sorted(seen["billing"]) == sorted(seen["audit"]) == list(range(20))


async def test_a_handlers_error_ends_the_app():
    async with dduomq.open_node(topic={"durability": "pagecache"}) as node:
        app = dduomq.App(node.address)

        @app.consumer("orders", group="billing", on_failure="stop", retries=0)
        async def bill(_order):
            raise ZeroDivisionError

        async with dduomq.connect(node.address) as mq:
            await mq.send("orders", "1")
        with trio.fail_after(30), pytest.raises(ZeroDivisionError):
            await app.run()


def test_the_blocking_consumer():
    """Iterating, pulling, acking by hand."""

    async def serve(addresses, ready, stop):
        async with dduomq.open_node(topic={"durability": "pagecache"}) as node:
            addresses.append(node.address)
            ready.set()
            await trio.to_thread.run_sync(stop.wait)

    import threading

    addresses, ready, stop = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=partial(trio.run, serve, addresses, ready, stop))
    thread.start()
    try:
        assert ready.wait(30)
        with dduomq.blocking.connect(addresses[0]) as mq:
            for number in range(6):
                mq.send("t", str(number), partition=0)
            with mq.consumer("t", group="g") as consumer:
                for found in consumer:
                    if found.raw_value == b"2":
                        break
            assert mq.admin.group_offsets("g") == {("t", 0): 3}
            with mq.consumer("t", group="g", auto_ack=False, auto_commit=False) as consumer:
                records = consumer.pull(timeout=10)
                consumer.ack(records[0])
                consumer.commit()
                assert ("t", 0) in consumer.assignment
            assert mq.admin.group_offsets("g") == {("t", 0): 4}
    finally:
        stop.set()
        thread.join(30)
