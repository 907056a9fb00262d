"""A coordinator's own log: read whole at the start, appended to in batches, written anew before it grows too long.

Part of the coordinator's actor, not a task: its questions go to the partition, the answers come back as messages
of the coordinator. Always true: one append is in flight at most, so records are stored in the order they were
given; each `on_stored` is called once.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

import attrs
import structlog

from dduomq.actors.actor import Mailbox, Message, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.partition_messages import EARLIEST, Acked, Append, Fetch, FetchPlan, FindOffset, OffsetAt, Purge
from dduomq.errors import CoordinatorNotAvailable, CorruptMessage, DduomqError, Overloaded
from dduomq.groups import records
from dduomq.groups.member import NEVER
from dduomq.groups.records import Key
from dduomq.limits import BATCH_BYTES_CEILING, GROUPS_REWRITE_BYTES, MIB
from dduomq.log.plog import PendingBatch
from dduomq.ports import Clock
from dduomq.wire import batch
from dduomq.wire.records import BatchBuilder, decode

LOAD_BYTES = 4 * MIB
BATCH_BYTES = 1 * MIB
ENTRY_OVERHEAD_BYTES = 200
RETRY_S = 0.2
APPEND_TIMEOUT_S = 30
Entry: TypeAlias = tuple[Key, bytes | None]
OnStored: TypeAlias = Callable[[Acked | DduomqError], None]
NOTHING = Acked(-1, -1, -1, "")


@attrs.frozen(kw_only=True)
class Begun(Message):
    at: OffsetAt | None
    error: BaseException | None


@attrs.frozen(kw_only=True)
class Fetched(Message):
    plan: FetchPlan | None
    error: BaseException | None


@attrs.frozen(kw_only=True)
class Loaded(Message):
    result: object


@attrs.frozen(kw_only=True)
class Stored(Message):
    acked: Acked | None
    error: BaseException | None


class CoordinatorLog:
    """`apply` is called for each entry at the start; `live` gives all entries that are so, group by group."""

    __slots__ = (
        "_apply", "_clock", "_disk", "_in_flight", "_live", "_load_from", "_logger", "_mailbox", "_outbox",
        "_partition", "_rewriting", "_since_rewrite", "is_loaded", "retry_at",
    )  # fmt: skip

    def __init__(
        self,
        mailbox: Mailbox,
        partition: Mailbox,
        disk: Mailbox,
        clock: Clock,
        logger: structlog.stdlib.BoundLogger,
        apply: Callable[[Key, bytes | None], None],
        live: Callable[[], Iterable[list[Entry]]],
    ) -> None:
        self._mailbox = mailbox
        self._partition = partition
        self._disk = DiskClient(disk)
        self._clock = clock
        self._logger = logger
        self._apply = apply
        self._live = live
        self._load_from = 0
        self._outbox: deque[tuple[list[Entry], OnStored]] = deque()
        self._in_flight: list[tuple[list[Entry], OnStored]] = []
        self._since_rewrite = 0
        self._rewriting = False
        self.is_loaded = False
        self.retry_at = NEVER  # when `begin` is to be called again

    # --- the start ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Ask where the log begins; what was before has been written anew behind it."""
        self.retry_at = NEVER
        reply: Reply[OffsetAt] = Reply(lambda at, error: self._mailbox.post(Begun(at=at, error=error)))
        self._ask(FindOffset(timestamp_ms=EARLIEST, isolation=0, reply=reply))

    def _ask(self, message: Message) -> None:
        if not self._partition.offer(message):
            self.retry_at = self._clock.monotonic() + RETRY_S

    def begun(self, message: Begun) -> None:
        if message.at is None:
            self._try_again(message.error)
            return
        self._load_from = max(self._load_from, message.at.offset)
        self._load()

    def _load(self) -> None:
        """Ask for the next piece of the log."""
        reply: Reply[FetchPlan] = Reply(lambda plan, error: self._mailbox.post(Fetched(plan=plan, error=error)))
        message = Fetch(
            offset=self._load_from, max_bytes=LOAD_BYTES, isolation=0, leader_epoch=-1, watcher=None, reply=reply
        )
        self._ask(message)

    def fetched(self, message: Fetched) -> None:
        plan = message.plan
        if plan is None:
            if isinstance(message.error, CorruptMessage):  # what is damaged is lost; the rest is not
                self._logger.error("groups_damaged", coordinator=self._mailbox.name, reason=message.error.message)
                self._load_from += 1
            self._try_again(message.error)
        elif plan.lease is None:
            self.is_loaded = True
        else:
            self._disk.submit(partial(_read, plan), lambda result: self._mailbox.post(Loaded(result=result)))

    def _try_again(self, error: BaseException | None) -> None:
        if not isinstance(error, DduomqError):
            raise error or AssertionError("a question without an answer")
        self.retry_at = self._clock.monotonic() + (0 if isinstance(error, CorruptMessage) else RETRY_S)

    def loaded(self, message: Loaded) -> None:
        result = message.result
        if not isinstance(result, tuple):
            assert isinstance(result, BaseException)
            self._try_again(result)
            return
        self._load_from, entries, size = result
        self._since_rewrite += size
        for key, value in entries:
            self._apply(key, value)
        self._load()

    # --- storing ------------------------------------------------------------------------------------

    def store(self, entries: list[Entry], on_stored: OnStored) -> None:
        """Put records into the log; `on_stored` gets the ack or the error. Without records: when all before are."""
        *before, last = _split(entries)
        failure: DduomqError | None = None

        def stored(result: Acked | DduomqError) -> None:
            nonlocal failure
            failure = failure or (result if isinstance(result, DduomqError) else None)

        self._outbox += [(part, stored) for part in before]
        self._outbox.append((last, lambda result: on_stored(failure or result)))

    def flush(self) -> None:
        """Append all that waits as one batch, unless one is on its way: group commit, for groups."""
        if not self._outbox or self._in_flight:
            return
        now_ms = self._clock.wall_ms()
        builder = BatchBuilder()
        while self._outbox:
            entries, on_stored = self._outbox[0]
            size = sum(map(_size, entries))
            if builder.count and builder.size + size > BATCH_BYTES:
                break
            self._outbox.popleft()
            if size > BATCH_BYTES_CEILING // 2:
                on_stored(CoordinatorNotAvailable(f"{size} bytes at once are more than the group's log takes"))
                continue
            for key, value in entries:
                builder.append(now_ms, records.encode_key(key), value, [])
            self._in_flight.append((entries, on_stored))
        if builder.count:
            self._append(builder.build())
            return
        ended, self._in_flight = self._in_flight, []
        for _, on_stored in ended:  # nothing to store, and all that came before is stored
            on_stored(NOTHING)

    def _append(self, data: bytearray) -> None:
        self._since_rewrite += len(data)
        message = Append(
            batch=PendingBatch(memoryview(data), batch.read_header(data)),
            deadline=self._clock.monotonic() + APPEND_TIMEOUT_S,
            reply=Reply(lambda acked, error: self._mailbox.post(Stored(acked=acked, error=error))),
            size_bytes=len(data),
        )
        if not self._partition.offer(message):
            message.refuse(Overloaded(f"{self._partition.name} has too much to do"))

    def stored(self, message: Stored) -> None:
        ended, self._in_flight = self._in_flight, []
        result: Acked | DduomqError
        if message.acked is not None:
            result = message.acked
        elif isinstance(message.error, DduomqError):
            self._logger.warning("groups_not_stored", coordinator=self._mailbox.name, reason=message.error.message)
            result = CoordinatorNotAvailable(f"the group's log can't be written: {message.error.message}")
        else:
            raise message.error or AssertionError("an append without an answer")
        for _, on_stored in ended:
            on_stored(result)
        if self._since_rewrite > GROUPS_REWRITE_BYTES and not self._rewriting and message.acked is not None:
            self._rewrite()

    def _rewrite(self) -> None:
        """Write the whole state anew; when that is stored, everything before it may go."""
        self._rewriting, self._since_rewrite = True, 0
        parts = [part for part in self._live() if part]
        firsts: list[int] = []
        left = len(parts)

        def stored(result: Acked | DduomqError) -> None:
            nonlocal left
            left -= 1
            if isinstance(result, Acked):
                firsts.append(result.base_offset)
            if not left:
                self._rewriting = False
                if len(firsts) == len(parts):
                    self._partition.offer(Purge(offset=firsts[0]))

        for part in parts:
            self.store(part, stored)
        if not parts:
            self._rewriting = False
            self._partition.offer(Purge(offset=-1))

    def restart(self, error: DduomqError) -> None:
        """Read all anew: the state has gone on without its log. Whoever waits for his records is told."""
        self.is_loaded = False
        self._load_from = self._since_rewrite = 0
        self._rewriting = False
        self.close(error)
        self.retry_at = self._clock.monotonic() + RETRY_S

    def close(self, error: DduomqError) -> None:
        """Whoever waits for his records is told."""
        waiting = [*self._in_flight, *self._outbox]
        self._in_flight, self._outbox = [], deque()
        for _, on_stored in waiting:
            on_stored(error)

    async def quiesce(self) -> None:
        """Wait until no disk job of this log is under way."""
        await self._disk.idle()


def _size(entry: Entry) -> int:
    key, value = entry
    return len(value or b"") + ENTRY_OVERHEAD_BYTES + len(key.group) * 4


def _split(entries: list[Entry]) -> list[list[Entry]]:
    """Pieces that fit into a batch each; one at least."""
    parts: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        size += _size(entry)
        if size > BATCH_BYTES and parts[-1]:
            parts.append([])
            size = _size(entry)
        parts[-1].append(entry)
    return parts


def _read(plan: FetchPlan) -> tuple[int, list[Entry], int]:
    """(next offset, entries, bytes) of a piece of the log; runs in a disk thread."""
    assert plan.lease is not None
    try:
        data = bytearray(plan.lease.read(plan.position, plan.size))
    finally:
        plan.lease.close()
    entries: list[Entry] = []
    next_offset = 0
    for position, header in batch.iter_headers(data):
        for record in decode(memoryview(data)[position : position + header.size]):
            key = records.decode_key(record.key or b"")
            if key is not None:
                entries.append((key, record.value))
        next_offset = header.next_offset
    return next_offset, entries, len(data)
