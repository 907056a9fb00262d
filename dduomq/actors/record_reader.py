"""Reads single records of partitions, at the offsets that are wanted.

Part of its actor, not a task: its questions go to the partition, the answers come back as messages of the actor.
Always true: one reading is under way at most, and its end is told once; each step passes one wanted offset at least;
a batch is looked into only where one of its offsets is wanted, and only if its CRC is right.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

import attrs

from dduomq.actors.actor import Mailbox, Message, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.journal import SERIALS
from dduomq.actors.partition_messages import Fetch, FetchPlan
from dduomq.errors import CorruptMessage, DduomqError, InvariantBroken, OffsetOutOfRange
from dduomq.limits import KIB
from dduomq.wire import batch
from dduomq.wire.batch import BatchHeader
from dduomq.wire.records import StoredRecord, decode, size_of

PIECE_BYTES = 64 * KIB
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class PieceFound(Message):
    """Where a piece of the log is that has the next record. `serial`, also below, is the question's."""

    serial: int
    plan: FetchPlan | None
    error: BaseException | None


@attrs.frozen(kw_only=True)
class PieceRead(Message):
    serial: int
    result: object


@attrs.define
class Piece(Generic[T]):
    """What a piece of a log has of what is wanted: (offset, what it says, bytes), and what is damaged in it."""

    next_offset: int = -1
    found: list[tuple[int, T, int]] = attrs.field(factory=list)
    damaged: list[tuple[int, CorruptMessage]] = attrs.field(factory=list)


