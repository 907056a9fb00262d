"""Whether the page cache takes writes at once.

When the kernel holds writers back, since too much is dirty already, a write into the page cache takes as long as the
disk. Always true: after one such write on the event loop the next ones go to the disk threads for a while.
"""

from dduomq.limits import INLINE_WRITE_HELD_UP_S, INLINE_WRITE_PAUSE_S


class Pace:
    """One for all partitions of a node. Times are monotonic seconds."""

    __slots__ = ("_paused_until",)

    def __init__(self) -> None:
        self._paused_until = 0.0

    def is_fast(self, now: float) -> bool:
        """Whether a write may be tried on the event loop."""
        return now >= self._paused_until

    def note(self, began: float, ended: float) -> None:
        """A write on the event loop took so long."""
        if ended - began > INLINE_WRITE_HELD_UP_S:
            self._paused_until = ended + INLINE_WRITE_PAUSE_S
