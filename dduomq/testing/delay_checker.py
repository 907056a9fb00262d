"""What must be true of delayed messages in a run, read off its history.

I25 none comes before its time
I26 each that was acknowledged comes once; one whose sending is in doubt comes once at most
I28 what was cancelled never comes, and what was refused neither
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

import attrs


class DelayViolation(AssertionError):
    """An invariant of delayed messages does not hold."""


class Fate(Enum):
    """What the sender knows of its message."""

    ACKED = "acknowledged"
    IN_DOUBT = "in doubt"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@attrs.define
class Delayed:
    """A message that was to come at `due_ms`, wall clock."""

    value: str
    due_ms: int
    fate: Fate = Fate.IN_DOUBT


@attrs.frozen
class Arrived:
    """As it was found at the end: when it says that it was due, and when it was put there."""

    value: str
    until_ms: int
    timestamp_ms: int


MOST = {Fate.ACKED: 1, Fate.IN_DOUBT: 1, Fate.REFUSED: 0, Fate.CANCELLED: 0}
LEAST = {Fate.ACKED: 1, Fate.IN_DOUBT: 0, Fate.REFUSED: 0, Fate.CANCELLED: 0}


def check_delays(delayed: Mapping[str, Delayed], arrived: Iterable[Arrived], set_back_ms: int) -> None:
    """Raises `DelayViolation`.

    `set_back_ms`: by how much the clock was set back in all: what was due may have been on its way at that moment.
    """
    arrived = list(arrived)
    counts = Counter(one.value for one in arrived)
    for one in arrived:
        if not delayed[one.value].due_ms <= one.until_ms <= one.timestamp_ms + set_back_ms:
            raise DelayViolation(f"I25: {one} came before its time: {delayed[one.value]}")
    for message in delayed.values():
        count, fate = counts[message.value], message.fate
        if not LEAST[fate] <= count <= MOST[fate]:
            name = "I28" if MOST[fate] == 0 else "I26"
            raise DelayViolation(f"{name}: {message} is there {count} times")
