"""Sets records aside for groups, and dead letters for operators.

Part of the coordinator's actor, not a task. A request marks records in the coordinator's log; from then on they are the
coordinator's to bring where they belong (`coordinator_handover`). Always true: what was answered is in the log; marks
of records go when the group has committed behind them; marks of dead letters stay as long as their topic, whatever
the group does.
"""

from collections.abc import Callable

from dduomq.actors.coordinator_handover import Handover
from dduomq.actors.coordinator_log import Entry
from dduomq.actors.coordinator_messages import BeenSetAside, FetchAside, SetAside, ToBeAside
from dduomq.actors.coordinator_table import Group, GroupTable
from dduomq.actors.partition_messages import Acked
from dduomq.errors import CoordinatorLoading, DduomqError, NotOwner, Overloaded, RecordSettled
from dduomq.groups import records
from dduomq.groups.aside import fresh
from dduomq.groups.queue import Dead
from dduomq.groups.records import MOVED, PASSED_ON, AsideKey, AsideRecord, GroupKey, HandedKey, MarksKey, Place
from dduomq.ids import DEAD
from dduomq.limits import ASIDE_RANGES_MAX, ASIDE_WAITING_MAX
from dduomq.wire.ranges import Ranges, flat_of


class SettingAside:
    """`fail(error)`: the coordinator's log can't be written, and all must be read anew."""

    __slots__ = ("_fail", "_handover", "_moved", "_table")

    def __init__(self, table: GroupTable, handover: Handover, fail: Callable[[DduomqError], None]) -> None:
        self._table = table
        self._handover = handover
        self._fail = fail
        self.reset()

    def reset(self) -> None:
        """The log is read anew."""
        self._handover.reset()
        self._moved: dict[str, dict[Place, Ranges]] = {}  # by group: dead letters that operators have moved

    # --- from the log -------------------------------------------------------------------------------

    def apply(self, key: AsideKey | MarksKey | HandedKey, value: bytes | None) -> None:
        """What a record says is so."""
        if value is None:
            self._forget(key)
        elif isinstance(key, HandedKey):
            self._handover.apply(key, value)
        elif isinstance(key, MarksKey):
            self._mark(key.group, key.place, records.decode_marks(value), is_moved=key.kind == MOVED)
        else:
            record = records.decode_aside(key, value)
            if record.tries <= 0:  # a queue, which counts them, knows itself what is done
                self._mark(key.group, key.place, record.offsets, is_moved=record.is_moved)
            self._handover.outbox(key.group, key.place).add(key.group, key.place, record)

    def _forget(self, key: AsideKey | MarksKey | HandedKey) -> None:
        if not isinstance(key, MarksKey):
            return
        if key.kind == MOVED:
            self._moved.get(key.group, {}).pop(key.place, None)
        elif key.group in self._table.groups:
            self._table.groups[key.group].aside.pop(key.place, None)

    def _mark(self, name: str, place: Place, flat: tuple[int, ...], *, is_moved: bool) -> None:
        if is_moved:
            marks = self._moved.setdefault(name, {}).setdefault(place, Ranges())
        else:
            marks = self._table.get_or_make(name).marks(place)
        for first, last in zip(flat[::2], flat[1::2], strict=True):
            marks.add(first, last)
        group = self._table.groups.get(name)
        committed = None if is_moved or group is None else group.offsets.get(place)
        if group is not None and committed is not None:
            group.committed(place, committed)

    def everything(self) -> list[Entry]:
        """What is so, besides what each group has set aside; to be written anew behind the groups."""
        entries: list[Entry] = [
            (MarksKey(name, place, MOVED), records.encode_marks(marks.flat))
            for name, places in self._moved.items()
            for place, marks in places.items()
        ]
        open_ = list(self._handover.open())
        gone = {name: None for name, _, one in open_ if not one.is_moved and name not in self._table.groups}
        return [*entries, *self._handover.everything(), *((GroupKey(name), None) for name in gone)]

    def forget_deleted(self, done: Callable[[Acked | DduomqError], None]) -> None:
        """Marks of topics that are no more: none has their id again."""
        name_of = self._table.world.routes.name_of
        gone: list[MarksKey] = []
        for group in self._table.groups.values():
            gone += [MarksKey(group.name, place) for place in group.aside if name_of(place[0]) is None]
        for name, places in self._moved.items():
            gone += [MarksKey(name, place, MOVED) for place in places if name_of(place[0]) is None]
        for key in gone:
            self._forget(key)
        self._moved = {name: places for name, places in self._moved.items() if places}
        if gone:
            self._table.log.store([(key, None) for key in gone], done)

    # --- requests -----------------------------------------------------------------------------------

    def set_aside(self, message: SetAside) -> None:
        """All parts that may be are stored together."""
        reply, table = message.reply, self._table
        assert reply is not None
        is_operator = message.generation < 0 and not message.member_id
        if not table.log.is_loaded:
            raise CoordinatorLoading
        group = None if is_operator else table.of_member(message.group)
        refused = {} if group is None else self._check(group, message)
        counts, entries = [], list[Entry]()
        for at, part in enumerate(message.parts):
            try:
                if at in refused:
                    raise refused[at]
                added, number = self._entries(message.group, part, is_moved=is_operator)
            except DduomqError as error:
                refused[at] = error
                counts.append(0)
            else:
                entries += added
                counts.append(number)
        if group is not None:
            group.changed_ms = table.wall_ms()

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                reply.set(BeenSetAside(refused, tuple(counts)))
            else:
                self._fail(result)
                reply.fail(result)

        table.log.store(entries, stored)

    def _check(self, group: Group, message: SetAside) -> dict[int, DduomqError]:
        """Which parts are not the member's, or done with. Raises what is wrong with all of them."""
        now, refused = self._table.now(), dict[int, DduomqError]()
        if group.consumer is None:
            group.classic.check_commit(message.member_id, None, message.generation, now)
        else:
            places = [part.place for part in message.parts]
            foreign = group.consumer.check_commit(message.member_id, None, message.generation, places, now)
            refused = {at: NotOwner() for at, place in enumerate(places) if place in foreign}
        for at, part in enumerate(message.parts):
            committed = group.newest(part.place)
            if committed is not None and part.offsets and min(part.offsets) < committed.offset:
                text = f"offset {min(part.offsets)} is committed already ({committed.offset}): it is done with"
                refused.setdefault(at, RecordSettled(text))
        return refused

    def _entries(self, name: str, part: ToBeAside, *, is_moved: bool) -> tuple[list[Entry], int]:
        """Mark these records; what to store of that, and how many they are.

        What is aside already stays as it is: a question that comes again does nothing. Raises `Overloaded`.
        """
        if is_moved:
            marks = self._moved.get(name, {}).get(part.place, Ranges())
        else:
            marks = self._table.get_or_make(name).aside.get(part.place, Ranges())
        if len(marks) >= ASIDE_RANGES_MAX and not _has_room(marks, part.offsets):
            raise Overloaded(f"{ASIDE_RANGES_MAX} records of this partition are set aside: commit what is done")
        outbox = self._handover.outbox(name, part.place)
        if len(outbox) >= ASIDE_WAITING_MAX:
            raise Overloaded(f"{ASIDE_WAITING_MAX} records wait to be brought where they belong; try again later")
        offsets = fresh(part.offsets, marks)
        if not offsets:
            return [], 0
        record = AsideRecord(
            outbox.next_number, part.to, part.due_ms, self._table.wall_ms(), part.error, part.reason,
            flat_of(offsets), PASSED_ON if part.is_foreign else 0, is_moved,
        )  # fmt: skip
        self._mark(name, part.place, record.offsets, is_moved=is_moved)
        outbox.add(name, part.place, record)
        return [(AsideKey(name, part.place, record.number), records.encode_aside(record))], len(offsets)

    def check_room(self, group: Group, place: Place) -> None:
        """Raises `Overloaded` while too many of a queue's dead records wait to be brought where they belong."""
        if len(self._handover.outbox(group.name, place)) >= ASIDE_WAITING_MAX:
            raise Overloaded(f"{ASIDE_WAITING_MAX} dead records wait to be brought where they belong; try again later")

    def bury(self, group: Group, place: Place, dead: Dead) -> list[Entry]:
        """Records of a queue that nobody gets any more; what to store with the news."""
        now_ms, outbox = self._table.wall_ms(), self._handover.outbox(group.name, place)
        record = AsideRecord(
            outbox.next_number, DEAD, now_ms, now_ms, "", dead.reason, (dead.first, dead.last), dead.count
        )  # fmt: skip
        outbox.add(group.name, place, record)
        return [(AsideKey(group.name, place, record.number), records.encode_aside(record))]

    def fetch(self, message: FetchAside) -> None:
        """Answered when all that it rests on is stored: who skips a record must be sure that it is elsewhere."""
        reply, table = message.reply, self._table
        assert reply is not None
        if not table.log.is_loaded:
            raise CoordinatorLoading
        group = table.groups.get(message.group)
        found = dict(self._moved.get(message.group, {}))
        for place, marks in ({} if group is None else group.aside).items():
            both = Ranges(found[place].flat if place in found else ())
            for first, last in zip(marks.flat[::2], marks.flat[1::2], strict=True):
                both.add(first, last)
            found[place] = both
        told = {place: marks.flat for place, marks in found.items()}

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                reply.set(told)
            else:
                reply.fail(result)

        table.log.store([], stored)


def _has_room(marks: Ranges, offsets: tuple[int, ...]) -> bool:
    """Whether a set that is full may take these: they fill gaps, or hold up the commits that would make it smaller."""
    if max(offsets) < next(iter(marks)):
        return True
    after = Ranges(marks.flat)
    for offset in offsets:
        after.add(offset, offset)
    return len(after) <= len(marks)
