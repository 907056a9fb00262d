"""Puts a consumer together: its feed, its life, its tasks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio.abc
import attrs

from dduomq.client.broadcast import BroadcastLife, BroadcastOptions, OffsetsFile
from dduomq.client.consumer import Start
from dduomq.client.feed import Feed, FeedOptions
from dduomq.client.group import Callback, Consumer, ConsumerOptions, Life
from dduomq.client.group_life import GroupLife, LifeOptions
from dduomq.client.member import Subscription
from dduomq.client.record import Record
from dduomq.client.retrying import Delay, Ladder
from dduomq.client.tasks import flat_tasks
from dduomq.client.wire import Wire
from dduomq.errors import UsageError
from dduomq.wire import native


@attrs.frozen(kw_only=True)
class ConsumerSettings:
    """What the user said; see `ReadingClient.consumer`. Raises `UsageError` for what does not go together."""

    topics: tuple[str, ...]
    group: str | None
    pattern: str | None
    filter: str | None
    start: Start
    mode: Literal["cluster", "broadcast"]
    assignor: str | None
    instance_id: str | None
    zone: str | None
    auto_ack: bool
    auto_commit: bool
    commit_interval: float
    credits: int
    max_in_flight: int | None
    rate: float | None
    latest_only: bool
    skip_damaged: bool
    isolation: int
    session_timeout: float
    rebalance_timeout: float
    retry: Sequence[Delay] | None
    offsets_file: str | None
    on_assign: Callback | None
    on_revoke: Callback | None
    on_lost: Callback | None

    def __attrs_post_init__(self) -> None:
        if self.mode not in {"cluster", "broadcast"}:
            raise UsageError(f"mode is 'cluster' or 'broadcast', not {self.mode!r}")
        if self.mode == "cluster" and not self.group:
            raise UsageError("a consumer needs a group: group='billing'; to read everything alone: mode='broadcast'")
        if self.mode == "cluster" and self.offsets_file is not None:
            raise UsageError("offsets_file is for mode='broadcast': a group's offsets are kept by the broker")
        if self.mode == "broadcast" and (self.group or self.pattern):
            raise UsageError("mode='broadcast' has no group and takes no pattern: it reads all of the topics it names")
        if not self.topics and self.pattern is None:
            raise UsageError("a consumer needs at least one topic, or a pattern")
        if self.credits < 1 or self.commit_interval <= 0:
            raise UsageError("credits are at least 1, commit_interval is more than 0")
        if (self.rate is not None and self.rate <= 0) or (self.max_in_flight is not None and self.max_in_flight < 1):
            raise UsageError("rate is more than 0 and max_in_flight at least 1; leave them out for no limit")


@asynccontextmanager
async def consuming(
    settings: ConsumerSettings,
    wire: Wire,
    *,
    topic: Callable[[str], Awaitable[native.TopicMetadata]],
    member_id: str,
    deserialize: Callable[[Any], Any] | None,
    shown: Callable[[Record], Record | None] | None,
    wall_ms: Callable[[], int],
) -> AsyncIterator[Consumer]:
    """A consumer from joining to leaving. `topic(name)` gives metadata, and makes the topic where that is allowed."""
    for name in settings.topics:
        await topic(name)
    async with flat_tasks() as tasks:
        consumer = Consumer(
            ConsumerOptions(
                wall_ms=wall_ms, auto_ack=settings.auto_ack, max_in_flight=settings.max_in_flight, rate=settings.rate,
                on_assign=settings.on_assign, on_revoke=settings.on_revoke, on_lost=settings.on_lost,
                can_set_aside=settings.mode == "cluster" and settings.retry is not None,
                topics=None if settings.pattern is not None else frozenset(settings.topics),
            )
        )  # fmt: skip
        feed = Feed(
            FeedOptions(
                credits=settings.credits, isolation=settings.isolation, filter=settings.filter,
                latest_only=settings.latest_only, skip_damaged=settings.skip_damaged,
            ),
            wire=wire, tasks=tasks, shown=shown,
        )  # fmt: skip
        life: Life
        if settings.mode == "broadcast":
            life = _broadcast(settings, wire, feed, consumer, topic, deserialize)
        else:
            life = _member(settings, wire, feed, consumer, tasks, member_id, deserialize)
        feed.reset, feed.skipped = life.elsewhere, consumer.tell_skipped
        consumer.bind(feed, life)
        wire.on_routes[feed.follow_leaders] = None
        try:
            async with consumer.living(tasks):
                yield consumer
        finally:
            del wire.on_routes[feed.follow_leaders]


def _member(
    settings: ConsumerSettings,
    wire: Wire,
    feed: Feed,
    consumer: Consumer,
    tasks: anyio.abc.TaskGroup,
    member_id: str,
    deserialize: Callable[[Any], Any] | None,
) -> GroupLife:
    said = Subscription(
        group=settings.group or "", topics=settings.topics, pattern=settings.pattern, assignor=settings.assignor,
        instance_id=settings.instance_id, zone=settings.zone, session_ms=int(settings.session_timeout * 1000),
        rebalance_ms=int(settings.rebalance_timeout * 1000), retry=settings.retry is not None,
    )  # fmt: skip
    options = LifeOptions(
        said=said, start=settings.start, auto_commit=settings.auto_commit, commit_interval=settings.commit_interval,
        ladder=None if settings.retry is None else Ladder(settings.retry),
    )  # fmt: skip
    return GroupLife(
        options, member_id, feed, ask=wire.ask, post=wire.post, tasks=tasks, deserialize=deserialize, tell=consumer.tell
    )


def _broadcast(
    settings: ConsumerSettings,
    wire: Wire,
    feed: Feed,
    consumer: Consumer,
    topic: Callable[[str], Awaitable[native.TopicMetadata]],
    deserialize: Callable[[Any], Any] | None,
) -> BroadcastLife:
    async def partitions(name: str) -> list[tuple[str, int]]:
        found = await topic(name)
        feed.live_for(found)
        return [(found.topic_id, part.partition) for part in found.partitions]

    options = BroadcastOptions(
        topics=settings.topics, start=settings.start, auto_commit=settings.auto_commit,
        commit_interval=settings.commit_interval,
    )  # fmt: skip
    return BroadcastLife(
        options, OffsetsFile(settings.offsets_file), feed, ask=wire.ask, partitions=partitions,
        deserialize=deserialize, tell=consumer.tell,
    )  # fmt: skip
