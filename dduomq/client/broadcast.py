"""Broadcast: every consumer reads everything, and keeps its own place in a file of its own (F5, F37).

Always true: the file is replaced whole, so it holds one commit or the next, never half of one.
"""

import json
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import attrs

from dduomq.client.consumer import Ask, Start, find_offset
from dduomq.client.feed import Feed
from dduomq.client.group_events import Assigned, Committed, Moved
from dduomq.client.group_life import GRACE_MS, Tell
from dduomq.client.part import Part
from dduomq.errors import DduomqError, NetworkError, UsageError

REFRESH_S = 10.0
VERSION = 1


class OffsetsFile:
    """Where a broadcast consumer goes on after a restart; without a path it is kept in memory. By topic id: a topic
    that was deleted and made again begins anew.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._offsets: dict[tuple[str, str, int], int] = {}  # (topic, its id, partition)

    def load(self) -> None:
        """Raises `UsageError` for a file that is not one of ours."""
        if self._path is None or not os.path.exists(self._path):
            return
        try:
            with open(self._path, encoding="utf-8") as file:
                found = json.load(file)
            self._offsets = {(topic, topic_id, int(at)): int(to) for topic, topic_id, at, to in found["offsets"]}
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{self._path} does not hold a consumer's offsets; remove it to begin anew, or name another file"
            ) from error

    def get(self, topic: str, topic_id: str, partition: int) -> int | None:
        return self._offsets.get((topic, topic_id, partition))

    def save(self, offsets: dict[tuple[str, str, int], int]) -> None:
        """They are there when this returns, also after a power loss."""
        self._offsets.update(offsets)
        if self._path is None:
            return
        rows = [[*place, offset] for place, offset in sorted(self._offsets.items())]
        temporary = self._path + ".tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "offsets": rows}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        descriptor = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the new name, too, must outlive a power loss
        finally:
            os.close(descriptor)


@attrs.frozen(kw_only=True)
class BroadcastOptions:
    topics: tuple[str, ...]
    start: Start
    auto_commit: bool
    commit_interval: float


class BroadcastLife:
    """Fills a feed with all partitions of the topics, those that come later among them."""

    def __init__(
        self,
        options: BroadcastOptions,
        file: OffsetsFile,
        feed: Feed,
        *,
        ask: Ask,
        partitions: Callable[[str], Awaitable[list[tuple[str, int]]]],
        deserialize: Callable[[Any], Any] | None,
        tell: Tell,
    ) -> None:
        self._options = options
        self._file = file
        self._feed = feed
        self._ask = ask
        self._partitions = partitions
        self._deserialize = deserialize
        self._tell = tell
        self._committing = anyio.Lock()
        self.joined = anyio.Event()

    async def live(self) -> None:
        await anyio.to_thread.run_sync(self._file.load)
        while True:
            try:
                await self._look()
                self.joined.set()
            except DduomqError as error:
                if not error.retriable and not isinstance(error, NetworkError):
                    self._feed.fail(error)
                    self.joined.set()
                    return
            await anyio.sleep(REFRESH_S)

    async def _look(self) -> None:
        positions = {}
        for topic in self._options.topics:
            for topic_id, partition in await self._partitions(topic):
                place = (topic, partition)
                held = self._feed.parts.get(place)
                if held is not None and held.topic_id == topic_id:
                    continue
                if held is not None:
                    self._feed.remove(held)
                offset = self._file.get(topic, topic_id, partition)
                is_kept = offset is not None or self._options.start == "earliest"
                if offset is None:
                    offset = await find_offset(self._ask, topic, partition, self._options.start, GRACE_MS)
                positions[place] = offset
                self._feed.add(Part(topic_id, topic, partition, offset, self._deserialize, is_committed=is_kept))
        if positions:
            await self._tell(Assigned(positions))

    async def elsewhere(self, part: Part) -> int:
        """At the start, or at the end, if that is where the consumer wanted to begin."""
        start: Start = "latest" if self._options.start == "latest" else "earliest"
        offset = await find_offset(self._ask, *part.id, start, GRACE_MS)
        await self._tell(Moved(part.id, offset))
        return offset

    async def commit_now_and_then(self) -> None:
        """For ever, where that is wanted."""
        while self._options.auto_commit:
            await anyio.sleep(self._options.commit_interval)
            await self.commit(list(self._feed.parts.values()))

    async def commit(self, parts: Iterable[Part]) -> None:
        """Keep how far the work has come."""
        async with self._committing:
            todo = {part: part.progress.position for part in parts if part.progress.position != part.progress.committed}
            if not todo:
                return
            offsets = {part.id: offset for part, offset in todo.items()}
            kept = {(part.id[0], part.topic_id, part.id[1]): offset for part, offset in todo.items()}
            await anyio.to_thread.run_sync(self._file.save, kept)
            for part, offset in todo.items():
                part.progress.committed = offset
        await self._tell(Committed(offsets))

    async def leave(self) -> None:
        parts = list(self._feed.parts.values())
        self._feed.stop(parts)
        if self._options.auto_commit:
            await self.commit(parts)
