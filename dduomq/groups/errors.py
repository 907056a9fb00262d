"""What may be wrong with a request to a group, in Kafka's numbers."""

from dduomq.errors import DduomqError


class OffsetMetadataTooLarge(DduomqError):
    """The text beside a committed offset is too long."""

    code = 12


class CoordinatorNotAvailable(DduomqError):
    """The group's coordinator can't keep anything just now; try again."""

    code = 15
    retriable = True


class CoordinatorLoading(DduomqError):
    """The group's coordinator is reading its log; try again."""

    code = 14
    retriable = True


class IllegalGeneration(DduomqError):
    """The group has been shared out anew since; join again."""

    code = 22


class InconsistentProtocol(DduomqError):
    """The group's members have no way to share the partitions in common."""

    code = 23


class InvalidGroupId(DduomqError):
    """A group must have a name."""

    code = 24


class UnknownMember(DduomqError):
    """The group does not know this member, or no longer; join again."""

    code = 25


class InvalidSessionTimeout(DduomqError):
    """The session time-out is out of bounds."""

    code = 26


class RebalanceInProgress(DduomqError):
    """The group is being shared out anew; join again."""

    code = 27


class GroupNotEmpty(DduomqError):
    """The group has members; stop them first."""

    code = 68


class GroupNotFound(DduomqError):
    """There is no such group."""

    code = 69


class MemberIdRequired(DduomqError):
    """Join again with the member id that came with this answer (KIP-394)."""

    code = 79


class GroupFull(DduomqError):
    """The group has as many members as are allowed."""

    code = 81


class FencedInstance(DduomqError):
    """Another process has joined with the same group.instance.id since (KIP-345)."""

    code = 82


class SubscribedToTopic(DduomqError):
    """The group's members subscribe to this topic: its offsets can't be deleted."""

    code = 86
