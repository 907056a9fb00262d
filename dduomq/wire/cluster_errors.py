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


class NodeAlive(DduomqError):
    """The node is alive: stop it before it is removed."""

    code = 1178


class NodeNotFound(DduomqError):
    """The cluster has no node of that number."""

    code = 1177


class MetadataConflict(DduomqError):
    """Somebody else changed the metadata first; nothing was applied."""

    code = 1110
    retriable = True


class MetadataUnavailable(DduomqError):
    """The metadata engine can't be reached; nothing was applied."""

    code = 1111
    retriable = True


class MetadataUnknown(DduomqError):
    """The metadata engine gave no answer; read again to see what holds."""

    code = 1112
    retriable = True


class SessionLost(MetadataUnavailable):
    """This node has no session with the metadata engine at the moment; nothing was applied."""

    code = 1160


class PeerUnavailable(DduomqError):
    """Another node of the cluster can't be reached; whether it did what was asked is not known."""

    code = 1161
    retriable = True


class PeerNotReached(PeerUnavailable):
    """Another node of the cluster can't be reached; it was not asked."""

    code = 1163
