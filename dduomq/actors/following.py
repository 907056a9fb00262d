"""Following a part of the metadata, whatever happens to the engine.

Not a task of its own. Always true: whoever follows is told everything once, and then each key's newest state, in the
order of that key; after an outage everything again.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog
import trio

from dduomq.cluster.ports import (
    Changed,
    MetadataConflict,
    MetadataStore,
    MetadataUnavailable,
    MetadataUnknown,
    Resync,
    Versioned,
)
from dduomq.limits import CONTROLLER_RETRY_MS, CONTROLLER_RETRY_MS_MAX
from dduomq.ports import Rng

T = TypeVar("T")
FAILURES = (MetadataConflict, MetadataUnavailable, MetadataUnknown)


class Pause:
    """How long to wait after a failure: longer each time, and not all nodes alike."""

    __slots__ = ("_failures", "_rng")

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._failures = 0

    def worked(self) -> None:
        self._failures = 0

    async def failed(self) -> None:
        """Wait."""
        most = min(CONTROLLER_RETRY_MS << self._failures, CONTROLLER_RETRY_MS_MAX)
        self._failures = min(self._failures + 1, 16)
        await trio.sleep(most * self._rng.uniform(0.5, 1.0) / 1000)


async def follow(
    store: MetadataStore,
    prefix: str,
    *,
    all_of: Callable[[Sequence[Versioned]], None],
    one: Callable[[Changed], None],
    rng: Rng,
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Call `all_of` with everything below `prefix`, then `one` with each change, until cancelled."""
    pause = Pause(rng)
    while True:
        try:
            async with store.watch(prefix) as changes:
                async for change in changes:
                    if isinstance(change, Resync):
                        all_of(await store.scan(prefix))
                    else:
                        one(change)
                    pause.worked()
        except FAILURES as error:
            log.debug("metadata_not_followed", prefix=prefix, reason=error.message)
        await pause.failed()


class Decoded(Generic[T]):
    """What values mean, each made out once: a scan of what has hardly changed costs little."""

    __slots__ = ("_decode", "_known")

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        self._decode = decode
        self._known: dict[str, tuple[int, T]] = {}

    def one(self, held: Versioned) -> T:
        known = self._known.get(held.key)
        if known is not None and known[0] == held.version:
            return known[1]
        value = self._decode(held.value)
        self._known[held.key] = (held.version, value)
        return value

    def all(self, held: Sequence[Versioned]) -> list[T]:
        """All there are; the others are forgotten."""
        values = [self.one(each) for each in held]
        if len(self._known) > len(held):
            here = {each.key for each in held}
            self._known = {key: known for key, known in self._known.items() if key in here}
        return values


class Following:
    """The newest state of each key below a prefix. `changed` is called after every change."""

    __slots__ = ("_changed", "_held", "_prefix")

    def __init__(self, prefix: str, changed: Callable[[], None]) -> None:
        self._prefix = prefix
        self._changed = changed
        self._held: dict[str, Versioned] = {}

    @property
    def held(self) -> list[Versioned]:
        return list(self._held.values())

    async def run(self, store: MetadataStore, rng: Rng, log: structlog.stdlib.BoundLogger) -> None:
        """Follow, until cancelled."""
        await follow(store, self._prefix, all_of=self._all, one=self._one, rng=rng, log=log)

    def _all(self, held: Sequence[Versioned]) -> None:
        self._held = {each.key: each for each in held}
        self._changed()

    def _one(self, change: Changed) -> None:
        before = self._held.get(change.key)
        if change.value is None:
            if before is not None and 0 < change.version < before.version:
                return  # it has come back since
            self._held.pop(change.key, None)
        elif before is None or before.version < change.version:
            self._held[change.key] = Versioned(change.key, change.value, change.version)
        else:
            return
        self._changed()
