"""A nursery whose one failure comes out as itself, not in a group of one.

Always true: several failures come out together, as trio gives them; a single one keeps its traceback.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


def single(error: BaseException) -> BaseException:
    """The one leaf of a group that has just one, else `error` itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def open_flat_nursery() -> AsyncIterator[trio.Nursery]:
    """`trio.open_nursery`, but see the file's head."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        leaf = single(group)
        if leaf is group:
            raise
        raise leaf from leaf.__cause__
