"""The native protocol's words about records that a group sets aside: frozen values, coded by `dduomq.wire.native`.

Always true: a record that is set aside is passed by its group from then on; its copy is on its way, exactly once. A
question that comes again does nothing more.
"""

import attrs


@attrs.frozen
class AsidePart:
    """One record, where it was read. `is_dead`: it rests, for good; else it comes again in `delay_ms`.

    `is_foreign`: to another member, for this one does not read its topic; it has not been tried.
    """

    topic: str
    partition: int
    offset: int
    delay_ms: int = 0
    is_dead: bool = False
    error: str = ""
    reason: str = ""
    topic_id: str | None = None
    is_foreign: bool = False


@attrs.frozen
class SetAside:
    """From a member, for records of partitions that it owns."""

    group: str
    member_id: str
    member_epoch: int
    parts: tuple[AsidePart, ...]


@attrs.frozen
class AsideResult:
    code: int
    message: str | None


@attrs.frozen
class SetAsideAnswer:
    """In the order of the parts that were asked for."""

    parts: tuple[AsideResult, ...]


@attrs.frozen
class MoveLetters:
    """Dead letters of a group, of one partition of its topic. `to`: "retry", to the group again; "origin", to the topic
    that each came from; "", nowhere: they are only not shown any more.
    """

    group: str
    partition: int
    offsets: tuple[int, ...]
    to: str


@attrs.frozen
class LettersMoved:
    """How many of them had not been moved before."""

    count: int


@attrs.frozen
class ListLetters:
    """Which groups have a topic of dead letters."""


@attrs.frozen
class LettersTopic:
    """What has been moved out of it, `FetchCommitted` tells: it is set aside by the group."""

    group: str
    topic: str
    partitions: int


@attrs.frozen
class LettersListed:
    topics: tuple[LettersTopic, ...]
