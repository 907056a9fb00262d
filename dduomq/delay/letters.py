"""What a delayed message says when it comes, and what a dead letter says of itself.

A pure machine. Always true: what its sender wished is not there any more, and when it was due is said once;
what was handed over has all its headers, and no other.
"""

from dduomq.delay.records import NEW, NO_ORIGIN, REASON_CHARACTERS_MAX, Parked, Target
from dduomq.delay.schedule import decode
from dduomq.ids import DELAYED_DEAD_TOPIC
from dduomq.wire.delay import SCHEDULE_HEADER, UNTIL_HEADER, WISHES
from dduomq.wire.origin import ORIGIN_PARTITION_HEADER, ORIGIN_TOPIC_HEADER, REASON_HEADER
from dduomq.wire.records import Headers

SAID = WISHES | {UNTIL_HEADER, SCHEDULE_HEADER}  # of an earlier delay


def headers_of(message: Parked) -> Headers:
    """A delivered message's own, and when it was due; a dead letter has had that said, one handed over needs it not."""
    if message.is_handed_over:
        return message.headers
    if message.target.topic.startswith(DELAYED_DEAD_TOPIC) and any(
        name == REASON_HEADER for name, _ in message.headers
    ):
        return message.headers
    return _said_once(message)


def _said_once(message: Parked) -> Headers:
    """Its own, and when it was due and by which schedule it came."""
    headers = [(name, content) for name, content in message.headers if name not in SAID]
    headers.append((UNTIL_HEADER, str(message.due_ms).encode()))
    if message.schedule:
        headers.append((SCHEDULE_HEADER, decode(message.schedule).name.encode()))
    return headers


def left_over(message: Parked) -> Parked:
    """One of a batch that can't go out as it was, for another one; its schedule is not said any more."""
    origin = message.origin if message.is_handed_over else NO_ORIGIN
    return Parked(message.due_ms, NEW, -1, message.target, origin, message.key, message.value, message.headers)


def buried(message: Parked, to: Target, reason: str) -> Parked:
    """The dead letter: it says where it was to go, and why it did not."""
    if message.is_handed_over:
        headers = [one for one in message.headers if one[0] != REASON_HEADER]
    else:
        headers = list(_said_once(message))
    if not (message.is_handed_over and any(name == ORIGIN_TOPIC_HEADER for name, _ in headers)):
        headers.append((ORIGIN_TOPIC_HEADER, message.target.topic.encode()))
        headers.append((ORIGIN_PARTITION_HEADER, str(message.target.partition).encode()))
    headers.append((REASON_HEADER, reason[:REASON_CHARACTERS_MAX].encode()))
    return Parked(message.due_ms, NEW, -1, to, NO_ORIGIN, message.key, message.value, headers)
