"""What must be true of a run, read off its history (the checks of Jepsen's Kafka workload, in our words).

I1  no acknowledged record is lost, at its durability level
I2  one offset of a partition has one value for ever
I3  the offsets of one sender's records rise
I4  offsets have no gaps
I5  what was read stays: nothing is served that a crash may take away
I6  the high watermark does not go back
I9  no record is there twice
"""

from collections.abc import Iterable, Sequence

import attrs

DURABLE = "fsync"


@attrs.frozen
class Acked:
    """A record that was acknowledged; `losses`: how many power losses there had been."""

    topic: str
    partition: int
    offset: int
    sender: str
    number: int
    losses: int


@attrs.frozen
class Seen:
    """A record that was read."""

    topic: str
    partition: int
    offset: int
    value: str
    losses: int


@attrs.frozen
class Mark:
    """A high watermark that a fetch told."""

    topic: str
    partition: int
    high_watermark: int
    losses: int


@attrs.define
class History:
    """Everything a run has shown to its clients."""

    durability: dict[str, str] = attrs.field(factory=dict)
    acked: list[Acked] = attrs.field(factory=list)
    seen: list[Seen] = attrs.field(factory=list)
    marks: list[Mark] = attrs.field(factory=list)
    final: dict[tuple[str, int], list[tuple[int, str]]] = attrs.field(factory=dict)
    losses: int = 0


class Violation(AssertionError):
    """An invariant does not hold."""


def check(history: History) -> None:
    """Raises `Violation` that names the invariant and the first record it fails for."""
    _check_acked(history)
    _check_one_value(history)
    _check_order(history.acked)
    _check_final(history)
    _check_marks(history.marks, history)


def _survives(history: History, topic: str, losses: int) -> bool:
    """Whether what was shown then must be there still."""
    return history.durability[topic] == DURABLE or losses == history.losses


def _check_acked(history: History) -> None:
    held = {key: dict(records) for key, records in history.final.items()}
    for record in history.acked:
        if not _survives(history, record.topic, record.losses):
            continue
        found = held[record.topic, record.partition].get(record.offset)
        if found != f"{record.sender}:{record.number}":
            raise Violation(f"I1: {record} was acknowledged, at its offset is {found!r}")


def _check_one_value(history: History) -> None:
    """Values read at one offset, across the run and at its end."""
    known: dict[tuple[str, int, int, int], str] = {}
    for seen in history.seen:
        losses = 0 if history.durability[seen.topic] == DURABLE else seen.losses
        key = (seen.topic, seen.partition, seen.offset, losses)
        if known.setdefault(key, seen.value) != seen.value:
            raise Violation(f"I2: {seen} was {known[key]!r} before")
    held = {key: dict(records) for key, records in history.final.items()}
    for seen in history.seen:
        if _survives(history, seen.topic, seen.losses):
            found = held[seen.topic, seen.partition].get(seen.offset)
            if found != seen.value:
                raise Violation(f"I5: {seen} was read, at the end there is {found!r}")


def _check_order(acked: Sequence[Acked]) -> None:
    last: dict[tuple[str, str, int, int], tuple[int, int]] = {}
    for record in sorted(acked, key=lambda held: held.number):
        key = (record.sender, record.topic, record.partition, record.losses)
        number, offset = last.get(key, (-1, -1))
        if record.number > number and record.offset <= offset:
            raise Violation(f"I3: {record} lies before number {number}, offset {offset}")
        last[key] = (record.number, record.offset)


def _check_final(history: History) -> None:
    for (topic, partition), records in history.final.items():
        offsets = [offset for offset, _ in records]
        if offsets != list(range(len(offsets))):
            raise Violation(f"I4: {topic}-{partition} has gaps in its offsets: {_around_gap(offsets)}")
        values = [value for _, value in records]
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise Violation(f"I9: {twice!r} is in {topic}-{partition} twice")


def _around_gap(offsets: Sequence[int]) -> str:
    for expected, offset in enumerate(offsets):
        if offset != expected:
            return f"{expected} is followed by {offset}"
    return "none"


def _check_marks(marks: Iterable[Mark], history: History) -> None:
    highest: dict[tuple[str, int, int], int] = {}
    for mark in marks:
        losses = 0 if history.durability[mark.topic] == DURABLE else mark.losses
        key = (mark.topic, mark.partition, losses)
        if mark.high_watermark < highest.get(key, 0):
            raise Violation(f"I6: {mark} was {highest[key]} before")
        highest[key] = mark.high_watermark
