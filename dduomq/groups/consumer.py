"""The server-side group protocol (KIP-848): the broker shares out, each member moves to its part on its own.

A pure machine: time comes in as `now` (monotonic seconds), topics as a catalog; what has changed is taken from
`changes` and stored before anybody is answered. The group has an epoch; a change of members, subscriptions or
topics raises it, and a target assignment is made for it. Each member then gives up what is no longer its own, says
so, and only then may another one have it: nobody else is disturbed. Always true: a partition is held by one member
at a time, from the answer that gives it until the member has said that it let go, has left, or is out; replaying
the changes in their order gives the same group.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from dduomq.errors import (
    FencedInstance,
    FencedMemberEpoch,
    GroupFull,
    IllegalGeneration,
    InvalidRequest,
    InvalidSessionTimeout,
    StaleMemberEpoch,
    UnknownMember,
    UnreleasedInstance,
)
from dduomq.groups import assignors, records
from dduomq.groups.assignors import Assignable, Assignor, Subscriber
from dduomq.groups.catalog import Catalog, Found, compile_pattern
from dduomq.groups.consumer_member import (
    JOIN,
    LEAVE,
    LEAVE_FOR_A_WHILE,
    NEVER,
    NOTHING,
    REVOKING,
    WAITING,
    Beat,
    BeatResult,
    ConsumerMember,
)
from dduomq.groups.consumer_member import STABLE as SETTLED
from dduomq.groups.records import ConsumersKey, ConsumersRecord, Key, MemberKey, Place, SubscriptionRecord
from dduomq.limits import (
    CONSUMER_SESSION_TIMEOUT_MS,
    GROUP_MEMBERS_MAX,
    MEMBER_METADATA_BYTES_MAX,
    MEMBER_NAME_CHARACTERS_MAX,
    MEMBER_TOPICS_MAX,
    SESSION_TIMEOUT_MS_MAX,
    SESSION_TIMEOUT_MS_MIN,
)

EMPTY, RECONCILING, STABLE = "Empty", "Reconciling", "Stable"


class ConsumerGroup:
    """One group. `own` are assignors of the node's user."""

    __slots__ = (
        "_counts", "_dirty", "_found", "_holders", "_own", "_seen_version", "assignor", "complaint", "epoch",
        "members", "name", "target", "target_epoch",
    )  # fmt: skip

    def __init__(self, name: str, own: Mapping[str, Assignor] | None = None) -> None:
        self.name = name
        self.epoch = 0
        self.target_epoch = 0
        self.assignor = assignors.DEFAULT
        self.complaint: str | None = None  # why the assignor that was asked for was not followed
        self.members: dict[str, ConsumerMember] = {}
        self.target: dict[str, frozenset[Place]] = {}
        self._own = own or {}
        self._holders: dict[Place, str] = {}
        self._counts: dict[str, int] | None = None  # partitions of each topic that the target was made for
        self._seen_version: object = None
        self._dirty: dict[Key, None] = {}
        self._found = Found()

    @property
    def state(self) -> str:
        if not self.members:
            return EMPTY
        is_settled = all(m.epoch == self.target_epoch and m.state == SETTLED for m in self.members.values())
        return STABLE if is_settled and self.epoch == self.target_epoch else RECONCILING

    # --- heartbeats ---------------------------------------------------------------------------------

    def heartbeat(self, beat: Beat, now: float, catalog: Catalog) -> BeatResult:
        """A member joins, lives, moves on or leaves. Raises the error that it must be told; then nothing changed."""
        if beat.epoch in {LEAVE, LEAVE_FOR_A_WHILE}:
            return self._leave(beat, now)
        self._check(beat)
        member = self._joining(beat) if beat.epoch == JOIN else self._known(beat)
        before = member.assigned
        self._hear(member, beat)
        member.heard(now)
        self._refresh(catalog)
        self._share_out(catalog)
        self._reconcile(member, beat.owned if beat.epoch != JOIN else beat.owned or NOTHING, now)
        is_told = beat.owned is not None or beat.epoch == JOIN or member.assigned != before
        return BeatResult(member.member_id, member.epoch, member.assigned if is_told else None)

    def look(self, member_id: str, now: float, catalog: Catalog) -> BeatResult | None:
        """What there is to say to a member without its asking; None if nothing, or if it is no member."""
        member = self.members.get(member_id)
        if member is None:
            return None
        before, epoch = member.assigned, member.epoch
        self._refresh(catalog)
        self._share_out(catalog)
        self._reconcile(member, None, now)
        if member.assigned == before and member.epoch == epoch:
            return None
        return BeatResult(member_id, member.epoch, member.assigned)

    def must_join_again(self, member: ConsumerMember, now: float, catalog: Catalog) -> bool:
        """Whether a member of the classic protocol has something to give up or to get: it must do so in its time."""
        self._refresh(catalog)
        self._share_out(catalog)
        target = self.target.get(member.member_id, NOTHING)
        is_free = any(self._holders.get(place) is None for place in target - member.assigned)
        if member.epoch == self.target_epoch and (member.state == SETTLED or (member.state == WAITING and not is_free)):
            member.revoke_due = NEVER
            return False
        member.revoke_due = min(member.revoke_due, now + member.said.rebalance_ms / 1000)
        return True

    def adopt(self, member: ConsumerMember) -> None:
        """A member with what it has, from the group's time before."""
        self.members[member.member_id] = member
        self.target[member.member_id] = member.assigned
        self._holders.update(dict.fromkeys(member.assigned, member.member_id))
        for kind in (records.MEMBER, records.TARGET, records.CURRENT):
            self._mark(kind, member.member_id)
        self._dirty[ConsumersKey(self.name)] = None

    def _check(self, beat: Beat) -> None:
        if not beat.member_id:
            raise InvalidRequest("a member makes its own id and sends it with each heartbeat")
        if beat.epoch < JOIN:
            raise InvalidRequest(f"a member epoch of {beat.epoch} can't be")
        if beat.epoch == JOIN and beat.topics is None and beat.pattern is None:
            raise InvalidRequest("who joins names the topics it wants, or a pattern")
        _check_size(beat)
        if beat.session_ms >= 0 and not SESSION_TIMEOUT_MS_MIN <= beat.session_ms <= SESSION_TIMEOUT_MS_MAX:
            raise InvalidSessionTimeout(
                f"a session of {beat.session_ms} ms can't be: {SESSION_TIMEOUT_MS_MIN} to {SESSION_TIMEOUT_MS_MAX} can"
            )
        if beat.pattern:
            compile_pattern(beat.pattern)
        if beat.assignor is not None:
            assignors.find_assignor(beat.assignor, self._own)

    def _joining(self, beat: Beat) -> ConsumerMember:
        held = None if beat.instance_id is None else self._instance(beat.instance_id)
        if held is not None and held.member_id != beat.member_id:
            if held.epoch != LEAVE_FOR_A_WHILE and not beat.takes_over:
                raise UnreleasedInstance(
                    f"instance {beat.instance_id!r} of group {self.name!r} is member {held.member_id}; "
                    "stop that one first, or wait for its session to end"
                )
            return self._replace(held, beat.member_id)
        known = self.members.get(beat.member_id)
        if known is not None:
            return known
        if len(self.members) >= GROUP_MEMBERS_MAX:
            raise GroupFull(f"group {self.name!r} has {GROUP_MEMBERS_MAX} members, not more")
        said = SubscriptionRecord(
            beat.instance_id, beat.client_id, beat.host, beat.zone, CONSUMER_SESSION_TIMEOUT_MS,
            CONSUMER_SESSION_TIMEOUT_MS, (), None, None,
        )  # fmt: skip
        member = self.members[beat.member_id] = ConsumerMember(beat.member_id, said)
        self.target.setdefault(beat.member_id, NOTHING)
        self._raise_epoch()
        return member

    def _replace(self, held: ConsumerMember, member_id: str) -> ConsumerMember:
        """An instance is back as another process: what was its own still is."""
        member = ConsumerMember(member_id, held.said)
        member.assigned, member.state = held.assigned, SETTLED
        self._forget(held)
        self.members[member_id] = member
        self.target[member_id] = self.target.pop(held.member_id, NOTHING)
        self._mark(records.TARGET, held.member_id, member_id)
        for place in member.assigned:
            self._holders[place] = member_id
        return member

    def _known(self, beat: Beat) -> ConsumerMember:
        member = self.member(beat.member_id, beat.instance_id)
        if beat.epoch == member.epoch:
            return member
        is_late = beat.epoch == member.previous_epoch and beat.owned is not None and beat.owned <= member.held
        if not is_late:  # an answer that was lost is made good; anything else is a member from the past
            raise FencedMemberEpoch(
                f"member {beat.member_id} of group {self.name!r} is in epoch {member.epoch}, not {beat.epoch}"
            )
        return member

    def member(self, member_id: str, instance_id: str | None = None) -> ConsumerMember:
        """Raises `UnknownMember`, or `FencedInstance` when another process has taken its place."""
        member = self.members.get(member_id)
        if instance_id is not None:
            held = self._instance(instance_id)
            if held is not None and held.member_id != member_id:
                raise FencedInstance(f"instance {instance_id!r} is another process now")
        if member is None:
            raise UnknownMember(f"group {self.name!r} does not know member {member_id!r}; join again")
        return member

    def _hear(self, member: ConsumerMember, beat: Beat) -> None:
        """Take up what a member says of itself."""
        old = member.said
        new = attrs.evolve(
            old,
            instance_id=beat.instance_id if beat.instance_id is not None else old.instance_id,
            client_id=beat.client_id or old.client_id,
            host=beat.host or old.host,
            zone=beat.zone if beat.zone is not None else old.zone,
            session_ms=beat.session_ms if beat.session_ms >= 0 else old.session_ms,
            rebalance_ms=min(beat.rebalance_ms, SESSION_TIMEOUT_MS_MAX) if beat.rebalance_ms >= 0 else old.rebalance_ms,
            topics=tuple(sorted(set(beat.topics))) if beat.topics is not None else old.topics,
            pattern=(beat.pattern or None) if beat.pattern is not None else old.pattern,
            assignor=beat.assignor if beat.assignor is not None else old.assignor,
            classic=beat.classic,
        )
        if new == old and beat.epoch != JOIN:
            return
        member.said = new
        self._mark(records.MEMBER, member.member_id)
        if (new.topics, new.pattern, new.assignor, new.zone) != (old.topics, old.pattern, old.assignor, old.zone):
            self._raise_epoch()

    # --- sharing out --------------------------------------------------------------------------------

    def _refresh(self, catalog: Catalog) -> None:
        """Topics that have come, gone or grown call for a new target."""
        if self._seen_version is catalog.version:
            return
        self._seen_version = catalog.version
        counts = {topic.topic_id: topic.partitions for topic in self._wanted(catalog).values()}
        if self._counts is None:  # restored: what the target was made for can be read from it
            self._counts = dict(Counter(place[0] for target in self.target.values() for place in target))
        if counts != self._counts and self.epoch == self.target_epoch:
            self._raise_epoch()

    def _wanted(self, catalog: Catalog) -> dict[str, Assignable]:
        """The topics that anybody subscribes to and that there are, by id."""
        found = (catalog.topic(name) for member in self.members.values() for name in self._topics(member, catalog))
        return {topic.topic_id: topic for topic in found if topic is not None}

    def _topics(self, member: ConsumerMember, catalog: Catalog) -> Sequence[str]:
        """What a member names, and what its pattern finds."""
        said = member.said
        return said.topics if said.pattern is None else sorted({*said.topics, *self._found.by(said.pattern, catalog)})

    def _share_out(self, catalog: Catalog) -> None:
        """Make the target for the group's epoch, if there is none yet."""
        if self.epoch == self.target_epoch:
            return
        topics = self._wanted(catalog)
        subscribers = [self._subscriber(member, catalog) for member in self.members.values()]
        self.assignor = self._elected()
        target = self._assigned(subscribers, topics)
        for member_id in self.members:
            wanted = target.get(member_id, NOTHING)
            if wanted != self.target.get(member_id):
                self.target[member_id] = wanted
                self._mark(records.TARGET, member_id)
        self._counts = {topic.topic_id: topic.partitions for topic in topics.values()}
        self._seen_version = catalog.version
        self.target_epoch = self.epoch
        self._dirty[ConsumersKey(self.name)] = None

    def _assigned(
        self, subscribers: Sequence[Subscriber], topics: Mapping[str, Assignable]
    ) -> Mapping[str, frozenset[Place]]:  # fmt: skip
        """What the assignor says; a user's own that fails, or leaves out or doubles a partition, is not followed."""
        self.complaint = None
        if self.assignor in assignors.ASSIGNORS:
            return assignors.find_assignor(self.assignor)(subscribers, topics)
        if self.assignor not in self._own:
            self.complaint = f"assignor {self.assignor!r} is not known to this node any more"
            return assignors.find_assignor(assignors.DEFAULT)(subscribers, topics)
        wanted = {(topic.topic_id, at) for topic in topics.values() for at in range(topic.partitions)}
        try:
            target = self._own[self.assignor](subscribers, topics)
            given = [place for places in target.values() for place in places]
            if len(given) == len(wanted) and wanted.issuperset(given) and len(set(given)) == len(given):
                return {member_id: frozenset(places) for member_id, places in target.items()}
            self.complaint = f"assignor {self.assignor!r} must give each of {len(wanted)} partitions to one member"
        except Exception as error:  # it is not our code, and the group must go on
            self.complaint = f"assignor {self.assignor!r} failed: {type(error).__name__}: {error}"
        return assignors.find_assignor(assignors.DEFAULT)(subscribers, topics)

    def _subscriber(self, member: ConsumerMember, catalog: Catalog) -> Subscriber:
        found = (catalog.topic(name) for name in self._topics(member, catalog))
        topics = frozenset(topic.topic_id for topic in found if topic is not None)
        said = member.said
        return Subscriber(
            member.member_id, said.instance_id, said.zone, topics, self.target.get(member.member_id, NOTHING)
        )

    def _elected(self) -> str:
        """The assignor that most members prefer; the group's last one if nobody says."""
        asked = (member.said.assignor for member in self.members.values())
        votes = Counter(name for name in asked if name and (name in self._own or name in assignors.ASSIGNORS))
        if not votes:
            return self.assignor
        return max(sorted(votes), key=lambda name: votes[name])

    def _reconcile(self, member: ConsumerMember, owned: frozenset[Place] | None, now: float) -> None:
        """Bring a member as near to its target as others allow. `owned`: what it says it has; None if it does not."""
        if member.state == REVOKING:
            if owned is None or owned & member.revoking:
                return
        elif member.state == SETTLED and member.epoch == self.target_epoch:
            return
        target = self.target.get(member.member_id, NOTHING)
        revoking = (member.assigned | member.revoking) - target
        if owned is not None:
            revoking &= owned
        if revoking:
            self._move(member, member.assigned & target, revoking, REVOKING, member.epoch)
            member.revoke_due = now + member.said.rebalance_ms / 1000
            return
        member.revoke_due = NEVER
        free = frozenset(place for place in target if self._holders.get(place, member.member_id) == member.member_id)
        self._move(member, free, NOTHING, SETTLED if free == target else WAITING, self.target_epoch)

    def _move(
        self, member: ConsumerMember, assigned: frozenset[Place], revoking: frozenset[Place], state: str, epoch: int
    ) -> None:  # fmt: skip
        before = member.current()
        for place in member.held - assigned - revoking:
            self._holders.pop(place, None)
        for place in assigned:
            self._holders[place] = member.member_id
        member.assigned, member.revoking, member.state = assigned, revoking, state
        if epoch != member.epoch:
            member.previous_epoch, member.epoch = member.epoch, epoch
        if member.current() != before:
            self._mark(records.CURRENT, member.member_id)

    # --- commits, leaving, time ---------------------------------------------------------------------

    def check_commit(
        self, member_id: str, instance_id: str | None, epoch: int, places: Sequence[Place] | None, now: float
    ) -> frozenset[Place]:
        """Whether a member's commit may be taken; the `places` that are not its own.

        Without a member only while there are none. A heartbeat is not needed to stay in while one commits.
        """
        if epoch < 0 and not member_id:
            if self.members:
                raise UnknownMember(f"group {self.name!r} has members: only they commit")
            return NOTHING
        member = self.member(member_id, instance_id)
        if member.epoch != epoch:
            error = StaleMemberEpoch if member.said.classic is None else IllegalGeneration
            raise error(f"member {member_id} is in epoch {member.epoch}, not {epoch}")
        member.heard(now)
        return frozenset(places or ()) - member.held

    def _leave(self, beat: Beat, now: float) -> BeatResult:
        member = self.member(beat.member_id, beat.instance_id)
        if beat.epoch == LEAVE_FOR_A_WHILE and member.said.instance_id is not None:
            self._move(member, member.held & self.target.get(member.member_id, NOTHING), NOTHING, SETTLED, beat.epoch)
            member.revoke_due = NEVER
            member.heard(now)
        else:
            self.remove(member.member_id)
        return BeatResult(beat.member_id, beat.epoch, None)

    def remove(self, member_id: str) -> None:
        """A member is out: it has left, has not been heard of, or somebody wants it out. Raises `UnknownMember`."""
        member = self.member(member_id)
        self._forget(member)
        self.target.pop(member_id, None)
        self._mark(records.TARGET, member_id)
        self._raise_epoch()
        if not self.members:
            self.target_epoch = self.epoch
            self._dirty[ConsumersKey(self.name)] = None

    def _forget(self, member: ConsumerMember) -> None:
        self._release(member)
        del self.members[member.member_id]
        self._mark(records.MEMBER, member.member_id)
        self._mark(records.CURRENT, member.member_id)

    def next_due(self) -> float:
        """When `tick` has something to do; infinity while nothing can run out."""
        return min((min(member.due, member.revoke_due) for member in self.members.values()), default=NEVER)

    def tick(self, now: float) -> list[str]:
        """Put out whom time has run out for; their ids."""
        late = [m.member_id for m in self.members.values() if min(m.due, m.revoke_due) <= now]
        for member_id in late:
            self.remove(member_id)
        return late

    def _instance(self, instance_id: str) -> ConsumerMember | None:
        return next((m for m in self.members.values() if m.said.instance_id == instance_id), None)

    def subscribed(self, catalog: Catalog) -> set[str]:
        """The topics that members read, or would."""
        return {topic for member in self.members.values() for topic in self._topics(member, catalog)}

    # --- records ------------------------------------------------------------------------------------

    def _raise_epoch(self) -> None:
        if self.epoch == self.target_epoch:
            self.epoch += 1
            self._dirty[ConsumersKey(self.name)] = None

    def _mark(self, kind: str, *member_ids: str) -> None:
        for member_id in member_ids:
            self._dirty[MemberKey(self.name, kind, member_id)] = None

    @property
    def has_changed(self) -> bool:
        """Whether `changes` has something to store."""
        return bool(self._dirty)

    def changes(self, wall_ms: int) -> list[tuple[Key, bytes | None]]:
        """What has changed since the last call, as it is now."""
        dirty, self._dirty = self._dirty, {}
        return [(key, self._value(key, wall_ms)) for key in dirty]

    def everything(self, wall_ms: int) -> list[tuple[Key, bytes | None]]:
        """All that is so."""
        keys: list[Key] = [ConsumersKey(self.name)]
        kinds = (records.MEMBER, records.TARGET, records.CURRENT)
        keys += [MemberKey(self.name, kind, member_id) for member_id in self.members for kind in kinds]
        return [(key, self._value(key, wall_ms)) for key in keys]

    def _value(self, key: Key, wall_ms: int) -> bytes | None:
        if not isinstance(key, MemberKey):
            return records.encode_consumers(ConsumersRecord(self.epoch, self.target_epoch, self.assignor, wall_ms))
        member = self.members.get(key.member_id)
        if member is None:
            return None
        if key.kind == records.MEMBER:
            return records.encode_subscription(member.said)
        if key.kind == records.TARGET:
            return records.encode_target(self.target.get(key.member_id, NOTHING))
        return records.encode_current(member.current())

    def apply(self, key: Key, value: bytes | None, now: float) -> None:
        """What a record says is so."""
        if isinstance(key, ConsumersKey) and value is not None:
            record = records.decode_consumers(value)
            self.epoch, self.target_epoch, self.assignor = record.epoch, record.target_epoch, record.assignor
        elif isinstance(key, MemberKey):
            self._apply_member(key, value, now)

    def _apply_member(self, key: MemberKey, value: bytes | None, now: float) -> None:
        member = self.members.get(key.member_id)
        if key.kind == records.TARGET:
            if value is None:
                self.target.pop(key.member_id, None)
            else:
                self.target[key.member_id] = records.decode_target(value)
        elif value is None:
            if member is not None:
                self._release(member)
                self.members.pop(key.member_id)
        elif key.kind == records.MEMBER:
            said = records.decode_subscription(value)
            if member is None:
                member = self.members[key.member_id] = ConsumerMember(key.member_id, said)
            member.said = said
            member.heard(now)
        elif member is not None:
            self._release(member)
            member.restore(records.decode_current(value))
            self._holders.update(dict.fromkeys(member.held, key.member_id))
            member.revoke_due = now + member.said.rebalance_ms / 1000 if member.state == REVOKING else NEVER

    def _release(self, member: ConsumerMember) -> None:
        for place in member.held:
            if self._holders.get(place) == member.member_id:
                del self._holders[place]


def _check_size(beat: Beat) -> None:
    topics = beat.topics or ()
    if len(topics) > MEMBER_TOPICS_MAX:
        raise InvalidRequest(f"{len(topics)} topics; a member may name {MEMBER_TOPICS_MAX}")
    for name in (beat.member_id, beat.instance_id, beat.zone, beat.assignor):
        if name is not None and len(name) > MEMBER_NAME_CHARACTERS_MAX:
            raise InvalidRequest(f"a member's ids and names have at most {MEMBER_NAME_CHARACTERS_MAX} characters")
    texts = (beat.member_id, beat.instance_id, beat.zone, beat.assignor, beat.pattern, *topics)
    size = sum(len(text) for text in texts if text is not None)
    size += sum(len(name) + len(metadata) for name, metadata in beat.classic or ())
    if size > MEMBER_METADATA_BYTES_MAX:
        raise InvalidRequest(f"a member says {size} characters of itself; {MEMBER_METADATA_BYTES_MAX} is the most")
