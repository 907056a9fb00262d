"""Reads parked messages back from a wheel's log, for those that are due and not in memory.

Part of the wheel's actor, not a task. Always true: one reading is under way at most; its end is told once.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.journal import SERIALS, read_piece
from dduomq.actors.partition_messages import Fetch, FetchPlan
from dduomq.actors.wheel_messages import PieceFound, PieceRead
from dduomq.delay import records
from dduomq.delay.records import Parked
from dduomq.delay.timeline import Entry
from dduomq.errors import CorruptMessage, DduomqError, InvariantBroken
from dduomq.limits import KIB
from dduomq.wire.records import StoredRecord, size_of

PIECE_BYTES = 64 * KIB
Found: TypeAlias = dict[int, Parked]


class WheelReader:
    """`on_damage(offset, error)`: a message can't be read any more."""

    __slots__ = (
        "_disk", "_found", "_mailbox", "_on_damage", "_on_reset", "_partition", "_room", "_serial", "_then", "_wanted",
    )  # fmt: skip

    def __init__(
        self, mailbox: Mailbox, partition: Mailbox, disk: Mailbox, on_damage: Callable[[int, DduomqError], None]
    ) -> None:
        self._mailbox = mailbox
        self._partition = partition
        self._disk = DiskClient(disk)
        self._on_damage = on_damage
        self._wanted: deque[int] = deque()
        self._found: Found = {}
        self._room = 0
        self._serial = 0
        self._on_reset: Callable[[DduomqError], None] | None = None
        self._then: Callable[[Found], None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._then is not None

    def read(
        self,
        entries: Iterable[Entry],
        bytes_max: int,
        then: Callable[[Found], None],
        on_reset: Callable[[DduomqError], None] | None = None,
    ) -> None:
        """`then` gets the messages by their number: all, or what fits, or what could be read just now.

        `on_reset` is called instead when the log is to be read anew.
        """
        self._wanted = deque(sorted(entry.offset for entry in entries))
        self._found, self._room, self._then, self._on_reset = {}, bytes_max, then, on_reset
        self._next()

    def _next(self) -> None:
        if not self._wanted or self._room <= 0:
            self._end()
            return
        self._serial = serial = next(SERIALS)
        reply: Reply[FetchPlan] = Reply(
            lambda plan, error: self._mailbox.post(PieceFound(serial=serial, plan=plan, error=error))
        )
        ask = Fetch(
            offset=self._wanted[0], max_bytes=PIECE_BYTES, isolation=0, leader_epoch=-1, watcher=None, reply=reply
        )
        if not self._partition.offer(ask):
            self._end()

    def reset(self, error: DduomqError) -> None:
        """What was asked for is not wanted any more: the log is read anew. Whoever wants to know is told."""
        self._serial = next(SERIALS)
        on_reset, self._then, self._on_reset = self._on_reset, None, None
        if on_reset is not None:
            on_reset(error)

    def _end(self) -> None:
        then, self._then = self._then, None
        assert then is not None
        then(self._found)

    def found(self, message: PieceFound) -> None:
        plan, serial = message.plan, message.serial
        if serial != self._serial:
            if plan is not None:
                plan.close()
        elif plan is None:
            self._failed(message.error)
        elif plan.lease is None:
            self._end()
        else:
            wanted = frozenset(self._wanted)
            self._disk.submit(
                partial(read_piece, plan, partial(_decode, wanted)),
                lambda result: self._mailbox.post(PieceRead(serial=serial, result=result)),
            )

    def read_done(self, message: PieceRead) -> None:
        result = message.result
        if message.serial != self._serial:
            return
        if not isinstance(result, tuple):
            assert isinstance(result, BaseException)
            self._failed(result)
            return
        next_offset, parked, _ = result
        for one in parked:
            self._found[one.number] = one
            self._room -= size_of(one.key, one.value, one.headers)
        while self._wanted and self._wanted[0] < next_offset:
            self._wanted.popleft()
        self._next()

    def _failed(self, error: BaseException | None) -> None:
        if not isinstance(error, DduomqError) or isinstance(error, InvariantBroken):
            raise error or AssertionError("a question without an answer")
        if isinstance(error, CorruptMessage):
            self._on_damage(self._wanted.popleft(), error)
            self._next()
        else:
            self._end()

    async def quiesce(self) -> None:
        await self._disk.idle()


def _decode(wanted: frozenset[int], record: StoredRecord) -> Parked | None:
    if record.offset not in wanted:
        return None
    parked = records.decode(record)
    return parked if isinstance(parked, Parked) else None
