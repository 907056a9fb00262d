"""The members of a share group (KIP-932): several of them may have a partition, each works on records of its own.

A pure machine: time comes in as `now` (monotonic seconds), topics as a catalog. Always true: every partition that
somebody subscribes to is some member's; the epoch rises with every change of members, subscriptions or topics; the
same members and topics give the same assignment, whatever came before. Members are not stored: after a restart of
the coordinator each joins again under the id it has, and what it has locked stays its own; who has something locked
and does not come within a session is out.
"""

from collections.abc import Iterable, Sequence
from math import ceil

import attrs

from dduomq.errors import FencedMemberEpoch, GroupFull, InvalidRequest, InvalidSessionTimeout, UnknownMember
from dduomq.groups.catalog import Catalog
from dduomq.groups.consumer_member import JOIN, LEAVE, NEVER, NOTHING
from dduomq.groups.records import CurrentRecord, Place, ShareKey, ShareRecord, SubscriptionRecord, encode_share
from dduomq.limits import (
    CONSUMER_SESSION_TIMEOUT_MS,
    GROUP_MEMBERS_MAX,
    MEMBER_METADATA_BYTES_MAX,
    MEMBER_TOPICS_MAX,
    QUEUE_DELIVERIES_MAX,
    SESSION_TIMEOUT_MS_MAX,
    SESSION_TIMEOUT_MS_MIN,
    SHARE_ASSIGNMENT_MAX,
    SHARE_MEMBER_ID_CHARACTERS_MAX,
)

EMPTY, STABLE = "Empty", "Stable"
ASSIGNOR = "simple"
MEMBERS_EACH_MIN = 2  # members that a partition has at least, where there are so many


@attrs.frozen
class ShareBeat:
    """A heartbeat. `topics` None, and a number of -1: as before. `can_be_asked`: it answers for what is in doubt."""

    member_id: str
    epoch: int
    client_id: str = ""
    host: str = ""
    zone: str | None = None
    topics: tuple[str, ...] | None = None
    session_ms: int = -1
    deliveries: int = -1
    can_be_asked: bool = False


@attrs.frozen
class ShareResult:
    """`assignment` None: as before."""

    member_id: str
    epoch: int
    assignment: frozenset[Place] | None


class ShareMember:
    """One member."""

    __slots__ = ("assigned", "can_be_asked", "due", "epoch", "member_id", "said", "told")

    def __init__(self, member_id: str, said: SubscriptionRecord) -> None:
        self.member_id = member_id
        self.said = said
        self.can_be_asked = False
        self.epoch = JOIN  # that it was told last
        self.assigned = NOTHING
        self.told: frozenset[Place] | None = None  # the assignment that it was told last
        self.due = NEVER

    def heard(self, now: float) -> None:
        self.due = now + self.said.session_ms / 1000

    def current(self) -> CurrentRecord:
        return CurrentRecord(self.epoch, -1, "stable", self.assigned, NOTHING)


