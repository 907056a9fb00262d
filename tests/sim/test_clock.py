"""The simulated clocks, and the one place that reaches into trio's scheduler."""

import trio
import trio.testing
from trio._core import _run as scheduler

from dduomq.testing.clock import EPOCH_MS, SeededScheduler, SimClock


async def test_the_wall_clock_runs_with_virtual_time_and_can_jump(autojump_clock):
    """A jump moves the wall clock only: deadlines don't care."""
    clock = SimClock()
    begun = clock.monotonic()
    assert clock.wall_ms() == EPOCH_MS + int(begun * 1000)
    await trio.sleep(90)
    assert clock.wall_ms() - EPOCH_MS == int(clock.monotonic() * 1000)
    clock.jump(-60_000)
    assert clock.wall_ms() - EPOCH_MS == int(clock.monotonic() * 1000) - 60_000
    assert clock.monotonic() - begun == 90


def order(seed):
    """In which order twenty tasks, all ready at once, run again and again."""
    ran = []

    async def work(name):
        for _ in range(5):
            ran.append(name)
            await trio.lowlevel.checkpoint()

    async def run():
        async with trio.open_nursery() as nursery:
            for name in range(20):
                nursery.start_soon(work, name)

    with SeededScheduler(seed):
        trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return ran


def test_the_seed_orders_the_tasks():
    """The same seed the same order, another seed another."""
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_trio_is_left_as_it_was():
    """What the shim changes it puts back, also after an error."""
    before = (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r)
    try:
        with SeededScheduler(1):
            assert scheduler._ALLOW_DETERMINISTIC_SCHEDULING
            raise KeyError
    except KeyError:
        assert (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r) == before
