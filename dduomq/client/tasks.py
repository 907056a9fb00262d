"""Task groups whose one failure comes out as itself, and tasks that outlive a cancellation until they are told."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc


@asynccontextmanager
async def flat_tasks() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group whose one failure comes out as itself."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        leaf: BaseException = group
        while isinstance(leaf, BaseExceptionGroup) and len(leaf.exceptions) == 1:
            leaf = leaf.exceptions[0]
        if leaf is group:
            raise
        raise leaf from leaf.__cause__


class Background:
    """A client's tasks. Whoever is cancelled inside the client's block still has a connection to say good-bye by."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._scopes: set[anyio.CancelScope] = set()
        self._is_over = False

    def start_soon(self, run: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        self._tasks.start_soon(self._live, run, arguments)

    async def _live(self, run: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        if self._is_over:
            return
        with anyio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                await run(*arguments)
            finally:
                self._scopes.discard(scope)

    def fail(self, error: Exception) -> None:
        """End the client's block with this error."""
        self._tasks.start_soon(_raise, error)

    def end(self) -> None:
        """Cancel them all; those that were to begin do not."""
        self._is_over = True
        for scope in list(self._scopes):
            scope.cancel()


async def _raise(error: Exception) -> None:
    raise error
