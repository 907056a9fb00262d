"""What a follower does with its leader's answer: append, cut its log first, or begin anew.

Always true: a log is cut only where the leader's history of epochs parts from its own (KIP-101, KIP-595), never by the
high watermark; each cut brings the two nearer, so that it ends.
"""

from typing import TypeAlias

import attrs

from dduomq.log.epochs import EpochCache


@attrs.frozen
class Answer:
    """What a leader says of its log. `diverging`: (epoch, where it ends there), when ours has gone another way."""

    high_watermark: int
    log_start_offset: int
    log_end_offset: int
    diverging: tuple[int, int] | None = None


@attrs.frozen
class Own:
    """The follower's own log."""

    log_start_offset: int
    log_end_offset: int
    epochs: EpochCache
    damaged_from: int | None = None


@attrs.frozen
class Append:
    """The batches that came follow what is here, if any came."""


@attrs.frozen
class Truncate:
    """Everything from `offset` on goes."""

    offset: int


@attrs.frozen
class Reset:
    """Everything goes; the log begins again at `offset`."""

    offset: int


Decision: TypeAlias = Append | Truncate | Reset


def decide(own: Own, answer: Answer) -> Decision:
    """What is to be done with the answer to a fetch from the end of our log."""
    if answer.diverging is not None:
        return _at_parting(own, *answer.diverging)
    if answer.log_start_offset > own.log_end_offset:
        return Reset(answer.log_start_offset)
    if answer.log_end_offset < own.log_end_offset:  # without epochs to tell: what the leader has is what counts
        return Truncate(answer.log_end_offset)
    spoilt = own.damaged_from
    if spoilt is not None and answer.log_start_offset <= spoilt and answer.high_watermark >= own.log_end_offset:
        return Truncate(spoilt)  # the leader has it whole, and what is behind it, too
    return Append()


def _at_parting(own: Own, epoch: int, end_offset: int) -> Decision:
    """The leader's log and ours agree up to where both say that this epoch ends, at most."""
    known, own_end = own.epochs.end_offset_of(epoch, own.log_end_offset)
    if known < 0:
        return Reset(min(end_offset, own.log_end_offset))
    offset = min(end_offset, own_end)
    if offset >= own.log_end_offset:  # it can't be: but to stand still would be worse than to ask for more
        offset = own.log_start_offset
    return Reset(offset) if offset <= own.log_start_offset else Truncate(offset)
