"""Who watches keys, and what each has not taken yet.

Always true: of a key a watcher gets the newest state only, in the order in which the keys changed last; one that takes
too little is told to scan again, and what it had not taken by then is dropped, so it never sees an older state later.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from dduomq.cluster.ports import Changed, Resync
from dduomq.limits import QUORUM_WATCH_KEYS_MAX


class _Watcher:
    __slots__ = ("_changes", "_event", "_must_scan", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._changes: dict[str, Changed] = {}
        self._must_scan = False
        self._event = trio.Event()
        self.resync()

    def resync(self) -> None:
        self._must_scan = True
        self._changes.clear()
        self._event.set()

    def tell(self, change: Changed) -> None:
        if not change.key.startswith(self.prefix):
            return
        self._changes.pop(change.key, None)
        self._changes[change.key] = change
        if len(self._changes) > QUORUM_WATCH_KEYS_MAX:
            self.resync()
        self._event.set()

    def __aiter__(self) -> "_Watcher":
        return self

    async def __anext__(self) -> Changed | Resync:
        while not self._must_scan and not self._changes:
            self._event = trio.Event()
            await self._event.wait()
        if self._must_scan:
            self._must_scan = False
            return Resync()
        return self._changes.pop(next(iter(self._changes)))


class Watchers:
    """All watchers of a store."""

    def __init__(self) -> None:
        self._watchers: list[_Watcher] = []

    def tell(self, changes: Sequence[Changed]) -> None:
        for watcher in self._watchers:
            for change in changes:
                watcher.tell(change)

    def resync(self) -> None:
        """All must scan again."""
        for watcher in self._watchers:
            watcher.resync()

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Changed | Resync]]:
        """See `MetadataStore.watch`."""
        watcher = _Watcher(prefix)
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)
