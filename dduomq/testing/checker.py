"""What must be true of a run, read off its history (the checks of Jepsen's Kafka workload, in our words).

I1  no acknowledged record is lost, at its durability level
I2  one offset of a partition has one value for ever
I3  a sender's records lie in the order in which it sent them
I4  offsets have no gaps, neither at the end nor for a reader on its way
I5  what was read stays: nothing is served that a crash may take away
I6  the high watermark and the log's start do not go back
I8  damage is found and not served, and nothing else is refused for it; no topic is forgotten
I9  no record is there twice
G1a a record that was reported as failed is not there
and what `dduomq.testing.group_checker` says of groups, `dduomq.testing.delay_checker` of delayed messages.
"""

from collections.abc import Iterable

import attrs

from dduomq.testing.delay_checker import Arrived, Delayed, check_delays
from dduomq.testing.group_checker import Owned, check_commits, check_owners, check_work
from dduomq.testing.queue_checker import Handed, check_hands, check_passed

FSYNC, FLUSHED = "fsync", "flushed"
Place = tuple[str, int]  # topic and partition


@attrs.frozen
class Acked:
    """A record that was acknowledged. `losses`, `losses_then`: how many power losses at its sending, and its ack."""

    topic: str
    partition: int
    offset: int
    sender: str
    number: int
    losses: int
    at: float = 0.0
    losses_then: int = 0


@attrs.frozen
class Failed:
    """A record whose sending ended in an error that says that it is not stored."""

    topic: str
    partition: int
    sender: str
    number: int
    code: int


@attrs.frozen
class Seen:
    """A record that was read. `session`: records of one session and partition were read one behind the other."""

    topic: str
    partition: int
    offset: int
    value: str
    losses: int
    at: float = 0.0
    session: int = -1


@attrs.frozen
class Mark:
    """A high watermark that a fetch told. `session`: of the reader, where each asks the leader that it knows of."""

    topic: str
    partition: int
    high_watermark: int
    losses: int
    session: int = -1


@attrs.define
class History:
    """Everything a run has shown to its clients, and what was done to it that can't be mended.

    `losses`: of each power loss, the time up to which a topic that flushes by interval had surely been synced.
    `rounds`: of a sender's record, which of its sends it belongs to, where several went at once.
    `final` and `refused`: at the end, the records of each partition, and the offsets not served for damage.
    """

    durability: dict[str, str] = attrs.field(factory=dict)
    acked: list[Acked] = attrs.field(factory=list)
    failed: list[Failed] = attrs.field(factory=list)
    rounds: dict[tuple[str, int], int] = attrs.field(factory=dict)
    seen: list[Seen] = attrs.field(factory=list)
    marks: list[Mark] = attrs.field(factory=list)
    losses: list[float] = attrs.field(factory=list)
    damaged: dict[Place, set[int]] = attrs.field(factory=dict)
    purged: dict[Place, tuple[int, int]] = attrs.field(factory=dict)  # acknowledged start, highest asked for
    topics_made: set[str] = attrs.field(factory=set)
    topics_gone: set[str] = attrs.field(factory=set)
    topics_unsure: set[str] = attrs.field(factory=set)
    topics: set[str] = attrs.field(factory=set)
    starts: dict[Place, int] = attrs.field(factory=dict)
    final: dict[Place, list[tuple[int, str]]] = attrs.field(factory=dict)
    refused: dict[Place, set[int]] = attrs.field(factory=dict)
    owned: list[Owned] = attrs.field(factory=list)
    worked: dict[Place, set[int]] = attrs.field(factory=dict)
    committed: list[tuple[Place, int]] = attrs.field(factory=list)
    delayed: dict[str, Delayed] = attrs.field(factory=dict)
    set_back_ms: int = 0  # of the clock, in all
    arrived: list[Arrived] = attrs.field(factory=list)
    handed: list[Handed] = attrs.field(factory=list)
    deliveries: int = 0  # that a record of a queue may have
    queue_ends: dict[Place, int] = attrs.field(factory=dict)  # up to where the queues are done at the end
    group_ends: dict[Place, int] = attrs.field(factory=dict)  # how far the group has come at the end

    def survives(self, topic: str, losses: int, at: float) -> bool:
        """Whether what was shown at `at`, after so many power losses, must be there still."""
        level, later = self.durability[topic], self.losses[losses:]
        return level == FSYNC or not later or (level == FLUSHED and at < min(later))


class Violation(AssertionError):
    """An invariant does not hold."""


def check(history: History) -> None:
    """Raises `Violation` that names the invariant and the first record it fails for."""
    held = {place: dict(records) for place, records in history.final.items()}
    _check_acked(history, held)
    _check_seen(history, held)
    _check_sessions(history.seen)
    _check_order(history)
    _check_final(history)
    _check_failed(history)
    _check_marks(history)
    _check_topics(history)
    check_owners(history.owned)
    check_commits(history.committed)
    check_work(history.final, history.worked, history.group_ends)
    check_hands(history.handed, history.deliveries)
    check_passed(history.final, history.handed, history.queue_ends, history.purged)
    check_delays(history.delayed, history.arrived, history.set_back_ms)


