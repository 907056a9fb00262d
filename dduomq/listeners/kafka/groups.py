"""Groups in Kafka's words: who is a member, and looking after groups."""

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.coordinator_messages import (
    DeleteGroup,
    DescribeGroup,
    Gone,
    GroupDescription,
    GroupOverview,
    Heartbeat,
    Join,
    Leave,
    ListGroups,
    Sync,
)
from dduomq.actors.coordinator_table import CLASSIC
from dduomq.errors import DduomqError, GroupNotFound
from dduomq.groups.member import JoinRequest, JoinResult, SyncResult
from dduomq.limits import SESSION_TIMEOUT_MS_MAX
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of

DEAD = "Dead"
MEMBER_ID_FROM = 4  # the version from which on a newcomer is sent back with its id (KIP-394)
ERRORS_IN_DESCRIPTIONS_FROM = 6
MANY_LEAVE_FROM = 3


async def coordinator(asking: Asking, group: str, operation: Operation = Operation.READ) -> Mailbox:
    """The mailbox of a group's coordinator, if the asker may have to do with the group."""
    asking.services.gate.admit(asking.context, operation, f"group:{group}")
    return await asking.services.groups.coordinator(group)


async def join_group(asking: Asking) -> Body:
    """Answered when everybody who must come has come, or the rebalance time-out is over."""
    body = asking.body
    session_ms = body["session_timeout_ms"]
    rebalance_ms = body["rebalance_timeout_ms"] if body["rebalance_timeout_ms"] >= 0 else session_ms
    request = JoinRequest(
        body["member_id"], body["group_instance_id"], asking.context.client, asking.context.peer, session_ms,
        min(rebalance_ms, SESSION_TIMEOUT_MS_MAX), body["protocol_type"],
        tuple((protocol["name"], bytes(protocol["metadata"])) for protocol in body["protocols"]),
        asking.version >= MEMBER_ID_FROM,
    )  # fmt: skip
    try:
        mailbox = await coordinator(asking, body["group_id"])
        result: JoinResult = await ask(
            mailbox, lambda reply: Join(group=body["group_id"], request=request, reply=reply)
        )
    except DduomqError as error:
        result = JoinResult(error, body["member_id"])
    return _joined(asking, result)


def _joined(asking: Asking, result: JoinResult) -> Body:
    no_protocol = None if asking.version >= 7 else ""
    return {
        "error_code": 0 if result.error is None else code_of(result.error),
        "generation_id": result.generation,
        "protocol_type": result.protocol_type,
        "protocol_name": result.protocol if result.protocol is not None else no_protocol,
        "leader": result.leader,
        "skip_assignment": result.skip_assignment,
        "member_id": result.member_id,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "metadata": metadata}
            for member_id, instance_id, metadata in result.members
        ],
    }


async def sync_group(asking: Asking) -> Body:
    """The leader brings the assignments, everybody gets its own."""
    body = asking.body
    assignments = {entry["member_id"]: bytes(entry["assignment"]) for entry in body["assignments"]}

    def make(reply: Reply[SyncResult]) -> Sync:
        return Sync(
            group=body["group_id"], member_id=body["member_id"], instance_id=body["group_instance_id"],
            generation=body["generation_id"], assignments=assignments, protocol_type=body["protocol_type"],
            protocol=body["protocol_name"], reply=reply,
        )  # fmt: skip

    try:
        result = await ask(await coordinator(asking, body["group_id"]), make)
    except DduomqError as error:
        result = SyncResult(error)
    return {
        "error_code": 0 if result.error is None else code_of(result.error),
        "protocol_type": result.protocol_type,
        "protocol_name": result.protocol,
        "assignment": result.assignment,
    }


async def heartbeat(asking: Asking) -> Body:
    """Says that a member lives; says back whether it must join again."""
    body = asking.body

    def make(reply: Reply[None]) -> Heartbeat:
        return Heartbeat(
            group=body["group_id"], member_id=body["member_id"], instance_id=body["group_instance_id"],
            generation=body["generation_id"], reply=reply,
        )  # fmt: skip

    try:
        await ask(await coordinator(asking, body["group_id"]), make)
    except DduomqError as error:
        return {"error_code": code_of(error)}
    return {"error_code": 0}


