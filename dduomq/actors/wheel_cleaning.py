"""Keeps a wheel's log short: what still waits is moved from its beginning to its end, then the beginning goes.

Part of the wheel's actor, not a task. Always true: a message is in the log until another copy of it is; a log has no
more than twice what waits, and `DELAY_CLEAN_BYTES`; one piece is moved at a time, and nothing is taken from the wheel
meanwhile.
"""

from collections.abc import Callable, Sequence
from functools import partial

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.journal import NEVER, SERIALS, Journal, each, read_piece
from dduomq.actors.partition_messages import Acked, Fetch, FetchPlan
from dduomq.actors.wheel_firing import WheelFiring
from dduomq.actors.wheel_messages import HeadFound, HeadRead
from dduomq.actors.wheel_sending import WheelSending
from dduomq.delay import records
from dduomq.delay.records import Fired, Handed, Parked, Position, Record
from dduomq.delay.runs import Said
from dduomq.errors import DduomqError
from dduomq.limits import DELAY_CLEAN_BYTES, MIB
from dduomq.ports import Clock
from dduomq.wire.records import size_of

PIECE_BYTES = 1 * MIB
AGAIN_S = 0.5


class WheelCleaning:
    """`fail(error)`: the log can't be written, and all must be read anew."""

    __slots__ = (
        "_clock",
        "_disk",
        "_fail",
        "_firing",
        "_journal",
        "_kept_bytes",
        "_mailbox",
        "_not_before",
        "_partition",
        "_sending",
        "_serial",
        "_threshold",
        "_until",
        "is_busy",
    )  # fmt: skip

    def __init__(
        self,
        mailbox: Mailbox,
        partition: Mailbox,
        disk: Mailbox,
        clock: Clock,
        journal: Journal[Said],
        firing: WheelFiring,
        sending: WheelSending,
        fail: Callable[[DduomqError], None],
    ) -> None:
        self._fail = fail
        self._mailbox = mailbox
        self._partition = partition
        self._disk = DiskClient(disk)
        self._clock = clock
        self._journal = journal
        self._firing = firing
        self._sending = sending
        self._serial = 0
        self._not_before = 0.0
        self._threshold = 0  # bytes; more, and the log is cleaned
        self._until = 0  # the offset up to which it is
        self._kept_bytes = 0  # what this going-through has moved so far
        self.is_busy = False

    def reset(self) -> None:
        """The log is read anew."""
        self._serial = next(SERIALS)
        self.is_busy = False
        self._threshold = self._until = 0

    def _is_wanted(self) -> bool:
        """Once a log is too long, all of it is gone through: what is left is what waits, and it may double."""
        size, end = self._journal.size_bytes, self._journal.end
        if not self._threshold:
            self._threshold = DELAY_CLEAN_BYTES + 2 * self._firing.wheel.bytes_waiting
        if self._until and self._journal.start >= self._until:
            self._until = 0
            self._threshold = DELAY_CLEAN_BYTES + 2 * self._kept_bytes
        if not self._until and size > self._threshold:
            self._until, self._kept_bytes = end, 0
        return self._until > 0

    def _another_time(self) -> None:
        """It could not be done just now."""
        self.is_busy = False
        self._not_before = self._clock.monotonic() + AGAIN_S

    def next_at(self) -> float:
        """When there is something to do, on the monotonic clock."""
        return self._not_before if self._until and not self.is_busy else NEVER

    def go(self) -> None:
        """Move the first piece, if the log has become too long."""
        if self.is_busy or self._clock.monotonic() < self._not_before:
            return
        if not self._is_wanted():
            return
        self.is_busy = True
        self._serial = serial = next(SERIALS)
        reply: Reply[FetchPlan] = Reply(
            lambda plan, error: self._mailbox.post(HeadFound(serial=serial, plan=plan, error=error))
        )
        ask = Fetch(
            offset=self._journal.start, max_bytes=PIECE_BYTES, isolation=0, leader_epoch=-1, watcher=None, reply=reply
        )
        if not self._partition.offer(ask):
            self._another_time()

    def found(self, message: HeadFound) -> None:
        plan, serial = message.plan, message.serial
        if serial != self._serial:
            if plan is not None:
                plan.close()
        elif plan is None or plan.lease is None:
            self._another_time()
        else:
            self._disk.submit(
                partial(read_piece, plan, each(records.decode)),
                lambda result: self._mailbox.post(HeadRead(serial=serial, result=result)),
            )

    def read_done(self, message: HeadRead) -> None:
        if message.serial != self._serial:
            return
        if not isinstance(message.result, tuple):
            self._another_time()
            return
        next_offset, found, size = message.result
        self._sending.when_quiet(partial(self._move, found, next_offset, size))

    def _move(self, found: Sequence[Record], next_offset: int, size: int) -> None:
        """Store anew what still counts, then forget the piece."""
        serial = self._serial
        parked = [one for one in found if isinstance(one, Parked)]
        alive = self._firing.alive([one.pair for one in parked])
        kept = {one.number: one for one in parked if one.number in alive}
        targets = {one.target for one in found if isinstance(one, Fired | Position)}
        offsets = {one.offset for one in found if isinstance(one, Fired)}
        again = self._sending.touching(offsets, kept)
        entries = [records.encode_parked(one) for one in kept.values()]
        kept_bytes = sum(size_of(*entry) for entry in entries)
        entries += [records.encode_fired(one) for one in again]  # behind its messages, or they would come once more
        entries += [records.encode_position(one) for one in self._sending.positions_of(targets)]
        owners = {one.origin[0] for one in parked if one.is_handed_over}
        owners |= {one.owner for one in found if isinstance(one, Handed)}
        handed = self._firing.wheel.handed
        entries += [records.encode_handed(Handed(owner, handed[owner])) for owner in sorted(owners)]
        entries += self._sending.arrived()

        def stored(result: Acked | DduomqError) -> None:
            if serial != self._serial:
                return
            self.is_busy = self._sending.is_held = False
            if isinstance(result, DduomqError):
                self._another_time()
                self._fail(result)  # both copies may be there: the later one counts
                return
            moved = {number: (one.due_ms, result.base_offset + at) for at, (number, one) in enumerate(kept.items())}
            self._kept_bytes += kept_bytes
            self._firing.moved(moved)
            behind = result.base_offset + len(kept)
            self._sending.refired(dict(enumerate(again, behind)))
            self._journal.purge(next_offset)
            self._journal.size_bytes -= size

        self._sending.is_held = True
        self._journal.store_together(entries, stored)

    async def quiesce(self) -> None:
        """Wait until no piece is being read."""
        await self._disk.idle()
