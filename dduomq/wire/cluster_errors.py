"""The errors about the cluster that travel to clients; Kafka's numbers where it has one."""

from dduomq.errors import DduomqError


class PreferredLeaderNotAvailable(DduomqError):
    """The preferred replica is not alive, or not in sync."""

    code = 80
    retriable = True


class EligibleLeadersNotAvailable(DduomqError):
    """No replica that may lead is alive."""

    code = 83
    retriable = True


class ElectionNotNeeded(DduomqError):
    """The replica that was to lead leads already."""

    code = 84


class NoReassignmentInProgress(DduomqError):
    """The partition is not being moved."""

    code = 85


class NoCluster(DduomqError):
    """This node runs alone: there is nothing to move, and nowhere to move it."""

    code = 1176


class NodeNotFound(DduomqError):
    """The cluster has no node of that number."""

    code = 1177
