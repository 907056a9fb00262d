"""Delivers what is due: read it, write down which batch it goes out in, send that batch, write down that it arrived.

Part of the wheel's actor, not a task. Always true: a batch is sent only after its `fired` record is in the log, and is
sent again, the same, until its target has it or has surely refused it; a message that can't go where it should goes to
the topic of dead letters, with the reason.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import attrs
import structlog

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.journal import NEVER, Journal
from dduomq.actors.partition_messages import Acked, Append
from dduomq.actors.routes import Routes
from dduomq.actors.wheel_messages import Sent
from dduomq.actors.wheel_reader import Found, WheelReader
from dduomq.actors.wheel_round import Round, Sending, is_same
from dduomq.delay import records
from dduomq.delay.letters import buried, headers_of
from dduomq.delay.near import Near
from dduomq.delay.records import NEW, Fired, Pair, Parked, Target
from dduomq.delay.runs import Said
from dduomq.delay.schedule import PAUSED_MS, decode
from dduomq.delay.timeline import Entry
from dduomq.delay.wheel import Wheel, entry_moved
from dduomq.errors import (
    CapacityReached,
    DduomqError,
    InvalidProducerEpoch,
    InvalidSchedule,
    InvariantBroken,
    OutOfOrderSequence,
    Overloaded,
)
from dduomq.ids import DEAD, DELAYED_GROUP
from dduomq.limits import BATCH_BYTES_CEILING, DELAY_CACHE_BYTES_MAX, DELAY_ROUND_MESSAGES_MAX
from dduomq.log.plog import PendingBatch
from dduomq.ports import Clock
from dduomq.wire.batch import HEADER_BYTES, OWN_PRODUCER_IDS, read_header, set_producer
from dduomq.wire.records import BatchBuilder, size_of

GONE = Target("", "", 0)  # where messages go whose topic is no more
ADDED_BYTES = 100  # what a message has more when it is delivered
BATCH_BYTES = 1024 * 1024
ROUND_BYTES = 8 * 1024 * 1024
SOON_MS = 10_000  # what is parked for so soon is kept in memory
SEND_TIMEOUT_S = 30
AGAIN_S, AGAIN_S_MAX = 0.2, 5.0
NOTE_DELIVERED_S = 1.0


@attrs.frozen
class WheelWorld:
    """What all wheels of a node share."""

    clock: Clock
    disk: Mailbox
    routes: Routes
    log: structlog.stdlib.BoundLogger
    wake: Callable[[Mailbox, float], None]
    topics: GroupTopics


Taken: TypeAlias = tuple[Entry, Parked]


class WheelFiring:
    """`number` is the wheel's among all; `fail(error)`: the log can't be written, and all must be read anew."""

    __slots__ = (
        "_ahead_at", "_delivered", "_fail", "_is_busy", "_journal", "_later", "_mailbox", "_note_at", "_number",
        "_reader", "_retry_at", "_sending", "_taken", "_world", "damaged", "is_held", "near", "wheel",
    )  # fmt: skip

    def __init__(
        self,
        mailbox: Mailbox,
        number: int,
        world: WheelWorld,
        journal: Journal[Said],
        reader: WheelReader,
        fail: Callable[[DduomqError], None],
    ) -> None:
        self._mailbox = mailbox
        self._number = number
        self._world = world
        self._journal = journal
        self._reader = reader
        self._fail = fail
        self.begin(Wheel(world.clock.wall_ms()))

    def begin(self, wheel: Wheel) -> None:
        """A wheel that has just been read: its open batches are sent again."""
        self.wheel = wheel
        self.near = Near()
        self._delivered: list[int] = []  # offsets of `fired` records, not yet noted
        self._note_at = NEVER
        self._taken = 0  # messages that are being read: in no batch yet, and not in the timeline any more
        self._is_busy = False  # from taking what is due until its `fired` records are stored
        self._later: list[Entry] = []  # due, but there is nowhere to put them yet
        self._retry_at = NEVER
        self._ahead_at = 0.0  # when what is due soon is read next
        self.is_held = False  # messages are being moved in the log
        self.damaged: set[int] = set()  # offsets of messages that can't be read any more
        self._sending = {to: Sending(one.fired, None, again_at=0.0) for to, one in wheel.open.items()}

    # --- what is near -------------------------------------------------------------------------------

    def parked(self, messages: Sequence[Parked], first_offset: int) -> list[Pair]:
        """These have just been stored; their ids. What is due soon needs not be read again."""
        soon = self._world.clock.wall_ms() + SOON_MS
        placed = enumerate(messages, first_offset)
        self.near.keep(message.at(offset) for offset, message in placed if message.due_ms <= soon)
        return self.wheel.parked(messages, first_offset)

    # --- cleaning -----------------------------------------------------------------------------------

    @property
    def is_taking(self) -> bool:
        """Whether messages are between the timeline and their batch."""
        return self._is_busy

    def alive(self, pairs: Sequence[records.Pair]) -> set[int]:
        """Which of these messages still count, by number."""
        later = {entry.number for entry in self._later}
        return self.wheel.alive(pairs) | {number for _, number in pairs if number in later}

    def moved(self, moved: Mapping[int, tuple[int, int]]) -> None:
        """They lie elsewhere in the log now."""
        self.wheel.move(moved)
        self._later = [entry_moved(entry, moved) for entry in self._later]

    def positions_of(self, targets: Iterable[Target]) -> list[records.Position]:
        """Where we are as a producer of these; topics that are gone are forgotten."""
        found = []
        for target in sorted(targets):
            route = self._world.routes.table.get(target.topic)
            if route is not None and route.record.topic_id == target.topic_id and target in self.wheel.sequences:
                found.append(records.Position(target, *self.wheel.sequences[target]))
            elif target not in self._sending:
                self.wheel.sequences.pop(target, None)
        return found

    def arrived(self) -> list[records.Encoded]:
        """What is to be in the log before anything may leave it: which batches have arrived."""
        return [self._noted()] if self._delivered else []

    def touching(self, offsets: Container[int], numbers: Container[int]) -> list[Fired]:
        """The batches on their way whose record, or one of whose messages, is among these."""
        return [
            one.fired
            for one in self.wheel.open.values()
            if one.fired.offset in offsets or any(entry.number in numbers for entry in one.entries)
        ]

    def refired(self, moved: Mapping[Target, tuple[Fired, int]]) -> None:
        """These batches' records lie elsewhere in the log now; those that have arrived meanwhile do so there, too."""
        for to, (fired, offset) in moved.items():
            one = self._sending.get(to)
            if one is not None and is_same(one.fired, fired):
                one.fired = self.wheel.fired_at(one.fired, offset)
            else:
                self._note_soon(offset)

    # --- a round ------------------------------------------------------------------------------------

    def go(self) -> None:
        """Do whatever its time has come for."""
        now = self._world.clock.monotonic()
        self._send_again(now)
        if self._retry_at <= now:
            self._retry_at = NEVER
            later, self._later = self._later, []
            self.wheel.give_back(later)
        if self._delivered and (self._note_at <= now):
            self._note()
        if not (self._is_busy or self.is_held or self._reader.is_busy):
            self._take()

    def next_at(self) -> float:
        """When there is something to do, on the monotonic clock."""
        sending = (one for one in self._sending.values() if one.messages is not None or not self._reader.is_busy)
        at = min(self._retry_at, self._note_at, *(one.again_at for one in sending), NEVER)
        due_ms = self.wheel.timeline.next_ms()
        if due_ms is not None and not (self._is_busy or self.is_held or self._reader.is_busy):
            left_ms = due_ms - self._world.clock.wall_ms()
            at = min(at, self._world.clock.monotonic() + max(0, left_ms) / 1000)
        return at

    @property
    def count(self) -> int:
        """How many messages wait or are on their way, those that are being read or put off among them."""
        return self.wheel.count + self._taken + len(self._later)

    def _take(self) -> None:
        now_ms = self._world.clock.wall_ms()
        due = self.wheel.take_due(now_ms, DELAY_ROUND_MESSAGES_MAX, self._way)
        if not due:
            self._read_ahead(now_ms)
            return
        self._is_busy = True
        missing = [entry for entries in due.values() for entry in entries if entry.number not in self.near]
        if missing:
            self._taken = sum(map(len, due.values()))
            self._reader.read_entries(missing, ROUND_BYTES, partial(self._fire, due))
        else:
            self._fire(due, {})

    def _read_ahead(self, now_ms: int) -> None:
        """Read what is due soon, so that it is at hand then."""
        now = self._world.clock.monotonic()
        if now < self._ahead_at or self.near.room_bytes < DELAY_CACHE_BYTES_MAX // 2:
            return
        self._ahead_at = now + AGAIN_S
        soon = [entry for entry in self.wheel.timeline.soon(now_ms + SOON_MS) if entry.number not in self.near]
        if soon:
            soon.sort()
            self._reader.read_entries(
                soon[:DELAY_ROUND_MESSAGES_MAX], self.near.room_bytes, lambda found: self.near.keep(found.values())
            )

    def _way(self, target: Target) -> Target:
        """Where a message for that partition goes: there, if there is such a topic still."""
        route = self._world.routes.table.get(target.topic)
        is_there = route is not None and route.record.topic_id == target.topic_id
        return target if is_there or self._world.routes.is_closed else GONE

    def _dead(self, target: Target) -> Target | None:
        """Where the dead letters of that partition rest; None until there is such a topic."""
        route = self._world.topics.wanted(DEAD, DELAYED_GROUP)
        if route is None:
            return None
        return Target(route.record.name, route.record.topic_id, target.partition % len(route.partitions))

    def _fire(self, due: dict[Target, list[Entry]], found: Found) -> None:
        """A batch for each target, as large as it may be; what does not fit waits for the next round."""
        self._taken = 0
        round_ = Round()
        has_more = bool(found)
        for to, entries in due.items():
            here = [(entry, self.near.get(entry.number) or found.get(entry.number)) for entry in entries]
            known = [(entry, message) for entry, message in here if message is not None]
            absent = [entry for entry, message in here if message is None and entry.offset not in self.damaged]
            self._wait(absent, soon=has_more or bool(known))
            taken = self._fitting(to, known)
            self.wheel.give_back(entry for entry, _ in known[len(taken) :])
            self.near.keep(message for _, message in known[len(taken) :])
            if to == GONE:
                self._bury(taken, round_)
            elif taken := self._recurred(taken, round_):
                fired = self.wheel.fire(to, [entry for entry, _ in taken])
                round_.begun.append(Sending(fired, tuple(message for _, message in taken)))
        self._store(round_)

    def _wait(self, entries: Sequence[Entry], *, soon: bool) -> None:
        """They could not be read in this round: in the next one, or after a moment if nothing could be read."""
        if soon:
            self.wheel.give_back(entries)
        elif entries:
            self._later += entries
            self._retry_at = min(self._retry_at, self._world.clock.monotonic() + AGAIN_S)

    def _recurred(self, taken: list[Taken], round_: Round) -> list[Taken]:
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

    def _bury(self, taken: list[Taken], round_: Round) -> None:
        """Their topic is gone: they become messages for the topic of dead letters, which are due at once."""
        to = self._dead(taken[0][1].target) if taken else None
        if to is None:
            self._later += [entry for entry, _ in taken]
            self._retry_at = min(self._retry_at, self._world.clock.monotonic() + AGAIN_S)
            return
        reason = "the topic that it was for has been deleted"
        round_.following += [buried(message, to, reason) for _, message in self._recurred(taken, round_)]
        round_.gone += [message.pair for _, message in taken]

    def _fitting(self, to: Target, known: list[Taken]) -> list[Taken]:
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
        """Write down what goes out, what comes next of it, and what has arrived meanwhile; then send."""
        begun, following = round_.begun, round_.following
        entries = [records.encode_fired(one.fired) for one in begun]
        entries += [records.encode_parked(message) for message in following]
        if round_.gone:
            entries.append(records.encode_cancelled(round_.gone))
        entries += self.arrived()

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)
                return
            self._is_busy = False
            for offset, one in enumerate(begun, result.base_offset):
                one.fired = self.wheel.fired_at(one.fired, offset)
                self._sending[one.fired.target] = one
                self._send(one)
            self.near.drop(number for _, number in round_.gone)
            self.parked(following, result.base_offset + len(begun))

        self._journal.store_together(entries, stored)

    def _noted(self) -> records.Encoded:
        delivered, self._delivered, self._note_at = self._delivered, [], NEVER
        return records.encode_delivered(delivered)

    def _note(self) -> None:
        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)

        self._journal.store_together([self._noted()], stored)

    # --- sending ------------------------------------------------------------------------------------

    def _send_again(self, now: float) -> None:
        for one in list(self._sending.values()):
            if one.again_at > now:
                continue
            if one.messages is not None:
                self._send(one)
            elif not self._reader.is_busy:
                one.again_at = NEVER
                entries = self.wheel.open[one.fired.target].entries
                self._reader.read_entries(entries, 2 * BATCH_BYTES, partial(self._read_again, one))

    def _read_again(self, one: Sending, found: Found) -> None:
        """A batch that was open when the wheel was read: the same messages in the same order."""
        messages = [found.get(number) for _, number in one.fired.pairs]
        entries = self.wheel.open[one.fired.target].entries
        if any(entry.offset in self.damaged for entry in entries):  # what is left of it goes out anew
            self.wheel.given_up(one.fired)
            del self._sending[one.fired.target]
            self.wheel.give_back(entry for entry in entries if entry.offset not in self.damaged)
            return
        if None in messages:
            one.again_at = self._world.clock.monotonic() + AGAIN_S
            return
        one.messages = tuple(message for message in messages if message is not None)
        self._send(one)

    def _send(self, one: Sending) -> None:
        fired = one.fired
        one.again_at = NEVER
        assert one.messages is not None
        if self._world.routes.is_closed:
            self._again(one)
            return
        if self._way(fired.target) == GONE:
            self._give_up(one, "the topic that it was for has been deleted")
            return
        reply: Reply[Acked] = Reply(
            lambda acked, error: self._mailbox.post(Sent(fired=fired, acked=acked, error=error))
        )
        data = self._batch(fired, one.messages)
        append = Append(
            batch=PendingBatch(memoryview(data), read_header(data)), size_bytes=len(data), reply=reply,
            deadline=self._world.clock.monotonic() + SEND_TIMEOUT_S,
        )  # fmt: skip
        mailbox = self._world.routes.table[fired.target.topic].partitions[fired.target.partition]
        if not mailbox.offer(append):
            append.refuse(Overloaded(f"{mailbox.name} has too much to do"))

    def _batch(self, fired: Fired, messages: Sequence[Parked]) -> bytearray:
        builder, now_ms = BatchBuilder(bytes_max=2 * BATCH_BYTES_CEILING), self._world.clock.wall_ms()
        for message in messages:
            if not builder.append(now_ms, message.key, message.value, headers_of(message)):
                raise InvariantBroken("messages that were to go out together don't fit into one batch")
        data = builder.build()
        set_producer(data, OWN_PRODUCER_IDS + self._number, fired.epoch, fired.sequence)
        return data

    def sent(self, message: Sent) -> None:
        """A target has answered."""
        fired, error = message.fired, message.error
        one = self._sending.get(fired.target)
        if one is None or not is_same(one.fired, fired):
            return  # from before the log was read anew
        if message.acked is not None:
            self._arrived(one)
        elif isinstance(error, OutOfOrderSequence | InvalidProducerEpoch):
            self._begin_anew(one)
        elif isinstance(error, DduomqError) and (error.retriable or isinstance(error, CapacityReached)):
            self._again(one)
        elif isinstance(error, DduomqError):
            self._give_up(one, error.message)
        else:
            raise error or AssertionError("a batch without an answer")

    def _arrived(self, one: Sending) -> None:
        fired = one.fired
        self.wheel.delivered(fired)
        del self._sending[fired.target]
        self.near.drop(number for _, number in fired.pairs)
        self._note_soon(fired.offset)

    def _note_soon(self, offset: int) -> None:
        self._delivered.append(offset)
        if self._note_at == NEVER:
            self._note_at = self._world.clock.monotonic() + NOTE_DELIVERED_S

    def _again(self, one: Sending) -> None:
        one.tries += 1
        pause = min(AGAIN_S * 2 ** min(one.tries - 1, 10), AGAIN_S_MAX)
        one.again_at = self._world.clock.monotonic() + pause

    def _give_up(self, one: Sending, reason: str) -> None:
        """It can't be stored where it should: its messages become dead letters."""
        fired, to = one.fired, self._dead(one.fired.target)
        if to is None or to == fired.target:
            self._again(one)  # there is no better place, or not yet
            return
        self._world.log.warning(
            "delayed_messages_dead", wheel=self._mailbox.name, topic=fired.target.topic, reason=reason
        )
        assert one.messages is not None
        dead = [buried(message, to, reason) for message in one.messages]
        self.wheel.given_up(fired)
        del self._sending[fired.target]
        self.near.drop(number for _, number in fired.pairs)

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)
            else:
                self.parked(dead, result.base_offset)

        entries = [records.encode_parked(message) for message in dead]
        self._journal.store_together([*entries, records.encode_delivered([fired.offset])], stored)

    def _begin_anew(self, one: Sending) -> None:
        """The target has another idea of our sequence, so it has lost some: the same batch, in a new epoch of ours."""
        old, again = one.fired, self.wheel.begin_anew(one.fired)
        self._world.log.warning("delayed_batch_anew", wheel=self._mailbox.name, topic=old.target.topic)
        one.fired = again

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)
                return
            one.fired = self.wheel.fired_at(one.fired, result.base_offset)
            self._again(one)

        self._journal.store_together([records.encode_fired(again), records.encode_delivered([old.offset])], stored)
