"""The topics that the broker keeps for groups: one of records that come again, one of dead letters.

Not a task of its own. Always true: such a topic is known by what its metadata say it is for, never by its name; it is
made when the first record is to go there.
"""

from collections.abc import Callable, Mapping

import structlog

from dduomq.actors.admin import Admin
from dduomq.actors.routes import Routes, TopicRoute
from dduomq.errors import DduomqError, TopicAlreadyExists
from dduomq.ids import group_topic_name
from dduomq.limits import BATCH_BYTES_CEILING

RETENTION_MS = 30 * 24 * 3_600_000  # time for people to look at them, or for a group to come back
CONFIG = {"durability": "fsync", "max.message.bytes": str(BATCH_BYTES_CEILING), "retention.ms": str(RETENTION_MS)}


class GroupTopics:
    """`background(function, argument)` runs a coroutine function beside everything else."""

    __slots__ = ("_admin", "_background", "_log", "_making", "_of", "_routes", "_table")

    def __init__(
        self, admin: Admin, routes: Routes, log: structlog.stdlib.BoundLogger, background: Callable[..., None]
    ) -> None:
        self._admin = admin
        self._routes = routes
        self._log = log
        self._background = background
        self._making: set[tuple[str, str]] = set()
        self._table: Mapping[str, TopicRoute] | None = None
        self._of: dict[tuple[str, str], TopicRoute] = {}

    def find(self, kind: str, group: str) -> TopicRoute | None:
        """The group's topic of that kind; None if there is none."""
        if self._table is not self._routes.table:
            self._table = self._routes.table
            records = ((route.record, route) for route in self._table.values())
            self._of = {(record.kind, record.group): route for record, route in records if record.kind}
        return self._of.get((kind, group))

    def name(self, kind: str, group: str) -> str:
        """What it is called, or will be."""
        found = self.find(kind, group)
        if found is not None:
            return found.record.name
        name = group_topic_name(kind, group)
        return group_topic_name(kind, group, is_taken=True) if name in self._routes.table else name

    def wanted(self, kind: str, group: str) -> TopicRoute | None:
        """The same; where there is none, one is being made, and is there some time."""
        found = self.find(kind, group)
        if found is None and (kind, group) not in self._making:
            self._making.add((kind, group))
            self._background(self._make, kind, group)
        return found

    async def _make(self, kind: str, group: str) -> None:
        name = self.name(kind, group)
        try:
            await self._admin.create_topic(name, config=CONFIG, kind=kind, group=group)
        except TopicAlreadyExists:
            if self.find(kind, group) is None:
                self._log.error(
                    "group_topic_name_taken", topic=name, group=group,
                    reason="a topic of somebody else has this name: delete it, or rename the group",
                )  # fmt: skip
        except DduomqError as error:
            self._log.warning("group_topic_not_made", topic=name, group=group, reason=error.message)
        finally:
            self._making.discard((kind, group))
