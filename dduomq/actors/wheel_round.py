"""What a wheel does in one round, and the batches that are on their way from it.

Part of the wheel's actor, not a task.
"""

import attrs

from dduomq.actors.journal import NEVER
from dduomq.delay.records import Fired, Pair, Parked


@attrs.define
class Sending:
    """A batch that its target does not have yet. `again_at`: when it is sent next; NEVER while it is on its way."""

    fired: Fired
    messages: tuple[Parked, ...] | None  # None until they have been read
    tries: int = 0
    again_at: float = NEVER


@attrs.define
class Round:
    """What one round does: batches that go out, messages that are parked for it, messages that are taken out."""

    begun: list[Sending] = attrs.field(factory=list)
    following: list[Parked] = attrs.field(factory=list)
    gone: list[Pair] = attrs.field(factory=list)


def is_same(one: Fired, other: Fired) -> bool:
    """Whether they mean one batch, wherever its record lies."""
    return (one.target, one.epoch, one.sequence) == (other.target, other.epoch, other.sequence)
