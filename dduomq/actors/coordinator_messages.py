"""What may be said to a group coordinator, and what it answers: see the table in `dduomq.actors.coordinator`."""

from collections.abc import Mapping

import attrs

from dduomq.actors.actor import Message
from dduomq.errors import DduomqError
from dduomq.groups.consumer_member import Beat
from dduomq.groups.member import JoinRequest
from dduomq.groups.records import Committed, CurrentRecord, MemberRecord, Place, SubscriptionRecord


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
class GroupBeat(Message):
    """A heartbeat of a member whose partitions the broker shares out; `wait_ms`: how long the answer may be held."""

    group: str
    beat: Beat
    wait_ms: int = 0


@attrs.frozen(kw_only=True)
class RemoveMember(Message):
    group: str
    member_id: str


@attrs.frozen(kw_only=True)
class Commit(Message):
    """`generation` -1: from somebody who is no member. `is_strict`: only for places that the member holds, and never
    back unless `rewind`.
    """

    group: str
    member_id: str
    instance_id: str | None
    generation: int
    offsets: tuple[tuple[Place, Committed], ...]
    is_strict: bool = False
    rewind: bool = False


@attrs.frozen(kw_only=True)
class FetchOffsets(Message):
    group: str


@attrs.frozen
class ToBeAside:
    """Records of one place; `to`: see `dduomq.groups.aside`. `due_ms`: wall clock. `is_foreign`: for another member."""

    place: Place
    offsets: tuple[int, ...]
    to: str
    due_ms: int
    error: str = ""
    reason: str = ""
    is_foreign: bool = False


@attrs.frozen(kw_only=True)
class SetAside(Message):
    """Records that a group can't be done with. `generation` -1 and no member: an operator moves dead letters."""

    group: str
    member_id: str
    generation: int
    parts: tuple[ToBeAside, ...]


@attrs.frozen
class BeenSetAside:
    """By part: why it was refused, and how many records have been set aside by this very request."""

    refused: Mapping[int, DduomqError]
    counts: tuple[int, ...]


@attrs.frozen(kw_only=True)
class FetchAside(Message):
    """Which records a group has set aside, by place, as ranges; only those behind what it has committed."""

    group: str


@attrs.frozen(kw_only=True)
class HandedOver(Message):
    """A wheel has taken copies, or has not. `serial` is the handing-over's."""

    serial: int
    error: BaseException | None


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
    """`wait_ms`: hold the answer so long while the group is as it was at `since`."""

    group: str
    since: int = -1
    wait_ms: int = 0


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
    """`kind`: classic or consumer. `state` in Kafka's words: Empty, PreparingRebalance, CompletingRebalance, Stable;
    Empty, Reconciling, Stable where the broker shares out.
    """

    name: str
    kind: str
    protocol_type: str
    state: str
    members: int


@attrs.frozen
class Beaten:
    """The answer to a heartbeat; `assignment` None: as before. The next one is due within `interval_ms`."""

    member_id: str
    epoch: int
    interval_ms: int
    assignment: frozenset[Place] | None


@attrs.frozen
class ConsumerDescription:
    """One member of a group that the broker shares out for."""

    member_id: str
    said: SubscriptionRecord
    current: CurrentRecord
    target: frozenset[Place]


@attrs.frozen
class GroupDescription:
    """`members`: of a classic group, each with the metadata and the assignment that the group's protocol has for it;
    `consumers`: of one that the broker shares out for, by the assignor `protocol`.
    """

    overview: GroupOverview
    version: int
    generation: int
    target_epoch: int
    protocol: str
    members: tuple[tuple[MemberRecord, bytes], ...]
    consumers: tuple[ConsumerDescription, ...]
