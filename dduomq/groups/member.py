"""One member of a classic group, what it asks for, and what it is answered."""

from collections.abc import Callable
from typing import TypeAlias

import attrs

from dduomq.errors import DduomqError
from dduomq.groups.records import MemberRecord

NEVER = float("inf")


@attrs.frozen
class JoinRequest:
    """`member_id` empty: a new one. `needs_id`: a newcomer must come back with the id it is given."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    needs_id: bool


@attrs.frozen
class JoinResult:
    """`members`: (id, instance id, metadata) of all, for the leader only."""

    error: DduomqError | None
    member_id: str
    generation: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    members: tuple[tuple[str, str | None, bytes], ...] = ()
    skip_assignment: bool = False


@attrs.frozen
class SyncResult:
    error: DduomqError | None
    assignment: bytes = b""
    protocol_type: str | None = None
    protocol: str | None = None


OnJoin: TypeAlias = Callable[[JoinResult], None]
OnSync: TypeAlias = Callable[[SyncResult], None]


class Member:
    """One member. `on_join` and `on_sync` are the answers it waits for."""

    __slots__ = (
        "assignment", "client_id", "due", "host", "instance_id", "member_id", "on_join", "on_sync", "protocols",
        "rebalance_ms", "session_ms",
    )  # fmt: skip

    def __init__(self, record: MemberRecord) -> None:
        self.member_id = record.member_id
        self.instance_id = record.instance_id
        self.client_id = record.client_id
        self.host = record.host
        self.session_ms = record.session_ms
        self.rebalance_ms = record.rebalance_ms
        self.protocols = record.protocols
        self.assignment = record.assignment
        self.on_join: OnJoin | None = None
        self.on_sync: OnSync | None = None
        self.due = NEVER

    def heard(self, now: float) -> None:
        self.due = now + self.session_ms / 1000

    @property
    def is_waiting(self) -> bool:
        """The group makes it wait: its session can't run out meanwhile."""
        return self.on_join is not None or self.on_sync is not None

    def metadata(self, protocol: str | None) -> bytes:
        return next((held for name, held in self.protocols if name == protocol), b"")

    def record(self) -> MemberRecord:
        return MemberRecord(
            self.member_id, self.instance_id, self.client_id, self.host, self.session_ms, self.rebalance_ms,
            self.protocols, self.assignment,
        )  # fmt: skip
