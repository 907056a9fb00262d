"""How long before their time messages are taken up, from how long it takes to write down that they go out.

A pure machine. Always true: it follows what has become slower within a few times, what has become faster in many; it is
bounded, for what is taken up can't be cancelled any more.
"""

from math import ceil

LEAD_MS_MIN, LEAD_MS_MAX = 3, 20
SPARE_MS = 2
FIRST_MS = 2.0


class Lead:
    """`store_ms`: until a record is in the log; `turn_ms`: from a batch's sending until the next one may be sent."""

    __slots__ = ("store_ms", "turn_ms")

    def __init__(self) -> None:
        self.store_ms = self.turn_ms = FIRST_MS

    @property
    def ms(self) -> int:
        return max(LEAD_MS_MIN, min(LEAD_MS_MAX, ceil(2 * max(self.store_ms, self.turn_ms)) + SPARE_MS))

    @property
    def last_ms(self) -> int:
        """So long before its time a message must be taken up; what is due in `ms` then goes along."""
        return max(LEAD_MS_MIN, min(LEAD_MS_MAX, ceil(self.store_ms) + SPARE_MS))

    def stored(self, seconds: float) -> None:
        self.store_ms = _smoothed(self.store_ms, seconds)

    def arrived(self, seconds: float) -> None:
        self.turn_ms = _smoothed(self.turn_ms, seconds)


def _smoothed(before_ms: float, seconds: float) -> float:
    now_ms = min(seconds * 1000, LEAD_MS_MAX)
    return before_ms + (now_ms - before_ms) / (4 if now_ms > before_ms else 32)
