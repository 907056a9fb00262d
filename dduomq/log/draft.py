"""What a write plan will change in its log once it is written.

Always true: a draft is filled while the plan is made and read when it is written; an abandoned one leaves no trace.
"""

import attrs

from dduomq.log.epochs import EpochCache
from dduomq.log.producers import ProducerState
from dduomq.log.segment import Segment
from dduomq.wire.batch import BatchHeader


@attrs.frozen(slots=True)
class Placed:
    """A batch and the place that a plan has given it."""

    header: BatchHeader
    base_offset: int
    position: int
    max_timestamp: int


@attrs.frozen(slots=True)
class Ended:
    """A transaction that a marker at `last_offset` ends; below `last_stable_offset` all are then decided."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int
    is_abort: bool


class Draft:
    """`overlay` holds the producers' states to be, `rolled` the new segment, `epochs` the cache with a new line."""

    __slots__ = ("ended", "epochs", "overlay", "placed", "rolled")

    def __init__(self, rolled: Segment | None) -> None:
        self.placed: list[Placed] = []
        self.overlay: dict[int, ProducerState] = {}
        self.ended: list[Ended] = []
        self.rolled = rolled
        self.epochs: EpochCache | None = None
