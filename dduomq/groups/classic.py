"""The classic group protocol: join, agree on a way, the leader shares out, everybody syncs (KIP-394, 345, 559).

A pure machine: time comes in as `now` (monotonic seconds), answers go out through callables that are called once,
at once or when the group has come so far. States, in Kafka's words: Empty, PreparingRebalance (members come),
CompletingRebalance (the leader's assignment is awaited), Stable. Always true: a member that has not been heard of
for its session time-out is out, unless the group itself makes it wait; a generation's assignments are answered
only after they have been stored.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from dduomq.errors import (
    CoordinatorNotAvailable,
    DduomqError,
    FencedInstance,
    GroupFull,
    IllegalGeneration,
    InconsistentProtocol,
    InvalidRequest,
    InvalidSessionTimeout,
    MemberIdRequired,
    RebalanceInProgress,
    UnknownMember,
)
from dduomq.groups.member import NEVER, JoinRequest, JoinResult, Member, OnJoin, OnSync, SyncResult
from dduomq.groups.records import GroupRecord, MemberRecord
from dduomq.limits import (
    GROUP_MEMBERS_MAX,
    INITIAL_REBALANCE_DELAY_MS,
    MEMBER_METADATA_BYTES_MAX,
    MEMBER_NAME_CHARACTERS_MAX,
    MEMBER_PROTOCOLS_MAX,
    SESSION_TIMEOUT_MS_MAX,
    SESSION_TIMEOUT_MS_MIN,
)

CLIENT_ID_CHARACTERS = 200  # of it in a member's id
EMPTY, PREPARING, COMPLETING, STABLE = "Empty", "PreparingRebalance", "CompletingRebalance", "Stable"


class ClassicGroup:
    """One group. What `sync` and the timers give back is to be stored; then `stored` is called."""

    __slots__ = (
        "_complete_at", "_delay_until", "_pending", "_stored_generation", "generation", "leader", "members", "name",
        "protocol", "protocol_type", "replaced", "state",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = EMPTY
        self.generation = 0
        self.replaced = 0  # counts the static members that have become other processes
        self.protocol_type = ""
        self.protocol: str | None = None
        self.leader: str | None = None
        self.members: dict[str, Member] = {}
        self._pending: dict[str, float] = {}  # ids given out, and until when they may be used
        self._complete_at = NEVER  # when a rebalance goes on without those who are late
        self._delay_until = -NEVER  # an empty group waits a little for others to come at the same time
        self._stored_generation = -1

    def restore(self, record: GroupRecord, now: float) -> None:
        """As it was stored; every member is given a whole session to be heard of again."""
        self.generation = record.generation
        self.protocol_type, self.protocol, self.leader = record.protocol_type, record.protocol, record.leader
        self.members = {member.member_id: Member(member) for member in record.members}
        for member in self.members.values():
            member.heard(now)
        self.state = STABLE if self.members else EMPTY

    @property
    def is_unused(self) -> bool:
        """No member, and none on its way."""
        return not self.members and not self._pending

    def record(self, wall_ms: int) -> GroupRecord:
        """What is to be stored of it."""
        members = tuple(member.record() for member in self.members.values())
        return GroupRecord(self.protocol_type, self.generation, self.protocol, self.leader, members, wall_ms)

    # --- joining ------------------------------------------------------------------------------------

    def join(self, request: JoinRequest, now: float, new_id: Callable[[], str], answer: OnJoin) -> None:
        """Let a member in, or in again; answered when the new generation is complete."""
        try:
            member = self._joining(request, now, new_id, answer)
        except DduomqError as error:
            answer(JoinResult(error, request.member_id))
            return
        if member is not None:
            self._admit(member, request, now, answer)

    def _joining(self, request: JoinRequest, now: float, new_id: Callable[[], str], answer: OnJoin) -> Member | None:
        """The member that joins; None if it was answered already."""
        self._check(request)
        if request.member_id:
            return self._known(request)
        held = None if request.instance_id is None else self._instance(request.instance_id)
        if held is not None:
            return self._replace(held, request, new_id(), now, answer)
        if len(self.members) + len(self._pending) >= GROUP_MEMBERS_MAX:
            raise GroupFull(f"group {self.name!r} has {GROUP_MEMBERS_MAX} members, not more")
        member_id = f"{request.instance_id or request.client_id[:CLIENT_ID_CHARACTERS]}-{new_id()}"
        if request.needs_id and request.instance_id is None:
            self._pending[member_id] = now + request.session_ms / 1000
            answer(JoinResult(MemberIdRequired(), member_id))
            return None
        return self._new(member_id, request)

    def _check(self, request: JoinRequest) -> None:
        if not SESSION_TIMEOUT_MS_MIN <= request.session_ms <= SESSION_TIMEOUT_MS_MAX:
            raise InvalidSessionTimeout(
                f"session.timeout.ms={request.session_ms} can't be: "
                f"{SESSION_TIMEOUT_MS_MIN} to {SESSION_TIMEOUT_MS_MAX} is allowed"
            )
        if len(request.instance_id or "") > MEMBER_NAME_CHARACTERS_MAX:
            raise InvalidRequest(f"a group.instance.id has at most {MEMBER_NAME_CHARACTERS_MAX} characters")
        if not request.protocol_type or not request.protocols:
            raise InconsistentProtocol("a member must name at least one way to share the partitions")
        size = sum(len(name) + len(metadata) for name, metadata in request.protocols)
        if len(request.protocols) > MEMBER_PROTOCOLS_MAX or size > MEMBER_METADATA_BYTES_MAX:
            raise InconsistentProtocol(
                f"{len(request.protocols)} protocols of {size} bytes: a member may have {MEMBER_PROTOCOLS_MAX} "
                f"of {MEMBER_METADATA_BYTES_MAX} bytes together"
            )
        others = [member for member in self.members.values() if member.member_id != request.member_id]
        if not others:
            return
        if request.protocol_type != self.protocol_type:
            raise InconsistentProtocol(f"group {self.name!r} is of type {self.protocol_type!r}")
        common = set(self._candidates(others))
        if common and not common & {name for name, _ in request.protocols}:
            raise InconsistentProtocol(f"group {self.name!r} shares by {', '.join(sorted(common))}")

    def _known(self, request: JoinRequest) -> Member:
        member_id = request.member_id
        self._check_instance(member_id, request.instance_id)
        if self._pending.pop(member_id, None) is not None:
            return self._new(member_id, request)
        member = self.members.get(member_id)
        if member is None:
            raise UnknownMember(f"group {self.name!r} does not know member {member_id!r}")
        return member

    def _new(self, member_id: str, request: JoinRequest) -> Member:
        member = Member(
            MemberRecord(
                member_id, request.instance_id, request.client_id, request.host, request.session_ms,
                request.rebalance_ms, (), b"",
            )
        )  # fmt: skip
        if not self.members:
            self.protocol_type = request.protocol_type
        self.members[member_id] = member
        return member

    def _replace(
        self, held: Member, request: JoinRequest, suffix: str, now: float, answer: OnJoin
    ) -> Member | None:  # fmt: skip
        """A static member's next process: it takes over, the one before is fenced."""
        if held.on_join is not None:
            held.on_join(JoinResult(FencedInstance(), held.member_id))
        if held.on_sync is not None:
            held.on_sync(SyncResult(FencedInstance()))
        self.replaced += 1
        old_id, held.on_join, held.on_sync = held.member_id, None, None
        held.member_id = f"{request.instance_id}-{suffix}"
        self.members = {member.member_id: member for member in self.members.values()}
        is_leader = self.leader == old_id
        if is_leader:
            self.leader = held.member_id
        if self.state != STABLE or not self._votes_as_before(held, request):
            return held
        held.protocols, held.session_ms, held.rebalance_ms = (
            request.protocols, request.session_ms, request.rebalance_ms,
        )  # fmt: skip
        held.heard(now)
        answer(self._result(held, skip_assignment=is_leader))
        return None

    def _votes_as_before(self, held: Member, request: JoinRequest) -> bool:
        """Whether the generation can stay: the member wants what it wanted."""
        wanted = next((data for name, data in request.protocols if name == self.protocol), None)
        return wanted is not None and wanted == held.metadata(self.protocol)

    def _admit(self, member: Member, request: JoinRequest, now: float, answer: OnJoin) -> None:
        is_same = member.protocols == request.protocols
        member.protocols, member.session_ms, member.rebalance_ms = (
            request.protocols, request.session_ms, request.rebalance_ms,
        )  # fmt: skip
        member.heard(now)
        is_settled = self.state == COMPLETING or (self.state == STABLE and member.member_id != self.leader)
        if is_settled and is_same:
            answer(self._result(member))
            return
        if member.on_join is not None:  # it has asked twice; only one answer can count
            member.on_join(JoinResult(RebalanceInProgress(), member.member_id))
        member.on_join = answer
        if self.state != PREPARING:
            self._prepare(now)
        elif now < self._delay_until:
            self._delay_until = min(self._complete_at, now + INITIAL_REBALANCE_DELAY_MS / 1000)
        self._maybe_complete(now)

    def _prepare(self, now: float) -> None:
        """Everybody must join again."""
        for member in self.members.values():
            if member.on_sync is not None:
                on_sync, member.on_sync = member.on_sync, None
                on_sync(SyncResult(RebalanceInProgress()))
                member.heard(now)
        if self.state == EMPTY:
            self._delay_until = now + INITIAL_REBALANCE_DELAY_MS / 1000
        self.state = PREPARING
        longest = max((member.rebalance_ms for member in self.members.values()), default=0)
        self._complete_at = now + longest / 1000

    def _maybe_complete(self, now: float) -> None:
        if self.state != PREPARING or self._pending or now < self._delay_until:
            return
        if all(member.on_join is not None for member in self.members.values()):
            self._complete(now)

    def _complete(self, now: float) -> None:
        """Begin the next generation with those who are here."""
        self._complete_at, self._delay_until = NEVER, -NEVER
        late = [m for m in self.members.values() if m.on_join is None and m.instance_id is None]
        for member in late:
            del self.members[member.member_id]
        self.generation += 1
        if not self.members:
            self.state, self.protocol, self.leader = EMPTY, None, None
            return
        self.protocol = self._elected()
        if self.leader not in self.members or self.members[self.leader].on_join is None:
            waiting = (m.member_id for m in self.members.values() if m.on_join is not None)
            self.leader = next(waiting, next(iter(self.members)))
        self.state = COMPLETING
        longest = max(member.rebalance_ms for member in self.members.values())
        self._complete_at = now + longest / 1000
        for member in self.members.values():
            member.heard(now)
            if member.on_join is not None:
                on_join, member.on_join = member.on_join, None
                on_join(self._result(member))

    def _result(self, member: Member, *, skip_assignment: bool = False) -> JoinResult:
        is_leader = member.member_id == self.leader
        members = tuple(
            (other.member_id, other.instance_id, other.metadata(self.protocol)) for other in self.members.values()
        )
        return JoinResult(
            None, member.member_id, self.generation, self.protocol_type, self.protocol, self.leader or "",
            members if is_leader else (), skip_assignment,
        )  # fmt: skip

    def _candidates(self, members: Iterable[Member]) -> list[str]:
        """The ways that all of them know, in the first one's order."""
        known = [[name for name, _ in member.protocols] for member in members if member.protocols]
        return [name for name in known[0] if all(name in names for names in known)] if known else []

    def _elected(self) -> str | None:
        """Each member votes for the first of its ways that all know."""
        candidates = self._candidates(self.members.values())
        if not candidates:
            return None
        votes = Counter(
            next(name for name, _ in member.protocols if name in candidates)
            for member in self.members.values()
            if member.protocols
        )
        return max(candidates, key=lambda name: votes[name])

    # --- syncing ------------------------------------------------------------------------------------

    def sync(
        self,
        member_id: str,
        instance_id: str | None,
        generation: int,
        assignments: Mapping[str, bytes],
        now: float,
        answer: OnSync,
        *,
        protocol_type: str | None = None,
        protocol: str | None = None,
    ) -> bool:
        """A member wants its assignment; True if the leader has brought them all: store, then call `stored`."""
        try:
            member = self._checked(member_id, instance_id, generation)
            if protocol_type not in {None, self.protocol_type} or protocol not in {None, self.protocol}:
                raise InconsistentProtocol(f"group {self.name!r} shares by {self.protocol!r}")
            if self.state == PREPARING:
                raise RebalanceInProgress
        except DduomqError as error:
            answer(SyncResult(error))
            return False
        member.heard(now)
        if self.state == STABLE:
            answer(self._synced(member))
            return False
        if member.on_sync is not None:
            member.on_sync(SyncResult(RebalanceInProgress()))
        member.on_sync = answer
        if member_id != self.leader or self._stored_generation == generation:
            return False
        for other in self.members.values():
            other.assignment = assignments.get(other.member_id, b"")
        self._stored_generation = generation
        return True

    def stored(self, generation: int, now: float) -> None:
        """The generation's assignments can't be lost any more: everybody gets its own."""
        if self.state != COMPLETING or self.generation != generation:
            return
        self.state = STABLE
        self._complete_at = NEVER
        for member in self.members.values():
            if member.on_sync is not None:
                on_sync, member.on_sync = member.on_sync, None
                member.heard(now)
                on_sync(self._synced(member))

    def not_stored(self, generation: int, now: float) -> None:
        """They could not be kept: the members try again."""
        if self.state != COMPLETING or self.generation != generation:
            return
        self._stored_generation = -1
        for member in self.members.values():
            if member.on_sync is not None:
                on_sync, member.on_sync = member.on_sync, None
                member.heard(now)
                on_sync(SyncResult(CoordinatorNotAvailable()))
        self._prepare(now)

    def _synced(self, member: Member) -> SyncResult:
        return SyncResult(None, member.assignment, self.protocol_type, self.protocol)

    # --- staying and leaving ------------------------------------------------------------------------

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int, now: float) -> None:
        """Raises what the member must know: that it is out, or that a rebalance has begun."""
        member = self._checked(member_id, instance_id, generation)
        member.heard(now)
        if self.state == PREPARING:
            raise RebalanceInProgress

    def check_commit(self, member_id: str, instance_id: str | None, generation: int, now: float) -> None:
        """Whether a commit may be taken; without a generation only while the group has no members."""
        if generation < 0 and not member_id:
            if self.members:
                raise UnknownMember(f"group {self.name!r} has members: only they commit")
            return
        member = self._checked(member_id, instance_id, generation)
        member.heard(now)
        if self.state == COMPLETING:
            raise RebalanceInProgress

    def leave(self, member_id: str, instance_id: str | None, now: float) -> str:
        """A member goes; its id. Raises `UnknownMember` or `FencedInstance`."""
        if self._pending.pop(member_id, None) is not None:
            self._maybe_complete(now)
            return member_id
        if instance_id is not None and not member_id:
            held = self._instance(instance_id)
            if held is None:
                raise UnknownMember(f"group {self.name!r} has no instance {instance_id!r}")
            member_id = held.member_id
        self._check_instance(member_id, instance_id)
        if member_id not in self.members:
            raise UnknownMember(f"group {self.name!r} does not know member {member_id!r}")
        self._remove(member_id, now)
        return member_id

    def _remove(self, member_id: str, now: float) -> None:
        member = self.members.pop(member_id)
        if member.on_join is not None:
            member.on_join(JoinResult(UnknownMember(), member_id))
        if member.on_sync is not None:
            member.on_sync(SyncResult(UnknownMember()))
        if self.leader == member_id:
            self.leader = None
        if self.state in {STABLE, COMPLETING}:
            self._prepare(now)
        if not self.members and not self._pending:
            self._complete(now)
        self._maybe_complete(now)

    def _instance(self, instance_id: str) -> Member | None:
        return next((member for member in self.members.values() if member.instance_id == instance_id), None)

    def _check_instance(self, member_id: str, instance_id: str | None) -> None:
        if instance_id is None:
            return
        held = self._instance(instance_id)
        if held is None:
            raise UnknownMember(f"group {self.name!r} has no instance {instance_id!r}")
        if held.member_id != member_id:
            raise FencedInstance(f"instance {instance_id!r} is another process now")

    def _checked(self, member_id: str, instance_id: str | None, generation: int) -> Member:
        self._check_instance(member_id, instance_id)
        member = self.members.get(member_id)
        if member is None:
            raise UnknownMember(f"group {self.name!r} does not know member {member_id!r}")
        if generation != self.generation:
            raise IllegalGeneration(f"group {self.name!r} is in generation {self.generation}, not {generation}")
        return member

    # --- time ---------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """When `tick` has something to do; infinity while nothing can run out."""
        dues = [member.due for member in self.members.values() if not member.is_waiting]
        delay = self._delay_until if self.state == PREPARING and self._delay_until > -NEVER else NEVER
        return min(*dues, *self._pending.values(), self._complete_at, delay, NEVER)

    def tick(self, now: float) -> None:
        """Let go of whom time has run out for, and end a rebalance that has waited long enough."""
        for member_id in [known for known, due in self._pending.items() if due <= now]:
            del self._pending[member_id]
        for member in list(self.members.values()):
            if member.member_id in self.members and not member.is_waiting and member.due <= now:
                self._remove(member.member_id, now)
        if self._delay_until <= now:
            self._delay_until = -NEVER
        if self._complete_at <= now:
            self._complete_at = NEVER
            self._overdue(now)
        self._maybe_complete(now)

    def _overdue(self, now: float) -> None:
        if self.state == PREPARING:
            self._pending.clear()
            self._complete(now)
        elif self.state == COMPLETING and self._stored_generation != self.generation:
            for member in [held for held in self.members.values() if held.on_sync is None]:
                if member.member_id in self.members:
                    self._remove(member.member_id, now)  # it has not even asked for its part

    def close(self, error: DduomqError) -> None:
        """The coordinator ends: everybody who waits is told."""
        for member in self.members.values():
            if member.on_join is not None:
                member.on_join(JoinResult(error, member.member_id))
            if member.on_sync is not None:
                member.on_sync(SyncResult(error))
            member.on_join = member.on_sync = None

    def subscribed(self, read: Callable[[bytes], Sequence[str]]) -> set[str]:
        """The topics that the members subscribe to, read from their metadata."""
        return {topic for member in self.members.values() for topic in read(member.metadata(self.protocol))}
