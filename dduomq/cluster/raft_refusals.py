"""What the quorum refuses, by name. Nothing that was refused is in any log; an unknown outcome is no refusal.

An unknown outcome is named by `Ready.unknown`, and becomes `dduomq.cluster.ports.MetadataUnknown` for who asked.
"""

from dduomq.cluster.ports import MetadataUnavailable
from dduomq.errors import DduomqError


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
