"""Fetch (key 1): records go from the file to the socket; nobody looks at them.

Fetch sessions (KIP-227) are refused the way the protocol allows: every answer says session 0, so that the client
asks for all its partitions each time.
"""

from dduomq.actors.partition_messages import FetchPlan
from dduomq.errors import DduomqError
from dduomq.listeners.connection import FilePart
from dduomq.listeners.fetch import INLINE_READ_BYTES_MAX, Found, Wanted, Wish, gather
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import FETCH_SESSION_ID_NOT_FOUND, UnknownTopicId, code_of
from dduomq.wire.kafka.primitives import Chunk

NO_SESSION = 0
UNKNOWN = ""  # no topic has this name


async def fetch(asking: Asking) -> Body:
    """The records from each offset on, as many as fit; waits for `min_bytes` of them, `max_wait_ms` at most."""
    body = asking.body
    if body["session_id"] != NO_SESSION:
        return {"error_code": FETCH_SESSION_ID_NOT_FOUND, "session_id": NO_SESSION, "responses": []}
    wish = Wish(
        _wanted(asking), body["isolation_level"], body["min_bytes"], body["max_bytes"], body["max_wait_ms"]
    )  # fmt: skip
    found = iter(await gather(asking.services, asking.context, wish))
    return {
        "session_id": NO_SESSION,
        "responses": [
            {
                "topic": topic["topic"],
                "topic_id": topic["topic_id"],
                "partitions": [_part(part["partition"], next(found), by_id=asking.version >= 13)
                               for part in topic["partitions"]],
            }
            for topic in body["topics"]
        ],
    }  # fmt: skip


def _wanted(asking: Asking) -> list[Wanted]:
    wanted: list[Wanted] = []
    for topic in asking.body["topics"]:
        try:
            name = asking.topic_name(topic["topic"], topic["topic_id"])
        except UnknownTopicId:
            name = UNKNOWN
        wanted += [
            Wanted(
                name, part["partition"], part["fetch_offset"], part["partition_max_bytes"],
                part["current_leader_epoch"], part["last_fetched_epoch"],
            )
            for part in topic["partitions"]
        ]  # fmt: skip
    return wanted


def _part(partition: int, found: Found, *, by_id: bool) -> Body:
    if isinstance(found, DduomqError):
        code = UnknownTopicId.code if by_id and found.code == 3 else code_of(found)
        return {
            "partition_index": partition, "error_code": code, "high_watermark": -1, "aborted_transactions": None,
            "records": b"",
        }  # fmt: skip
    part: Body = {
        "partition_index": partition,
        "error_code": 0,
        "high_watermark": found.high_watermark,
        "last_stable_offset": found.last_stable_offset,
        "log_start_offset": found.log_start_offset,
        "aborted_transactions": [
            {"producer_id": producer_id, "first_offset": first} for producer_id, first in found.aborted
        ] or None,
        "records": _records(found),
    }  # fmt: skip
    if found.diverging is not None:
        part["diverging_epoch"] = {"epoch": found.diverging[0], "end_offset": found.diverging[1]}
    return part


def _records(plan: FetchPlan) -> Chunk:
    """The file's range itself, or, where that is little, its bytes."""
    if plan.lease is None:
        return b""
    if plan.size > INLINE_READ_BYTES_MAX:
        return FilePart(plan.lease, plan.position, plan.size)
    try:
        return plan.lease.read(plan.position, plan.size)
    finally:
        plan.lease.close()
