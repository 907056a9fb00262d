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


# --- the metadata's quorum ---------------------------------------------------------------------------


class NoQuorumLeader(MetadataUnavailable):
    """The metadata quorum has no leader at the moment; nothing was applied."""

    code = 1113


class NotQuorumLeader(MetadataUnavailable):
    """Another node leads the metadata quorum; nothing was applied."""

    code = 1114


class LeaderHandsOver(MetadataUnavailable):
    """The leader of the metadata quorum is handing over to another node; nothing was applied."""

    code = 1115


class QuorumBusy(MetadataUnavailable):
    """The metadata quorum has as much under way as it may; nothing was applied."""

    code = 1116


class ChangeUnderWay(DduomqError):
    """Members change one at a time, and a change is under way; try again when it is committed."""

    code = 1117
    retriable = True


class InvalidChange(DduomqError):
    """The members of the quorum can't be changed like that."""

    code = 1118


class LearnerBehind(DduomqError):
    """The learner's log is too far behind for it to have a vote; try again later."""

    code = 1119
    retriable = True


class ProposalTooLarge(DduomqError):
    """A metadata command is empty, or larger than a log entry may be."""

    code = 1106


class ClientReplaced(MetadataUnavailable):
    """The metadata knows a newer client of this node; nothing was applied."""

    code = 1164


class QuorumOffline(MetadataUnavailable):
    """This node takes no part in the metadata's quorum, as its log can't be used; nothing was applied."""

    code = 1165


class NotFormed(MetadataUnavailable):
    """The cluster has not formed yet; nothing was applied."""

    code = 1166
