"""The newest batches of a log, whose places are known without the index.

Always true: they lie in the active segment, one behind the other, none is missing between the first and the last.
"""

from collections import deque

from dduomq.limits import TAIL_POSITIONS_MAX


class Tail:
    """(base offset, position, size, next offset) of the last batches."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: deque[tuple[int, int, int, int]] = deque(maxlen=TAIL_POSITIONS_MAX)

    def add(self, base_offset: int, position: int, size: int, next_offset: int) -> None:
        self._places.append((base_offset, position, size, next_offset))

    @property
    def first_offset(self) -> int:
        """Where it begins; call only when something was added."""
        return self._places[0][0]

    def find(self, offset: int, max_bytes: int, upper: int) -> tuple[int, int, int] | None:
        """(position, size, next offset) of the whole batches from `offset` on below `upper`, at least one."""
        start = end = -1
        next_offset = offset
        for _, position, size, following in self._places:
            if following <= offset:
                continue
            if following > upper or (start >= 0 and position + size - start > max_bytes):
                break
            if start < 0:
                start = position
            end, next_offset = position + size, following
        return None if start < 0 else (start, end - start, next_offset)
