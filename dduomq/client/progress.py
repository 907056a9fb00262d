"""How far the work on one partition has come: what was handed out, what is done, and so what may be committed.

A pure machine. Always true: `position` is never behind a record that was handed out and is not done; offsets that
hold no record for this consumer (filtered, removed, skipped) are passed as soon as everything before them is done.
"""

from collections import deque


class Progress:
    """Offsets are handed out in rising order, and done in any."""

    __slots__ = ("_handed_to", "_open", "_order", "committed")
    committed: int | None

    def __init__(self, offset: int, *, is_committed: bool = True) -> None:
        """`is_committed`: the group, or whoever keeps the place, has that offset already."""
        self._order: deque[int] = deque()
        self._open: set[int] = set()
        self._handed_to = offset
        self.committed = offset if is_committed else None

    def hand_out(self, offset: int) -> None:
        """A record is being worked on."""
        self._order.append(offset)
        self._open.add(offset)
        self._handed_to = offset + 1

    def passed(self, offset: int) -> None:
        """Nothing for us lies between what was handed out and `offset`."""
        self._handed_to = max(self._handed_to, offset)

    def done(self, offset: int) -> None:
        """The work on a record has ended; saying so twice does nothing."""
        self._open.discard(offset)

    def is_open(self, offset: int) -> bool:
        """Whether that record is being worked on."""
        return offset in self._open

    @property
    def in_flight(self) -> int:
        """How many records are being worked on."""
        return len(self._open)

    @property
    def position(self) -> int:
        """What may be committed: the first offset that is not done."""
        order, still_open = self._order, self._open
        while order and order[0] not in still_open:
            order.popleft()
        return order[0] if order else self._handed_to

    def seek(self, offset: int) -> None:
        """Go on elsewhere: what is being worked on does not count any more."""
        self._order.clear()
        self._open.clear()
        self._handed_to = offset
