"""Groups that the broker shares out for, in Kafka's words (KIP-848)."""

from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from dduomq.actors.actor import Reply, ask
from dduomq.actors.coordinator_messages import (
    Beaten,
    ConsumerDescription,
    DescribeGroup,
    GroupBeat,
    GroupDescription,
)
from dduomq.actors.coordinator_table import CONSUMER
from dduomq.errors import DduomqError, GroupNotFound
from dduomq.groups.consumer_member import JOIN, Beat
from dduomq.groups.records import Place, encode_places
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of
from dduomq.listeners.kafka.groups import coordinator

IDS_FROM_CLIENTS_FROM = 1
CLASSIC_MEMBER, CONSUMER_MEMBER = 0, 1


async def consumer_group_heartbeat(asking: Asking) -> Body:
    """A member joins, lives, moves on or leaves; it is told its partitions when they have changed."""
    body = asking.body
    member_id = body["member_id"]
    if not member_id and body["member_epoch"] == JOIN and asking.version < IDS_FROM_CLIENTS_FROM:
        member_id = str(uuid4())
    owned = body["topic_partitions"]
    beat = Beat(
        member_id, body["member_epoch"], body["instance_id"], asking.context.client, asking.context.peer,
        body["rack_id"], -1, body["rebalance_timeout_ms"],
        None if body["subscribed_topic_names"] is None else tuple(body["subscribed_topic_names"]),
        body["subscribed_topic_regex"], body["server_assignor"], None if owned is None else _places(owned),
    )  # fmt: skip

    def make(reply: Reply[Beaten]) -> GroupBeat:
        return GroupBeat(group=body["group_id"], beat=beat, reply=reply)

    try:
        for name in beat.topics or ():
            asking.services.gate.admit(asking.context, Operation.DESCRIBE, name)
        beaten = await ask(await coordinator(asking, body["group_id"]), make)
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "member_epoch": 0}
    return {
        "error_code": 0,
        "member_id": beaten.member_id,
        "member_epoch": beaten.epoch,
        "heartbeat_interval_ms": beaten.interval_ms,
        "assignment": None if beaten.assignment is None else {"topic_partitions": _topics(beaten.assignment)},
    }


def _places(topics: Iterable[Body]) -> frozenset[Place]:
    return frozenset((topic["topic_id"], at) for topic in topics for at in topic["partitions"])


def _topics(places: Iterable[Place]) -> list[Body]:
    return [{"topic_id": topic_id, "partitions": partitions} for topic_id, partitions in encode_places(places)]


async def consumer_group_describe(asking: Asking) -> Body:
    """Each group with its members, what they read and what they are to read."""
    return {"groups": [await _described(asking, group) for group in asking.body["group_ids"]]}


async def _described(asking: Asking, group: str) -> Body:
    try:
        mailbox = await coordinator(asking, group, Operation.DESCRIBE)
        found: GroupDescription = await ask(mailbox, lambda reply: DescribeGroup(group=group, reply=reply))
        if found.overview.kind != CONSUMER:
            raise GroupNotFound(f"group {group!r} is a {found.overview.kind} group")
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
    said = member.said
    return {
        "member_id": member.member_id,
        "instance_id": said.instance_id,
        "rack_id": said.zone,
        "member_epoch": member.current.epoch,
        "client_id": said.client_id,
        "client_host": said.host,
        "subscribed_topic_names": said.topics,
        "subscribed_topic_regex": said.pattern,
        "assignment": _assignment(asking, member.current.assigned),
        "target_assignment": _assignment(asking, member.target),
        "member_type": CONSUMER_MEMBER if said.classic is None else CLASSIC_MEMBER,
    }


def _assignment(asking: Asking, places: Iterable[Place]) -> dict[str, Any]:
    names = asking.services.routes.name_of
    return {
        "topic_partitions": [
            {"topic_id": topic_id, "topic_name": names(topic_id) or "", "partitions": partitions}
            for topic_id, partitions in encode_places(places)
        ]
    }
