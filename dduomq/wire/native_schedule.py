"""The native protocol's words about recurring messages: frozen values, coded by `dduomq.wire.native`.

Always true: a name means one schedule in the whole cluster.
"""

import attrs


@attrs.frozen
class ScheduledHeader:
    name: str
    content: bytes | None


@attrs.frozen
class AddSchedule:
    """`rule`: `cron 0 9 * * MON-FRI` or `every 90s`. `missed`: skip, once or all. `replace`: one may be there."""

    name: str
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[ScheduledHeader, ...]
    rule: str
    timezone: str
    missed: str
    replace: bool = False


@attrs.frozen
class ScheduleListing:
    """`next_ms`: milliseconds since 1970, -1 while it is paused."""

    name: str
    topic: str
    partition: int
    rule: str
    timezone: str
    missed: str
    is_paused: bool
    next_ms: int


@attrs.frozen
class ListSchedules:
    pass


@attrs.frozen
class SchedulesListed:
    schedules: tuple[ScheduleListing, ...]


@attrs.frozen
class PauseSchedule:
    """Paused, nothing comes; afterwards it goes on with the next time."""

    name: str
    is_paused: bool


@attrs.frozen
class DeleteSchedule:
    name: str
