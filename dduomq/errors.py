"""Every error a user, a client or another node can meet.

Always true: each class has one numeric `code`, the one that travels on the wire; Kafka's own number where
Kafka has a word for it, 1000 and above where it has not. `retriable` says whether the same request may
succeed later. `from_code` turns a number back into its class.
"""

from typing import ClassVar


class DduomqError(Exception):
    """Root of all errors dduomq raises on purpose; the text says what to do."""

    code: ClassVar[int] = -1
    retriable: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message or type(self).__doc__ or type(self).__name__)

    @property
    def message(self) -> str:
        return str(self.args[0])


class UnknownServerError(DduomqError):
    """The broker met a condition it has no name for; its log has the details."""


# --- start-up and use -------------------------------------------------------------------------------


class ConfigError(DduomqError):
    """The configuration can't be used as it is."""

    code = 1100


class DataDirError(ConfigError):
    """The data directory can't be used: in use, of another version, or of another node."""

    code = 1101


class ListenError(ConfigError):
    """An address can't be listened on."""

    code = 1102


class UsageError(DduomqError):
    """The API was called in a way it can't work."""

    code = 1103


class InvariantBroken(DduomqError):
    """A thing that is always true was not: a bug in dduomq. The actor restarts from its log."""

    code = 1104


# --- wire -------------------------------------------------------------------------------------------


class WireError(DduomqError):
    """Bytes that are not what the protocol says; the connection is closed."""

    code = 42


class FrameTooLarge(WireError):
    """A frame announces more bytes than are allowed."""

    code = 1001


# --- requests ---------------------------------------------------------------------------------------


class OffsetOutOfRange(DduomqError):
    """The offset is before the first or after the last record of the partition."""

    code = 1


class CorruptMessage(DduomqError):
    """The batch's checksum or shape is wrong."""

    code = 2


class UnknownTopicOrPartition(DduomqError):
    """No such topic or partition; create it, or turn on auto-creation."""

    code = 3
    retriable = True


class LeaderNotAvailable(DduomqError):
    """The partition is being opened; try again."""

    code = 5
    retriable = True


class NotLeader(DduomqError):
    """This node does not lead the partition; ask for the metadata again."""

    code = 6
    retriable = True


class RequestTimedOut(DduomqError):
    """The request's time ran out before it was done."""

    code = 7
    retriable = True


class MessageTooLarge(DduomqError):
    """The record or batch is larger than the topic's max.message.bytes."""

    code = 10


class NetworkError(DduomqError):
    """The connection broke, or could not be made."""

    code = 13
    retriable = True


class InvalidTopic(DduomqError):
    """The topic name is not allowed."""

    code = 17


class NotEnoughReplicas(DduomqError):
    """Fewer replicas are in sync than min.insync.replicas asks for."""

    code = 19
    retriable = True


class InvalidTimestamp(DduomqError):
    """A record's timestamp is too far from the broker's clock."""

    code = 32


class UnsupportedVersion(DduomqError):
    """The other side does not speak this version."""

    code = 35


class TopicAlreadyExists(DduomqError):
    """A topic of this name exists."""

    code = 36


class InvalidPartitions(DduomqError):
    """The number of partitions is not allowed."""

    code = 37


class InvalidReplicationFactor(DduomqError):
    """More replicas are asked for than there are nodes."""

    code = 38


class InvalidReplicaAssignment(DduomqError):
    """The replicas that were chosen can't be had: an unknown node, one twice, or none."""

    code = 39


class InvalidConfig(DduomqError):
    """A configuration key or value is not allowed."""

    code = 40


class InvalidRequest(DduomqError):
    """The request makes no sense as it is."""

    code = 42


class OutOfOrderSequence(DduomqError):
    """A producer's sequence number is not the next one: something before it is missing."""

    code = 45


class InvalidProducerEpoch(DduomqError):
    """A newer instance of this producer has taken over."""

    code = 47


class StorageError(DduomqError):
    """The disk failed; this log is offline on this node until an operator brings it back."""

    code = 56
    retriable = True


class FencedLeaderEpoch(DduomqError):
    """The client's view of the leader is older than the broker's; refresh the metadata."""

    code = 74
    retriable = True


