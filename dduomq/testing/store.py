"""A metadata engine in memory, shared by the nodes of a test: sessions that run out, outages, and faults by seed.

`engine.store(node_id)` is the door of one node to it, a `MetadataStore` as the real engines give it. Always true: a
transaction is applied whole or not at all, whatever its asker is told; an ephemeral key goes when its session has ended
for the engine, which is never before it has ended by the node's own clock.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import TypeVar

import attrs
import trio

from dduomq.actors.nursery import open_flat_nursery
from dduomq.cluster.metadata import MetadataState
from dduomq.cluster.ports import (
    Changed,
    Del,
    MetadataConflict,
    MetadataUnavailable,
    MetadataUnknown,
    Operation,
    Put,
    Resync,
    Session,
    SessionLost,
    Versioned,
)
from dduomq.errors import UsageError

OPERATIONS_MAX = 32  # of one transaction, as the smallest of the real engines has it
CALL_TIMEOUT_S = 1.0  # so long a node waits for an engine that it can't reach
BEATS_PER_SESSION = 4  # beats in the time that a session lasts without one
T = TypeVar("T")


@attrs.define
class Faults:
    """How likely each fault is, from 0 to 1, and how long an answer takes. May be changed while it runs."""

    conflict: float = 0.0
    unknown: float = 0.0
    unavailable: float = 0.0
    resync: float = 0.0
    latency_s: tuple[float, float] = (0.0005, 0.003)


@attrs.define(eq=False)
class _Held:
    """A session as the engine knows it."""

    node_id: int
    timeout_s: float
    deadline: float


class MemoryEngine:
    """The engine itself; `run` must run beside the nodes, since it ends the sessions of those that are silent.

    `session_min_s`: it grants no shorter sessions.
    """

    def __init__(self, rng: Random, faults: Faults | None = None, session_min_s: float = 0.0) -> None:
        self.faults = faults or Faults()
        self.session_min_s = session_min_s
        self.state = MetadataState()
        self.transactions = 0
        self._rng = rng
        self._cut: set[int] = set()
        self._is_down = False
        self._healed = trio.Event()
        self._sessions: list[_Held] = []
        self._owners: dict[str, _Held] = {}
        self._watchers: list[_Watcher] = []
        self._more = trio.Event()

    # --- what a test does ---------------------------------------------------------------------------

    def store(self, node_id: int, session_timeout_s: float = 1.0) -> "MemoryStore":
        """The door of one node. A node that starts anew gets a new one."""
        return MemoryStore(self, node_id, max(session_timeout_s, self.session_min_s))

    def pause(self, node_id: int) -> None:
        """The node can't reach the engine from now on; its session runs out."""
        self._cut.add(node_id)

    def resume(self, node_id: int) -> None:
        self._cut.discard(node_id)
        self._heal()

    def stop(self) -> None:
        """An outage for everybody. No session ends while it lasts."""
        self._is_down = True

    def start(self) -> None:
        """The end of the outage; every session gets its whole time again."""
        self._is_down = False
        for held in self._sessions:
            held.deadline = trio.current_time() + held.timeout_s
        self._heal()

    def expire(self, node_id: int) -> None:
        """End the session of a node at once, as an operator may."""
        for held in [one for one in self._sessions if one.node_id == node_id]:
            self.end(held)

    def put(self, key: str, value: bytes) -> int:
        """Write a key from outside; its version."""
        return self.apply([Put(key, value)], None)

    def delete(self, key: str) -> None:
        self.apply([Del(key)], None)

    async def run(self) -> None:
        """End the sessions that have run out, for ever."""
        while True:
            now = trio.current_time()
            if not self._is_down:
                for held in [one for one in self._sessions if one.deadline <= now]:
                    self.end(held)
            ahead = [held.deadline for held in self._sessions if held.deadline > now]
            self._more = trio.Event()
            with trio.move_on_at(min(ahead, default=float("inf"))):
                await self._more.wait()

    # --- what its doors do --------------------------------------------------------------------------

    def is_cut(self, node_id: int) -> bool:
        """Whether the node can't reach the engine."""
        return self._is_down or node_id in self._cut

    async def healed(self, node_id: int) -> None:
        """Wait until the node can reach it again."""
        while self.is_cut(node_id):
            await self._healed.wait()

    async def travel(self) -> None:
        """One way of a call."""
        await trio.sleep(self._rng.uniform(*self.faults.latency_s) / 2)

    def strikes(self, chance: float) -> bool:
        """Whether a fault of that likeliness happens now."""
        return chance > 0 and self._rng.random() < chance

    def apply(self, operations: Sequence[Operation], session: _Held | None) -> int:
        """Apply a transaction; raises `MetadataConflict`, `SessionLost`."""
        if any(isinstance(item, Put) and item.is_ephemeral for item in operations) and session not in self._sessions:
            raise SessionLost("this node has no session with the metadata engine")
        entry = self.state.plan(operations)
        self.transactions += 1
        for write in entry.writes:
            self._owners.pop(write.key, None)
            if session is not None and isinstance(write, Put) and write.is_ephemeral:
                self._owners[write.key] = session
        for change in self.state.apply(entry):
            for watcher in self._watchers:
                watcher.tell(change, resync=self.strikes(self.faults.resync))
        return entry.revision

    def begin(self, node_id: int, timeout_s: float) -> _Held:
        """A session for a node; one that it had before, and did not end, runs out in its time."""
        held = _Held(node_id, timeout_s, trio.current_time() + timeout_s)
        self._sessions.append(held)
        self._more.set()
        return held

    def beat(self, held: _Held) -> bool:
        """Keep a session up; False if it has ended."""
        held.deadline = trio.current_time() + held.timeout_s
        return held in self._sessions

    def end(self, held: _Held) -> None:
        """End a session, with all its keys."""
        if held in self._sessions:
            self._sessions.remove(held)
        gone = [key for key, owner in self._owners.items() if owner is held]
        if gone:
            self.apply([Del(key) for key in gone], None)

    def attach(self, watcher: "_Watcher") -> None:
        self._watchers.append(watcher)

    def detach(self, watcher: "_Watcher") -> None:
        self._watchers.remove(watcher)

    def _heal(self) -> None:
        self._healed.set()
        self._healed = trio.Event()


