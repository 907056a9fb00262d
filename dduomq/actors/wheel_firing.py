"""Takes up what is due: reads it, and writes down which batch it goes out in.

Part of the wheel's actor, not a task. A little before its time a message is put into a batch (`delay.lead`), so that
this can be sent at the very moment. Always true: a message is in one batch at most, and that is in the log before it is
sent; of one that recurs, the next one is parked by the same record.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import attrs

from dduomq.actors.journal import NEVER, Journal
from dduomq.actors.partition_messages import Acked
from dduomq.actors.wheel_reader import Found, WheelReader
from dduomq.actors.wheel_sending import AGAIN_S, BATCH_BYTES, GONE, WheelSending, WheelWorld
from dduomq.delay import records
from dduomq.delay.letters import buried
from dduomq.delay.near import SOON_MS
from dduomq.delay.records import NEW, Fired, Pair, Parked, Target
from dduomq.delay.runs import Said
from dduomq.delay.schedule import PAUSED_MS, decode
from dduomq.delay.timeline import Entry
from dduomq.delay.wheel import Wheel, entry_moved
from dduomq.errors import DduomqError, InvalidSchedule
from dduomq.limits import DELAY_CACHE_BYTES_MAX, DELAY_ROUND_MESSAGES_MAX
from dduomq.wire.batch import HEADER_BYTES
from dduomq.wire.records import size_of

ADDED_BYTES = 100  # what a message has more when it is delivered
ROUND_BYTES = 8 * 1024 * 1024
GRAIN_MS = 1  # messages due so close to one another go out together

Taken: TypeAlias = tuple[Entry, Parked]


@attrs.define
class Round:
    """What one round does: batches that go out, messages that are parked for it, messages that are taken out."""

    begun: list[tuple[Fired, list[Parked]]] = attrs.field(factory=list)
    following: list[Parked] = attrs.field(factory=list)
    gone: list[Pair] = attrs.field(factory=list)


class WheelFiring:
    """`fail(error)`: the log can't be written, and all must be read anew."""

    __slots__ = (
        "_ahead_at", "_due", "_fail", "_following", "_journal", "_later", "_reader", "_retry_at", "_sending", "_world",
        "wheel",
    )  # fmt: skip

    def __init__(
        self,
        world: WheelWorld,
        journal: Journal[Said],
        reader: WheelReader,
        sending: WheelSending,
        fail: Callable[[DduomqError], None],
    ) -> None:
        self._world = world
        self._journal = journal
        self._reader = reader
        self._sending = sending
        self._fail = fail
        self.begin(Wheel(world.clock.wall_ms()))

    def begin(self, wheel: Wheel) -> None:
        """A wheel that has just been read."""
        self.wheel = wheel
        self._sending.begin(wheel)
        self._later: list[Entry] = []  # due, but there is nowhere to put them yet
        self._due: dict[Target, list[Entry]] = {}  # what is being read
        self._following = 0  # messages on their way into the log
        self._retry_at = NEVER
        self._ahead_at = 0.0  # when what is due soon is read next

    @property
    def count(self) -> int:
        """How many messages wait or are on their way, also those that are in no place of the wheel just now."""
        reading = sum(len(entries) for entries in self._due.values())
        return self.wheel.count + len(self._later) + reading + self._following + self._sending.in_hand

    def is_on_its_way(self, number: int) -> bool:
        """Whether the message is taken up already."""
        reading = any(entry.number == number for entries in self._due.values() for entry in entries)
        return reading or self.wheel.is_on_its_way(number)

    # --- cleaning -----------------------------------------------------------------------------------

    def alive(self, pairs: Sequence[Pair]) -> set[int]:
        """Which of these messages still count, by number."""
        later = {entry.number for entry in self._later}
        return self.wheel.alive(pairs) | {number for _, number in pairs if number in later}

    def moved(self, moved: Mapping[int, tuple[int, int]]) -> None:
        """They lie elsewhere in the log now."""
        self.wheel.move(moved)
        self._later = [entry_moved(entry, moved) for entry in self._later]

    # --- a round ------------------------------------------------------------------------------------

    @property
    def _is_free(self) -> bool:
        """Whether a round may begin."""
        sending = self._sending
        return not (sending.is_taking or sending.is_held or sending.is_awaited or self._reader.is_busy)

    def go(self) -> None:
        """Do whatever its time has come for."""
        if self._retry_at <= self._world.clock.monotonic():
            self._retry_at = NEVER
            later, self._later = self._later, []
            self.wheel.give_back(later)
        if self._is_free:
            self._take()

    def next_at(self) -> float:
        """When there is something to do, on the monotonic clock."""
        at_ms = self.wheel.next_ms(self._sending.lead.last_ms)
        if at_ms is None or not self._is_free:
            return self._retry_at
        return min(self._retry_at, self._world.clock.when(at_ms))

    def _take(self) -> None:
        now_ms, lead = self._world.clock.wall_ms(), self._sending.lead
        at_ms = self.wheel.next_ms(lead.last_ms)
        is_time = at_ms is not None and at_ms <= now_ms
        due = self.wheel.take_due(now_ms, lead.ms, DELAY_ROUND_MESSAGES_MAX, self._sending.way) if is_time else {}
        if not due:
            self._read_ahead(now_ms)
            return
        self._sending.is_taking = True
        near = self.wheel.near
        missing = [entry for entries in due.values() for entry in entries if entry.number not in near]
        if missing:
            self._due = due
            self._reader.read_entries(missing, ROUND_BYTES, partial(self._fire, due))
        else:
            self._fire(due, {})

    def _read_ahead(self, now_ms: int) -> None:
        """Read what is due soon, so that it is at hand then."""
        now, near = self._world.clock.monotonic(), self.wheel.near
        if now < self._ahead_at or near.room_bytes < DELAY_CACHE_BYTES_MAX // 2:
            return
        self._ahead_at = now + AGAIN_S
        soon = [entry for entry in self.wheel.timeline.soon(now_ms + SOON_MS) if entry.number not in near]
        if soon:
            soon.sort()
            self._reader.read_entries(
                soon[:DELAY_ROUND_MESSAGES_MAX], near.room_bytes, lambda found: near.keep(found.values())
            )  # fmt: skip

    def _fire(self, due: dict[Target, list[Entry]], found: Found) -> None:
        """What is known of them goes into batches; the rest waits for another round."""
        round_, near, self._due = Round(), self.wheel.near, {}
        has_more = bool(found)
        for to, entries in due.items():
            here = [(entry, near.get(entry.number) or found.get(entry.number)) for entry in entries]
            known = [(entry, message) for entry, message in here if message is not None]
            damaged = self._sending.damaged
            absent = [entry for entry, message in here if message is None and entry.offset not in damaged]
            self._wait(absent, soon=has_more or bool(known))
            if to == GONE:
                left = known[len(self._fitting(to, known)) :]
                self._bury(known[: len(known) - len(left)], round_)
                self.wheel.give_back(entry for entry, _ in left)
            else:
                left = self._batches(to, known, round_)
                self.wheel.hold(to, [entry for entry, _ in left])
            near.keep(message for _, message in left)
        self._following = len(round_.following)
        self._store(round_)

    def _batches(self, to: Target, known: list[Taken], round_: Round) -> list[Taken]:
        """As many batches as may be on their way to that target; what is left of the messages."""
        while known and self.wheel.room(to):
            taken = self._fitting(to, known[: self._together(to, known)])
            known = known[len(taken) :]
            out = self._recurred(taken, round_)
            if out:
                fired = self.wheel.fire(to, [entry for entry, _ in out])
                round_.begun.append((fired, [message for _, message in out]))
        return known

    def _together(self, to: Target, known: Sequence[Taken]) -> int:
        """How many of them go out together: those due by the time that the first of them can be sent."""
        soonest = self._world.clock.wall_ms()
        for one in self.wheel.open.get(to, ()):
            soonest = max(soonest, *(due_ms for due_ms, _ in one.fired.pairs)) + round(self._sending.lead.turn_ms)
        until = max(soonest, known[0][0].due_ms) + GRAIN_MS
        return next((at for at, (entry, _) in enumerate(known) if entry.due_ms > until), len(known))

    def _wait(self, entries: Sequence[Entry], *, soon: bool) -> None:
        """They could not be read in this round: in the next one, or after a moment if nothing could be read."""
        if soon:
            self.wheel.give_back(entries)
        elif entries:
            self._later += entries
            self._retry_at = min(self._retry_at, self._world.clock.monotonic() + AGAIN_S)

    def _recurred(self, taken: list[Taken], round_: "Round") -> list[Taken]:
        """Those that go out now. Of each that recurs, its following one is parked in the same breath."""
        now_ms, out = self._world.clock.wall_ms(), list[Taken]()
        for entry, message in taken:
            if not message.schedule:
                out.append((entry, message))
                continue
            schedule = decode(message.schedule)
            try:
                comes, due_ms = schedule.after(message.due_ms, now_ms)
            except InvalidSchedule as error:  # its time zone has gone from the machine
                self._world.log.error("schedule_paused", schedule=schedule.name, reason=error.message)
                schedule, comes, due_ms = schedule.paused(), True, PAUSED_MS
            following = attrs.evolve(message, due_ms=due_ms, number=NEW, offset=-1, schedule=schedule.encode())
            round_.following.append(following)
            if comes:
                out.append((entry, message))
            else:
                round_.gone.append(message.pair)
        return out

    def _bury(self, taken: list[Taken], round_: "Round") -> None:
        """Their topic is gone: they become messages for the topic of dead letters, which are due at once."""
        to = self._sending.dead(taken[0][1].target) if taken else None
        if to is None:
            self._later += [entry for entry, _ in taken]
            self._retry_at = min(self._retry_at, self._world.clock.monotonic() + AGAIN_S)
            return
        reason = "the topic that it was for has been deleted"
        round_.following += [buried(message, to, reason) for _, message in self._recurred(taken, round_)]
        round_.gone += [message.pair for _, message in taken]

    def _fitting(self, to: Target, known: Sequence[Taken]) -> list[Taken]:
        """The first of them, as many as a batch takes; one at least."""
        route = self._world.routes.table.get(to.topic)
        room = BATCH_BYTES if route is None else min(BATCH_BYTES, route.settings.max_message_bytes)
        room -= HEADER_BYTES
        fitting: list[Taken] = []
        for entry, message in known:
            room -= size_of(message.key, message.value, message.headers) + len(message.schedule) + ADDED_BYTES
            if room < 0 and fitting:
                break
            fitting.append((entry, message))
        return fitting

    def _store(self, round_: Round) -> None:
        """Write down what goes out, what comes next of it, and what has arrived meanwhile; then it may be sent."""
        begun, following, began = round_.begun, round_.following, self._world.clock.monotonic()
        entries = [records.encode_fired(fired) for fired, _ in begun]
        entries += [records.encode_parked(message) for message in following]
        if round_.gone:
            entries.append(records.encode_cancelled(round_.gone))
        entries += self._sending.arrived()

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)
                return
            self._sending.is_taking, self._following = False, 0
            self._sending.lead.stored(self._world.clock.monotonic() - began)
            for offset, (fired, messages) in enumerate(begun, result.base_offset):
                self._sending.add(self.wheel.fired_at(fired, offset), messages)
            self.wheel.near.drop(number for _, number in round_.gone)
            self.wheel.parked(following, result.base_offset + len(begun), self._world.clock.wall_ms())

        self._journal.store_together(entries, stored)
