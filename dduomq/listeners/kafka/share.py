"""Share groups in Kafka's words (KIP-932): members, and records that are fetched, locked and acknowledged."""

from collections.abc import Iterable, Mapping, Sequence

import trio

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.coordinator_messages import ConsumerDescription, DescribeGroup, GroupDescription
from dduomq.actors.coordinator_queue_messages import BeatOfShare, Settle, Settled, ShareBeaten
from dduomq.actors.coordinator_table import SHARE
from dduomq.cluster.image import NO_LEADER
from dduomq.errors import (
    DduomqError,
    GroupNotFound,
    InvalidRequest,
    LeaderNotAvailable,
    UnknownMember,
    UnknownTopicOrPartition,
)
from dduomq.groups.queue import RENEW, Ending
from dduomq.groups.records import Place, encode_places
from dduomq.groups.share import ShareBeat
from dduomq.limits import FETCH_WAIT_MS_MAX, QUEUE_LOCK_MS
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import NOT_LEADER_OR_FOLLOWER, UNKNOWN_SERVER_ERROR, UnknownTopicId, code_of
from dduomq.listeners.kafka.groups import coordinator
from dduomq.listeners.kafka.share_sessions import CLOSE, OPEN, InvalidShareSessionEpoch, ShareSession
from dduomq.listeners.taking import Spot, Taken, TakeWish, take
from dduomq.wire.cluster_errors import PeerUnavailable

WHOLE_BATCHES = 0  # the way of acquiring by which batches are not cut
UNKNOWN = ""  # no topic has this name
FETCH_CODES = {2, 6, 56, 100}  # those that clients expect of a partition


async def share_group_heartbeat(asking: Asking) -> Body:
    """A member joins, lives or leaves; it is told its partitions when they have changed."""
    body = asking.body
    topics = body["subscribed_topic_names"]
    beat = ShareBeat(
        body["member_id"], body["member_epoch"], asking.context.client, asking.context.peer, body["rack_id"],
        None if topics is None else tuple(topics),
    )  # fmt: skip

    def make(reply: Reply[ShareBeaten]) -> BeatOfShare:
        return BeatOfShare(group=body["group_id"], beat=beat, reply=reply)

    try:
        for name in beat.topics or ():
            asking.services.gate.admit(asking.context, Operation.DESCRIBE, name)
        beaten = await ask(await coordinator(asking, body["group_id"]), make)
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "member_epoch": 0}
    assigned = None if beaten.assignment is None else encode_places(beaten.assignment)
    return {
        "error_code": 0,
        "member_id": beaten.member_id,
        "member_epoch": beaten.epoch,
        "heartbeat_interval_ms": beaten.interval_ms,
        "assignment": None if assigned is None else {
            "topic_partitions": [{"topic_id": topic_id, "partitions": parts} for topic_id, parts in assigned]
        },
    }  # fmt: skip


async def share_group_describe(asking: Asking) -> Body:
    """Each group with its members and what they read."""
    return {"groups": [await _described(asking, group) for group in asking.body["group_ids"]]}


async def _described(asking: Asking, group: str) -> Body:
    try:
        mailbox = await coordinator(asking, group, Operation.DESCRIBE)
        found: GroupDescription = await ask(mailbox, lambda reply: DescribeGroup(group=group, reply=reply))
        if found.overview.kind != SHARE:
            raise GroupNotFound(f"group {group!r} is not a share group")
    except DduomqError as error:
        return {
            "group_id": group, "error_code": code_of(error), "error_message": error.message, "group_state": "Dead",
            "group_epoch": 0, "assignment_epoch": 0, "assignor_name": "", "members": [],
        }  # fmt: skip
    return {
        "group_id": group,
        "error_code": 0,
        "group_state": found.overview.state,
        "group_epoch": found.generation,
        "assignment_epoch": found.target_epoch,
        "assignor_name": found.protocol,
        "members": [_member(asking, member) for member in found.consumers],
    }


def _member(asking: Asking, member: ConsumerDescription) -> Body:
    said, names = member.said, asking.services.routes.name_of
    return {
        "member_id": member.member_id,
        "rack_id": said.zone,
        "member_epoch": member.current.epoch,
        "client_id": said.client_id,
        "client_host": said.host,
        "subscribed_topic_names": said.topics,
        "assignment": {
            "topic_partitions": [
                {"topic_id": topic_id, "topic_name": names(topic_id) or "", "partitions": partitions}
                for topic_id, partitions in encode_places(member.current.assigned)
            ]
        },
    }