class ShareGroup:
    """One group. What it says of itself is stored, its members are not."""

    __slots__ = ("_absent", "_counts", "_epoch", "_seen_version", "is_dirty", "members", "name", "record")

    def __init__(self, name: str, record: ShareRecord | None = None) -> None:
        self.name = name
        self.record = record or ShareRecord()
        self.members: dict[str, ShareMember] = {}
        self._absent: dict[str, float] = {}  # members of before a restart, and until when each may come back
        self.is_dirty = record is None
        self._counts: dict[str, int] = {}  # partitions of each topic that was shared out
        self._seen_version: object = None
        self._epoch = self.record.epoch  # that was shared out

    @property
    def epoch(self) -> int:
        return self.record.epoch

    @property
    def state(self) -> str:
        return STABLE if self.members else EMPTY

    @property
    def member_count(self) -> int:
        """Those that are expected back count: they have records in hand."""
        return len(self.members) + len(self._absent)

    def expect(self, member_ids: Iterable[str], now: float) -> None:
        """These have something locked, from before a restart."""
        due = now + CONSUMER_SESSION_TIMEOUT_MS / 1000
        self._absent.update({member_id: due for member_id in member_ids if member_id not in self.members})

    # --- heartbeats ---------------------------------------------------------------------------------

    def heartbeat(self, beat: ShareBeat, now: float, catalog: Catalog) -> ShareResult:
        """A member joins, lives or leaves. Raises the error that it must be told; then nothing has changed."""
        if beat.epoch == LEAVE:
            if self._absent.pop(beat.member_id, None) is None:
                self.remove(beat.member_id)
            return ShareResult(beat.member_id, LEAVE, None)
        _check(beat)
        member = self._joining(beat) if beat.epoch == JOIN else self._known(beat)
        self._hear(member, beat)
        member.heard(now)
        self.refresh(catalog)
        return self._tell(member, is_new=beat.epoch == JOIN)

    def look(self, member_id: str, catalog: Catalog) -> ShareResult | None:
        """What there is to say to a member without its asking; None if nothing."""
        member = self.members.get(member_id)
        if member is None:
            return None
        self.refresh(catalog)
        return self._tell(member, is_new=False) if member.epoch != self.epoch else None

    def _tell(self, member: ShareMember, *, is_new: bool) -> ShareResult:
        is_told = is_new or member.told != member.assigned
        member.epoch, member.told = self.epoch, member.assigned
        return ShareResult(member.member_id, self.epoch, member.assigned if is_told else None)

    def _joining(self, beat: ShareBeat) -> ShareMember:
        known = self.members.get(beat.member_id)
        if known is not None:
            return known
        if len(self.members) >= GROUP_MEMBERS_MAX:
            raise GroupFull(f"group {self.name!r} has {GROUP_MEMBERS_MAX} members, not more")
        said = SubscriptionRecord(
            None, beat.client_id, beat.host, beat.zone, CONSUMER_SESSION_TIMEOUT_MS, -1, (), None, None
        )  # fmt: skip
        self._absent.pop(beat.member_id, None)
        member = self.members[beat.member_id] = ShareMember(beat.member_id, said)
        self._raise_epoch()
        return member

    def _known(self, beat: ShareBeat) -> ShareMember:
        member = self.member(beat.member_id)
        if beat.epoch > member.epoch:
            raise FencedMemberEpoch(f"member {beat.member_id} is in epoch {member.epoch}, not {beat.epoch}")
        if beat.epoch < member.epoch:
            member.told = None  # it has missed what it was told
        return member

    def member(self, member_id: str) -> ShareMember:
        """Raises `UnknownMember`."""
        member = self.members.get(member_id)
        if member is None:
            raise UnknownMember(f"group {self.name!r} does not know member {member_id!r}; join again")
        return member

    def _hear(self, member: ShareMember, beat: ShareBeat) -> None:
        """Take up what a member says of itself."""
        old = member.said
        new = attrs.evolve(
            old,
            client_id=beat.client_id or old.client_id,
            host=beat.host or old.host,
            zone=beat.zone if beat.zone is not None else old.zone,
            session_ms=beat.session_ms if beat.session_ms >= 0 else old.session_ms,
            topics=tuple(sorted(set(beat.topics))) if beat.topics is not None else old.topics,
        )
        member.said = new
        member.can_be_asked = beat.can_be_asked
        if new.topics != old.topics:
            self._raise_epoch()
        if beat.deliveries > 0 and beat.deliveries != self.record.deliveries:
            self.record = attrs.evolve(self.record, deliveries=beat.deliveries)
            self.is_dirty = True

    def remove(self, member_id: str) -> None:
        """A member is out. Raises `UnknownMember`."""
        del self.members[self.member(member_id).member_id]
        self._raise_epoch()

    def _raise_epoch(self) -> None:
        if self._epoch != self.epoch:  # it has been raised already, and nobody has been told
            return
        self.record = attrs.evolve(self.record, epoch=self.record.epoch + 1)
        self.is_dirty = True

    # --- sharing out --------------------------------------------------------------------------------

    def refresh(self, catalog: Catalog) -> None:
        """Share out anew if members, subscriptions or topics are not as they were."""
        if self._seen_version is not catalog.version:
            self._seen_version = catalog.version
            if self._wanted(catalog) != self._counts:
                self._raise_epoch()
        if self._epoch == self.epoch:
            return
        self._counts, self._epoch = self._wanted(catalog), self.epoch
        assigned: dict[str, set[Place]] = {member_id: set() for member_id in self.members}
        for topic_id, partitions, subscribers in self._subscribed(catalog):
            _share_out(topic_id, partitions, subscribers, assigned)
        for member_id, places in assigned.items():
            self.members[member_id].assigned = frozenset(places)

    def _wanted(self, catalog: Catalog) -> dict[str, int]:
        return {topic_id: partitions for topic_id, partitions, _ in self._subscribed(catalog)}

    def _subscribed(self, catalog: Catalog) -> list[tuple[str, int, list[str]]]:
        """Each topic that there is, and who wants it."""
        names: dict[str, list[str]] = {}
        for member_id in sorted(self.members):
            for name in self.members[member_id].said.topics:
                names.setdefault(name, []).append(member_id)
        found = ((catalog.topic(name), names[name]) for name in sorted(names))
        return [(topic.topic_id, topic.partitions, wanting) for topic, wanting in found if topic is not None]

    def subscribed(self) -> set[str]:
        """The topics that members want."""
        return {topic for member in self.members.values() for topic in member.said.topics}

    # --- time, records ------------------------------------------------------------------------------

    def next_due(self) -> float:
        return min((*(member.due for member in self.members.values()), *self._absent.values()), default=NEVER)

    def tick(self, now: float) -> list[str]:
        """Put out whom time has run out for; their ids."""
        late = [member.member_id for member in self.members.values() if member.due <= now]
        for member_id in late:
            self.remove(member_id)
        gone = [member_id for member_id, due in self._absent.items() if due <= now]
        for member_id in gone:
            del self._absent[member_id]
        return late + gone

    def changes(self, wall_ms: int) -> list[tuple[ShareKey, bytes]]:
        """What is to be stored since the last call."""
        if not self.is_dirty:
            return []
        self.is_dirty = False
        self.record = attrs.evolve(self.record, changed_ms=wall_ms)
        return self.everything()

    def everything(self) -> list[tuple[ShareKey, bytes]]:
        return [(ShareKey(self.name), encode_share(self.record))]


