"""Dead letters, from a client: which rest, what is in them, sending them on, taking them away.

Always true: a letter that was sent on or taken away is not shown again, and is not sent on again.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Literal, TypeAlias

import attrs

from dduomq.client.consumer import Decoder, fetch_next
from dduomq.client.patience import Patient
from dduomq.client.record import Record
from dduomq.errors import DeadLettersNotFound, UsageError
from dduomq.ids import DELAYED_GROUP, RETRY
from dduomq.limits import ASIDE_OFFSETS_MAX
from dduomq.wire import native, origin
from dduomq.wire.native_groups import FetchCommitted, GroupOffsets
from dduomq.wire.native_letters import LettersListed, LettersMoved, LettersTopic, ListLetters, MoveLetters
from dduomq.wire.ranges import Ranges

FETCH_BYTES = 1024 * 1024
ORIGIN = "origin"
To: TypeAlias = Literal["retry", "origin"]


@attrs.frozen
class DeadLetters:
    """A group's topic of dead letters, and how many rest there."""

    group: str
    topic: str
    count: int


@attrs.frozen
class DeadLetter:
    """One dead letter. `origin_offset` None: the record was never stored, it was to come later. Times: milliseconds.

    `headers` are its sender's own; `attempts`: how often it was tried; `error`: what its handler said last.
    """

    letter_id: str
    origin_topic: str
    origin_partition: int
    origin_offset: int | None
    origin_timestamp_ms: int
    attempts: int
    error: str
    reason: str
    died_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class LetterAdmin(Patient):
    """Every method raises the broker's error."""

    async def dead_letter_groups(self) -> list[DeadLetters]:
        """Which groups have dead letters, or had."""
        listed = await self._patiently(ListLetters(), LettersListed)
        found = []
        for topic in listed.topics:
            moved = await self._moved(topic)
            count = 0
            for at, (start, end) in (await self._ends(topic.topic)).items():
                ranges = moved.get(at, Ranges())
                ranges.drop_below(start)
                count += end - start - ranges.count()
            found.append(DeadLetters(topic.group, topic.topic, count))
        return found

    async def dead_letters(self, group: str, *, filter: str | None = None) -> AsyncGenerator[DeadLetter, None]:
        """Those that rest, partition by partition, the oldest first; `filter` as for `Client.consumer`.

        Raises `DeadLettersNotFound` for a group that never had any, `InvalidFilter`.
        """
        async with aclosing(self._found(group, filter)) as found:
            async for _, letter in found:
                yield letter

    async def dead_letter(self, group: str, letter_id: str) -> DeadLetter:
        """Raises `DeadLettersNotFound`."""
        topic = await self._topic_of(group)
        partition, offset = _parse_id(letter_id, topic)
        moved = (await self._moved(topic)).get(partition, Ranges())
        start, end = (await self._ends(topic.topic))[partition]
        if start <= offset < end and offset not in moved:
            decoder = Decoder(topic.topic, partition, offset, None)
            for record in await self._fetch(decoder, None):
                if record.offset == offset:
                    return _letter(record)
        raise DeadLettersNotFound(f"group {group!r} has no dead letter {letter_id}: it was sent on, or taken away")

    async def redrive(
        self,
        group: str,
        letter_ids: Iterable[str] | None = None,
        *,
        filter: str | None = None,
        to: To | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Send dead letters on, exactly once each: all, these, or those that match; how many that were.

        `to`: "retry", to this group alone, as if they had never been tried; "origin", to the topic each came from, so
        that all its groups get it. None: to the group, if there is one. Raises `DeadLettersNotFound`.
        """
        where = to or (ORIGIN if group == DELAYED_GROUP else RETRY)
        return await self._move_letters(group, letter_ids, filter, where, on_progress)

    async def purge_dead_letters(
        self,
        group: str,
        letter_ids: Iterable[str] | None = None,
        *,
        filter: str | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Take dead letters away, for good: all, these, or those that match; how many that were."""
        return await self._move_letters(group, letter_ids, filter, "", on_progress)

    # --- inside -------------------------------------------------------------------------------------

    async def _move_letters(
        self,
        group: str,
        letter_ids: Iterable[str] | None,
        filter: str | None,
        to: str,
        on_progress: Callable[[int], object] | None,
    ) -> int:
        if letter_ids is not None and filter is not None:
            raise UsageError("say which dead letters, or give a filter, not both")
        total = 0
        async with aclosing(self._chosen(group, letter_ids, filter)) as chosen:
            async for partition, offsets in chosen:
                body = MoveLetters(group, partition, tuple(offsets), to)
                moved = await self._patiently(body, LettersMoved)
                if letter_ids is not None and moved.count < len(offsets):
                    raise DeadLettersNotFound(
                        f"{len(offsets) - moved.count} of the dead letters of group {group!r} that you named had been "
                        "sent on or taken away before"
                    )
                total += moved.count
                if on_progress is not None:
                    on_progress(total)
        return total

    async def _chosen(
        self, group: str, letter_ids: Iterable[str] | None, filter: str | None
    ) -> AsyncGenerator[tuple[int, list[int]], None]:
        """Offsets of one partition at a time, no more than may be moved at once."""
        waiting: dict[int, list[int]] = {}
        if letter_ids is not None:
            topic = await self._topic_of(group)
            for partition, offset in sorted({_parse_id(one, topic) for one in letter_ids}):
                waiting.setdefault(partition, []).append(offset)
        else:
            async with aclosing(self._found(group, filter)) as found:
                async for (partition, offset), _ in found:
                    held = waiting.setdefault(partition, [])
                    held.append(offset)
                    if len(held) == ASIDE_OFFSETS_MAX:
                        yield partition, waiting.pop(partition)
        for partition, offsets in waiting.items():
            for at in range(0, len(offsets), ASIDE_OFFSETS_MAX):
                yield partition, offsets[at : at + ASIDE_OFFSETS_MAX]

    async def _found(self, group: str, filter: str | None) -> AsyncGenerator[tuple[tuple[int, int], DeadLetter], None]:
        """(partition, offset) and letter of each; those that come meanwhile are not looked at."""
        topic = await self._topic_of(group)
        moved = await self._moved(topic)
        for partition, (start, end) in (await self._ends(topic.topic)).items():
            gone = moved.get(partition, Ranges())
            decoder = Decoder(topic.topic, partition, start, None)
            while decoder.position < end:
                at = decoder.position
                for record in await self._fetch(decoder, filter):
                    if record.offset < end and record.offset not in gone:
                        yield (partition, record.offset), _letter(record)
                if decoder.position == at:
                    break

    async def _fetch(self, decoder: Decoder, filter: str | None) -> list[Record]:
        return await fetch_next(
            self._ask,
            decoder,
            max_bytes=FETCH_BYTES,
            wait_s=0,
            isolation=native.Isolation.READ_COMMITTED,
            filter=filter,
        )

    async def _topic_of(self, group: str) -> LettersTopic:
        listed = await self._patiently(ListLetters(), LettersListed)
        for topic in listed.topics:
            if topic.group == group:
                return topic
        raise DeadLettersNotFound(f"group {group!r} has no dead letters")

    async def _moved(self, topic: LettersTopic) -> Mapping[int, Ranges]:
        """What has been sent on or taken away, by partition."""
        held = await self._patiently(FetchCommitted(topic.group, (topic.topic,)), GroupOffsets)
        return {part.partition: Ranges(part.ranges) for part in held.aside}

    async def _ends(self, topic: str) -> dict[int, tuple[int, int]]:
        """The first offset and that behind the last, by partition."""
        found = await self._patiently(native.DescribeTopic(topic), native.TopicDescription)
        return {part.partition: (part.log_start_offset, part.high_watermark) for part in found.partitions}


def _parse_id(text: str, topic: LettersTopic) -> tuple[int, int]:
    parts = text.split("-")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise UsageError(f"{text!r} is no id of a dead letter: ids look like 2-17")
    partition, offset = map(int, parts)
    if partition >= topic.partitions:
        raise DeadLettersNotFound(f"group {topic.group!r} has no dead letter {text}")
    return partition, offset


def _letter(record: Record) -> DeadLetter:
    said = dict(record.headers)

    def number(name: str, otherwise: int) -> int:
        content = said.get(name) or b""
        return int(content) if content.isdigit() else otherwise

    def text(name: str) -> str:
        return (said.get(name) or b"").decode(errors="replace")

    offset = number(origin.ORIGIN_OFFSET_HEADER, -1)
    return DeadLetter(
        f"{record.partition}-{record.offset}", text(origin.ORIGIN_TOPIC_HEADER),
        number(origin.ORIGIN_PARTITION_HEADER, 0), None if offset < 0 else offset,
        number(origin.ORIGIN_TIME_HEADER, record.timestamp_ms), number(origin.ATTEMPT_HEADER, 0),
        text(origin.ERROR_HEADER), text(origin.REASON_HEADER), record.timestamp_ms, record.key, record.raw_value,
        [(name, content) for name, content in record.headers if name not in origin.HEADERS],
    )  # fmt: skip
