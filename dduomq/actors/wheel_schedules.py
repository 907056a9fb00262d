"""Recurring messages of a wheel: adding, pausing, ending, listing.

Part of the wheel's actor, not a task. A schedule is nothing but its next message, which waits like any other; when that
is fired, the one behind it is parked in the same batch. Always true: a schedule has one next message, or is paused and
has one that is due at no time; what is changed takes the old one out in the batch that parks the new one.
"""

from collections.abc import Callable

import attrs

from dduomq.actors.actor import Reply
from dduomq.actors.journal import Journal
from dduomq.actors.partition_messages import Acked
from dduomq.actors.wheel_firing import WheelFiring
from dduomq.actors.wheel_messages import EndSchedule, ListSchedules, PauseSchedule, PutSchedule
from dduomq.actors.wheel_reader import Found, WheelReader
from dduomq.delay import records
from dduomq.delay.records import NEW, Parked
from dduomq.delay.runs import Said
from dduomq.delay.schedule import PAUSED_MS
from dduomq.delay.wheel import Scheduled
from dduomq.errors import DduomqError, ScheduleExists, ScheduleNotFound, TooManyDelayed, WheelNotAvailable
from dduomq.limits import BATCH_BYTES_CEILING, SCHEDULES_PER_WHEEL_MAX
from dduomq.ports import Clock


class WheelSchedules:
    """`fail(error)`: the log can't be written, and all must be read anew."""

    __slots__ = ("_changing", "_clock", "_fail", "_firing", "_journal", "_reader")

    def __init__(
        self,
        clock: Clock,
        journal: Journal[Said],
        reader: WheelReader,
        firing: WheelFiring,
        fail: Callable[[DduomqError], None],
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._reader = reader
        self._firing = firing
        self._fail = fail
        self._changing: set[str] = set()  # names whose change is on its way into the log

    def list(self, message: ListSchedules) -> None:
        assert message.reply is not None
        message.reply.set(tuple(self._firing.wheel.scheduled.values()))

    def put(self, message: PutSchedule) -> None:
        """A new schedule, or another one in place of one of its name."""
        reply = message.reply
        assert reply is not None
        scheduled = self._firing.wheel.scheduled
        self._check_idle(message.name)
        before = scheduled.get(message.name)
        if before is not None and not message.replace:
            raise ScheduleExists(f"there is a schedule {message.name!r}; delete it first, or replace it")
        if before is None and len(scheduled) >= SCHEDULES_PER_WHEEL_MAX:
            raise TooManyDelayed(f"{SCHEDULES_PER_WHEEL_MAX} schedules are here, not more")
        self._exchange(message.name, before, message.message, reply)

    def end(self, message: EndSchedule) -> None:
        assert message.reply is not None
        self._exchange(message.name, self._find(message.name), None, message.reply)

    def pause(self, message: PauseSchedule) -> None:
        """Read its next message, and park it anew for another time."""
        reply, held = message.reply, self._find(message.name)
        assert reply is not None
        if held.schedule.is_paused == message.is_paused:
            reply.set(None)
            return
        entry = self._firing.wheel.find(*held.pair)
        if entry is None or self._reader.is_busy:
            raise WheelNotAvailable(f"the schedule {message.name!r} is just at work; try again")
        self._reader.read_entries(
            [entry], BATCH_BYTES_CEILING, lambda found: self._pause(message, held, found), message.refuse
        )  # fmt: skip

    def _pause(self, message: PauseSchedule, held: Scheduled, found: Found) -> None:
        reply, parked = message.reply, found.get(held.pair[1])
        assert reply is not None
        if parked is None:
            reply.fail(WheelNotAvailable("the schedule can't be read just now; try again"))
            return
        schedule = attrs.evolve(held.schedule, is_paused=message.is_paused)
        due_ms = PAUSED_MS if message.is_paused else schedule.due(self._clock.wall_ms())
        again = attrs.evolve(parked, due_ms=due_ms, number=NEW, offset=-1, schedule=schedule.encode())
        try:
            self._exchange(message.name, held, again, reply)
        except DduomqError as error:
            reply.fail(error)

    def _check_idle(self, name: str) -> None:
        if name in self._changing:
            raise WheelNotAvailable(f"the schedule {name!r} is just being changed; try again")

    def _find(self, name: str) -> Scheduled:
        self._check_idle(name)
        held = self._firing.wheel.scheduled.get(name)
        if held is None:
            raise ScheduleNotFound(f"there is no schedule {name!r}")
        return held

    def _exchange(self, name: str, before: Scheduled | None, after: Parked | None, reply: Reply[None]) -> None:
        """Take the next message out, and put another one in its place, in one batch."""
        entries = [] if after is None else [records.encode_parked(after)]
        if before is not None:
            if not self._firing.wheel.cancel([before.pair]):
                raise WheelNotAvailable(f"the schedule {name!r} is just at work; try again")
            entries.append(records.encode_cancelled([before.pair]))
            self._firing.wheel.unschedule(name)

        self._changing.add(name)

        def stored(result: Acked | DduomqError) -> None:
            self._changing.discard(name)
            if isinstance(result, DduomqError):
                self._fail(result)
                reply.fail(result)
                return
            if after is not None:
                self._firing.wheel.parked([after], result.base_offset, self._clock.wall_ms())
            reply.set(None)

        self._journal.store_together(entries, stored)
