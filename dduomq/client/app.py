"""Handlers by decoration (F85).

    app = dduomq.App("localhost:6086")

    @app.consumer("orders", group="billing", concurrency=16, ordered="key")
    async def bill(order): ...

    if __name__ == "__main__":
        app.main()

Always true: when `run` ends, every handler has ended, what they did is committed, and their groups have been left.
"""

import signal
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import attrs

from dduomq.client.client import Client, connect
from dduomq.client.handlers import Handler, OnFailure, Ordered
from dduomq.client.tasks import flat_tasks
from dduomq.errors import UsageError

H = TypeVar("H", bound=Handler)


@attrs.frozen
class _Wanted:
    """A handler, and how it is to be run."""

    topics: tuple[str, ...]
    handler: Handler
    consumer: Mapping[str, Any]
    run: Mapping[str, Any]


class App:
    """`address` and `options` as for `dduomq.connect`."""

    def __init__(self, address: str = "localhost:6086", **options: Any) -> None:
        self._address = address
        self._options = options
        self._wanted: list[_Wanted] = []
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """To send by, while the app runs."""
        if self._client is None:
            raise UsageError("the app does not run yet: use app.client in a handler, or after run() has begun")
        return self._client

    def consumer(
        self,
        *topics: str,
        group: str,
        concurrency: int = 1,
        ordered: Ordered | None = None,
        on_failure: OnFailure | None = None,
        retries: int | None = None,
        backoff: float = 0.5,
        **options: Any,
    ) -> Callable[[H], H]:
        """Call the decorated function, async or not, for each record; see `Consumer.run` and `Client.consumer`."""

        def decorate(handler: H) -> H:
            run = {
                "concurrency": concurrency, "ordered": ordered, "on_failure": on_failure, "retries": retries,
                "backoff": backoff,
            }  # fmt: skip
            self._wanted.append(_Wanted(topics, handler, {"group": group, **options}, run))
            return handler

        return decorate

    async def run(self) -> None:
        """Until it is cancelled; under trio or asyncio. A handler's error that retrying has not mended ends it."""
        if not self._wanted:
            raise UsageError("the app has no handlers: decorate some with @app.consumer(...)")
        async with connect(self._address, **self._options) as client:
            self._client = client
            try:
                async with flat_tasks() as tasks:
                    for wanted in self._wanted:
                        tasks.start_soon(self._run_one, client, wanted)
            finally:
                self._client = None

    async def _run_one(self, client: Client, wanted: _Wanted) -> None:
        async with client.consumer(*wanted.topics, **wanted.consumer) as consumer:
            await consumer.run(wanted.handler, **wanted.run)

    def main(self, backend: str = "trio") -> None:
        """For scripts: run until SIGINT or SIGTERM, then end in good order."""
        anyio.run(self._until_signalled, backend=backend)

    async def _until_signalled(self) -> None:
        async with flat_tasks() as tasks:
            tasks.start_soon(self._stop_on_signal, tasks.cancel_scope)
            await self.run()

    async def _stop_on_signal(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                scope.cancel()
                return