async def leave_group(asking: Asking) -> Body:
    """One member goes, or, from version 3 on, many at once."""
    body = asking.body
    is_one = asking.version < MANY_LEAVE_FROM
    members = [(body["member_id"], None)] if is_one else [
        (member["member_id"], member["group_instance_id"]) for member in body["members"]
    ]  # fmt: skip

    def make(reply: Reply[tuple[Gone, ...]]) -> Leave:
        return Leave(group=body["group_id"], members=tuple(members), reply=reply)

    try:
        gone = await ask(await coordinator(asking, body["group_id"]), make)
    except DduomqError as error:
        return {"error_code": code_of(error)}
    if is_one:
        return {"error_code": 0 if gone[0].error is None else code_of(gone[0].error)}
    return {
        "error_code": 0,
        "members": [
            {
                "member_id": each.member_id,
                "group_instance_id": each.instance_id,
                "error_code": 0 if each.error is None else code_of(each.error),
            }
            for each in gone
        ],
    }


# --- looking and deleting ---------------------------------------------------------------------------


async def list_groups(asking: Asking) -> Body:
    """Every group that is coordinated here and the asker may see, of the states and types asked for."""
    body = asking.body
    found: list[GroupOverview] = []
    try:
        for mailbox in await asking.services.groups.here():
            found += await ask(mailbox, lambda reply: ListGroups(reply=reply))
    except DduomqError as error:
        return {"error_code": code_of(error), "groups": []}
    states = {state.lower() for state in body["states_filter"]}
    kinds = {kind.lower() for kind in body["types_filter"]}
    groups = [
        {
            "group_id": group.name, "protocol_type": group.protocol_type, "group_state": group.state,
            "group_type": group.kind,
        }
        for group in found
        if (not states or group.state.lower() in states)
        and (not kinds or group.kind in kinds)
        and _may_see(asking, group.name)
    ]  # fmt: skip
    return {"error_code": 0, "groups": groups}


def _may_see(asking: Asking, group: str) -> bool:
    try:
        asking.services.gate.admit(asking.context, Operation.DESCRIBE, f"group:{group}")
    except DduomqError:
        return False
    return True


async def describe_groups(asking: Asking) -> Body:
    """One that there is not is Dead; newer clients are told so."""
    return {"groups": [await _described(asking, group) for group in asking.body["groups"]]}


async def _described(asking: Asking, group: str) -> Body:
    try:
        mailbox = await coordinator(asking, group, Operation.DESCRIBE)
        found: GroupDescription = await ask(mailbox, lambda reply: DescribeGroup(group=group, reply=reply))
        if found.overview.kind != CLASSIC:
            raise GroupNotFound(f"group {group!r} is a {found.overview.kind} group: ask with its own API")
    except GroupNotFound as error:
        is_told = asking.version >= ERRORS_IN_DESCRIPTIONS_FROM
        return {
            "error_code": code_of(error) if is_told else 0, "error_message": error.message if is_told else None,
            "group_id": group, "group_state": DEAD, "members": [],
        }  # fmt: skip
    except DduomqError as error:
        return {"error_code": code_of(error), "error_message": error.message, "group_id": group, "members": []}
    return {
        "error_code": 0,
        "group_id": group,
        "group_state": found.overview.state,
        "protocol_type": found.overview.protocol_type,
        "protocol_data": found.protocol,
        "members": [
            {
                "member_id": member.member_id,
                "group_instance_id": member.instance_id,
                "client_id": member.client_id,
                "client_host": member.host,
                "member_metadata": metadata,
                "member_assignment": member.assignment,
            }
            for member, metadata in found.members
        ],
    }


async def delete_groups(asking: Asking) -> Body:
    """Groups without members, and their offsets."""
    return {"results": [await _delete(asking, group) for group in asking.body["groups_names"]]}


async def _delete(asking: Asking, group: str) -> Body:
    try:
        mailbox = await coordinator(asking, group, Operation.DELETE)
        await ask(mailbox, lambda reply: DeleteGroup(group=group, reply=reply))
    except DduomqError as error:
        return {"group_id": group, "error_code": code_of(error)}
    return {"group_id": group, "error_code": 0}
