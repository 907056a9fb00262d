"""Sets records aside for groups, and hands their copies over to the wheels that deliver them.

Part of the coordinator's actor, not a task. A request marks records as set aside, in the coordinator's log; from then
on they are the coordinator's to bring where they belong: it reads them where they lie, has a wheel park their copies,
and notes how far it has come. Always true: what was answered is in the log; each record is handed over once (its wheel
knows the numbers that it has taken), in the order of the numbers; a record that is not there any more is passed, and
said.
"""

from collections.abc import Callable
from functools import partial
from itertools import count, takewhile

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.coordinator_log import Entry
from dduomq.actors.coordinator_messages import BeenSetAside, FetchAside, HandedOver, SetAside, ToBeAside
from dduomq.actors.coordinator_table import Group, GroupTable
from dduomq.actors.journal import NEVER
from dduomq.actors.partition_messages import Acked
from dduomq.actors.record_reader import RecordReader
from dduomq.actors.router import TopicRoute
from dduomq.actors.wheel_messages import Park, ParkedMessages
from dduomq.delay import handover
from dduomq.delay.records import NEW, Parked, Target
from dduomq.errors import DduomqError, InvariantBroken, NotOwner, Overloaded, RecordSettled
from dduomq.groups import letters, records
from dduomq.groups.aside import ORIGIN, Copy, Outbox, fresh
from dduomq.groups.letters import Source
from dduomq.groups.queue import Dead
from dduomq.groups.records import AsideKey, AsideRecord, HandedKey, MarksKey, Place
from dduomq.ids import DEAD
from dduomq.limits import ASIDE_RANGES_MAX, ASIDE_WAITING_MAX, HANDOVER_BYTES_MAX, HANDOVER_RECORDS_MAX, MIB
from dduomq.wire.batch import HANDOVER_IDS
from dduomq.wire.ranges import flat_of
from dduomq.wire.records import StoredRecord, size_of

AGAIN_S, AGAIN_S_MAX = 0.2, 5.0
COPY_BYTES_MAX = 5 * MIB  # a wheel takes no more at once
SERIALS = count(1)


