"""What may be said to a group coordinator, and what it answers: see the table in `dduomq.actors.coordinator`."""

from collections.abc import Mapping

import attrs

from dduomq.actors.actor import Message
from dduomq.errors import DduomqError
from dduomq.groups.member import JoinRequest
from dduomq.groups.records import Committed, MemberRecord, Place


@attrs.frozen(kw_only=True)
class Join(Message):
    group: str
    request: JoinRequest


@attrs.frozen(kw_only=True)
class Sync(Message):
    """`assignments`: by member, from the leader; empty from the others."""

    group: str
    member_id: str
    instance_id: str | None
    generation: int
    assignments: Mapping[str, bytes]
    protocol_type: str | None = None
    protocol: str | None = None


@attrs.frozen(kw_only=True)
class Heartbeat(Message):
    group: str
    member_id: str
    instance_id: str | None
    generation: int


@attrs.frozen(kw_only=True)
class Leave(Message):
    """`members`: (member id, instance id) of each that goes."""

    group: str
    members: tuple[tuple[str, str | None], ...]


@attrs.frozen(kw_only=True)
class Commit(Message):
    """`generation` -1: from somebody who is no member."""

    group: str
    member_id: str
    instance_id: str | None
    generation: int
    offsets: tuple[tuple[Place, Committed], ...]


@attrs.frozen(kw_only=True)
class FetchOffsets(Message):
    group: str


@attrs.frozen(kw_only=True)
class DeleteOffsets(Message):
    """`topics`: the name of each place's topic, to see whether members subscribe to it."""

    group: str
    places: Mapping[Place, str]


@attrs.frozen(kw_only=True)
class ListGroups(Message):
    pass


@attrs.frozen(kw_only=True)
class DescribeGroup(Message):
    group: str


@attrs.frozen(kw_only=True)
class DeleteGroup(Message):
    group: str


@attrs.frozen
class Gone:
    """How one member's leaving went."""

    member_id: str
    instance_id: str | None
    error: DduomqError | None


@attrs.frozen
class GroupOverview:
    """`state` in Kafka's words: Empty, PreparingRebalance, CompletingRebalance, Stable."""

    name: str
    protocol_type: str
    state: str


@attrs.frozen
class GroupDescription:
    """`members`: each with the metadata and the assignment that the group's protocol has for it."""

    overview: GroupOverview
    generation: int
    protocol: str
    members: tuple[tuple[MemberRecord, bytes], ...]
