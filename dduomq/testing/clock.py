"""The simulated clocks, and the one place that makes trio's scheduler follow a seed."""

from random import Random

import trio
from trio._core import _run as scheduler

EPOCH_MS = 1_700_000_000_000
ROUNDING_S = 1e-6  # more than floating point takes away, so that the time has come then


class SimClock:
    """Virtual time: monotonic is trio's mock clock, the wall clock runs beside it and can be made to jump."""

    def __init__(self) -> None:
        self._offset_ms = EPOCH_MS

    def wall_ms(self) -> int:
        return self._offset_ms + int(trio.current_time() * 1000)

    def monotonic(self) -> float:
        return trio.current_time()

    def when(self, wall_ms: int) -> float:
        return (wall_ms - self._offset_ms) / 1000 + ROUNDING_S

    def jump(self, by_ms: int) -> None:
        """As when somebody sets the machine's clock."""
        self._offset_ms += by_ms


class SeededScheduler:
    """While entered, trio runs its tasks in an order that the seed decides.

    trio keeps this behind private names, since only tests want it; they stand here and nowhere else.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._before: tuple[bool, Random] = (False, Random())

    def __enter__(self) -> None:
        self._before = (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r)
        self._set(True, Random(self._seed))

    def __exit__(self, *_: object) -> None:
        self._set(*self._before)

    @staticmethod
    def _set(allow: bool, rng: Random) -> None:
        vars(scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] = allow
        vars(scheduler)["_r"] = rng