# --- records ----------------------------------------------------------------------------------------


async def share_fetch(asking: Asking) -> Body:
    """What was said of records before, then more of them, as many as may be had; waits `max_wait_ms` at most."""
    body = asking.body
    epoch, topics = body["share_session_epoch"], body["topics"]
    try:
        group, member_id, mailbox = await _asker(asking)
        endings = _endings(topics, may_renew=body["is_renew_ack"])
        if epoch == OPEN:
            if endings:
                raise InvalidRequest("the request that opens a share session acknowledges nothing")
            session = await asking.sessions.open(group, member_id, mailbox)
        else:
            session = asking.sessions.next(group, member_id, epoch)
        session.update(_spots(asking, topics), _places(body["forgotten_topics_data"]))
        settled = await _settle(session, endings)
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "responses": []}
    if epoch == CLOSE:
        await asking.sessions.close(group, member_id)
    if epoch == CLOSE or body["is_renew_ack"] or body["max_records"] <= 0:
        found: Mapping[Place, Taken | DduomqError] = {}
        lock_ms = settled.lock_ms
    else:
        found, lock_ms = await _take(asking, session)
    parts = {place: _fetched(asking, place, found.get(place), None) for place in found}
    for at, place in enumerate(endings):
        parts[place] = _fetched(asking, place, found.get(place), settled.refused.get(at))
    return {"error_code": 0, "acquisition_lock_timeout_ms": lock_ms, "responses": _by_topic(parts)}


async def _asker(asking: Asking) -> tuple[str, str, Mailbox]:
    group, member_id = asking.body["group_id"], asking.body["member_id"]
    if not group or not member_id:
        raise InvalidRequest("who fetches names the share group and the member")
    asking.services.gate.admit(asking.context, Operation.READ, f"group:{group}")
    return group, member_id, await asking.services.groups.anywhere(group)


def _spots(asking: Asking, topics: Sequence[Body]) -> list[Spot]:
    name_of = asking.services.routes.name_of
    return [
        Spot(name_of(topic["topic_id"]) or UNKNOWN, topic["topic_id"], part["partition_index"])
        for topic in topics
        for part in topic["partitions"]
    ]


def _places(topics: Sequence[Body]) -> list[Place]:
    return [(topic["topic_id"], partition) for topic in topics for partition in topic["partitions"]]


def _endings(topics: Sequence[Body], *, may_renew: bool) -> dict[Place, tuple[Ending, ...]]:
    """What is said of records, by place. Raises `InvalidRequest`."""
    found: dict[Place, tuple[Ending, ...]] = {}
    for topic in topics:
        for part in topic["partitions"]:
            if part["acknowledgement_batches"]:
                batches = part["acknowledgement_batches"]
                ended = [ending for batch in batches for ending in _ended(batch, may_renew=may_renew)]
                found[topic["topic_id"], part["partition_index"]] = tuple(ended)
    return found


def _ended(batch: Body, *, may_renew: bool) -> Iterable[Ending]:
    """One word for all records of a batch, or one for each: neighbours of one kind are taken together."""
    first, last, kinds = batch["first_offset"], batch["last_offset"], batch["acknowledge_types"]
    if not kinds or (len(kinds) > 1 and len(kinds) != last - first + 1):
        raise InvalidRequest(f"{len(kinds)} words for the records {first} to {last}")
    if any(not 0 <= kind <= (RENEW if may_renew else RENEW - 1) for kind in kinds):
        raise InvalidRequest(
            "records are skipped (0), accepted (1), released (2), rejected (3), or renewed (4) if so said"
        )
    if len(kinds) == 1:
        return [Ending(first, last, kinds[0])]
    found: list[Ending] = []
    begin = 0
    for at in range(1, len(kinds) + 1):
        if at == len(kinds) or kinds[at] != kinds[begin]:
            found.append(Ending(first + begin, first + at - 1, kinds[begin]))
            begin = at
    return found