def _share_out(topic_id: str, partitions: int, members: Sequence[str], assigned: dict[str, set[Place]]) -> None:
    """To everybody, while that is not too much; else each partition to a few, one member after another."""
    count = len(members)
    each = count
    if count * partitions > SHARE_ASSIGNMENT_MAX:
        each = min(count, max(MEMBERS_EACH_MIN, ceil(count / partitions)))
    for at in range(partitions):
        for turn in range(each):
            assigned[members[(at * each + turn) % count]].add((topic_id, at))


def _check(beat: ShareBeat) -> None:
    if not beat.member_id or len(beat.member_id) > SHARE_MEMBER_ID_CHARACTERS_MAX:
        raise InvalidRequest(f"a member makes its own id, of 1 to {SHARE_MEMBER_ID_CHARACTERS_MAX} characters")
    if beat.epoch < JOIN:
        raise InvalidRequest(f"a member epoch of {beat.epoch} can't be")
    if beat.epoch == JOIN and not beat.topics:
        raise InvalidRequest("who joins names the topics it wants")
    if beat.session_ms >= 0 and not SESSION_TIMEOUT_MS_MIN <= beat.session_ms <= SESSION_TIMEOUT_MS_MAX:
        raise InvalidSessionTimeout(
            f"a session of {beat.session_ms} ms can't be: {SESSION_TIMEOUT_MS_MIN} to {SESSION_TIMEOUT_MS_MAX} can"
        )
    if beat.deliveries != -1 and not 1 <= beat.deliveries <= QUEUE_DELIVERIES_MAX:
        raise InvalidRequest(f"{beat.deliveries} deliveries of a record can't be: 1 to {QUEUE_DELIVERIES_MAX} can")
    topics = beat.topics or ()
    if len(topics) > MEMBER_TOPICS_MAX or sum(map(len, topics)) + len(beat.zone or "") > MEMBER_METADATA_BYTES_MAX:
        raise InvalidRequest(f"a member may name {MEMBER_TOPICS_MAX} topics, in {MEMBER_METADATA_BYTES_MAX} characters")
