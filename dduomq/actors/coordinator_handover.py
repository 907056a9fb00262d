"""Copies of records that groups have set aside: read where they lie, handed over to the wheels that deliver them.

Part of the coordinator's actor, not a task. Copies wait in lanes, by the place that they come from: what can't be
copied just now holds up its lane, no other. Always true: each record is handed over once (its wheel knows the numbers
of a lane that it has taken), in the order of the lane's numbers; one that is not there any more is passed, and said.
"""

import zlib
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, takewhile

import attrs

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.coordinator_log import Entry
from dduomq.actors.coordinator_messages import HandedOver
from dduomq.actors.coordinator_table import GroupTable
from dduomq.actors.journal import NEVER
from dduomq.actors.partition_messages import Acked
from dduomq.actors.record_reader import RecordReader
from dduomq.actors.routes import TopicRoute
from dduomq.actors.wheel_messages import Park, ParkedMessages
from dduomq.delay import handover
from dduomq.delay.records import NEW, Parked, Target
from dduomq.errors import DduomqError, InvariantBroken, Overloaded
from dduomq.groups import letters, records
from dduomq.groups.aside import ORIGIN, Copy, Outbox
from dduomq.groups.letters import Source
from dduomq.groups.records import PASSED_ON, AsideKey, AsideRecord, HandedKey, Place
from dduomq.ids import DEAD, RETRY
from dduomq.limits import ASIDE_LANES, HANDOVER_BYTES_MAX, HANDOVER_RECORDS_MAX, MIB
from dduomq.wire.batch import HANDOVER_IDS
from dduomq.wire.origin import HEADERS
from dduomq.wire.records import StoredRecord, size_of

AGAIN_S, AGAIN_S_MAX = 0.2, 5.0
COPY_BYTES_MAX = 5 * MIB  # a wheel takes no more at once
SERIALS = count(1)


@attrs.define(eq=False)
class Lane:
    """What waits of the places that share it, and when it is looked at next."""

    number: int
    outbox: Outbox = attrs.field(factory=Outbox)
    at: float = 0.0
    tries: int = 0
    limit: int = HANDOVER_RECORDS_MAX  # so many are looked for at once


