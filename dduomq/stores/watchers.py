"""Who watches which keys of a store; what each has not taken yet is its `Feed`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from dduomq.cluster.ports import Changed, Resync
from dduomq.stores.feed import Feed


class Watchers:
    """All watchers of a store."""

    def __init__(self) -> None:
        self._watchers: list[tuple[str, Feed]] = []

    def tell(self, changes: Sequence[Changed]) -> None:
        for prefix, feed in self._watchers:
            for change in changes:
                if change.key.startswith(prefix):
                    feed.put(change)

    def resync(self) -> None:
        """All must scan again."""
        for _, feed in self._watchers:
            feed.resync()

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Changed | Resync]]:
        """See `MetadataStore.watch`."""
        feed = Feed()
        feed.resync()
        entry = (prefix, feed)
        self._watchers.append(entry)
        try:
            yield feed
        finally:
            self._watchers.remove(entry)
