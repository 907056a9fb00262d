"""The state machine that the quorum's log is for: keys and versions, sessions, and who has sent what.

Pure. Always true: `apply` of the same entries in the same order makes the same state and the same outcomes on every
member; a transaction's checks are looked at when it is applied, so the log's order decides; an ephemeral key goes in
the very entry that ends its session; a node has one session and one client; a snapshot keeps everything, versions too.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import attrs
import cbor2

from dduomq.cluster import commands, raft_conf
from dduomq.cluster.commands import BeginSession, ClientReplaced, EndSession, NewClient, Origin, Outcome, Transact
from dduomq.cluster.metadata import Entry, MetadataState
from dduomq.cluster.ports import Changed, Del, MetadataConflict, Put, SessionLost, Versioned
from dduomq.errors import UnsupportedVersion
from dduomq.wire.peer_hello import Founder
from dduomq.wire.raft_messages import Peer, Snapshot

VERSION = 1


@attrs.frozen
class SessionRecord:
    session: int
    node: int
    timeout_ms: int


@attrs.define
class Client:
    """What came of the commands that a client may send again."""

    node: int
    oldest: int = 0
    outcomes: dict[int, Outcome] = attrs.field(factory=dict)


class QuorumState:
    """`founders` are the first voters, which name the cluster."""

    def __init__(self, cluster_id: str = "", founders: tuple[Founder, ...] = ()) -> None:
        self.cluster_id = cluster_id
        self.founders = founders
        self.metadata = MetadataState()
        self.sessions: dict[int, SessionRecord] = {}  # by id
        self.session_changes = 0
        self._owners: dict[str, int] = {}  # of ephemeral keys: a session
        self._clients: dict[int, Client] = {}  # by id

    # --- applying -----------------------------------------------------------------------------------

    def apply(self, index: int, data: bytes) -> tuple[Outcome, list[Changed]]:
        """Carry out the command at that index. Raises `UnsupportedVersion`, and then nothing was done."""
        command = commands.decode(data)
        if isinstance(command, NewClient):
            self._clients = {one: client for one, client in self._clients.items() if client.node != command.node}
            self._clients[index] = Client(command.node)
            return Outcome(0, index), []
        if isinstance(command, commands.ExpireSession):
            return Outcome(0), self._end_session(command.session)
        known = self._known(command.origin)
        if known is not None:
            return known, []
        outcome, changes = self._carry_out(index, command)
        self._clients[command.origin.client].outcomes[command.origin.number] = outcome
        return outcome, changes

    def _known(self, origin: Origin) -> Outcome | None:
        """What a repeated command came to; an error for one whose client has gone on."""
        client = self._clients.get(origin.client)
        if client is None:
            return Outcome(ClientReplaced.code, 0, "this node has begun anew; nothing was applied")
        if origin.number < client.oldest:
            return Outcome(ClientReplaced.code, 0, "whoever sent this does not wait for it any more")
        if origin.oldest > client.oldest:
            client.oldest = origin.oldest
            client.outcomes = {n: outcome for n, outcome in client.outcomes.items() if n >= origin.oldest}
        return client.outcomes.get(origin.number)

    def _carry_out(self, index: int, command: Transact | BeginSession | EndSession) -> tuple[Outcome, list[Changed]]:
        match command:
            case Transact():
                return self._transact(command)
            case BeginSession():
                older = [one.session for one in self.sessions.values() if one.node == command.node]
                changes = [change for session in older for change in self._end_session(session)]
                self.session_changes += 1
                self.sessions[index] = SessionRecord(index, command.node, command.timeout_ms)
                return Outcome(0, index), changes
            case EndSession():
                return Outcome(0), self._end_session(command.session)

    def _transact(self, command: Transact) -> tuple[Outcome, list[Changed]]:
        is_lost = command.session not in self.sessions
        if is_lost and any(isinstance(one, Put) and one.is_ephemeral for one in command.operations):
            return Outcome(SessionLost.code, 0, "this node's session has ended; nothing was applied"), []
        try:
            entry = self.metadata.plan(command.operations)
        except MetadataConflict as error:
            return Outcome(error.code, 0, error.message), []
        for write in entry.writes:
            if isinstance(write, Put) and write.is_ephemeral:
                self._owners[write.key] = command.session
            else:
                self._owners.pop(write.key, None)
        return Outcome(0, entry.revision), self.metadata.apply(entry)

    def _end_session(self, session: int) -> list[Changed]:
        if self.sessions.pop(session, None) is None:
            return []
        self.session_changes += 1
        keys = sorted(key for key, owner in self._owners.items() if owner == session)
        if not keys:
            return []
        for key in keys:
            del self._owners[key]
        return self.metadata.apply(Entry(self.metadata.revision + 1, tuple(Del(key) for key in keys)))

    # --- snapshots ----------------------------------------------------------------------------------

    def freeze(self) -> list[object]:
        """All of it as plain values that no later `apply` changes; any thread may make bytes of them."""
        values = [[v.key, v.value, v.version, self._owners.get(v.key, 0)] for v in self.metadata.scan("")]
        sessions = [[s.session, s.node, s.timeout_ms] for s in self.sessions.values()]
        clients = [
            [one, client.node, client.oldest, [[n, o.code, o.value, o.message] for n, o in client.outcomes.items()]]
            for one, client in self._clients.items()
        ]
        founders = [[founder.node, founder.directory] for founder in self.founders]
        return [VERSION, self.cluster_id, founders, self.metadata.revision, values, sessions, clients]

    @classmethod
    def thaw(cls, data: bytes) -> "QuorumState":
        """The state that a snapshot holds. Raises `UnsupportedVersion`."""
        if not data:
            return cls()
        plain: Any = cbor2.loads(data)
        if plain[0] > VERSION:
            raise UnsupportedVersion(
                f"a snapshot of the metadata has version {plain[0]}, written by a newer dduomq; start that one"
            )
        _, cluster_id, founders, revision, values, sessions, clients = plain[:7]
        state = cls(cluster_id, tuple(Founder(*one[:2]) for one in founders))
        state.metadata.restore(revision, [Versioned(*one[:3]) for one in values])
        state._owners = {one[0]: one[3] for one in values if one[3]}
        state.sessions = {one[0]: SessionRecord(*one[:3]) for one in sessions}
        state._clients = {
            one: Client(node, oldest, {n: Outcome(*rest) for n, *rest in outcomes})
            for one, node, oldest, outcomes in clients
        }
        return state


def encode_frozen(frozen: list[object]) -> bytes:
    return cbor2.dumps(frozen)


def cluster_id_of(founders: Sequence[Founder]) -> str:
    """The same for all who found a cluster together, and for nobody else."""
    text = "\n".join(f"{founder.node}@{founder.directory}" for founder in sorted(founders))
    return sha256(text.encode()).hexdigest()[:32]


def first_snapshot(founders: Sequence[Founder]) -> Snapshot:
    """What each founder begins with: the same bytes for all."""
    state = QuorumState(cluster_id_of(founders), tuple(sorted(founders)))
    bare = raft_conf.bootstrap(Peer(founder.node, founder.directory) for founder in founders)
    return attrs.evolve(bare, data=encode_frozen(state.freeze()))
