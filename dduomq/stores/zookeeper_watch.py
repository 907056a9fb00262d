"""One watch over many of ZooKeeper's, each of which tells once that something has changed, and not what.

Always true: whatever is told is read again, with a new watch left behind, before it goes on; so the last state of
every key comes, and an older one never after it. After a broken connection all watches are gone: everything is
read anew, and the watcher scans.
"""

from typing import Any

import trio
from kazoo.exceptions import KazooException
from kazoo.protocol.states import EventType, WatchedEvent

from dduomq import limits
from dduomq.cluster.ports import Changed, MetadataUnavailable
from dduomq.stores.feed import Feed
from dduomq.stores.zookeeper_client import Keeper, each
from dduomq.stores.zookeeper_names import Names

RETRY_S = 0.2
UNWATCHED = -1


class Follower:
    """Reads what has changed below `prefix` and puts it into `feed`."""

    def __init__(self, keeper: Keeper, names: Names, prefix: str, feed: Feed) -> None:
        self.is_over = False
        self._keeper = keeper
        self._names = names
        self._prefix = prefix
        self._feed = feed
        # by directory under watch: its nodes' versions, by path; UNWATCHED of one that was gone when it was read
        self._known: dict[str, dict[str, int]] = {}
        self._must_begin = True
        self._lists: dict[str, None] = {}  # directories and keys' nodes to be read again, by path
        self._nodes: dict[str, None] = {}
        self._wake = trio.Event()

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                if self._must_begin:
                    await self._begin()
                elif self._lists or self._nodes:
                    await self._go_on()
                else:
                    self._wake = trio.Event()
                    await self._wake.wait()
            except MetadataUnavailable:
                self._must_begin = True
                await trio.sleep(RETRY_S)

    def _told(self, event: WatchedEvent) -> None:
        """In kazoo's thread."""
        self._keeper.soon(self._take, event.type, event.path)

    def _take(self, kind: str, path: str | None) -> None:
        if self.is_over:
            return
        if kind == EventType.CHILD and path is not None:
            self._lists[path] = None
        elif path is not None and path not in self._known and kind != EventType.NONE:
            self._nodes[path] = None
        else:  # the connection broke, or somebody took a directory away
            self._must_begin = True
        self._wake.set()

    async def _begin(self) -> None:
        """Leave watches everywhere, then let the watcher scan: what changes from here on is told."""
        self._must_begin = False
        self._known.clear()
        self._lists.clear()
        self._nodes.clear()
        names = self._names
        await self._keeper.read(each("sync_async", [names.keys]))
        fixed = names.fixed(self._prefix)
        if fixed is not None:
            await self._keeper.read(each("create_async", [fixed]))
        await self._list([names.keys] if fixed is None else [fixed], is_new=False)
        self._feed.resync()

    async def _go_on(self) -> None:
        lists, self._lists = list(self._lists), {}
        nodes, self._nodes = list(self._nodes), {}
        await self._list(lists, is_new=True)
        await self._read(nodes, is_new=True)

    async def _list(self, directories: list[str], *, is_new: bool) -> None:
        """See which nodes are there, and read those that were not."""
        found = await self._keeper.read(each("get_children_async", directories, watch=self._told, include_data=True))
        for path in directories:
            self._known.setdefault(path, {})
        for path, one in zip(directories, found, strict=True):
            if isinstance(one, KazooException):
                self._must_begin = True
            elif path == self._names.keys:
                there = self._names.matching(one[0], self._prefix)
                await self._list([at for at in there if at not in self._known], is_new=is_new)
            else:
                await self._compare(path, one[0], one[1], is_new=is_new)

    async def _compare(self, directory: str, listed: list[str], stat: Any, *, is_new: bool) -> None:
        known = self._known[directory]
        there = {f"{directory}/{name}" for name in listed}
        for path in [path for path in known if path not in there]:
            del known[path]
            self._feed.put(Changed(self._names.key(path), None, stat.pzxid))
        new = sorted(path for path in there if known.get(path, UNWATCHED) == UNWATCHED)
        await self._read([path for path in new if self._names.key(path).startswith(self._prefix)], is_new=is_new)

    async def _read(self, paths: list[str], *, is_new: bool) -> None:
        """Read nodes; one that is gone is told of by its directory, though by then another may have its name."""
        for at in range(0, len(paths), limits.METADATA_SCAN_PAGE):
            page = paths[at : at + limits.METADATA_SCAN_PAGE]
            found = await self._keeper.read(each("get_async", page, watch=self._told))
            for path, one in zip(page, found, strict=True):
                known = self._known[path.rpartition("/")[0]]
                if isinstance(one, KazooException):
                    if path in known:
                        known[path] = UNWATCHED
                    continue
                version = one[1].mzxid
                if known.get(path) != version:
                    known[path] = version
                    if is_new:
                        self._feed.put(Changed(self._names.key(path), one[0], version))
