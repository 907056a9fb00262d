"""Names of things: what a topic may be called, and which partition is meant.

Always true: a name that left `check_topic_name` is safe as a path component and as a Kafka topic name.
"""

import hashlib
import re

import attrs

from dduomq.errors import InvalidTopic

TOPIC_NAME_MAX = 249
INTERNAL_PREFIX = "__"
RETRY, DEAD = "retry", "dlq"  # kinds of topics that the broker keeps for a group
GROUP_TOPIC_NAME_MAX = 200
DELAYED_DEAD_TOPIC = "dlq.delayed"  # where delayed messages rest that no topic would take
DELAYED_GROUP = "__delayed"  # whose topic that is
_LEGAL = re.compile(r"[a-zA-Z0-9._-]+\Z")
_ILLEGAL = re.compile(r"[^a-zA-Z0-9._-]")


@attrs.frozen(slots=True)
class TopicPartition:
    """One partition of one topic; written `orders-3`."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


def check_topic_name(name: str, *, internal: bool = False) -> str:
    """Return `name`, or raise `InvalidTopic` that says what is wrong with it.

    Names starting with `__` belong to the broker; only `internal=True` may make them.
    """
    if not name:
        raise InvalidTopic("a topic name must not be empty")
    if len(name) > TOPIC_NAME_MAX:
        raise InvalidTopic(f"topic name has {len(name)} characters, {TOPIC_NAME_MAX} is the most")
    if name in {".", ".."}:
        raise InvalidTopic(f"a topic can't be called {name!r}")
    if not _LEGAL.match(name):
        raise InvalidTopic(f"topic name {name!r} may hold only letters, digits, '.', '_' and '-'")
    if name.startswith(INTERNAL_PREFIX) and not internal:
        raise InvalidTopic(f"topic name {name!r} is reserved: names starting with '__' are the broker's own")
    return name


def group_topic_name(kind: str, group: str, *, is_taken: bool = False) -> str:
    """`retry.billing`, `dlq.billing`: what the topic is called that the broker keeps for a group.

    What of the group's name can't stand in a topic's is replaced, and some digits of a hash tell such groups apart; so
    they do where a topic of somebody else has the plain name: `is_taken`.
    """
    name = DELAYED_DEAD_TOPIC if group == DELAYED_GROUP else f"{kind}.{group}"
    is_legal = len(name) <= GROUP_TOPIC_NAME_MAX and _LEGAL.match(name) is not None
    if is_legal and not is_taken and (name != DELAYED_DEAD_TOPIC or group == DELAYED_GROUP):
        return name
    told_apart = hashlib.sha256(group.encode()).hexdigest()[:8]
    plain = _ILLEGAL.sub("_", name)[: GROUP_TOPIC_NAME_MAX - len(told_apart) - 1]
    return f"{plain}-{told_apart}"
