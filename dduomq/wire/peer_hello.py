"""How two nodes of a cluster make each other's acquaintance, as frozen values.

    dialler                     listener
    PeerHello            ->                  who I am, a number used once
                         <-     PeerHelloAnswer     who I am, another such number
    PeerProof            ->                  that I know the secret
                         <-     PeerProofAnswer     that I know it, too

The rules are in `dduomq/cluster/handshake.py`. Numbers of requests between nodes begin at 100, in the table of
`dduomq/wire/peer.py`.
"""

from collections.abc import Mapping

import attrs

VERSION = 1  # of the protocol between nodes


@attrs.frozen(order=True)
class Founder:
    """One of the first voters of a cluster's metadata: a node with one directory."""

    node: int
    directory: str


@attrs.frozen
class PeerFacts:
    """What a node knows of its cluster. `founders` is empty before it has formed; `wanted`: who is to found it, as
    this node's `--peers` has it.
    """

    cluster_id: str = ""
    founders: tuple[Founder, ...] = ()
    wanted: tuple[int, ...] = ()


@attrs.frozen
class PeerHello:
    """`target` is the node that the dialler means; `host` and `port` are where the dialler can be dialled.

    `life` is the dialler's from its start to its end: two processes with copies of one directory differ in it.
    """

    version: int
    node_id: int
    directory_id: str
    target: int
    nonce: bytes
    host: str
    port: int
    facts: PeerFacts
    life: bytes = b""


@attrs.frozen
class PeerHelloAnswer:
    version: int
    node_id: int
    directory_id: str
    nonce: bytes
    facts: PeerFacts


@attrs.frozen
class PeerProof:
    proof: bytes


@attrs.frozen
class PeerProofAnswer:
    proof: bytes
    frame_bytes_max: int


@attrs.frozen
class Ping:
    """Is somebody there?"""


@attrs.frozen
class Pong:
    pass


@attrs.frozen
class AskFacts:
    """What do you know of the cluster by now? Answered with `PeerFacts`."""


REQUESTS: Mapping[int, tuple[type, type | None]] = {
    100: (PeerHello, PeerHelloAnswer),
    101: (PeerProof, PeerProofAnswer),
    102: (Ping, Pong),
    103: (AskFacts, PeerFacts),
}
