"""The janitor: the node's one timer for syncing by interval, checkpoints and retention.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| Tick | node | nothing | nothing | sends what is due |
| Dirty | partition | nothing | nothing | a flush after its interval, a checkpoint after CHECKPOINT_INTERVAL_MS |
| Joined | router | nothing | nothing | the partition is looked at for retention from now on |
| Left | router | nothing | nothing | and no more |

Always true: a quiet partition is woken only for retention, once in `retention_interval_ms`, spread evenly;
so ten thousand of them cost next to nothing.
"""

import heapq
from collections.abc import Mapping
from typing import ClassVar

import attrs

from dduomq.actors.actor import Actor, Mailbox, Message
from dduomq.limits import CHECKPOINT_INTERVAL_MS


@attrs.frozen(kw_only=True)
class Tick(Message):
    now_ms: int


@attrs.frozen(kw_only=True)
class Dirty(Message):
    """`flush_ms`: sync after so long; None when the partition syncs by itself or not at all."""

    partition: Mailbox
    flush_ms: int | None


@attrs.frozen(kw_only=True)
class Joined(Message):
    partition: Mailbox


@attrs.frozen(kw_only=True)
class Left(Message):
    partition: Mailbox


class JanitorActor(Actor):
    """Keeps a heap of what is due and a round of who is next for retention. Times are monotonic ms."""

    __slots__ = (
        "_due",
        "_messages",
        "_now_ms",
        "_partitions",
        "_position",
        "_retained_ms",
        "_serial",
    )
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        Tick: "_on_tick",
        Dirty: "_on_dirty",
        Joined: "_on_joined",
        Left: "_on_left",
    }

    def __init__(self, mailbox: Mailbox, messages: "Chores", retention_interval_ms: int) -> None:
        super().__init__(mailbox)
        self._messages = messages
        self._retained_ms = retention_interval_ms
        self._due: list[tuple[int, int, Mailbox, Message, int | None]] = []
        self._partitions: dict[str, Mailbox] = {}
        self._position = 0.0
        self._serial = 0
        self._now_ms: int | None = None

    def _push(self, after_ms: int, partition: Mailbox, message: Message, again_ms: int | None) -> None:
        self._serial += 1
        due_ms = (self._now_ms or 0) + after_ms
        heapq.heappush(self._due, (due_ms, self._serial, partition, message, again_ms))

    def _on_dirty(self, message: Dirty) -> None:
        if message.flush_ms is not None and message.flush_ms < CHECKPOINT_INTERVAL_MS:
            self._push(message.flush_ms, message.partition, self._messages.flush, message.flush_ms)
        self._push(CHECKPOINT_INTERVAL_MS, message.partition, self._messages.checkpoint, None)

    def _on_joined(self, message: Joined) -> None:
        self._partitions[message.partition.name] = message.partition

    def _on_left(self, message: Left) -> None:
        self._partitions.pop(message.partition.name, None)

    def _on_tick(self, message: Tick) -> None:
        elapsed_ms = 0 if self._now_ms is None else message.now_ms - self._now_ms
        self._now_ms = message.now_ms
        while self._due and self._due[0][0] <= message.now_ms:
            _, _, partition, chore, again_ms = heapq.heappop(self._due)
            partition.offer(chore)
            if again_ms is not None and again_ms < CHECKPOINT_INTERVAL_MS:
                self._repeat(partition, chore, again_ms)
        self._go_round(elapsed_ms)

    def _repeat(self, partition: Mailbox, chore: Message, again_ms: int) -> None:
        """Flushes go on until the checkpoint after which the partition reports again."""
        pending = any(due[2] is partition and due[3] is self._messages.checkpoint for due in self._due)
        if pending:
            self._push(again_ms, partition, chore, again_ms)

    def _go_round(self, elapsed_ms: int) -> None:
        """Send `Retain` to the next few partitions: each once in `retention_interval_ms`."""
        names = list(self._partitions)
        if not names:
            return
        before = self._position
        self._position += min(len(names) * elapsed_ms / self._retained_ms, len(names))
        for at in range(int(before), int(self._position)):
            self._partitions[names[at % len(names)]].offer(self._messages.retain)
        self._position %= len(names)


@attrs.frozen
class Chores:
    """The messages that the janitor sends; the node hands them in, since partitions rank below."""

    flush: Message
    checkpoint: Message
    retain: Message
