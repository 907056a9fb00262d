"""Sends a wheel's batches, one after another to each target, until that has them or has surely refused them.

Part of the wheel's actor, not a task. Always true: a batch is sent when its `fired` record is in the log, the batch
before it has arrived, and all its messages are due; it is sent again, the same, until it is known what became of it; a
message that can't go where it should goes to the topic of dead letters, with the reason.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial

import attrs
import structlog

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.journal import NEVER, SERIALS, Journal
from dduomq.actors.partition_messages import Acked, Append
from dduomq.actors.routes import Routes
from dduomq.actors.wheel_messages import Sent
from dduomq.actors.wheel_reader import Found, WheelReader
from dduomq.delay import records
from dduomq.delay.lead import Lead
from dduomq.delay.letters import buried, headers_of, left_over
from dduomq.delay.records import Fired, Parked, Target
from dduomq.delay.runs import Said
from dduomq.delay.wheel import Wheel
from dduomq.errors import (
    CapacityReached,
    DduomqError,
    InvalidProducerEpoch,
    InvariantBroken,
    OutOfOrderSequence,
    Overloaded,
)
from dduomq.ids import DEAD, DELAYED_GROUP
from dduomq.limits import BATCH_BYTES_CEILING
from dduomq.log.plog import PendingBatch
from dduomq.ports import Clock
from dduomq.wire.batch import OWN_PRODUCER_IDS, read_header, set_producer
from dduomq.wire.records import BatchBuilder

GONE = Target("", "", 0)  # where messages go whose topic is no more
BATCH_BYTES = 1024 * 1024
SEND_TIMEOUT_S = 30
AGAIN_S, AGAIN_S_MAX = 0.2, 5.0
NOTE_DELIVERED_S = 1.0
SET_BACK_MS = 1_000  # a batch that is due so much later was taken up before the clock was set back


@attrs.frozen
class WheelWorld:
    """What all wheels of a node share."""

    clock: Clock
    disk: Mailbox
    routes: Routes
    log: structlog.stdlib.BoundLogger
    wake: Callable[[Mailbox, float], None]
    topics: GroupTopics


@attrs.define
class Sending:
    """A batch that its target does not have yet. `again_at`: when it may be sent; NEVER while it is on its way.

    `is_unsent`: it has surely never been sent; what was open when the wheel was read may have been.
    """

    fired: Fired
    messages: tuple[Parked, ...] | None  # None until they have been read
    is_unsent: bool = False
    tries: int = 0
    again_at: float = 0.0
    sent_at: float = 0.0
    serial: int = 0  # of its last sending: only the answer to that counts
    due_ms: int = attrs.field(init=False)

    @due_ms.default
    def _last_due_ms(self) -> int:
        return max(due_ms for due_ms, _ in self.fired.pairs)


class WheelSending:
    """`number` is the wheel's among all; `fail(error)`: the log can't be written, and all must be read anew.

    `is_taking` while a round is under way, `is_held` while messages are being moved in the log.
    """

    __slots__ = (
        "_delivered", "_fail", "_is_changing", "_journal", "_mailbox", "_note_at", "_number", "_queues", "_reader",
        "_wheel", "_when_quiet", "_world", "damaged", "in_hand", "is_held", "is_taking", "lead",
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
        self.lead = Lead()
        self.begin(Wheel(world.clock.wall_ms()))

    def begin(self, wheel: Wheel) -> None:
        """A wheel that has just been read: its open batches are sent again."""
        self._wheel = wheel
        self._queues = {to: [Sending(one.fired, None) for one in open_] for to, open_ in wheel.open.items()}
        self._delivered: list[int] = []  # offsets of `fired` records, not yet noted
        self._note_at = NEVER
        self._when_quiet: list[Callable[[], None]] = []
        self._is_changing = self.is_taking = self.is_held = False
        self.in_hand = 0  # messages on their way into the log instead of batches that are given up
        self.damaged: set[int] = set()  # offsets of messages that can't be read any more

    def add(self, fired: Fired, messages: Sequence[Parked]) -> None:
        """A batch whose record is in the log now."""
        self._queues.setdefault(fired.target, []).append(Sending(fired, tuple(messages), is_unsent=True))

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a moment of quiet: then no round is to begin."""
        return bool(self._when_quiet)

    def when_quiet(self, act: Callable[[], None]) -> None:
        """Call it as soon as no round is under way, no message is being moved, and no batch is being changed."""
        self._when_quiet.append(act)
        self._act()

    def _act(self) -> None:
        while self._when_quiet and not (self.is_taking or self.is_held or self._is_changing):
            self._when_quiet.pop(0)()

    # --- time ---------------------------------------------------------------------------------------

    def go(self) -> None:
        """Do whatever its time has come for."""
        now, wall_ms = self._world.clock.monotonic(), self._world.clock.wall_ms()
        self._act()
        for queue in list(self._queues.values()):
            head = queue[0]
            if head.again_at > now:
                continue
            if head.due_ms > wall_ms:
                if head.is_unsent and head.due_ms > wall_ms + SET_BACK_MS:
                    self._put_back(head)
            elif head.messages is not None:
                self._send(head)
            elif not self._reader.is_busy:
                head.again_at = NEVER
                entries = self._wheel.entries_of(head.fired)
                self._reader.read_entries(entries, 2 * BATCH_BYTES, partial(self._read, head))
        if self._delivered and self._note_at <= now:
            self._note()

    def next_at(self) -> float:
        """When there is something to do, on the monotonic clock."""
        at, when = self._note_at, self._world.clock.when
        for queue in self._queues.values():
            head = queue[0]
            if head.again_at != NEVER and (head.messages is not None or not self._reader.is_busy):
                at = min(at, max(head.again_at, when(head.due_ms)))
        return at

    # --- what has arrived ---------------------------------------------------------------------------

    def arrived(self) -> list[records.Encoded]:
        """What is to be in the log before anything may leave it: which batches have arrived."""
        return [self._noted()] if self._delivered else []

    def _noted(self) -> records.Encoded:
        delivered, self._delivered, self._note_at = self._delivered, [], NEVER
        return records.encode_delivered(delivered)

    def _note(self) -> None:
        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)

        self._journal.store_together([self._noted()], stored)

    def _note_soon(self, offset: int) -> None:
        self._delivered.append(offset)
        if self._note_at == NEVER:
            self._note_at = self._world.clock.monotonic() + NOTE_DELIVERED_S

    # --- cleaning -----------------------------------------------------------------------------------

    def positions_of(self, targets: Iterable[Target]) -> list[records.Position]:
        """Where we are as a producer of these; topics that are gone are forgotten."""
        found, sequences = [], self._wheel.sequences
        for target in sorted(targets):
            if self.way(target) == target and target in sequences:
                found.append(records.Position(target, *sequences[target]))
            elif target not in self._queues:
                sequences.pop(target, None)
        return found

    def touching(self, offsets: Container[int], numbers: Container[int]) -> list[Fired]:
        """The batches on their way to targets of which one's record, or one of its messages, is among these."""
        return [
            one.fired
            for open_ in self._wheel.open.values()
            if any(one.touches(offsets, numbers) for one in open_)
            for one in open_
        ]

    def refired(self, moved: Mapping[int, Fired]) -> None:
        """Their records lie elsewhere in the log now, by offset; those that have arrived meanwhile do so there, too."""
        for offset, fired in moved.items():
            one = next((one for one in self._queues.get(fired.target, ()) if one.fired.is_same(fired)), None)
            if one is not None:
                one.fired = self._wheel.fired_at(fired, offset)
            else:
                self._note_soon(offset)

    # --- ways ---------------------------------------------------------------------------------------

    def way(self, target: Target) -> Target:
        """Where a message for that partition goes: there, if there is such a topic still."""
        route = self._world.routes.table.get(target.topic)
        is_there = route is not None and route.record.topic_id == target.topic_id
        return target if is_there or self._world.routes.is_closed else GONE

    def dead(self, target: Target) -> Target | None:
        """Where the dead letters of that partition rest; None until there is such a topic."""
        route = self._world.topics.wanted(DEAD, DELAYED_GROUP)
        if route is None:
            return None
        return Target(route.record.name, route.record.topic_id, target.partition % len(route.partitions))

    # --- sending ------------------------------------------------------------------------------------

    def _read(self, one: Sending, found: Found) -> None:
        """A batch that was open when the wheel was read: the same messages in the same order."""
        entries = self._wheel.entries_of(one.fired)
        absent = [entry for entry in entries if entry.number not in found]
        if any(entry.offset not in self.damaged for entry in absent):
            one.again_at = self._world.clock.monotonic() + AGAIN_S
            return
        messages = [found[entry.number] for entry in entries if entry.number in found]
        if absent:  # what is left of it goes out anew
            epoch, parked = one.fired.epoch + 1, [left_over(message) for message in messages]
            self.when_quiet(partial(self._change, one, epoch, 0, parked))
            return
        one.messages = tuple(messages)
        one.again_at = 0.0

    def _send(self, one: Sending) -> None:
        fired = one.fired
        one.again_at, one.serial, one.sent_at = NEVER, next(SERIALS), self._world.clock.monotonic()
        one.is_unsent = False
        target, serial = fired.target, one.serial
        assert one.messages is not None
        if self._world.routes.is_closed:
            self._again(one)
            return
        if self.way(fired.target) == GONE:
            self._give_up(one, "the topic that it was for has been deleted")
            return
        reply: Reply[Acked] = Reply(
            lambda acked, error: self._mailbox.post(Sent(target=target, serial=serial, acked=acked, error=error))
        )
        data = self._batch(fired, one.messages)
        append = Append(
            batch=PendingBatch(memoryview(data), read_header(data)), size_bytes=len(data), reply=reply,
            deadline=one.sent_at + SEND_TIMEOUT_S,
        )  # fmt: skip
        mailbox = self._world.routes.table[target.topic].partitions[target.partition]
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
        queue, error = self._queues.get(message.target), message.error
        if not queue or queue[0].serial != message.serial:
            return  # from before the log was read anew
        one = queue[0]
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
        self.lead.arrived(self._world.clock.monotonic() - one.sent_at)
        self._wheel.delivered(one.fired)
        self._leave(one.fired.target, 1)
        self._note_soon(one.fired.offset)

    def _leave(self, target: Target, count: int) -> None:
        """The first ones of a queue are gone."""
        del self._queues[target][:count]
        if not self._queues[target]:
            del self._queues[target]

    def _again(self, one: Sending) -> None:
        one.tries += 1
        pause = min(AGAIN_S * 2 ** min(one.tries - 1, 10), AGAIN_S_MAX)
        one.again_at = self._world.clock.monotonic() + pause

    # --- batches that change ------------------------------------------------------------------------

    def _give_up(self, one: Sending, reason: str) -> None:
        """It can't be stored where it should: its messages become dead letters. Its sequence is free again."""
        fired, to = one.fired, self.dead(one.fired.target)
        if to is None or to == fired.target:
            self._again(one)  # there is no better place, or not yet
            return
        self._world.log.warning(
            "delayed_messages_dead", wheel=self._mailbox.name, topic=fired.target.topic, reason=reason
        )
        assert one.messages is not None
        dead = [buried(message, to, reason) for message in one.messages]
        self.when_quiet(partial(self._change, one, fired.epoch, fired.sequence, dead))

    def _begin_anew(self, one: Sending) -> None:
        """The target has another idea of our sequence, so it has lost some: the same batch, in a new epoch of ours."""
        self._world.log.warning("delayed_batch_anew", wheel=self._mailbox.name, topic=one.fired.target.topic)
        self.when_quiet(partial(self._change, one, one.fired.epoch + 1, 0, None))

    def _put_back(self, one: Sending) -> None:
        """The clock was set back: what it held up may be due long before it. Its messages wait again."""
        assert one.messages is not None
        one.again_at, parked = NEVER, [left_over(message) for message in one.messages]
        self.when_quiet(partial(self._change, one, one.fired.epoch, one.fired.sequence, parked))

    def _change(self, one: Sending, epoch: int, sequence: int, instead: Sequence[Parked] | None) -> None:
        """The batches of a target get other sequences; `instead` of the first one, if it is to go, these are parked."""
        target = one.fired.target
        old = [held.fired.offset for held in self._queues[target]]
        if instead is not None:
            self._leave(target, 1)
        kept = list(self._queues.get(target, ()))
        again = self._wheel.fire_again(target, [held.fired for held in kept], epoch, sequence)
        parked = list(instead or ())
        for held, fired in zip(kept, again, strict=True):
            held.fired, held.again_at = fired, NEVER

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)
                return
            self._is_changing, self.in_hand = False, 0
            for offset, held in enumerate(kept, result.base_offset):
                held.fired, held.again_at = self._wheel.fired_at(held.fired, offset), 0.0
            if instead is None:
                self._again(one)
            self._wheel.parked(parked, result.base_offset + len(kept), self._world.clock.wall_ms())

        self._is_changing, self.in_hand = True, len(parked)
        entries = [records.encode_fired(fired) for fired in again]
        entries += [records.encode_parked(message) for message in parked]
        self._journal.store_together([*entries, records.encode_delivered(old)], stored)
