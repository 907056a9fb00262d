"""Sets of offsets, kept as ranges: what is one behind another takes the room of one.

A pure value. Always true: ranges are in order, apart from each other by one offset at least.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """`flat` as it is stored: first and last of each range in turn, both inside."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, flat: Iterable[int] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        numbers = list(flat)
        for first, last in zip(numbers[::2], numbers[1::2], strict=True):
            self.add(first, last)

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._firsts)

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._firsts, offset) - 1
        return at >= 0 and offset <= self._lasts[at]

    def __iter__(self) -> Iterator[int]:
        """Every offset."""
        for first, last in zip(self._firsts, self._lasts, strict=True):
            yield from range(first, last + 1)

    @property
    def flat(self) -> tuple[int, ...]:
        return tuple(n for pair in zip(self._firsts, self._lasts, strict=True) for n in pair)

    def count(self) -> int:
        """How many offsets."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def add(self, first: int, last: int) -> None:
        """These, too."""
        low = bisect_left(self._lasts, first - 1)  # the first range that ends at, or just before, these
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def drop_below(self, offset: int) -> None:
        """None before `offset` any more."""
        at = bisect_left(self._lasts, offset)
        del self._firsts[:at], self._lasts[:at]
        if self._firsts and self._firsts[0] < offset:
            self._firsts[0] = offset


def flat_of(offsets: Iterable[int]) -> tuple[int, ...]:
    """Offsets in any order, as ranges are stored."""
    found = Ranges()
    for offset in offsets:
        found.add(offset, offset)
    return found.flat
