"""How a new node gets into a cluster: it founds one with others, or joins one.

Pure. `--peers` is looked at while a directory is empty and never again: who votes stands in the log. Its first three
nodes found the cluster, five of five or more; the others join. A founder waits until it has heard all the others with
their directories, and until all name the same founders; then each makes the same first snapshot, so it does not matter
who is first. Whoever comes later, and finds itself among the founders of a cluster that has formed, takes that very
snapshot.

Why this is safe: a directory takes part in one founding only, as it is written down before it says anything to the
quorum; a cluster is named by its founders with their directories, and messages of another one are refused. If a node's
directory is replaced in the midst of it, two sets of founders may each be known to some; but the one that names the
directory that is gone lacks that node for ever, the two have no directory that took part in both, and so no two of them
can both have a majority, unless two nodes run with one number at the same time, which the handshake refuses. What is
left over then says that it belongs to another cluster. A member that comes back with an empty directory is no member
any more: it forgot its votes; so it is refused until it is removed, and joins as a new one.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import attrs

from dduomq.limits import VOTERS_MAX
from dduomq.wire.peer_hello import Founder, PeerFacts


@attrs.frozen
class Heard:
    """What another node said of itself."""

    directory: str
    facts: PeerFacts


@attrs.frozen
class Found:
    """Begin with these founders."""

    founders: tuple[Founder, ...]


@attrs.frozen
class JoinThrough:
    """Ask that node to be let into its cluster."""

    node: int
    cluster_id: str


@attrs.frozen
class Wait:
    """`is_wrong`: it will not get better by itself."""

    reason: str
    is_wrong: bool = False


Step: TypeAlias = Found | JoinThrough | Wait


def wanted_founders(nodes: Sequence[int]) -> tuple[int, ...]:
    """Who of `--peers`, as it is written, founds a cluster: an odd number, where there are enough."""
    count = VOTERS_MAX if len(nodes) >= VOTERS_MAX else 3
    return tuple(sorted(nodes[:count]))


def next_step(me: Founder, wanted: tuple[int, ...], heard: Mapping[int, Heard]) -> Step:
    """What a node without a cluster does, with what it has heard of those that it reaches."""
    formed = {node: one.facts for node, one in sorted(heard.items()) if one.facts.founders}
    for facts in formed.values():
        if me in facts.founders:
            return Found(facts.founders)
    clusters = {facts.cluster_id: node for node, facts in formed.items()}
    if len(clusters) > 1:
        places = ", ".join(f"node {node} to {cluster}" for cluster, node in clusters.items())
        return Wait(f"the nodes of --peers belong to more than one cluster: {places}; mend --peers", is_wrong=True)
    for cluster_id, node in clusters.items():
        return JoinThrough(node, cluster_id)
    if me.node not in wanted:
        return Wait(f"waiting for nodes {_list(wanted)} to form the cluster, to join it")
    for node in wanted:
        theirs = heard[node].facts.wanted if node in heard else wanted
        if theirs != wanted:
            return Wait(
                f"node {node} was started with other --peers: there nodes {_list(theirs)} found the cluster, here "
                f"{_list(wanted)}; give all nodes the same",
                is_wrong=True,
            )
    missing = [node for node in wanted if node != me.node and node not in heard]
    if missing:
        return Wait(f"waiting for nodes {_list(missing)}, to form the cluster with them")
    return Found(tuple(sorted([me, *(Founder(node, heard[node].directory) for node in wanted if node != me.node)])))


def _list(nodes: Sequence[int]) -> str:
    return ", ".join(map(str, nodes))
