"""What a node's process does about cyclic garbage, on the real collector."""

import gc
import sys
import weakref

import pytest
import trio

from dduomq import heap


class Ring:
    """Refers to itself, so that only the collector can find it."""

    def __init__(self):
        self.me = self


@pytest.fixture
async def tended(nursery, autojump_clock):
    nursery.start_soon(heap.tend)
    await trio.sleep(heap.LOOK_S / 2)
    yield
    nursery.cancel_scope.cancel()


def _age():
    """Let what there is survive the young generations."""
    gc.collect(0)
    gc.collect(1)


async def test_what_lasts_is_not_looked_at_again(tended, autojump_clock):
    assert gc.get_freeze_count() > 10_000
    ring = Ring()
    gone = weakref.ref(ring)
    _age()
    await trio.sleep(heap.LOOK_S)
    del ring
    gc.collect()
    assert gone() is not None


async def test_what_has_come_since_and_is_lost_is_found(tended, autojump_clock):
    gone = weakref.ref(Ring())
    _age()
    await trio.sleep(heap.LOOK_S)
    assert gone() is None


async def test_garbage_among_what_has_lasted_is_found_when_the_heap_has_grown(tended, autojump_clock):
    ring = Ring()
    gone = weakref.ref(ring)
    _age()
    await trio.sleep(heap.LOOK_S)
    del ring
    _age()
    await trio.sleep(heap.LOOK_S)
    assert gone() is not None
    grown = [[] for _ in range(int(sys.getallocatedblocks() * heap.GROWTH) + heap.GROWTH_BLOCKS_MIN)]
    await trio.sleep(heap.LOOK_S)
    assert grown
    assert gone() is None


async def test_a_collector_that_is_not_tended_any_more_looks_at_everything(nursery, autojump_clock):
    with trio.move_on_after(3 * heap.LOOK_S):
        await heap.tend()
    assert gc.get_freeze_count() == 0