class UnknownLeaderEpoch(DduomqError):
    """The client's view of the leader is newer than the broker's; try again."""

    code = 75
    retriable = True


class InvalidRecord(DduomqError):
    """A record can't be stored as it is."""

    code = 87


class CapacityReached(DduomqError):
    """The bounded topic is full; consume, purge, or raise its capacity."""

    code = 1002


class Overloaded(DduomqError):
    """The broker has as much in hand as it allows; try again after a moment."""

    code = 1003
    retriable = True


class DiskFull(DduomqError):
    """No space is left for the log; it stays readable. Free some space, then send again."""

    code = 1004
    retriable = True


class OutcomeUnknown(DduomqError):
    """The request left, and no answer came: it may have been carried out."""

    code = 1005
    retriable = True


class NodeStopping(DduomqError):
    """The node is shutting down; another try will find it, or its successor."""

    code = 1006
    retriable = True


class Unauthorized(DduomqError):
    """The principal may not do this."""

    code = 29


# --- groups -----------------------------------------------------------------------------------------


class OffsetMetadataTooLarge(DduomqError):
    """The text beside a committed offset is too long."""

    code = 12


class CoordinatorNotAvailable(DduomqError):
    """The group's coordinator can't keep anything just now; try again."""

    code = 15
    retriable = True


class NotCoordinator(DduomqError):
    """Another node coordinates the group; look for it again."""

    code = 16
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


class FencedMemberEpoch(DduomqError):
    """The group has gone on without this member: its epoch is not the one the group knows; join again (KIP-848)."""

    code = 110


class UnreleasedInstance(DduomqError):
    """Another process with this instance id is a member of the group; it must leave first."""

    code = 111


class UnsupportedAssignor(DduomqError):
    """The broker has no assignor of that name."""

    code = 112


class StaleMemberEpoch(DduomqError):
    """The member's epoch is an old one; take part in the group's latest assignment, then commit."""

    code = 113
    retriable = True


class InvalidRegularExpression(DduomqError):
    """The subscription's pattern is not a regular expression of RE2's."""

    code = 128


class RecordNotHeld(DduomqError):
    """The record is not locked by this member, or no longer: its lock has expired, or the record is done."""

    code = 121


class InvalidFilter(DduomqError):
    """The filter can't be read; the message points at the place."""

    code = 1130


class NotOwner(DduomqError):
    """The partition is not this member's: another one reads it now, its progress is not touched."""

    code = 1131


class OffsetMovedBack(DduomqError):
    """A commit would move the group's progress back; say so with `rewind`, or reset the group's offsets."""

    code = 1132


# --- delayed messages --------------------------------------------------------------------------------


class InvalidDelay(DduomqError):
    """The time when a message is to come can't be understood, or lies too far away."""

    code = 1140


class DelayedNotFound(DduomqError):
    """No message with this id waits: it has been delivered or cancelled, or there never was one."""

    code = 1141


class WheelNotAvailable(DduomqError):
    """Delayed messages can't be kept just now; try again."""

    code = 1142
    retriable = True


class TooManyDelayed(DduomqError):
    """As many messages wait as are allowed; cancel some, or wait."""

    code = 1143


class InvalidSchedule(DduomqError):
    """The rule of a recurring message can't be understood, or matches no time."""

    code = 1144


class ScheduleExists(DduomqError):
    """There is a schedule of this name; delete it, or say that it is to be replaced."""

    code = 1145


class ScheduleNotFound(DduomqError):
    """There is no schedule of this name."""

    code = 1146


class RecordSettled(DduomqError):
    """The group is done with this record: it is committed, or was set aside."""

    code = 1150


class DeadLettersNotFound(DduomqError):
    """This group has no dead letters, or not this one."""

    code = 1151


def _walk(root: type[DduomqError]) -> list[type[DduomqError]]:
    return [root] + [cls for child in root.__subclasses__() for cls in _walk(child)]


def from_code(code: int, message: str = "") -> DduomqError:
    """The error that travelled as `code`; an unknown number becomes `UnknownServerError`."""
    for cls in _walk(DduomqError):
        if cls.code == code and cls is not DduomqError and cls is not WireError:
            return cls(message)
    return UnknownServerError(message or f"the broker answered with error {code}")