class RecordReader(Generic[T]):
    """`decode` reads a record in a disk thread, None where it says nothing.

    `on_damage(offset, error)`: what is there can't be read any more.
    """

    __slots__ = (
        "_at", "_decode", "_disk", "_found", "_mailbox", "_on_damage", "_on_reset", "_partition", "_room", "_serial",
        "_then", "_wanted",
    )  # fmt: skip

    def __init__(
        self,
        mailbox: Mailbox,
        disk: Mailbox,
        decode: Callable[[StoredRecord], T | None],
        on_damage: Callable[[int, DduomqError], None],
    ) -> None:
        self._mailbox = mailbox
        self._disk = DiskClient(disk)
        self._decode = decode
        self._on_damage = on_damage
        self._partition = mailbox  # of this reading; nobody's before the first
        self._wanted: list[int] = []
        self._at = 0  # of these, so many have been passed
        self._found: dict[int, T] = {}
        self._room = 0
        self._serial = 0
        self._on_reset: Callable[[DduomqError], None] | None = None
        self._then: Callable[[dict[int, T]], None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._then is not None

    @property
    def passed(self) -> Sequence[int]:
        """Of what was wanted last: the offsets of which it is known by now what is there, if anything."""
        return self._wanted[: self._at]

    def read(
        self,
        partition: Mailbox,
        offsets: Iterable[int],
        bytes_max: int,
        then: Callable[[dict[int, T]], None],
        on_reset: Callable[[DduomqError], None] | None = None,
    ) -> None:
        """`then` gets the records by their offset: all, or what fits, or what could be read just now.

        An offset without a record is passed over, also one that the log has no more. `on_reset` is called instead
        when the reading is broken off.
        """
        if self._then is not None:
            raise InvariantBroken(f"{self._mailbox.name} reads one thing after another")
        self._partition, self._wanted, self._at = partition, sorted(set(offsets)), 0
        self._found, self._room, self._then, self._on_reset = {}, bytes_max, then, on_reset
        self._next()

    def _next(self) -> None:
        if self._at >= len(self._wanted) or self._room <= 0:
            self._end()
            return
        self._serial = serial = next(SERIALS)
        reply: Reply[FetchPlan] = Reply(
            lambda plan, error: self._mailbox.post(PieceFound(serial=serial, plan=plan, error=error))
        )
        ask = Fetch(
            offset=self._wanted[self._at], max_bytes=PIECE_BYTES, isolation=0, leader_epoch=-1, watcher=None,
            reply=reply,
        )  # fmt: skip
        if not self._partition.offer(ask):
            self._end()

    def reset(self, error: DduomqError) -> None:
        """What was asked for is not wanted any more. Whoever wants to know is told."""
        self._serial = next(SERIALS)
        on_reset, self._then, self._on_reset = self._on_reset, None, None
        if on_reset is not None:
            on_reset(error)

    def _end(self) -> None:
        then, self._then, self._on_reset = self._then, None, None
        assert then is not None
        then(self._found)

    def found(self, message: PieceFound) -> None:
        plan, serial = message.plan, message.serial
        if serial != self._serial:
            if plan is not None:
                plan.close()
        elif plan is None:
            self._failed(message.error)
        elif plan.lease is not None:
            self._disk.submit(
                partial(read_piece, plan, self._wanted, self._at, self._decode),
                lambda result: self._mailbox.post(PieceRead(serial=serial, result=result)),
            )
        elif self._wanted[self._at] < plan.high_watermark:
            self._pass()
        else:
            self._end()  # it is still to come, and so are those behind it

    def _pass(self) -> None:
        """There is no record at this offset."""
        self._at += 1
        self._next()

    def read_done(self, message: PieceRead) -> None:
        piece = message.result
        if message.serial != self._serial:
            return
        if not isinstance(piece, Piece):
            assert isinstance(piece, BaseException)
            self._failed(piece)
            return
        for offset, one, size in piece.found:
            self._found[offset] = one
            self._room -= size
        for offset, error in piece.damaged:
            self._on_damage(offset, error)
        at = bisect_left(self._wanted, piece.next_offset, lo=self._at)
        if at == self._at:  # its log has been cut there meanwhile
            self._end()
            return
        self._at = at
        self._next()

    def _failed(self, error: BaseException | None) -> None:
        if not isinstance(error, DduomqError) or isinstance(error, InvariantBroken):
            raise error or AssertionError("a question without an answer")
        if isinstance(error, CorruptMessage):
            self._on_damage(self._wanted[self._at], error)
            self._pass()
        elif isinstance(error, OffsetOutOfRange):
            self._pass()
        else:
            self._end()

    async def quiesce(self) -> None:
        """Wait until nothing is being read."""
        await self._disk.idle()


def read_piece(
    plan: FetchPlan, wanted: Sequence[int], first: int, decode_one: Callable[[StoredRecord], T | None]
) -> Piece[T]:
    """What is wanted, from the `first` of them on, and lies in this piece of a log; runs in a disk thread."""
    assert plan.lease is not None
    try:
        data = memoryview(bytearray(plan.lease.read(plan.position, plan.size)))
    finally:
        plan.lease.close()
    piece: Piece[T] = Piece()
    for position, header in batch.iter_headers(data):
        begin = bisect_left(wanted, header.base_offset, lo=first)
        end = bisect_right(wanted, header.last_offset, lo=begin)
        if begin < end and not header.is_control:
            _look(data[position : position + header.size], header, frozenset(wanted[begin:end]), decode_one, piece)
        piece.next_offset = header.next_offset
    return piece


def _look(
    data: memoryview,
    header: BatchHeader,
    wanted: frozenset[int],
    decode_one: Callable[[StoredRecord], T | None],
    piece: Piece[T],
) -> None:
    """Into one batch."""
    try:
        if not batch.is_whole(data, 0, header):
            raise CorruptMessage(f"the batch at offset {header.base_offset} has a wrong CRC")
        stored = decode(data, only=wanted)
    except CorruptMessage as error:
        piece.damaged += [(offset, error) for offset in sorted(wanted)]
        return
    for record in stored:
        one = decode_one(record)
        if one is not None:
            piece.found.append((record.offset, one, size_of(record.key, record.value, record.headers)))
