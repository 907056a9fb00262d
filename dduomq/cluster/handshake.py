"""Who may speak as a node of this cluster, and how both sides prove it.

Pure. Each side chooses a number once, and proves with HMAC-SHA-256 over the secret, its own role and both hellos that
it knows the secret: so a proof is good for one connection, one direction, and these very ids. Who dials proves first:
a listener tells strangers nothing that depends on the secret. The connection itself is neither encrypted nor signed;
whoever can change what is on the wire needs another protection, like a private network.

Always true: a node that has a cluster speaks only with nodes of the same one, or with new ones that have none yet; of
two live nodes with one number only the first is heard. A member that is known with another directory is not refused
here, as this node's own view may be the old one; but a node without a cluster that claims a member's number is: its
directory was wiped, and with it the votes that it gave.
"""

import hmac
from hashlib import sha256
from typing import Any

import attrs
import cbor2

from dduomq.errors import DduomqError, UnsupportedVersion
from dduomq.ports import Rng
from dduomq.wire.peer_hello import VERSION, Founder, PeerFacts, PeerHello, PeerHelloAnswer
from dduomq.wire.plain import to_plain

NONCE_BITS = 256
LOOPBACK = ("127.", "::1", "[::1]", "localhost")
_DIALLER, _LISTENER = "dialler", "listener"


class PeerRefused(DduomqError):
    """A node is not let in by another one, or does not let that one in."""

    code = 1162


@attrs.define
class Seen:
    """A node that has a connection to this one. `is_alive` is asked before another one with its number is refused."""

    directory_id: str
    address: str
    is_alive: Any
    life: bytes = b""


@attrs.define(kw_only=True)
class PeerBook:
    """Who this node is, and what it knows of the others.

    `directory_id` names the disk; with a quorum of its own it is the id of the quorum's directory. `host` and `port`:
    where others dial this node. `cluster_id`, `founders` and `members` (number to directory) are filled in as they
    become known; an engine other than the quorum leaves the last two empty.
    """

    node_id: int
    directory_id: str
    secret: str = attrs.field(repr=False)
    rng: Rng
    host: str = ""
    port: int = 0
    wanted: tuple[int, ...] = ()
    cluster_id: str = ""
    founders: tuple[Founder, ...] = ()
    members: dict[int, str] = attrs.field(factory=dict)
    seen: dict[int, Seen] = attrs.field(factory=dict)
    life: bytes = b""  # the first number that it has used once

    @property
    def facts(self) -> PeerFacts:
        return PeerFacts(self.cluster_id, self.founders, self.wanted)

    def hello(self, target: int) -> PeerHello:
        nonce = self._nonce()
        self.life = self.life or nonce
        return PeerHello(
            VERSION, self.node_id, self.directory_id, target, nonce, self.host, self.port, self.facts, self.life
        )  # fmt: skip

    def answer(self) -> PeerHelloAnswer:
        return PeerHelloAnswer(VERSION, self.node_id, self.directory_id, self._nonce(), self.facts)

    def _nonce(self) -> bytes:
        return self.rng.getrandbits(NONCE_BITS).to_bytes(NONCE_BITS // 8, "big")

    # --- proofs -------------------------------------------------------------------------------------

    def dialler_proof(self, hello: PeerHello, answer: PeerHelloAnswer) -> bytes:
        return self._proof(_DIALLER, hello, answer)

    def listener_proof(self, hello: PeerHello, answer: PeerHelloAnswer) -> bytes:
        return self._proof(_LISTENER, hello, answer)

    def _proof(self, role: str, hello: PeerHello, answer: PeerHelloAnswer) -> bytes:
        text = cbor2.dumps([role, to_plain(hello), to_plain(answer)])
        return hmac.new(self.secret.encode(), text, sha256).digest()

    def check_proof(self, mine: bytes, theirs: bytes, who: str) -> None:
        """Raises `PeerRefused`."""
        if not hmac.compare_digest(mine, theirs):
            raise PeerRefused(f"{who} has another --cluster-secret; all nodes of a cluster must have the same")

    # --- who may come in ----------------------------------------------------------------------------

    def check_hello(self, hello: PeerHello, address: str) -> None:
        """What a listener looks at before it has a proof. Raises `PeerRefused`, `UnsupportedVersion`."""
        self._check_version(hello.version, hello.node_id)
        if not self.secret and not address.startswith(LOOPBACK):
            raise PeerRefused(f"{address} is on another machine, and no --cluster-secret is set here: set one")
        if hello.target != self.node_id:
            raise PeerRefused(
                f"node {hello.node_id} looks for node {hello.target} and finds node {self.node_id}: mend its --peers"
            )
        if hello.node_id == self.node_id:
            raise PeerRefused(f"two nodes run with --id {self.node_id}; give one of them another number")

    def admit(self, hello: PeerHello, address: str) -> None:
        """A listener lets a proven node in. Raises `PeerRefused`."""
        self._check_cluster(hello.node_id, hello.directory_id, hello.facts)
        seen = self.seen.get(hello.node_id)
        if seen is None or not seen.is_alive():
            return
        who = f"two nodes run with --id {hello.node_id}, at {seen.address} and at {address}"
        if seen.directory_id != hello.directory_id:
            raise PeerRefused(f"{who}; give one of them another")
        if seen.life != hello.life:
            raise PeerRefused(f"{who}, one of them with a copy of the other's data directory: stop that one")

    def check_answer(self, answer: PeerHelloAnswer, target: int) -> None:
        """What a dialler looks at before it proves anything. Raises `PeerRefused`, `UnsupportedVersion`."""
        self._check_version(answer.version, answer.node_id)
        if answer.node_id != target:
            raise PeerRefused(f"node {answer.node_id} answers where node {target} was expected: mend --peers")

    def check_listener(self, answer: PeerHelloAnswer) -> None:
        """A dialler has the listener's proof. Raises `PeerRefused`."""
        self._check_cluster(answer.node_id, answer.directory_id, answer.facts)

    def _check_version(self, version: int, node_id: int) -> None:
        if version != VERSION:
            raise UnsupportedVersion(
                f"node {node_id} speaks version {version} of the protocol between nodes, node {self.node_id} speaks "
                f"{VERSION}: run the same release on both"
            )

    def _check_cluster(self, node_id: int, directory_id: str, facts: PeerFacts) -> None:
        if not self.cluster_id:
            return
        if facts.cluster_id and facts.cluster_id != self.cluster_id:
            raise PeerRefused(
                f"node {node_id} belongs to cluster {facts.cluster_id}, node {self.node_id} to {self.cluster_id}: mend "
                "--peers, or start the one that is to move with an empty data directory"
            )
        known = self.members.get(node_id, directory_id)
        if not facts.cluster_id and known != directory_id:
            raise PeerRefused(
                f"node {node_id} is a member with another directory ({known}): its data directory was emptied or "
                f"replaced; give the old one back, or run `dduomq cluster remove {node_id}` and it joins as a new one"
            )
