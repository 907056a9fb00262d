"""What happens to a consumer, as it is told by `Consumer.events`. Partitions are (topic, partition)."""

from collections.abc import Mapping
from typing import TypeAlias

import attrs

from dduomq.client.part import GroupRecord, TopicPartition
from dduomq.errors import DduomqError


@attrs.frozen
class Assigned:
    """These are ours now, from these offsets on."""

    positions: Mapping[TopicPartition, int]


@attrs.frozen
class Revoked:
    """These go to another member; the work on them is done and committed."""

    partitions: tuple[TopicPartition, ...]


@attrs.frozen
class Lost:
    """The group has gone on without us: these may be another member's already. What was not committed is read again."""

    partitions: tuple[TopicPartition, ...]


@attrs.frozen
class Committed:
    """The next offsets that the group would read."""

    offsets: Mapping[TopicPartition, int]


@attrs.frozen
class CommitRefused:
    """The broker has not taken a commit, and it is not tried again."""

    partition: TopicPartition
    offset: int
    error: DduomqError


@attrs.frozen
class Moved:
    """What was to be read next is not there (any more): it goes on at `offset`."""

    partition: TopicPartition
    offset: int


@attrs.frozen
class Skipped:
    """The record at this offset is damaged on the broker's disk, and was passed."""

    partition: TopicPartition
    offset: int


@attrs.frozen
class Retried:
    """A record could not be done, and comes again in `delay_ms`."""

    record: GroupRecord
    delay_ms: int
    error: str


@attrs.frozen
class DeadLettered:
    """A record could not be done, and rests with its group's dead letters."""

    record: GroupRecord
    error: str
    reason: str


@attrs.frozen
class Expired:
    """A record's time to live had run out when its turn came: it was passed, or is a dead letter."""

    record: GroupRecord


Event: TypeAlias = (
    Assigned | Revoked | Lost | Committed | CommitRefused | Moved | Skipped | Retried | DeadLettered | Expired
)
