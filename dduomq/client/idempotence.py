"""Handlers that skip what they have done already (F48).

    handler = once(charge_card, store=SqliteStore("done.db"))

A record may come twice: its work was done, but a crash came before the commit. Always true: a record whose handler
has returned, and whose mark was stored, is not handled again. Between the handler's return and the mark there is a
moment in which a crash makes it come again: only a handler whose own write and mark are one transaction has none.
"""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Protocol, TypeAlias

from anyio import to_thread

from dduomq.client.record import Record
from dduomq.errors import UsageError

Mark: TypeAlias = Callable[[Any], str]
MEMORY_MARKS_MAX = 100_000
REDIS_TTL_S = 7 * 24 * 3600


class DoneStore(Protocol):
    """Remembers marks."""

    async def has(self, mark: str) -> bool: ...

    async def add(self, mark: str) -> None: ...


class MemoryStore:
    """The newest `marks_max` marks, as long as the process lives: against doubles after a rebalance."""

    def __init__(self, marks_max: int = MEMORY_MARKS_MAX) -> None:
        self._marks: OrderedDict[str, None] = OrderedDict()
        self._marks_max = marks_max

    async def has(self, mark: str) -> bool:
        return mark in self._marks

    async def add(self, mark: str) -> None:
        self._marks[mark] = None
        while len(self._marks) > self._marks_max:
            self._marks.popitem(last=False)


class SqliteStore:
    """Marks in a file of SQLite's; `days` is how long they are kept. Several processes may share it."""

    def __init__(self, path: str, days: float = 7.0) -> None:
        self._path = path
        self._days = days
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        """One for each worker thread, as SQLite wants it."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE IF NOT EXISTS done (mark TEXT PRIMARY KEY, at REAL) WITHOUT ROWID")
            connection.execute("DELETE FROM done WHERE at < unixepoch() - ?", (self._days * 86_400,))
        return connection

    async def has(self, mark: str) -> bool:
        def look() -> bool:
            found = self._connection().execute("SELECT 1 FROM done WHERE mark = ?", (mark,)).fetchone()
            return found is not None

        return await to_thread.run_sync(look)

    async def add(self, mark: str) -> None:
        def write() -> None:
            self._connection().execute("INSERT OR REPLACE INTO done VALUES (?, unixepoch())", (mark,))

        await to_thread.run_sync(write)


class RedisStore:
    """Marks in Redis; `client` is an asynchronous one, such as `redis.asyncio.Redis`. They end after `ttl` seconds."""

    def __init__(self, client: Any, prefix: str = "dduomq:done:", ttl: int = REDIS_TTL_S) -> None:
        self._client = client
        self._prefix = prefix
        self._ttl = ttl

    async def has(self, mark: str) -> bool:
        return bool(await self._client.exists(self._prefix + mark))

    async def add(self, mark: str) -> None:
        await self._client.set(self._prefix + mark, 1, ex=self._ttl)


def place_of(record: Record) -> str:
    """The mark of a record as it lies in the log: what is sent twice has two."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def once(
    handler: Callable[[Any], Any], *, store: DoneStore | None = None, mark: str | Mark = place_of
) -> Callable[[Any], Awaitable[None]]:
    """`handler`, skipping records that it has handled. `mark`: what makes two records the same; a function, or the
    name of a header, such as an order's number, which also catches what was sent twice.

    Raises `UsageError` for a record without that header.
    """
    marks = store if store is not None else MemoryStore()

    def named(record: Record) -> str:
        if callable(mark):
            return mark(record)
        content = record.header(mark)
        if content is None:
            raise UsageError(f"{place_of(record)} has no header {mark!r} to tell it by")
        return f"{record.topic}/{content.decode()}"

    async def handle(record: Record) -> None:
        name = named(record)
        if await marks.has(name):
            return
        result = handler(record)
        if isawaitable(result):
            await result
        await marks.add(name)

    return handle
