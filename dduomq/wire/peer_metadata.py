"""What the nodes of a cluster say to each other for the metadata: the quorum's messages, and requests to its leader."""

from collections.abc import Mapping

import attrs


@attrs.frozen
class RaftMessages:
    """Messages of the quorum, one way. The payload has them one after another; `sizes` says where each ends.

    `total` above 0: the payload is a part of one message of so many bytes, in order and from `at` on.
    """

    cluster_id: str
    sizes: tuple[int, ...]
    at: int = 0
    total: int = 0


@attrs.frozen
class Command:
    """A command for the log of the metadata: the payload. Only the leader takes it; it knows a repeated one."""


@attrs.frozen
class CommandDone:
    """What it came to when it was applied: `code` 0 or an error's, `value` as the kind of command has it."""

    code: int
    value: int
    message: str = ""


@attrs.frozen
class Beat:
    """A node's session goes on. Sent to every voter, so that whoever leads next knows when it was heard."""

    session: int


@attrs.frozen
class BeatAnswer:
    """`is_sure`: from a leader that was sure to lead after the beat had come; `is_over`: there is no such session."""

    is_sure: bool
    is_over: bool


@attrs.frozen
class ChangeMember:
    """`kind`: add, promote or remove. `directory`, `host` and `port` are those of a node that is added."""

    kind: str
    node: int
    directory: str = ""
    host: str = ""
    port: int = 0


@attrs.frozen
class MemberChanged:
    index: int


@attrs.frozen
class Join:
    """A new node, which can be dialled there, asks any member to be let in."""

    host: str
    port: int


REQUESTS: Mapping[int, tuple[type, type | None]] = {
    110: (RaftMessages, None),
    111: (Command, CommandDone),
    112: (Beat, BeatAnswer),
    113: (ChangeMember, MemberChanged),
    114: (Join, MemberChanged),
}
