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
    """Marks in a file of SQLite's; `days` is how long they are kept. Several processes may share it.

    `with SqliteStore(path) as store:` closes the file at the end; so does `close`.
    """

    def __init__(self, path: str, days: float = 7.0) -> None:
        self._path = path
        self._days = days
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> "SqliteStore":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, statement: str, *arguments: object) -> bool:
        """Whether there is a row; in a worker thread, since each may wait for the disk."""
        with self._lock:
            if self._connection is None:
                self._connection = _open(self._path, self._days)
            return self._connection.execute(statement, arguments).fetchone() is not None

    async def has(self, mark: str) -> bool:
        return await to_thread.run_sync(self._run, "SELECT 1 FROM done WHERE mark = ?", mark)

    async def add(self, mark: str) -> None:
        await to_thread.run_sync(self._run, "INSERT OR REPLACE INTO done VALUES (?, unixepoch())", mark)


def _open(path: str, days: float) -> sqlite3.Connection:
    """Used under a lock, by one thread at a time."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS done (mark TEXT PRIMARY KEY, at REAL) WITHOUT ROWID")
    connection.execute("DELETE FROM done WHERE at < unixepoch() - ?", (days * 86_400,))
    return connection


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
