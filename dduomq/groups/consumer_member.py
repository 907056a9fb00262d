"""One member of a group whose partitions the broker shares out, and what it says in a heartbeat (KIP-848)."""

import attrs

from dduomq.groups.records import CurrentRecord, Place, SubscriptionRecord

NEVER = float("inf")
JOIN, LEAVE, LEAVE_FOR_A_WHILE = 0, -1, -2
STABLE, REVOKING, WAITING = "stable", "revoking", "waiting"
NOTHING: frozenset[Place] = frozenset()


@attrs.frozen
class Beat:
    """A heartbeat. `topics`, `pattern`, `assignor`, `owned` None and a time of -1: as before."""

    member_id: str
    epoch: int
    instance_id: str | None = None
    client_id: str = ""
    host: str = ""
    zone: str | None = None
    session_ms: int = -1
    rebalance_ms: int = -1
    topics: tuple[str, ...] | None = None
    pattern: str | None = None
    assignor: str | None = None
    owned: frozenset[Place] | None = None
    classic: tuple[tuple[str, bytes], ...] | None = None
    takes_over: bool = False  # an instance's next process, which comes without a good-bye of the one before


@attrs.frozen
class BeatResult:
    """`assignment` None: as before."""

    member_id: str
    epoch: int
    assignment: frozenset[Place] | None


class ConsumerMember:
    """`state`: STABLE, it has its target; REVOKING, it must give up `revoking` first; WAITING for what others hold."""

    __slots__ = (
        "assigned", "due", "epoch", "member_id", "previous_epoch", "revoke_due", "revoking", "said", "state",
    )  # fmt: skip

    def __init__(self, member_id: str, said: SubscriptionRecord) -> None:
        self.member_id = member_id
        self.said = said
        self.epoch = JOIN
        self.previous_epoch = -1
        self.state = STABLE
        self.assigned = NOTHING
        self.revoking = NOTHING
        self.due = NEVER
        self.revoke_due = NEVER

    def heard(self, now: float) -> None:
        self.due = now + self.said.session_ms / 1000

    @property
    def held(self) -> frozenset[Place]:
        """What nobody else may have: its own, and what it has not yet given up."""
        return self.assigned | self.revoking

    def current(self) -> CurrentRecord:
        return CurrentRecord(self.epoch, self.previous_epoch, self.state, self.assigned, self.revoking)

    def restore(self, record: CurrentRecord) -> None:
        self.epoch, self.previous_epoch, self.state = record.epoch, record.previous_epoch, record.state
        self.assigned, self.revoking = record.assigned, record.revoking
