"""An actor's own log in an internal topic: read whole at the start, appended to in batches.

Part of its actor, not a task: its questions go to the partition, the answers come back as messages of the actor.
Always true: one append is in flight at most, so records are stored in the order they were given; each `on_stored` is
called once; what is read at the start is all that was ever appended, also by an actor that has crashed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Generic, TypeAlias, TypeVar

import attrs
import structlog

from dduomq.actors.actor import Mailbox, Message, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.partition_messages import Acked, Append, Describe, Fetch, FetchPlan, PartitionState, Purge
from dduomq.errors import CorruptMessage, DduomqError, InvariantBroken, MessageTooLarge, Overloaded
from dduomq.limits import BATCH_BYTES_CEILING, MIB
from dduomq.log.plog import PendingBatch
from dduomq.ports import Buffer, Clock
from dduomq.wire import batch
from dduomq.wire.records import BatchBuilder, Headers, StoredRecord, decode, size_of

LOAD_BYTES = 4 * MIB
BATCH_BYTES = 1 * MIB
AT_ONCE_BYTES_MAX = BATCH_BYTES_CEILING - MIB
RETRY_S = 0.2
BUSY_S = 0.02
SERIALS = count(1)  # of all journals, so that a crashed actor's answers mean nothing to its successor
APPEND_TIMEOUT_S = 30
NEVER = float("inf")
T = TypeVar("T")
Entry: TypeAlias = tuple[bytes, bytes | None, Headers]
OnStored: TypeAlias = Callable[[Acked | DduomqError], None]
NOTHING = Acked(-1, -1, -1, "")


@attrs.frozen(kw_only=True)
class Begun(Message):
    """`serial`, here and in the others, is the question's: an answer to an older one is nobody's any more."""

    serial: int
    state: PartitionState | None
    error: BaseException | None


@attrs.frozen(kw_only=True)
class Fetched(Message):
    serial: int
    plan: FetchPlan | None
    error: BaseException | None

    def refuse(self, error: BaseException) -> None:
        """Nobody reads it any more: the actor has ended."""
        if self.plan is not None:
            self.plan.close()
        super().refuse(error)


@attrs.frozen(kw_only=True)
class Loaded(Message):
    serial: int
    result: object


@attrs.frozen(kw_only=True)
class Stored(Message):
    serial: int
    acked: Acked | None
    error: BaseException | None


@attrs.frozen
class JournalWorld:
    """What a journal works with. `unavailable` is the error of whoever waits while nothing can be stored."""

    partition: Mailbox
    disk: Mailbox
    clock: Clock
    log: structlog.stdlib.BoundLogger
    unavailable: type[DduomqError]


class Journal(Generic[T]):
    """`read` tells in a disk thread what a batch of records says; `apply` is called for each of that, in order."""

    __slots__ = (
        "_appended", "_apply", "_disk", "_in_flight", "_load_from", "_mailbox", "_outbox", "_read", "_serial", "_world",
        "end", "is_loaded", "retry_at", "size_bytes", "start",
    )  # fmt: skip

    def __init__(
        self,
        mailbox: Mailbox,
        world: JournalWorld,
        read: Callable[[Buffer], Sequence[T]],
        apply: Callable[[T], None],
    ) -> None:
        self._mailbox = mailbox
        self._world = world
        self._disk = DiskClient(world.disk)
        self._read = read
        self._apply = apply
        self._load_from = 0
        self._outbox: deque[tuple[Sequence[Entry], int, OnStored]] = deque()
        self._in_flight: deque[tuple[int, OnStored]] = deque()
        self._serial = 0
        self._appended = 0  # records that are on their way
        self.start = 0  # the first offset that counts
        self.end = 0  # behind the last one
        self.size_bytes = 0  # read and appended since the start
        self.is_loaded = False
        self.retry_at = NEVER  # when `begin` is to be called again

    # --- the start ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Ask where the log begins, and whether all that was ever appended can be read."""
        self.retry_at = NEVER
        self._serial = serial = next(SERIALS)
        reply: Reply[PartitionState] = Reply(
            lambda state, error: self._mailbox.post(Begun(serial=serial, state=state, error=error))
        )
        self._ask(Describe(reply=reply))

    def _ask(self, message: Message) -> None:
        if not self._world.partition.offer(message):
            self.retry_at = self._world.clock.monotonic() + RETRY_S

    def begun(self, message: Begun) -> None:
        state = message.state
        if message.serial != self._serial:
            return
        if state is None:
            self._try_again(message.error)
        elif state.log is None or not state.is_idle:  # what an earlier life has appended may still come
            self.retry_at = self._world.clock.monotonic() + BUSY_S
        else:
            self.start = state.log.log_start_offset
            self._load_from = max(self._load_from, self.start)
            self._load()

    def _load(self) -> None:
        """Ask for the next piece of the log."""
        serial = self._serial
        reply: Reply[FetchPlan] = Reply(
            lambda plan, error: self._mailbox.post(Fetched(serial=serial, plan=plan, error=error))
        )
        message = Fetch(
            offset=self._load_from, max_bytes=LOAD_BYTES, isolation=0, leader_epoch=-1, watcher=None, reply=reply
        )
        self._ask(message)

    def fetched(self, message: Fetched) -> None:
        plan, serial = message.plan, message.serial
        if serial != self._serial:
            if plan is not None:
                plan.close()
        elif plan is None:
            if isinstance(message.error, CorruptMessage):  # what is damaged is lost; the rest is not
                self._world.log.error("journal_damaged", journal=self._mailbox.name, reason=message.error.message)
                self._load_from += 1
            self._try_again(message.error)
        elif plan.lease is None:
            self.is_loaded = True
        else:
            self._disk.submit(
                partial(read_piece, plan, self._read),
                lambda result: self._mailbox.post(Loaded(serial=serial, result=result)),
            )

    def _try_again(self, error: BaseException | None) -> None:
        if not isinstance(error, DduomqError) or isinstance(error, InvariantBroken):
            raise error or AssertionError("a question without an answer")
        self.retry_at = self._world.clock.monotonic() + (0 if isinstance(error, CorruptMessage) else RETRY_S)

    def loaded(self, message: Loaded) -> None:
        result = message.result
        if message.serial != self._serial:
            return
        if not isinstance(result, tuple):
            assert isinstance(result, BaseException)
            self._try_again(result)
            return
        self._load_from, found, size = result
        self.end = self._load_from
        self.size_bytes += size
        for entry in found:
            self._apply(entry)
        self._load()

    # --- storing ------------------------------------------------------------------------------------

    def store_together(self, entries: Sequence[Entry], on_stored: OnStored) -> None:
        """Put records into the log, all or none; `on_stored` gets the ack, with the first one's offset, or the error.

        Without records: when all before are stored. More than `AT_ONCE_BYTES_MAX` are refused, and surely not stored.
        """
        self._outbox.append((entries, sum(size_of(*entry) for entry in entries), on_stored))

    def store_entries(self, entries: Sequence[Entry], on_stored: OnStored) -> None:
        """The same for any number of records; of those that don't fit into one batch, some may be stored alone."""
        *before, last = _split(entries)
        results: list[Acked | DduomqError] = []

        def ended(result: Acked | DduomqError) -> None:
            results.append(result)
            on_stored(next((r for r in results if isinstance(r, DduomqError)), results[0]))

        self._outbox += [(part, size, results.append) for part, size in before]
        self._outbox.append((*last, ended))

    def flush(self) -> None:
        """Append all that waits as one batch, unless one is on its way: group commit."""
        if not self._outbox or self._in_flight:
            return
        now_ms = self._world.clock.wall_ms()
        builder = BatchBuilder()
        while self._outbox:
            entries, size, on_stored = self._outbox[0]
            if builder.count and builder.size + size > BATCH_BYTES:
                break
            self._outbox.popleft()
            if size > AT_ONCE_BYTES_MAX:
                failure = self._world.unavailable(f"{size} bytes at once are more than {self._mailbox.name} takes")
                failure.__cause__ = MessageTooLarge(failure.message)
                on_stored(failure)
                continue
            self._in_flight.append((builder.count, on_stored))
            for key, value, headers in entries:
                if not builder.append(now_ms, key, value, headers):
                    raise InvariantBroken(f"{self._mailbox.name}: a batch has become longer than was reckoned")
        if builder.count:
            self._appended = builder.count
            self._append(builder.build())
            return
        while self._in_flight:  # nothing to store, and all that came before is stored
            self._in_flight.popleft()[1](NOTHING)

    def _append(self, data: bytearray) -> None:
        self.size_bytes += len(data)
        self._serial = serial = next(SERIALS)
        message = Append(
            batch=PendingBatch(memoryview(data), batch.read_header(data)),
            deadline=self._world.clock.monotonic() + APPEND_TIMEOUT_S,
            reply=Reply(lambda acked, error: self._mailbox.post(Stored(serial=serial, acked=acked, error=error))),
            size_bytes=len(data),
        )
        if not self._world.partition.offer(message):
            message.refuse(Overloaded(f"{self._world.partition.name} has too much to do"))

    def stored(self, message: Stored) -> None:
        if message.serial != self._serial:
            return
        if message.acked is not None:
            self.end = message.acked.base_offset + self._appended
            while self._in_flight:  # if one crashes the actor, `close` tells those behind it
                index, on_stored = self._in_flight.popleft()
                on_stored(attrs.evolve(message.acked, base_offset=message.acked.base_offset + index))
            return
        if not isinstance(message.error, DduomqError):
            raise message.error or AssertionError("an append without an answer")
        reason, name = message.error.message, self._mailbox.name
        self._world.log.warning("journal_not_stored", journal=name, reason=reason)
        failure = self._world.unavailable(f"{name} can't write its log: {reason}")
        failure.__cause__ = message.error
        while self._in_flight:
            self._in_flight.popleft()[1](failure)

    def purge(self, offset: int) -> None:
        """What lies before `offset` may go; -1: everything. If the question is lost, the next one does it."""
        if self._world.partition.offer(Purge(offset=offset)):
            self.start = max(self.start, offset)

    # --- the end ------------------------------------------------------------------------------------

    def restart(self, error: DduomqError) -> None:
        """Read all anew: the state has gone on without its log. Whoever waits for his records is told."""
        self.is_loaded = False
        self._serial = next(SERIALS)
        self._load_from = self.size_bytes = 0
        self.close(error)
        self.retry_at = self._world.clock.monotonic() + RETRY_S

    def close(self, error: DduomqError) -> None:
        """Whoever waits for his records is told."""
        waiting = [on_stored for _, on_stored in self._in_flight]
        waiting += [on_stored for _, _, on_stored in self._outbox]
        self._in_flight, self._outbox = deque(), deque()
        for on_stored in waiting:
            on_stored(error)

    async def quiesce(self) -> None:
        """Wait until no disk job of this log is under way."""
        await self._disk.idle()


