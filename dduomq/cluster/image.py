"""What the cluster knows, as frozen values: topics, their settings, the next producer id.

Always true: a value written by one release is read by the next: each starts with its version, unknown
trailing fields are ignored.
"""

from collections.abc import Mapping

import attrs
import cbor2

from dduomq.errors import UnsupportedVersion

TOPICS = "/topics/"
CLUSTER = "/cluster"
PRODUCER_IDS = "/producer-ids"
EPOCH = "/epoch"
_VERSION = 1


@attrs.frozen
class TopicRecord:
    """A topic as the metadata store holds it; `config` has only what differs from the defaults.

    `kind`: "" of a user's own, `ids.RETRY` or `ids.DEAD` of one that the broker keeps for a `group`.
    """

    name: str
    topic_id: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    created_ms: int
    kind: str = ""
    group: str = ""

    @property
    def key(self) -> str:
        return TOPICS + self.name


def encode_topic(topic: TopicRecord) -> bytes:
    return cbor2.dumps(
        [
            _VERSION,
            topic.name,
            topic.topic_id,
            topic.partitions,
            topic.replication,
            dict(topic.config),
            topic.created_ms,
            topic.kind,
            topic.group,
        ]
    )


def decode_topic(data: bytes) -> TopicRecord:
    version, *fields = cbor2.loads(data)
    if version > _VERSION:
        raise UnsupportedVersion(f"a topic record has version {version}, written by a newer dduomq")
    return TopicRecord(*fields[:8])


def encode_value(value: object) -> bytes:
    """A plain value: [version, value]."""
    return cbor2.dumps([_VERSION, value])


def decode_value(data: bytes) -> object:
    version, value = cbor2.loads(data)[:2]
    if version > _VERSION:
        raise UnsupportedVersion(f"a metadata value has version {version}, written by a newer dduomq")
    return value
