"""Who decides: majorities, and how the members change, one at a time.

Pure functions over `Configuration`. Always true: a change adds or takes one voter at most, so that any majority before
it and any majority after it share a member (dissertation 4.1, figure 4.3); that needs no joint consensus. Learners
never count. A node stands in a configuration once: who comes with a new disk is another member, and comes when the old
one is out.
"""

from collections.abc import Iterable
from typing import TypeAlias

import attrs

from dduomq.cluster.raft_refusals import InvalidChange
from dduomq.limits import RAFT_MEMBERS_MAX
from dduomq.wire.raft_messages import Configuration, Peer, Snapshot


@attrs.frozen
class AddLearner:
    """It gets the log and has no vote."""

    peer: Peer


@attrs.frozen
class Promote:
    """A learner becomes a voter."""

    peer: Peer


@attrs.frozen
class Remove:
    peer: Peer


Change: TypeAlias = AddLearner | Promote | Remove


def quorum(configuration: Configuration) -> int:
    """How many voters are a majority."""
    return len(configuration.voters) // 2 + 1


def has_quorum(configuration: Configuration, peers: Iterable[Peer]) -> bool:
    """Whether these members are a majority of the voters, or more."""
    agreeing = set(peers)
    return sum(voter in agreeing for voter in configuration.voters) >= quorum(configuration)


def reached(configuration: Configuration, marks: dict[Peer, int]) -> int:
    """The highest mark that a majority of the voters has reached; who has no mark is at 0."""
    if not configuration.voters:
        return 0
    return sorted((marks.get(voter, 0) for voter in configuration.voters), reverse=True)[quorum(configuration) - 1]


def changed(configuration: Configuration, change: Change) -> Configuration:
    """The configuration after the change. Raises `InvalidChange`."""
    peer, voters, learners = change.peer, set(configuration.voters), set(configuration.learners)
    match change:
        case AddLearner():
            if any(member.node == peer.node for member in configuration.members):
                raise InvalidChange(f"node {peer.node} is a member; remove it before it comes with another directory")
            if len(configuration.members) >= RAFT_MEMBERS_MAX:
                raise InvalidChange(f"{RAFT_MEMBERS_MAX} members are the most")
            learners.add(peer)
        case Promote():
            if peer not in learners:
                raise InvalidChange(f"{peer} is no learner; only learners get a vote")
            learners.remove(peer)
            voters.add(peer)
        case Remove():
            if peer not in configuration.members:
                raise InvalidChange(f"{peer} is no member")
            if voters == {peer}:
                raise InvalidChange(f"{peer} is the last voter")
            voters.discard(peer)
            learners.discard(peer)
    return Configuration(tuple(sorted(voters)), tuple(sorted(learners)))


def bootstrap(voters: Iterable[Peer]) -> Snapshot:
    """What every first voter begins with, the same for all; who joins later begins with nothing.

    It is a snapshot and not a first entry, so that whoever joins gets the voters with it.
    """
    sorted_voters = tuple(sorted(set(voters)))
    if not sorted_voters or len({voter.node for voter in sorted_voters}) < len(sorted_voters):
        raise InvalidChange("a quorum begins with one voter or more, each node once")
    return Snapshot(1, 1, Configuration(sorted_voters))
