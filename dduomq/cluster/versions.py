"""Which version of a cluster's records and messages is spoken, while its nodes are of different releases.

Pure. Each node registers the versions that it speaks, from its lowest to its highest. Always true: the cluster's
version never goes down; it is one that every node speaks that was registered when it was raised; a node that does not
speak it does not take part. So a rolling upgrade is: nodes of the new release one after the other, which go on in the
old version until the last one has it; what is new may be written from then on, and there is no way back (as with etcd).
"""

from collections.abc import Iterable

from dduomq.cluster.image import NodeRecord
from dduomq.errors import ConfigError

LOWEST, HIGHEST = 1, 1  # what this release speaks


class ClusterVersionRefused(ConfigError):
    """This release does not speak the version that the cluster has."""

    code = 1190


def check(version: int, lowest: int = LOWEST, highest: int = HIGHEST) -> None:
    """Raises `ClusterVersionRefused` with what to do."""
    if version > highest:
        raise ClusterVersionRefused(
            f"the cluster is at version {version}, and this release of dduomq speaks {lowest} to {highest}: install "
            "the one that the other nodes have"
        )
    if version < lowest:
        raise ClusterVersionRefused(
            f"the cluster is at version {version}, and this release of dduomq speaks {lowest} to {highest}: upgrade "
            "all nodes to the release between the two first"
        )


def raised(version: int, nodes: Iterable[NodeRecord]) -> int:
    """The version that the cluster can have, with these nodes registered; `version` if it must stay as it is."""
    speaking = list(nodes)
    if not speaking:
        return version
    return max(version, min(node.highest for node in speaking))