async def _settle(session: ShareSession, endings: Mapping[Place, tuple[Ending, ...]]) -> Settled:
    """Part by part, each with its own error; what concerns them all is said of each."""
    if not endings:
        return Settled({}, QUEUE_LOCK_MS)

    def make(reply: Reply[Settled]) -> Settle:
        return Settle(group=session.group, member_id=session.member_id, parts=tuple(endings.items()), reply=reply)

    try:
        return await ask(session.mailbox, make)
    except DduomqError as error:
        return Settled(dict.fromkeys(range(len(endings)), error), QUEUE_LOCK_MS)


async def _take(asking: Asking, session: ShareSession) -> tuple[Mapping[Place, Taken | DduomqError], int]:
    """A member that the coordinator does not know, or not yet again, gets nothing: its next heartbeat tells it."""
    body = asking.body
    wish = TakeWish(
        session.group, session.member_id, session.turn(), body["max_records"], body["max_bytes"], body["max_wait_ms"],
        whole_batches=body["share_acquire_mode"] == WHOLE_BATCHES,
    )  # fmt: skip
    try:
        return await take(asking.services, asking.context, session.mailbox, wish)
    except DduomqError as error:
        if not error.retriable and not isinstance(error, UnknownMember | GroupNotFound):
            return dict.fromkeys(session.spots, error), QUEUE_LOCK_MS
        await trio.sleep(min(max(body["max_wait_ms"], 0), FETCH_WAIT_MS_MAX) / 1000)
        return {}, QUEUE_LOCK_MS


def _fetched(asking: Asking, place: Place, found: Taken | DduomqError | None, refused: DduomqError | None) -> Body:
    taken = found if isinstance(found, Taken) else Taken(b"", ())
    error = found if isinstance(found, DduomqError) else None
    return {
        "partition_index": place[1],
        "error_code": 0 if error is None else _fetch_code(error),
        "error_message": None if error is None else error.message,
        "acknowledge_error_code": 0 if refused is None else code_of(refused),
        "acknowledge_error_message": None if refused is None else refused.message,
        "current_leader": _leader(asking, place),
        "records": taken.data,
        "acquired_records": [
            {"first_offset": span.first, "last_offset": span.last, "delivery_count": span.count}
            for span in taken.spans
        ],
    }  # fmt: skip


def _fetch_code(error: DduomqError) -> int:
    """What is wrong with a partition, in a word that clients of this API know."""
    if isinstance(error, UnknownTopicOrPartition):
        return UnknownTopicId.code
    if isinstance(error, LeaderNotAvailable | PeerUnavailable):
        return NOT_LEADER_OR_FOLLOWER
    code = code_of(error)
    return code if code in FETCH_CODES else UNKNOWN_SERVER_ERROR


def _by_topic(parts: Mapping[Place, Body]) -> list[Body]:
    topics: dict[str, list[Body]] = {}
    for (topic_id, _), part in parts.items():
        topics.setdefault(topic_id, []).append(part)
    return [{"topic_id": topic_id, "partitions": partitions} for topic_id, partitions in topics.items()]


async def share_acknowledge(asking: Asking) -> Body:
    """What is said of records: part by part, all of it or nothing."""
    body = asking.body
    epoch = body["share_session_epoch"]
    try:
        group, member_id, _ = await _asker(asking)
        endings = _endings(body["topics"], may_renew=body["is_renew_ack"])
        if epoch == OPEN:
            raise InvalidShareSessionEpoch("a share session is opened by a fetch")
        session = asking.sessions.next(group, member_id, epoch)
        settled = await _settle(session, endings)
        if epoch == CLOSE:
            await asking.sessions.close(group, member_id)
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "responses": []}
    parts = {place: _acknowledged(asking, place, settled.refused.get(at)) for at, place in enumerate(endings)}
    return {"error_code": 0, "acquisition_lock_timeout_ms": settled.lock_ms, "responses": _by_topic(parts)}


def _leader(asking: Asking, place: Place) -> Body:
    routes = asking.services.routes
    route = routes.table.get(routes.name_of(place[0]) or "")
    if route is None or place[1] >= len(route.records):
        return {"leader_id": NO_LEADER, "leader_epoch": -1}
    return {"leader_id": route.records[place[1]].leader, "leader_epoch": route.records[place[1]].leader_epoch}


def _acknowledged(asking: Asking, place: Place, refused: DduomqError | None) -> Body:
    return {
        "partition_index": place[1],
        "error_code": 0 if refused is None else code_of(refused),
        "error_message": None if refused is None else refused.message,
        "current_leader": _leader(asking, place),
    }