class MemoryStore:
    """A `MetadataStore` of one node."""

    def __init__(self, engine: MemoryEngine, node_id: int, session_timeout_s: float) -> None:
        self._engine = engine
        self._node_id = node_id
        self._timeout_s = session_timeout_s
        self._held: _Held | None = None

    async def get(self, key: str) -> Versioned | None:
        return await self._call(lambda: self._engine.state.get(key))

    async def scan(self, prefix: str) -> list[Versioned]:
        return await self._call(lambda: self._engine.state.scan(prefix))

    async def txn(self, operations: Sequence[Operation]) -> int:
        """See `MetadataStore.txn`."""
        assert len(operations) <= OPERATIONS_MAX, f"{len(operations)} operations in one transaction"
        if self._engine.strikes(self._engine.faults.conflict):
            await self._engine.travel()
            raise MetadataConflict("somebody else may have changed the metadata")
        if self._engine.strikes(self._engine.faults.unknown):
            with suppress(MetadataConflict, SessionLost):
                await self._call(lambda: self._engine.strikes(0.5) and self._engine.apply(operations, self._held))
            raise MetadataUnknown("the metadata engine gave no answer")
        return await self._call(lambda: self._engine.apply(operations, self._held))

    async def _call(self, work: Callable[[], T]) -> T:
        """Go there, do `work`, come back. Raises `MetadataUnavailable`, or Unknown if the way back is cut."""
        engine = self._engine
        await engine.travel()
        if engine.is_cut(self._node_id):
            await trio.sleep(CALL_TIMEOUT_S)
            raise MetadataUnavailable("the metadata engine can't be reached")
        if engine.strikes(engine.faults.unavailable):
            raise MetadataUnavailable("the metadata engine is not available")
        result = work()
        await engine.travel()
        if engine.is_cut(self._node_id):
            await trio.sleep(CALL_TIMEOUT_S)
            raise MetadataUnknown("the metadata engine gave no answer")
        return result

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Changed | Resync]]:
        watcher = _Watcher(self._engine, self._node_id, prefix)
        self._engine.attach(watcher)
        try:
            yield watcher
        finally:
            self._engine.detach(watcher)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """See `MetadataStore.session`. A node that can't reach the engine at the end leaves it to run out."""
        if self._held is not None:
            raise UsageError("this node has a session already")
        sent = trio.current_time()
        try:
            held = await self._call(lambda: self._engine.begin(self._node_id, self._timeout_s))
        except MetadataUnknown as error:
            raise MetadataUnavailable(error.message) from None
        session = _Beating(held, sent, self._timeout_s)
        self._held = held
        try:
            async with open_flat_nursery() as nursery:
                nursery.start_soon(self._beat, held, session)
                yield session
                nursery.cancel_scope.cancel()
        finally:
            self._held = None
            session.ended.set()
            if not self._engine.is_cut(self._node_id):
                self._engine.end(held)

    async def _beat(self, held: _Held, session: "_Beating") -> None:
        while not session.ended.is_set():
            await trio.sleep(self._timeout_s / BEATS_PER_SESSION)
            sent = trio.current_time()
            try:
                is_alive = await self._call(lambda: self._engine.beat(held))
            except (MetadataUnavailable, MetadataUnknown):
                continue
            if not is_alive:
                session.ended.set()
            elif session.is_valid:
                session.valid_until = sent + self._timeout_s


class _Beating:
    """A session by its node's own clock."""

    def __init__(self, held: _Held, sent: float, timeout_s: float) -> None:
        self.held = held
        self.timeout_s = timeout_s
        self.valid_until = sent + timeout_s
        self.ended = trio.Event()

    @property
    def is_valid(self) -> bool:
        """See `Session.is_valid`."""
        if trio.current_time() >= self.valid_until:
            self.ended.set()
        return not self.ended.is_set()

    async def wait_lost(self) -> None:
        """See `Session.wait_lost`."""
        while self.is_valid:
            with trio.move_on_at(self.valid_until):
                await self.ended.wait()


class _Watcher:
    """What one watch has not handed out yet: the newest state of each key, in the order of the changes."""

    def __init__(self, engine: MemoryEngine, node_id: int, prefix: str) -> None:
        self._engine = engine
        self._node_id = node_id
        self._prefix = prefix
        self._pending: dict[str, Changed] = {}
        self._resync = True
        self._more = trio.Event()

    def tell(self, change: Changed, *, resync: bool) -> None:
        """A key has changed; with `resync`, or while the node is cut off, only that something did is kept."""
        if not change.key.startswith(self._prefix):
            return
        if resync or self._engine.is_cut(self._node_id):
            self._resync = True
            self._pending.clear()
        else:
            self._pending.pop(change.key, None)
            self._pending[change.key] = change
        self._more.set()

    def __aiter__(self) -> "_Watcher":
        return self

    async def __anext__(self) -> Changed | Resync:
        while True:
            await self._engine.travel()
            await self._engine.healed(self._node_id)
            if self._resync:
                self._resync = False
                return Resync()
            if self._pending:
                return self._pending.pop(next(iter(self._pending)))
            self._more = trio.Event()
            await self._more.wait()
