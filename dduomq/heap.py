"""When a node's process looks for cyclic garbage: seldom through all it has, as nothing else runs meanwhile.

CPython counts references, and besides looks through all objects for cycles that nobody refers to. It does so whenever
the young ones that survived are a quarter of the old: with 10,000 partitions every other second, for half a second,
which is longer than the other nodes wait for the leader of the metadata. So what has survived once is frozen
(`gc.freeze`): it is given back as before when the last reference goes, but not looked at again until the heap has grown
by half. Garbage that lies among it makes it grow as well, so that never more than that is wasted.

For a process of its own: a program that embeds a node keeps the collector as it is.
"""

import gc
import sys

import trio

LOOK_S = 1.0
GROWTH = 1.5
GROWTH_BLOCKS_MIN = 100_000  # some 10 MB


async def tend() -> None:
    """A task: freeze what lasts, and look through everything when the heap has grown, until cancelled."""
    before = settle()
    try:
        while True:
            await trio.sleep(LOOK_S)
            if sys.getallocatedblocks() > before * GROWTH + GROWTH_BLOCKS_MIN:
                before = settle()
            elif gc.get_count()[2]:  # else next to nothing has come since
                gc.collect()
                gc.freeze()
    finally:
        gc.unfreeze()


def settle() -> int:
    """Look through everything, and freeze what is left; how many blocks of memory that is."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    return sys.getallocatedblocks()