def _is_missing(history: History, place: Place, offset: int, value: str, found: str | None) -> bool:
    """Whether a record that must be there is not, for no reason known."""
    if found is not None or offset in history.refused.get(place, ()):
        return found is not None and found != value
    return offset >= history.purged.get(place, (0, 0))[1]


def _check_acked(history: History, held: dict[Place, dict[int, str]]) -> None:
    for record in history.acked:
        if not history.survives(record.topic, record.losses, record.at):
            continue
        place = (record.topic, record.partition)
        found, value = held[place].get(record.offset), f"{record.sender}:{record.number}"
        if _is_missing(history, place, record.offset, value, found):
            raise Violation(f"I1: {record} was acknowledged, at its offset is {found!r}")


def _check_seen(history: History, held: dict[Place, dict[int, str]]) -> None:
    """Values read at one offset, across the run and at its end."""
    known: dict[tuple[Place, int, int], str] = {}
    for seen in history.seen:
        place = (seen.topic, seen.partition)
        losses = 0 if history.durability[seen.topic] == FSYNC else seen.losses
        key = (place, seen.offset, losses)
        if known.setdefault(key, seen.value) != seen.value:
            raise Violation(f"I2: {seen} was {known[key]!r} before")
    for seen in history.seen:
        place = (seen.topic, seen.partition)
        if history.survives(seen.topic, seen.losses, seen.at):
            found = held[place].get(seen.offset)
            if _is_missing(history, place, seen.offset, seen.value, found):
                raise Violation(f"I5: {seen} was read, at the end there is {found!r}")


def _check_sessions(records: Iterable[Seen]) -> None:
    last: dict[tuple[int, int], int] = {}
    for seen in records:
        key = (seen.session, seen.partition)
        before = last.get(key)
        if seen.session >= 0 and before is not None and seen.offset != before + 1:
            raise Violation(f"I4: {seen} was read right behind offset {before}")
        last[key] = seen.offset


def _check_order(history: History) -> None:
    """In the acks, and in the logs at the end."""
    acked: dict[tuple[Place, int], list[tuple[int, str]]] = {}
    for record in history.acked:
        if record.losses != record.losses_then:  # nobody knows on which side of the loss it was stored
            continue
        key = ((record.topic, record.partition), record.losses)
        acked.setdefault(key, []).append((record.offset, f"{record.sender}:{record.number}"))
    for (place, _), records in acked.items():
        _check_rising(history, place, sorted(records))
    for place, records in history.final.items():
        _check_rising(history, place, records)


def _check_rising(history: History, place: Place, records: Iterable[tuple[int, str]]) -> None:
    last: dict[str, tuple[int, str]] = {}
    for offset, value in records:
        sender, _, number = value.rpartition(":")
        order = history.rounds.get((sender, int(number)), int(number))
        before, before_value = last.get(sender, (-1, ""))
        if order < before:
            raise Violation(f"I3: {value!r} lies at {place} {offset}, behind {before_value!r}, which was sent later")
        last[sender] = (order, value)


def _check_final(history: History) -> None:
    for place, records in history.final.items():
        refused = history.refused.get(place, set())
        wrongly = refused - history.damaged.get(place, set())
        if wrongly:
            raise Violation(f"I8: {place} does not serve {min(wrongly)}, which is whole")
        offsets = sorted([*(offset for offset, _ in records), *refused])
        start = history.starts.get(place, 0)
        if offsets != list(range(start, start + len(offsets))):
            raise Violation(f"I4: {place} has gaps in its offsets from {start} on: {_around_gap(start, offsets)}")
        values = [value for _, value in records]
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise Violation(f"I9: {twice!r} is in {place} twice")
        acknowledged, asked = history.purged.get(place, (0, 0))
        if not acknowledged <= start <= asked:
            raise Violation(f"I6: {place} begins at {start}; it was purged to {acknowledged}, at most {asked}")


def _around_gap(start: int, offsets: list[int]) -> str:
    for expected, offset in enumerate(offsets, start):
        if offset != expected:
            return f"{expected} is followed by {offset}"
    return "none"


def _check_failed(history: History) -> None:
    values = {place: {value for _, value in records} for place, records in history.final.items()}
    for failed in history.failed:
        if f"{failed.sender}:{failed.number}" in values[failed.topic, failed.partition]:
            raise Violation(f"G1a: {failed} was reported as failed, and is there")


def _check_marks(history: History) -> None:
    highest: dict[tuple[str, int, int, int], int] = {}
    for mark in history.marks:
        losses = 0 if history.durability[mark.topic] == FSYNC else mark.losses
        key = (mark.topic, mark.partition, losses, mark.session)
        if mark.high_watermark < highest.get(key, 0):
            raise Violation(f"I6: {mark} was {highest[key]} before")
        highest[key] = mark.high_watermark


def _check_topics(history: History) -> None:
    lost = history.topics_made - history.topics_gone - history.topics_unsure - history.topics
    if lost:
        raise Violation(f"I8: the topic {min(lost)!r} was made and is forgotten")
    undead = history.topics_gone & history.topics
    if undead:
        raise Violation(f"I8: the topic {min(undead)!r} was deleted and is there")
