"""One partition of `__delay`: the only task that knows its messages, and when they are due.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| Park | listeners | ParkedMessages | nothing | messages are stored, then answered, then wait for their time |
| Unpark | listeners | nothing | nothing | the batch they came in was refused: they are taken out |
| FindDelayed | listeners | Waiting | nothing | a message that waits, or that it does not |
| Confirm | listeners | nothing | nothing | the batch they came in is stored: they are not taken back any more |
| CancelDelayed | listeners | None | nothing | a message never comes |
| Reschedule | listeners | Pair | nothing | a message comes at another time, under another id |
| ListDelayed | listeners | WaitingMessages | nothing | a picture of what waits |
| PutSchedule | listeners | None | nothing | a recurring message begins, or takes the place of another |
| EndSchedule | listeners | None | nothing | a recurring message comes no more |
| PauseSchedule | listeners | None | nothing | it rests, or goes on |
| ListSchedules | listeners | tuple of Scheduled | nothing | a picture of those there are |
| Resign | delays | nothing | nothing | another node has this wheel now; whoever waits is told |
| Alarm | alarms | nothing | nothing | something is due |
| Begun | partition | nothing | nothing | where the log begins is known |
| Fetched | partition | nothing | nothing | a piece of the log is to be read at the start |
| Loaded | disk | nothing | nothing | a piece of the log has been read |
| Stored | partition | nothing | nothing | a batch of records is in the log, or could not be |
| PieceFound | partition | nothing | nothing | where messages lie that are due is known |
| PieceRead | disk | nothing | nothing | they have been read |
| HeadFound | partition | nothing | nothing | where the log's first piece lies, which is to be cleaned away |
| HeadRead | disk | nothing | nothing | what is in it |
| Sent | partition | nothing | nothing | a target has a batch, or has refused it |

Always true: a message that was acknowledged is in the log; whoever replays the log has the same state; none comes
before its time by the node's clock. What waits takes 32 bytes of memory, wherever its time lies.
"""

from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import ClassVar

from dduomq.actors.actor import Actor, Mailbox, Message, Reply, Resign
from dduomq.actors.alarms import Alarm
from dduomq.actors.journal import NEVER, Begun, Fetched, Journal, JournalWorld, Loaded, Stored
from dduomq.actors.partition_messages import Acked
from dduomq.actors.record_reader import PieceFound, PieceRead
from dduomq.actors.wheel_cleaning import WheelCleaning
from dduomq.actors.wheel_firing import WheelFiring
from dduomq.actors.wheel_messages import (
    CancelDelayed,
    Confirm,
    EndSchedule,
    FindDelayed,
    HeadFound,
    HeadRead,
    ListDelayed,
    ListSchedules,
    Park,
    ParkedMessages,
    PauseSchedule,
    PutSchedule,
    Reschedule,
    Sent,
    Unpark,
    Waiting,
    WaitingMessages,
)
from dduomq.actors.wheel_reader import Found, WheelReader
from dduomq.actors.wheel_schedules import WheelSchedules
from dduomq.actors.wheel_sending import WheelSending, WheelWorld
from dduomq.delay import records, runs
from dduomq.delay.handover import Origin
from dduomq.delay.records import NEW, NO_ORIGIN, Pair, Parked, Target
from dduomq.delay.replay import Replay
from dduomq.delay.runs import Said
from dduomq.errors import (
    DduomqError,
    DelayedNotFound,
    DiskFull,
    MessageTooLarge,
    Overloaded,
    WheelNotAvailable,
)
from dduomq.limits import BATCH_BYTES_CEILING, DELAY_LIST_MAX, MIB
from dduomq.wire.delay import delay_id

SURELY_NOT_STORED = (DiskFull, MessageTooLarge, Overloaded)
EARLY_MAX = 1_000
EARLY_BYTES_MAX = 16 * MIB
LOOK_S = 1.0  # the wall clock may be set: how far it is to the next time is looked at again so often


