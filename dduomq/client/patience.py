"""Questions of an operator's tool: asked again while whoever is to answer is only just starting."""

from collections.abc import Callable
from time import time_ns
from typing import TypeVar

import anyio

from dduomq.client.consumer import Ask
from dduomq.errors import (
    CoordinatorLoading,
    CoordinatorNotAvailable,
    DduomqError,
    NetworkError,
    NotCoordinator,
    Overloaded,
    WheelNotAvailable,
)
from dduomq.wire import native

T = TypeVar("T")
TIMEOUT_MS = 30_000
AGAIN_S = 0.1
STARTING = (CoordinatorLoading, CoordinatorNotAvailable, NotCoordinator, Overloaded, WheelNotAvailable)


class Patient:
    """What the parts of `Admin` have in common."""

    def __init__(self, ask: Ask, wall_ms: Callable[[], int] = lambda: time_ns() // 1_000_000) -> None:
        self._ask = ask
        self._wall_ms = wall_ms

    async def _patiently(self, body: object, answer: type[T], timeout_ms: int = TIMEOUT_MS) -> T:
        """A coordinator or a wheel that has just started reads its log first: wait for it, not for ever."""
        refusal: DduomqError | None = None
        with anyio.move_on_after((TIMEOUT_MS + timeout_ms) / 1000):
            while True:
                try:
                    plain, _ = await self._ask(body, timeout_ms)
                except (
                    CoordinatorLoading,
                    CoordinatorNotAvailable,
                    NotCoordinator,
                    Overloaded,
                    WheelNotAvailable,
                ) as error:
                    refusal = error
                    await anyio.sleep(AGAIN_S)
                else:
                    return native.from_plain(answer, plain)
        raise refusal or NetworkError("the node has not answered in time; is it overloaded? try again")
