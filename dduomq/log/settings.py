"""A topic's settings: the keys, what they mean, what they may be. Kafka's names wherever Kafka has one.

Always true: a `TopicSettings` is whole and possible; text that is neither is refused with the nearest key or
the values allowed.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import attrs

from dduomq.errors import InvalidConfig
from dduomq.limits import BATCH_BYTES_CEILING, BATCH_BYTES_MAX, GIB

LONG_MAX = 2**63 - 1
WEEK_MS = 7 * 24 * 3_600_000
UNBOUNDED = -1
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")


class Durability(StrEnum):
    """What an ack rests on: synced to disk; synced every `flush.ms`; the system's page cache."""

    FSYNC = "fsync"
    FLUSHED = "flushed"
    PAGECACHE = "pagecache"


class CapacityPolicy(StrEnum):
    """What a full bounded topic does with a new record."""

    REJECT = "reject"
    BLOCK = "block"
    DROP_OLDEST = "drop-oldest"


class Storage(StrEnum):
    DISK = "disk"
    MEMORY = "memory"


class DelayHeaders(StrEnum):
    """Whose headers may delay a record: those in all batches, in uncompressed ones, in none."""

    ALL = "all"
    UNCOMPRESSED = "uncompressed"
    OFF = "off"


class TtlAction(StrEnum):
    """What becomes of a record whose time to live has run out before a group's member got it."""

    SKIP = "skip"
    DEAD_LETTER = "dead-letter"


class TimestampType(StrEnum):
    CREATE_TIME = "CreateTime"
    LOG_APPEND_TIME = "LogAppendTime"


@attrs.frozen
class Key:
    """One configuration key. `parse` raises ValueError that says what is wanted."""

    parse: Callable[[str], Any]
    default: str
    doc: str


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _WHOLE_NUMBER.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _one_of(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def parse(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            raise ValueError("one of " + ", ".join(kind)) from None

    return parse


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("true or false")
    return text == "true"


def _only(allowed: str, why: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text != allowed:
            raise ValueError(f"{allowed}; {why}")
        return text

    return parse


KEYS: Mapping[str, Key] = {
    "durability": Key(_one_of(Durability), "fsync", "what an ack rests on: fsync, flushed, pagecache"),
    "flush.ms": Key(_whole(1, LONG_MAX), "1000", "with durability=flushed: sync so often"),
    "storage": Key(_one_of(Storage), "disk", "disk or memory; memory is gone when the node stops"),
    "retention.ms": Key(_whole(-1, LONG_MAX), str(WEEK_MS), "records older than this may go; -1 keeps them"),
    "retention.bytes": Key(_whole(-1, LONG_MAX), "-1", "per partition, beyond this the oldest go; -1 keeps all"),
    "segment.bytes": Key(_whole(1024, 2**31 - 1), str(GIB), "a log file is closed at this size"),
    "segment.ms": Key(_whole(1, LONG_MAX), str(WEEK_MS), "a log file is closed at this age"),
    "index.interval.bytes": Key(_whole(0, 2**31 - 1), "4096", "one index entry for about so many bytes"),
    "max.message.bytes": Key(_whole(0, BATCH_BYTES_CEILING), str(BATCH_BYTES_MAX), "the largest record batch"),
    "message.timestamp.type": Key(_one_of(TimestampType), "CreateTime", "CreateTime or LogAppendTime"),
    "message.timestamp.before.max.ms": Key(_whole(0, LONG_MAX), str(LONG_MAX), "how far in the past a time may lie"),
    "message.timestamp.after.max.ms": Key(_whole(0, LONG_MAX), "3600000", "how far in the future a time may lie"),
    "message.ttl.ms": Key(_whole(-1, LONG_MAX), "-1", "consumers pass records older than this; -1: they don't"),
    "message.ttl.action": Key(_one_of(TtlAction), "skip", "what becomes of those: skip, dead-letter"),
    "cleanup.policy": Key(_only("delete", "this release does not compact"), "delete", "how old records go"),
    "compression.type": Key(
        _only("producer", "the broker stores what the producer sends"), "producer", "who compresses"
    ),
    "min.insync.replicas": Key(_whole(1, 2**31 - 1), "1", "replicas that must have a record before its ack"),
    "unclean.leader.election.enable": Key(
        _flag, "false", "a replica that is not in sync may lead when none that is lives; what it lacks is lost"
    ),
    "capacity.bytes": Key(_whole(-1, LONG_MAX), "-1", "bytes the whole topic may hold; -1 is unbounded"),
    "capacity.records": Key(_whole(-1, LONG_MAX), "-1", "records the whole topic may hold; -1 is unbounded"),
    "delay.headers": Key(
        _one_of(DelayHeaders), "all", "batches whose headers may delay a record: all, uncompressed, off"
    ),
    "capacity.policy": Key(_one_of(CapacityPolicy), "reject", "when full: reject, block or drop-oldest"),
}


@attrs.frozen
class TopicSettings:
    """One topic's settings, parsed. Sizes in bytes, times in ms."""

    durability: Durability
    flush_ms: int
    storage: Storage
    retention_ms: int
    retention_bytes: int
    segment_bytes: int
    segment_ms: int
    index_interval_bytes: int
    max_message_bytes: int
    message_timestamp_type: TimestampType
    message_timestamp_before_max_ms: int
    message_timestamp_after_max_ms: int
    cleanup_policy: str
    compression_type: str
    min_insync_replicas: int
    unclean_leader_election_enable: bool
    capacity_bytes: int
    capacity_records: int
    delay_headers: DelayHeaders
    message_ttl_ms: int
    message_ttl_action: TtlAction
    capacity_policy: CapacityPolicy

    @staticmethod
    def from_config(config: Mapping[str, str]) -> "TopicSettings":
        """Raises `InvalidConfig` that names the key, what was given, and what is allowed."""
        for key in config:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(KEYS)}"
                raise InvalidConfig(f"there is no topic setting {key!r}{hint}")
        return TopicSettings(
            **{
                key.replace(".", "_"): _parsed(key, entry, config.get(key, entry.default))
                for key, entry in KEYS.items()
            }
        )

    @property
    def is_bounded(self) -> bool:
        return self.capacity_bytes != UNBOUNDED or self.capacity_records != UNBOUNDED

    def for_partitions(self, count: int) -> "TopicSettings":
        """One partition's share of a bounded topic; small enough segments to let go of."""
        if not self.is_bounded:
            return self
        share = attrs.evolve(
            self,
            capacity_bytes=_share(self.capacity_bytes, count),
            capacity_records=_share(self.capacity_records, count),
        )
        if share.capacity_bytes == UNBOUNDED:
            return share
        return attrs.evolve(share, segment_bytes=min(self.segment_bytes, max(share.capacity_bytes // 4, 1024)))


def _parsed(key: str, entry: Key, text: str) -> Any:
    try:
        return entry.parse(text)
    except ValueError as error:
        raise InvalidConfig(f"{key}={text!r} can't be: {error} is wanted") from None


def _share(total: int, count: int) -> int:
    return total if total == UNBOUNDED else max(1, -(-total // count))