def _split(entries: Sequence[Entry]) -> list[tuple[Sequence[Entry], int]]:
    """Pieces that fit into a batch each, with their sizes; one at least."""
    parts: list[tuple[list[Entry], int]] = []
    part: list[Entry] = []
    total = 0
    for entry in entries:
        size = size_of(*entry)
        if part and total + size > BATCH_BYTES:
            parts.append((part, total))
            part, total = [], 0
        part.append(entry)
        total += size
    return [*parts, (part, total)]


def each(decode_one: Callable[[StoredRecord], T | None]) -> Callable[[Buffer], list[T]]:
    """Reads a batch record by record, for those of which `decode_one` does not give None."""
    return lambda data: [one for record in decode(data) if (one := decode_one(record)) is not None]


def read_piece(plan: FetchPlan, read: Callable[[Buffer], Sequence[T]]) -> tuple[int, list[T], int]:
    """(next offset, what its records say, bytes) of a piece of a log; runs in a disk thread."""
    assert plan.lease is not None
    try:
        data = memoryview(bytearray(plan.lease.read(plan.position, plan.size)))
    finally:
        plan.lease.close()
    found: list[T] = []
    next_offset = 0
    for position, header in batch.iter_headers(data):
        found += read(data[position : position + header.size])
        next_offset = header.next_offset
    return next_offset, found, len(data)