class SettingAside:
    """`number` is the coordinator's among all; `fail(error)`: its log can't be written, and all must be read anew."""

    __slots__ = ("_fail", "_is_busy", "_mailbox", "_number", "_retry_at", "_serial", "_table", "_then", "_tries",
                 "outbox", "reader")  # fmt: skip

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
        self.outbox = Outbox()
        self._is_busy = False
        self._serial = 0
        self._tries = 0
        self._retry_at = 0.0
        self._then: Callable[[], None] | None = None

    # --- from the log -------------------------------------------------------------------------------

    def apply(self, key: AsideKey | MarksKey | HandedKey, value: bytes | None) -> None:
        """What a record says is so."""
        if value is None:
            return
        if isinstance(key, HandedKey):
            self.outbox.hand(records.decode_handed(value))
            return
        group = self._table.get_or_make(key.group)
        if isinstance(key, MarksKey):
            self._mark(group, key.place, records.decode_marks(value))
            return
        record = records.decode_aside(key, value)
        if not record.tries:  # a queue, which counts them, knows itself what is done
            self._mark(group, key.place, record.offsets)
        self.outbox.add(key.group, key.place, record)

    def _mark(self, group: Group, place: Place, flat: tuple[int, ...]) -> None:
        marks = group.marks(place)
        for first, last in zip(flat[::2], flat[1::2], strict=True):
            marks.add(first, last)
        committed = group.offsets.get(place)
        if committed is not None:
            group.committed(place, committed)

    def everything(self) -> list[Entry]:
        """What is open, to be written anew."""
        entries: list[Entry] = [(HandedKey(), records.encode_handed(self.outbox.handed))]
        for group, place, record in self.outbox.records():
            entries.append((AsideKey(group, place, record.number), records.encode_aside(record)))
        return entries

    # --- requests -----------------------------------------------------------------------------------

    def set_aside(self, message: SetAside) -> None:
        """All parts that may be are stored together."""
        reply, table = message.reply, self._table
        assert reply is not None
        is_operator = message.generation < 0 and not message.member_id
        group = table.ready(message.group, create=True) if is_operator else table.of_member(message.group)
        refused = {} if is_operator else self._check(group, message)
        counts, entries = [], list[Entry]()
        for at, part in enumerate(message.parts):
            try:
                if at in refused:
                    raise refused[at]
                added = self.entries(group, part)
            except DduomqError as error:
                refused[at] = error
                counts.append(0)
            else:
                entries += [entry for entry, _ in added]
                counts.append(sum(number for _, number in added))
        group.changed_ms = table.wall_ms()

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                reply.set(BeenSetAside(refused, tuple(counts)))
            else:
                self._fail(result)
                reply.fail(result)

        table.log.store(entries, stored)

    def _check(self, group: Group, message: SetAside) -> dict[int, DduomqError]:
        """Which parts are not the member's. Raises what is wrong with all of them."""
        if group.consumer is None:
            group.classic.check_commit(message.member_id, None, message.generation, self._table.now())
            return {}
        places = [part.place for part in message.parts]
        foreign = group.consumer.check_commit(
            message.member_id, None, message.generation, places, self._table.now()
        )  # fmt: skip
        return {at: NotOwner() for at, place in enumerate(places) if place in foreign}

    def entries(self, group: Group, part: ToBeAside) -> list[tuple[Entry, int]]:
        """Mark these records, and what to store of that, with how many they are; to be stored with what they rest on.

        What is aside already stays as it is: a question that comes again does nothing. Raises `RecordSettled`,
        `Overloaded`.
        """
        committed = group.newest(part.place)
        if committed is not None and part.offsets and min(part.offsets) < committed.offset:
            raise RecordSettled(
                f"offset {min(part.offsets)} is committed already ({committed.offset}): it is done with"
            )
        marks = group.marks(part.place)
        if len(marks) >= ASIDE_RANGES_MAX:
            raise Overloaded(f"{ASIDE_RANGES_MAX} records of this partition are set aside: commit what is done")
        if len(self.outbox) >= ASIDE_WAITING_MAX:
            raise Overloaded(f"{ASIDE_WAITING_MAX} records wait to be brought where they belong; try again later")
        offsets = fresh(part.offsets, marks)
        if not offsets:
            return []
        record = AsideRecord(
            self.outbox.next_number, part.to, part.due_ms, self._table.wall_ms(), part.error, part.reason,
            flat_of(offsets),
        )  # fmt: skip
        self._mark(group, part.place, record.offsets)
        self.outbox.add(group.name, part.place, record)
        key = AsideKey(group.name, part.place, record.number)
        return [((key, records.encode_aside(record)), len(offsets))]

    def bury(self, group: Group, place: Place, dead: Dead) -> list[Entry]:
        """Records of a queue that nobody gets any more; what to store with the news."""
        now_ms = self._table.wall_ms()
        record = AsideRecord(
            self.outbox.next_number, DEAD, now_ms, now_ms, "", dead.reason, (dead.first, dead.last), dead.count
        )  # fmt: skip
        self.outbox.add(group.name, place, record)
        return [(AsideKey(group.name, place, record.number), records.encode_aside(record))]

    def fetch(self, message: FetchAside) -> None:
        """Answered when all that it rests on is stored: who skips a record must be sure that it is elsewhere."""
        reply, table = message.reply, self._table
        assert reply is not None
        group = table.ready(message.group)
        found = {place: marks.flat for place, marks in group.aside.items()}

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                reply.set(found)
            else:
                reply.fail(result)

        table.log.store([], stored)

    # --- handing over -------------------------------------------------------------------------------

    def next_at(self) -> float:
        """When there is something to do, on the monotonic clock."""
        return self._retry_at if self.outbox and not self._is_busy and self._table.log.is_loaded else NEVER

    def go(self) -> None:
        """Hand over the first records, unless some are on their way."""
        if self._is_busy or not self.outbox or not self._table.log.is_loaded or self._table.now() < self._retry_at:
            return
        self._is_busy = True
        copies = self.outbox.head(HANDOVER_RECORDS_MAX)
        self._table.log.store([], partial(self._read, copies))  # what they rest on is stored, or they are not there

    def _read(self, copies: list[Copy], result: Acked | DduomqError) -> None:
        if isinstance(result, DduomqError):
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
        self._is_busy = False
        self._retry_at = self._table.now() + min(AGAIN_S * 2 ** min(self._tries, 10), AGAIN_S_MAX)
        self._tries += 1

    def _found(self, route: TopicRoute, copies: list[Copy], found: dict[int, StoredRecord]) -> None:
        """Go on with the first ones: either they are here, or they are surely gone."""
        passed = frozenset(self.reader.passed)
        known = list(takewhile(lambda copy: copy.offset in passed, copies))
        here = list(takewhile(lambda copy: copy.offset in found, known))
        if here:
            source = Source(route.record.name, here[0].place[1], route.record.kind)
            self._park(source, [(copy, found[copy.offset]) for copy in here])
        elif known:
            self._pass(list(takewhile(lambda copy: copy.offset not in found, known)), "it is not in its log any more")
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
        topics, to = self._table.world.topics, copy.record.to
        partition = source.partition
        if to == ORIGIN:
            came = letters.origin_of(record, source)
            route = self._table.world.routes.table.get(came.topic)
            partition = came.partition
            if route is None:
                route = topics.wanted(DEAD, copy.group)
        else:
            route = topics.wanted(to, copy.group)
        if route is None:
            return None
        return Target(route.record.name, route.record.topic_id, partition % len(route.partitions))

    def _message(self, source: Source, target: Target, copy: Copy, record: StoredRecord) -> Parked:
        said = copy.record
        origin = handover.origin_of(HANDOVER_IDS + self._number, copy.number)
        value, to, reason = record.value, said.to, said.reason
        if to == ORIGIN and self._table.world.routes.table[target.topic].record.kind:
            to, reason = DEAD, "the topic that it came from has been deleted"
        if to == ORIGIN:
            headers = letters.plain_headers(record, source)
        else:
            if len(value or b"") > COPY_BYTES_MAX:
                reason = f"its value of {len(value or b'')} bytes is left where it was first stored; {reason}"
                value = None
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
        return Parked(said.due_ms, NEW, -1, target, origin, record.key, value, headers)

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
        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, DduomqError):
                self._fail(result)
                return
            self._is_busy, self._tries, self._retry_at = False, 0, 0.0
            self.outbox.hand(number)

        self._table.log.store([(HandedKey(), records.encode_handed(number))], stored)
