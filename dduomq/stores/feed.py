"""What a watcher has not seen yet: the newest state of each key, or that it must scan again.

Always true: a watcher that takes everything out ends with the last state of every key, however slow it is and
however much came in between. It holds at most `METADATA_WATCH_KEYS_MAX` keys; one more, and they are one `Resync`.
"""

import trio

from dduomq.cluster.ports import Changed, Resync
from dduomq.limits import METADATA_WATCH_KEYS_MAX, METADATA_WATCH_TAKEN_MAX


class Feed:
    """One watcher's side of a watch; iterate over it, in one task."""

    __slots__ = ("_changes", "_must_scan", "_taken", "_wake")

    def __init__(self) -> None:
        self._taken = 0  # since others had their turn
        self._changes: dict[str, Changed] = {}
        self._must_scan = False
        self._wake = trio.Event()

    def put(self, change: Changed) -> None:
        """A key's newest state, instead of what was waiting of it."""
        self._changes.pop(change.key, None)
        self._changes[change.key] = change
        if len(self._changes) > METADATA_WATCH_KEYS_MAX:
            self.resync()
        self._wake.set()

    def resync(self) -> None:
        """What waits is forgotten: the scan that follows shows it."""
        self._changes.clear()
        self._must_scan = True
        self._wake.set()

    def __aiter__(self) -> "Feed":
        return self

    async def __anext__(self) -> Changed | Resync:
        self._taken += 1
        if self._taken >= METADATA_WATCH_TAKEN_MAX or not self._changes:
            await trio.lowlevel.checkpoint()
            self._taken = 0
        while not (self._must_scan or self._changes):
            self._wake = trio.Event()
            await self._wake.wait()
        if self._must_scan:
            self._must_scan = False
            return Resync()
        return self._changes.pop(next(iter(self._changes)))
