"""When a record that could not be done comes again, and when it has been tried often enough.

A pure machine. Always true: a ladder has a delay for each try but the first; who has climbed it is dead.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, TypeAlias

from dduomq.errors import InvalidDelay, UsageError
from dduomq.limits import DELAY_MS_MAX
from dduomq.wire.delay import length_ms

Delay: TypeAlias = timedelta | float
RETRY_LADDER: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 10, 15, 20, 25, 30, 60, 120, 240, 480, 960, 1200, 3000, 6000, 12000)
)
STEPS_MAX = 1_000


class Ladder:
    """The delays before the second try, the third, ...; without any, the first failure is the last."""

    __slots__ = ("_delays_ms",)

    def __init__(self, delays: Sequence[Delay]) -> None:
        if isinstance(delays, str | bytes) or not isinstance(delays, Sequence) or len(delays) > STEPS_MAX:
            raise UsageError(f"retry is a list of up to {STEPS_MAX} delays, in seconds or as timedelta; None for none")
        self._delays_ms = tuple(map(checked_ms, delays))

    def delay_ms(self, attempt: int) -> int | None:
        """After a try in vain, the first is 1: how long until the next; None when there is none."""
        return self._delays_ms[attempt - 1] if attempt <= len(self._delays_ms) else None


def checked_ms(delay: Delay) -> int:
    """Milliseconds. Raises `InvalidDelay`."""
    length = length_ms(delay)
    if length > DELAY_MS_MAX:
        raise InvalidDelay(f"a delay of {length // 86_400_000} days; {DELAY_MS_MAX // 86_400_000} is the most")
    return length
