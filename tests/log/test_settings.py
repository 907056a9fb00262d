"""A topic's settings: whole and possible, or refused with what to do."""

import pytest

from dduomq.errors import InvalidConfig
from dduomq.limits import BATCH_BYTES_CEILING, BATCH_BYTES_MAX, GIB
from dduomq.log.settings import (
    KEYS,
    WEEK_MS,
    CapacityPolicy,
    Durability,
    Storage,
    TimestampType,
    TopicSettings,
)


def settings(**config):
    return TopicSettings.from_config({key.replace("_", "."): str(value) for key, value in config.items()})


def test_the_defaults_are_safe():
    """Every ack rests on a sync; a week is kept; nothing is bounded."""
    default = settings()
    assert default.durability is Durability.FSYNC
    assert default.storage is Storage.DISK
    assert (default.retention_ms, default.retention_bytes) == (WEEK_MS, -1)
    assert (default.segment_bytes, default.max_message_bytes) == (GIB, BATCH_BYTES_MAX)
    assert default.message_timestamp_type is TimestampType.CREATE_TIME
    assert default.capacity_policy is CapacityPolicy.REJECT
    assert not default.is_bounded


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_set_and_is_explained(key):
    """Its own default, given as text, is accepted; it has a line of help."""
    assert getattr(TopicSettings.from_config({key: KEYS[key].default}), key.replace(".", "_")) is not None
    assert KEYS[key].doc


def test_all_keys_at_once():
    """Each value lands in its own field."""
    found = settings(
        durability="flushed", flush_ms=20, storage="memory", retention_ms=-1, segment_bytes=1024,
        message_timestamp_type="LogAppendTime", capacity_records=10, capacity_policy="drop-oldest",
    )  # fmt: skip
    assert found.durability is Durability.FLUSHED
    assert (found.flush_ms, found.retention_ms, found.segment_bytes, found.capacity_records) == (20, -1, 1024, 10)
    assert found.storage is Storage.MEMORY
    assert found.message_timestamp_type is TimestampType.LOG_APPEND_TIME
    assert found.capacity_policy is CapacityPolicy.DROP_OLDEST
    assert found.is_bounded


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("durability", "always", "one of fsync, flushed, pagecache"),
        ("capacity.policy", "", "one of reject, block, drop-oldest"),
        ("segment.bytes", "1023", "a whole number from 1024"),
        ("segment.bytes", str(2**31), "to 2147483647"),
        ("retention.ms", "-2", "a whole number from -1"),
        ("retention.ms", "7d", "a whole number"),
        ("retention.ms", "", "a whole number"),
        ("retention.ms", "--1", "a whole number"),
        ("retention.ms", "1-", "a whole number"),
        ("retention.ms", "²", "a whole number"),
        ("retention.ms", "9" * 5_000, "a whole number"),
        ("max.message.bytes", str(BATCH_BYTES_CEILING + 1), f"to {BATCH_BYTES_CEILING}"),
        ("cleanup.policy", "compact", "does not compact"),
        ("compression.type", "zstd", "producer"),
        ("flush.ms", "0", "a whole number from 1"),
    ],
)
def test_what_can_not_be_is_refused(key, text, says):
    """The key, what was given, and what is allowed."""
    with pytest.raises(InvalidConfig) as caught:
        TopicSettings.from_config({key: text})
    assert key in str(caught.value)
    assert repr(text) in str(caught.value)
    assert says in str(caught.value)


def test_an_unknown_key_names_the_nearest():
    """A slip of the pen is one correction away."""
    with pytest.raises(InvalidConfig, match=r"did you mean 'retention\.ms'"):
        TopicSettings.from_config({"retention.msx": "1"})
    with pytest.raises(InvalidConfig, match="known are durability"):
        TopicSettings.from_config({"zzz": "1"})


@pytest.mark.parametrize(("total", "count", "share"), [(100, 4, 25), (10, 3, 4), (1, 8, 1), (-1, 8, -1)])
def test_a_capacity_is_split_evenly(total, count, share):
    """No partition gets nothing, and together they can hold all of it."""
    assert settings(capacity_records=total, capacity_bytes=4096).for_partitions(count).capacity_records == share


def test_a_topic_bounded_by_bytes_has_small_segments():
    """So that dropping the oldest drops a part, not everything."""
    assert settings(capacity_bytes=40_000).for_partitions(2).segment_bytes == 5_000
    assert settings(capacity_bytes=100).for_partitions(1).segment_bytes == 1024
    assert settings().for_partitions(2) == settings()