class Handover:
    """`number` is the coordinator's among all; `fail(error)`: its log can't be written, and all must be read anew."""

    __slots__ = ("_busy", "_fail", "_lanes", "_mailbox", "_number", "_serial", "_table", "_then", "reader")

    def __init__(self, mailbox: Mailbox, number: int, table: GroupTable, fail: Callable[[DduomqError], None]) -> None:
        self._mailbox = mailbox
        self._number = number
        self._table = table
        self._fail = fail
        self.reader: RecordReader[StoredRecord] = RecordReader(
            mailbox, table.world.disk, lambda record: record, lambda _offset, _error: None
        )  # what is damaged is passed, and said there
        self.reset()

    def reset(self) -> None:
        """The log is read anew."""
        self._lanes: dict[int, Lane] = {}
        self._busy: Lane | None = None
        self._serial = 0
        self._then: Callable[[], None] | None = None

    # --- what waits ---------------------------------------------------------------------------------

    def outbox(self, group: str, place: Place) -> Outbox:
        """Where copies of a group's records of that place wait."""
        number = zlib.crc32(f"{group}/{place[0]}-{place[1]}".encode()) % ASIDE_LANES
        return self._lane(number).outbox

    def _lane(self, number: int) -> Lane:
        return self._lanes.setdefault(number, Lane(number))

    def apply(self, key: HandedKey, value: bytes) -> None:
        """So far a lane has been handed over."""
        self._lane(key.lane).outbox.hand(records.decode_handed(value))

    def open(self) -> Iterable[tuple[str, Place, AsideRecord]]:
        """What still waits, to be written anew."""
        return [one for lane in self._lanes.values() for one in lane.outbox.records()]

    def everything(self) -> list[Entry]:
        """How far each lane is, and what waits in it."""
        entries: list[Entry] = [
            (HandedKey(lane.number), records.encode_handed(lane.outbox.handed)) for lane in self._lanes.values()
        ]
        for group, place, record in self.open():
            entries.append((AsideKey(group, place, record.number), records.encode_aside(record)))
        return entries

    # --- handing over -------------------------------------------------------------------------------

    def next_at(self) -> float:
        """When there is something to do, on the monotonic clock."""
        if self._busy is not None or not self._table.log.is_loaded:
            return NEVER
        return min((lane.at for lane in self._lanes.values() if lane.outbox), default=NEVER)

    def go(self) -> None:
        """Hand over the first records of a lane, unless some are on their way: the lane that has waited longest."""
        if self._busy is not None or not self._table.log.is_loaded:
            return
        now = self._table.now()
        due = [lane for lane in self._lanes.values() if lane.outbox and lane.at <= now]
        if not due:
            return
        lane = self._busy = min(due, key=lambda lane: (lane.at, lane.number))
        copies = lane.outbox.head(lane.limit)
        self._table.log.store([], partial(self._read, copies))  # what they rest on is stored, or they are not there

    def _read(self, copies: list[Copy], result: Acked | DduomqError) -> None:
        if isinstance(result, DduomqError):
            self._again()
            return
        route = self._route(copies[0].place)
        if route is None and self._table.world.routes.is_closed:
            self._again()
        elif route is None:
            self._pass(copies, "its topic has been deleted")
        else:
            self.reader.read(
                route.partitions[copies[0].place[1]],
                [copy.offset for copy in copies],
                HANDOVER_BYTES_MAX,
                partial(self._found, route, copies),
            )

    def _route(self, place: Place) -> TopicRoute | None:
        name = self._table.world.routes.name_of(place[0])
        return None if name is None else self._table.world.routes.table.get(name)

    def _again(self) -> None:
        """It can't be done just now."""
        lane = self._free()
        lane.at = self._table.now() + min(AGAIN_S * 2 ** min(lane.tries, 10), AGAIN_S_MAX)
        lane.tries += 1

    def _free(self) -> Lane:
        """Nothing is on its way any more."""
        lane, self._busy = self._busy, None
        assert lane is not None
        return lane

    def _found(self, route: TopicRoute, copies: list[Copy], found: dict[int, StoredRecord]) -> None:
        """Go on with the first ones: either they are here, or they are surely gone."""
        passed = frozenset(self.reader.passed)
        known = list(takewhile(lambda copy: copy.offset in passed, copies))
        here = list(takewhile(lambda copy: copy.offset in found, known))
        if here:
            is_ours = route.record.group == here[0].group
            source = Source(route.record.name, here[0].place[1], route.record.kind if is_ours else "")
            self._park(source, [(copy, found[copy.offset]) for copy in here])
        elif known:
            self._pass(list(takewhile(lambda copy: copy.offset not in found, known)), "it is not in its log any more")
        elif passed:  # what lies before the first one is more than is read at once
            self._free().limit = 1
        else:
            self._again()

    def _pass(self, copies: list[Copy], reason: str) -> None:
        """They can't be copied any more."""
        for copy in copies:
            self._table.world.log.error(
                "record_aside_lost", group=copy.group, topic_id=copy.place[0], partition=copy.place[1],
                offset=copy.offset, reason=reason,
            )  # fmt: skip
        self._note(copies[-1].number)

    def _park(self, source: Source, taken: list[tuple[Copy, StoredRecord]]) -> None:
        """The first of them that go to one partition."""
        target = self._target(source, *taken[0])
        wheel = None if target is None else self._table.world.wheel_of(target.topic_id, target.partition)
        if target is None or wheel is None:
            self._again()
            return
        messages, size = list[Parked](), 0
        for copy, record in taken:
            if self._target(source, copy, record) != target:
                break
            message = self._message(source, target, copy, record)
            size += size_of(message.key, message.value, message.headers)
            if messages and size > COPY_BYTES_MAX:
                break
            messages.append(message)
        self._serial = serial = next(SERIALS)
        last = taken[len(messages) - 1][0].number
        self._then = partial(self._note, last)
        reply: Reply[ParkedMessages] = Reply(
            lambda _, error: self._mailbox.post(HandedOver(serial=serial, error=error))
        )
        park = Park(messages=tuple(messages), size_bytes=size, reply=reply)
        if not wheel.offer(park):
            park.refuse(Overloaded(f"{wheel.name} has too much to do"))

    def _target(self, source: Source, copy: Copy, record: StoredRecord) -> Target | None:
        """Where the copy goes; None until there is such a topic. Whose origin is gone becomes a dead letter again."""
        topics, to = self._table.world.topics, _way(copy, record)
        partition = source.partition
        if to == ORIGIN:
            came = letters.origin_of(record, source)
            route = self._table.world.routes.table.get(came.topic)
            partition = came.partition
            if route is None:
                route = topics.wanted(DEAD, copy.group)
        else:
            route = topics.wanted(to, copy.group)
            partition += copy.record.tries == PASSED_ON  # somebody else may have the next one
        if route is None:
            return None
        return Target(route.record.name, route.record.topic_id, partition % len(route.partitions))

    def _message(self, source: Source, target: Target, copy: Copy, record: StoredRecord) -> Parked:
        said = copy.record
        assert self._busy is not None
        owner = HANDOVER_IDS + self._number * ASIDE_LANES + self._busy.number
        origin = handover.origin_of(owner, copy.number)
        key, value, to, reason = record.key, record.value, _way(copy, record), said.reason
        if to == ORIGIN and self._table.world.routes.table[target.topic].record.kind:
            to, reason = DEAD, "the topic that it came from has been deleted"
        if to == ORIGIN:
            headers = letters.plain_headers(record, source)
        else:
            if size_of(key, value, record.headers) > COPY_BYTES_MAX:
                reason = f"too large to be copied whole: its value of {len(value or b'')} bytes is left where it was"
                value = None
            if size_of(key, None, record.headers) > COPY_BYTES_MAX:
                reason, key = f"{reason}, and its key and headers", None
                record = attrs.evolve(record, headers=[one for one in record.headers if one[0] in HEADERS])
            headers = letters.copy_headers(
                record,
                source,
                group=copy.group,
                to=to,
                failed_ms=said.since_ms,
                error=said.error,
                reason=reason,
                tries=said.tries,
            )
        return Parked(said.due_ms, NEW, -1, target, origin, key, value, headers)

    def handed_over(self, message: HandedOver) -> None:
        if message.serial != self._serial:
            return
        then, self._then = self._then, None
        if message.error is None:
            assert then is not None
            then()
        elif isinstance(message.error, DduomqError) and not isinstance(message.error, InvariantBroken):
            self._table.world.log.warning("aside_waits", coordinator=self._mailbox.name, reason=message.error.message)
            self._again()
        else:
            raise message.error

    def _note(self, number: int) -> None:
        assert self._busy is not None
        lane = self._busy

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)
                return
            self._free()
            lane.tries, lane.limit, lane.at = 0, HANDOVER_RECORDS_MAX, self._table.now()
            lane.outbox.hand(number)

        self._table.log.store([(HandedKey(lane.number), records.encode_handed(number))], stored)


def _way(copy: Copy, record: StoredRecord) -> str:
    """Where the copy is to go: what is too large to come again is a dead letter, or it would come without its value."""
    is_small = copy.record.to != RETRY or size_of(record.key, record.value, record.headers) <= COPY_BYTES_MAX
    return copy.record.to if is_small else DEAD
