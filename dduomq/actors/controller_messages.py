"""What the controller is told.

Always true: `reign` is the controller epoch that a message belongs to; those of another one are passed over.
"""

from collections.abc import Mapping

import attrs

from dduomq.actors.actor import Message
from dduomq.actors.registration import Nodes
from dduomq.cluster.image import PartitionRecord, TopicRecord


@attrs.frozen
class Written:
    """A partition's record as it is in the metadata now; None: there is none."""

    key: str
    record: PartitionRecord | None
    version: int


@attrs.frozen
class Wish:
    """One record to be written, or with None deleted, if it is at `version` still.

    `topic`: only if the topic of that name is at that version, too; 0: if there is none.
    """

    key: str
    record: PartitionRecord | None
    version: int
    topic: tuple[str, int] | None = None


@attrs.frozen(kw_only=True)
class NodesSeen(Message):
    nodes: Nodes


@attrs.frozen(kw_only=True)
class ReignBegun(Message):
    """`admitted`: the epochs of nodes that have been dealt with. `own`, `timeout_ms`: see `ControllerImage`."""

    reign: int
    nodes: Nodes
    admitted: Mapping[int, int]
    own: tuple[int, int]
    timeout_ms: int


@attrs.frozen(kw_only=True)
class ReignEnded(Message):
    reign: int


@attrs.frozen(kw_only=True)
class TopicsHeld(Message):
    """All topics, each with the version of its record."""

    reign: int
    topics: tuple[tuple[TopicRecord, int], ...]


@attrs.frozen(kw_only=True)
class TopicHeld(Message):
    """`record` None: the topic is gone."""

    reign: int
    name: str
    record: TopicRecord | None
    version: int


@attrs.frozen(kw_only=True)
class PartitionsHeld(Message):
    """All partitions."""

    reign: int
    records: tuple[Written, ...]


@attrs.frozen(kw_only=True)
class PartitionHeld(Message):
    reign: int
    written: Written


@attrs.frozen(kw_only=True)
class PartitionsRead(Message):
    """All partitions, read after the nodes had registered under these epochs."""

    reign: int
    epochs: Mapping[int, int]
    records: tuple[Written, ...]


@attrs.frozen(kw_only=True)
class BatchDone(Message):
    """What became of the wishes of one transaction: what holds now, written by this controller or by others."""

    reign: int
    outcomes: tuple[Written, ...]


@attrs.frozen(kw_only=True)
class AdmissionDone(Message):
    reign: int
    admitted: Mapping[int, int]


@attrs.frozen(kw_only=True)
class ControllerTick(Message):
    reign: int
    now_ms: int


@attrs.frozen(kw_only=True)
class GoOn(Message):
    """There was more to decide than one turn has time for."""


@attrs.frozen(kw_only=True)
class DescribeController(Message):
    """Answered with a `ControllerStatus`."""


@attrs.frozen
class ControllerStatus:
    """`reign` is 0 while another node is the controller. `waiting`: records to look at, `writing`: under way."""

    reign: int
    waiting: int
    writing: int
    partitions: int
