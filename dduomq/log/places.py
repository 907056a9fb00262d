"""Where the reads of a log have ended, so that who goes on from there needs no index.

Always true: a place is only a hint to where a batch begins that does not move while the log is open; whoever goes
there checks that the batch it looks for lies there.
"""

import attrs

from dduomq.log.plans import ReadPlan, Seek

PLACES_MAX = 32


class Places:
    """The ends of the last reads, by the offset that comes next."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: dict[int, tuple[str, int]] = {}

    def note(self, plan: ReadPlan) -> None:
        """A read has ended here; the oldest is forgotten."""
        if len(self._ends) >= PLACES_MAX:
            del self._ends[next(iter(self._ends))]
        self._ends[plan.next_offset] = (plan.path, plan.position + plan.size)

    def nearer(self, seek: Seek) -> Seek:
        """The same look, from where an earlier read has ended if it goes on from there."""
        path, position = self._ends.get(seek.offset, ("", 0))
        if path != seek.path or not seek.begin_position <= position < seek.end_position:
            return seek
        return attrs.evolve(seek, index_bytes=0, pending=(), begin_offset=seek.offset, begin_position=position)
