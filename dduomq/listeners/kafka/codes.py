"""Our errors in Kafka's words (https://kafka.apache.org/protocol#protocol_error_codes).

Always true: what may succeed later is told with a code that Kafka's clients try again on, what can't with one they
give up on.
"""

from collections.abc import Mapping

from dduomq.errors import (
    CapacityReached,
    DduomqError,
    DiskFull,
    FrameTooLarge,
    InvalidDelay,
    NodeStopping,
    TooManyDelayed,
    WireError,
)

UNKNOWN_SERVER_ERROR = -1
NOT_LEADER_OR_FOLLOWER = 6
REQUEST_TIMED_OUT = 7
MESSAGE_TOO_LARGE = 10
UNSUPPORTED_VERSION = 35
INVALID_REQUEST = 42
INVALID_RECORD = 87
POLICY_VIOLATION = 44
KAFKA_STORAGE_ERROR = 56
FETCH_SESSION_ID_NOT_FOUND = 70
KAFKA_CODES_MAX = 1_000

_OURS: Mapping[type[DduomqError], int] = {
    CapacityReached: POLICY_VIOLATION,
    DiskFull: KAFKA_STORAGE_ERROR,
    NodeStopping: NOT_LEADER_OR_FOLLOWER,
    FrameTooLarge: MESSAGE_TOO_LARGE,
    WireError: INVALID_REQUEST,
    InvalidDelay: INVALID_RECORD,
    TooManyDelayed: POLICY_VIOLATION,
}


class UnknownTopicId(DduomqError):
    """No topic has this id; it may have been deleted and made again: ask for the metadata."""

    code = 100
    retriable = True


def code_of(error: DduomqError) -> int:
    """Kafka's code for an error."""
    if type(error) in _OURS:
        return _OURS[type(error)]
    if error.code < KAFKA_CODES_MAX:
        return error.code
    return REQUEST_TIMED_OUT if error.retriable else UNKNOWN_SERVER_ERROR