class WheelActor(Actor):
    """`number` is the partition's."""

    __slots__ = (
        "_alarm_at", "_cleaning", "_early", "_failure", "_firing", "_journal", "_number", "_parking", "_reader",
        "_replay", "_rescheduling", "_schedules", "_sending", "_world",
    )  # fmt: skip
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        Park: "_on_park",
        Unpark: "_on_unpark",
        FindDelayed: "_on_find",
        Confirm: "_on_confirm",
        CancelDelayed: "_on_cancel",
        Reschedule: "_on_reschedule",
        ListDelayed: "_on_list",
        PutSchedule: "_on_put_schedule",
        EndSchedule: "_on_end_schedule",
        PauseSchedule: "_on_pause_schedule",
        ListSchedules: "_on_list_schedules",
        Resign: "_on_resign",
        Alarm: "_on_alarm",
        Begun: "_on_begun",
        Fetched: "_on_fetched",
        Loaded: "_on_loaded",
        Stored: "_on_stored",
        PieceFound: "_on_piece_found",
        PieceRead: "_on_piece_read",
        HeadFound: "_on_head_found",
        HeadRead: "_on_head_read",
        Sent: "_on_sent",
    }

    def __init__(self, mailbox: Mailbox, number: int, partition: Mailbox, world: WheelWorld) -> None:
        super().__init__(mailbox)
        self._number = number
        self._world = world
        journal = JournalWorld(partition, world.disk, world.clock, world.log, WheelNotAvailable)
        self._journal: Journal[Said] = Journal(mailbox, journal, runs.read, lambda said: self._replay.apply(said))
        self._reader = WheelReader(mailbox, partition, world.disk, self._damaged)
        self._sending = WheelSending(mailbox, number, world, self._journal, self._reader, self._fail)
        self._firing = WheelFiring(world, self._journal, self._reader, self._sending, self._fail)
        self._schedules = WheelSchedules(world.clock, self._journal, self._reader, self._firing, self._fail)
        self._cleaning = WheelCleaning(
            mailbox, partition, world.disk, world.clock, self._journal, self._firing, self._sending, self._fail
        )
        self._replay = Replay(world.clock.wall_ms())
        self._early: list[Park | Unpark] = []  # they came before the log was read
        self._parking: dict[tuple[object, Origin], list[Reply[ParkedMessages]]] = {}  # on their way into the log
        self._rescheduling = 0  # messages that are taken out, and on their way into the log again
        self._failure: DduomqError | None = None
        self._alarm_at = NEVER

    # --- the start ----------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._journal.begin()
        self._set_alarm()

    def _on_begun(self, message: Begun) -> None:
        self._journal.begun(message)

    def _on_fetched(self, message: Fetched) -> None:
        self._journal.fetched(message)
        if self._journal.is_loaded:
            wheel = self._replay.finish()
            for pair in self._replay.lost:
                self._world.log.error("delayed_message_lost", wheel=self.mailbox.name, due_ms=pair[0], number=pair[1])
            self._replay = Replay(self._world.clock.wall_ms())
            self._firing.begin(wheel)
            early, self._early = self._early, []
            for waiting in early:
                self._come_early(waiting)
            self._world.log.info("wheel_loaded", wheel=self.mailbox.name, messages=wheel.count)

    def _come_early(self, message: Park | Unpark) -> None:
        if isinstance(message, Unpark):
            self._on_unpark(message)
            return
        try:
            self._on_park(message)
        except DduomqError as error:
            message.refuse(error)

    def _refuse_late(self) -> None:
        """The log can't be read: whoever has waited long enough is told."""
        now = self._world.clock.monotonic()
        for park in [one for one in self._early if isinstance(one, Park) and one.deadline <= now]:
            self._early.remove(park)
            park.refuse(WheelNotAvailable(f"{self.mailbox.name} can't read its log; try again"))

    def _on_loaded(self, message: Loaded) -> None:
        self._journal.loaded(message)

    def _on_stored(self, message: Stored) -> None:
        self._journal.stored(message)

    def _on_piece_found(self, message: PieceFound) -> None:
        self._reader.found(message)

    def _on_piece_read(self, message: PieceRead) -> None:
        self._reader.read_done(message)

    def _on_head_found(self, message: HeadFound) -> None:
        self._cleaning.found(message)

    def _on_head_read(self, message: HeadRead) -> None:
        self._cleaning.read_done(message)

    def _damaged(self, offset: int, error: DduomqError) -> None:
        self._sending.damaged.add(offset)
        self._world.log.error("delayed_message_damaged", wheel=self.mailbox.name, offset=offset, reason=error.message)

    def _fail(self, error: DduomqError) -> None:
        self._failure = error

    def _check_loaded(self) -> None:
        if not self._journal.is_loaded:
            raise WheelNotAvailable(f"{self.mailbox.name} is reading its log; try again")

    # --- parking ------------------------------------------------------------------------------------

    def _on_park(self, message: Park) -> None:
        if not self._journal.is_loaded and len(self._early) < EARLY_MAX:
            waiting = sum(one.size_bytes for one in self._early)
            if waiting + message.size_bytes <= EARLY_BYTES_MAX:
                self._early.append(message)
                return
        self._check_loaded()
        reply, messages = message.reply, message.messages
        assert reply is not None
        wheel = self._firing.wheel
        first = messages[0]
        whose = None if first.is_handed_over else reply if first.origin == NO_ORIGIN else first.target
        replies, batch = [reply], (whose, messages[-1].origin)
        known = wheel.known(messages)
        if known is not None:
            self._journal.store_together([], lambda _: reply.set(ParkedMessages(tuple(known), is_new=False)))
            return
        if batch in self._parking:  # the same once more, before the first is in the log
            self._parking[batch].append(reply)
            return
        if first.is_handed_over:
            messages = self._new_of(messages)
        wheel.check_room(len(messages))
        self._parking[batch] = replies

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                del self._parking[batch]
                if not isinstance(result.__cause__, SURELY_NOT_STORED):
                    self._fail(result)  # the log may have it: then so must we, or it would be parked twice
                for waiting in replies:
                    waiting.fail(result)
                return
            pairs = self._parked(messages, result)
            del self._parking[batch]
            reply.set(ParkedMessages(pairs, is_new=True))
            if first.origin != NO_ORIGIN and not first.is_handed_over:
                self._firing.wheel.recent.opened(first.target, first.origin)
            for again in replies[1:]:
                again.set(ParkedMessages(() if first.is_handed_over else pairs, is_new=False))

        self._journal.store_together([records.encode_parked(one) for one in messages], stored)

    def _new_of(self, messages: tuple[Parked, ...]) -> tuple[Parked, ...]:
        """What an owner has not handed over before; it must be known what becomes of what it has."""
        owner = messages[0].origin[0]
        if any(whose is None and origin[0] == owner for whose, origin in self._parking):
            raise WheelNotAvailable("what was handed over before is on its way into the log; try again")
        return self._firing.wheel.not_handed(messages)

    def _parked(self, messages: tuple[Parked, ...], acked: Acked) -> tuple[Pair, ...]:
        return tuple(self._firing.wheel.parked(messages, acked.base_offset, self._world.clock.wall_ms()))

    def _on_unpark(self, message: Unpark) -> None:
        """What has been stored once is not taken back: the refusal is of a batch that came again, and late."""
        if not self._journal.is_loaded:
            self._early.append(message)
            return
        recent = self._firing.wheel.recent
        if message.origin == NO_ORIGIN or not recent.is_confirmed(message.target, message.origin):
            recent.forget(message.target, message.origin)
            self._cancel(message.pairs, message.target, message.origin)

    def _on_confirm(self, message: Confirm) -> None:
        self._firing.wheel.recent.confirm(message.target, message.origin)

    def _cancel(self, pairs: Iterable[Pair], target: Target | None = None, origin: Origin = NO_ORIGIN) -> bool:
        found = self._firing.wheel.cancel(pairs)
        if found or target is not None:
            gone = [(entry.due_ms, entry.number) for entry in found]
            self._journal.store_together([records.encode_cancelled(gone, target, origin)], self._noted)
        return bool(found)

    def _noted(self, result: Acked | DduomqError) -> None:
        if isinstance(result, DduomqError):
            self._fail(result)

    def _gone(self, pair: Pair) -> str:
        name = delay_id(self._number, *pair)
        if self._firing.is_on_its_way(pair[1]):
            return f"the message with the id {name} is on its way: it is due in a moment, or has been"
        return f"no message with the id {name} waits: it has been delivered or cancelled, or never was"

    # --- what an operator may do --------------------------------------------------------------------

    def _on_find(self, message: FindDelayed) -> None:
        self._check_loaded()
        assert message.reply is not None
        entry = self._firing.wheel.find(*message.pair)
        if entry is None:
            raise DelayedNotFound(self._gone(message.pair))
        name = self._firing.wheel.schedule_of(entry.number)
        if name is not None:
            raise DelayedNotFound(f"it belongs to the schedule {name!r}: pause or delete that")
        message.reply.set(Waiting(message.pair, self._firing.wheel.target(entry)))

    def _on_cancel(self, message: CancelDelayed) -> None:
        self._check_loaded()
        reply = message.reply
        assert reply is not None
        if not self._cancel([message.pair]):
            raise DelayedNotFound(self._gone(message.pair))

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                reply.fail(result)
            else:
                reply.set(None)

        self._journal.store_together([], stored)

    def _on_reschedule(self, message: Reschedule) -> None:
        """Read it, then take it out and park it again in one batch: it is never in two places, nor in none."""
        self._check_loaded()
        entry = self._firing.wheel.find(*message.pair)
        if entry is None:
            raise DelayedNotFound(self._gone(message.pair))
        if self._reader.is_busy:
            raise WheelNotAvailable(f"{self.mailbox.name} is reading what is due; try again")
        self._reader.read_entries(
            [entry], BATCH_BYTES_CEILING, lambda found: self._reschedule(message, found), message.refuse
        )

    def _reschedule(self, message: Reschedule, found: Found) -> None:
        reply = message.reply
        assert reply is not None
        held = found.get(message.pair[1])
        if held is None:
            reply.fail(WheelNotAvailable("the message can't be read just now; try again"))
            return
        gone = self._firing.wheel.cancel([message.pair])
        if not gone:
            reply.fail(DelayedNotFound(self._gone(message.pair)))
            return
        moved = Parked(
            message.due_ms, NEW, -1, held.target, held.origin if held.is_handed_over else NO_ORIGIN, held.key,
            held.value, held.headers,
        )  # fmt: skip

        self._rescheduling += 1

        def stored(result: Acked | DduomqError) -> None:
            self._rescheduling -= 1
            if isinstance(result, DduomqError):
                self._fail(result)
                reply.fail(result)
            else:
                reply.set(self._parked((moved,), result)[0])

        self._journal.store_together([records.encode_parked(moved), records.encode_cancelled([message.pair])], stored)

    def _on_list(self, message: ListDelayed) -> None:
        self._check_loaded()
        reply, wheel = message.reply, self._firing.wheel
        assert reply is not None
        limit = max(0, min(message.limit, DELAY_LIST_MAX))
        found = islice(wheel.entries(message.after, message.topic), limit)
        messages = tuple(Waiting((entry.due_ms, entry.number), wheel.target(entry)) for entry in found)
        count = self._firing.count + self._rescheduling
        reply.set(WaitingMessages(messages, count - len(wheel.scheduled)))

    # --- recurring ----------------------------------------------------------------------------------

    def _on_put_schedule(self, message: PutSchedule) -> None:
        self._check_loaded()
        self._schedules.put(message)

    def _on_end_schedule(self, message: EndSchedule) -> None:
        self._check_loaded()
        self._schedules.end(message)

    def _on_pause_schedule(self, message: PauseSchedule) -> None:
        self._check_loaded()
        self._schedules.pause(message)

    def _on_list_schedules(self, message: ListSchedules) -> None:
        self._check_loaded()
        self._schedules.list(message)

    # --- time ---------------------------------------------------------------------------------------

    def _on_alarm(self, _message: Alarm) -> None:
        now = self._world.clock.monotonic()
        if now >= self._alarm_at:
            self._alarm_at = NEVER
        if now >= self._journal.retry_at:
            self._journal.begin()
        if not self._journal.is_loaded:
            self._refuse_late()

    def _on_sent(self, message: Sent) -> None:
        if self._journal.is_loaded:  # else it is sent again, once that is so
            self._sending.sent(message)

    def _set_alarm(self) -> None:
        at = self._journal.retry_at
        if self._journal.is_loaded:
            due = min(self._firing.next_at(), self._sending.next_at(), self._cleaning.next_at())
            if due != NEVER:
                at = min(at, due, self._world.clock.monotonic() + LOOK_S)
        if at < self._alarm_at:
            self._alarm_at = at
            self._world.wake(self.mailbox, at)

    def after_drain(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._reader.reset(failure)
            self._cleaning.reset()
            self._journal.restart(failure)
            self._failure = None  # whoever waited for a record has been told now, and complains again
            self._replay = Replay(self._world.clock.wall_ms())
        if self._journal.is_loaded:
            self._sending.go()
            self._firing.go()
            self._cleaning.go()
        self._journal.flush()
        self._set_alarm()

    # --- the end ------------------------------------------------------------------------------------

    def _on_resign(self, message: Resign) -> None:
        self.resign(message)

    def on_crash(self, error: BaseException) -> None:
        ended = WheelNotAvailable(f"{self.mailbox.name} starts again")
        self._journal.close(ended)
        self._reader.reset(ended)
        for message in self._early:
            message.refuse(ended)
        for reply in chain.from_iterable(self._parking.values()):
            reply.fail(ended)

    async def quiesce(self) -> None:
        await self._journal.quiesce()
        await self._reader.quiesce()
        await self._cleaning.quiesce()
