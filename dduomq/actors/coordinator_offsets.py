"""How far groups have come: commits, and what becomes of them.

Part of the coordinator's actor, not a task. Always true: an offset is shown once it is stored; a member's commit counts
only for what it owns, in the epoch that it owns it in.
"""

from dduomq.actors.coordinator_consumer import ConsumerMembers
from dduomq.actors.coordinator_log import Entry
from dduomq.actors.coordinator_messages import Commit, DeleteOffsets, FetchOffsets
from dduomq.actors.coordinator_table import Group, GroupTable
from dduomq.actors.partition_messages import Acked
from dduomq.errors import DduomqError, GroupNotFound, NotOwner, OffsetMovedBack, SubscribedToTopic
from dduomq.groups import records
from dduomq.groups.records import OffsetKey, Place
from dduomq.groups.subscription import topics_of


class Offsets:
    """The coordinator's hands for offsets."""

    __slots__ = ("_consumer", "_table")

    def __init__(self, table: GroupTable, consumer: ConsumerMembers) -> None:
        self._table = table
        self._consumer = consumer

    def commit(self, message: Commit) -> None:
        reply, table = message.reply, self._table
        assert reply is not None
        is_simple = message.generation < 0 and not message.member_id
        group = table.ready(message.group, create=True) if is_simple else table.of_member(message.group)
        places = [place for place, _ in message.offsets]
        refused = self._check_commit(group, message, places)
        offsets = {place: committed for place, committed in message.offsets if place not in refused}
        group.send(offsets)
        if not offsets:
            reply.set(refused)
            return

        def stored(result: Acked | DduomqError) -> None:
            group.arrived(offsets, is_stored=isinstance(result, Acked))
            group.changed_ms = table.wall_ms()
            if isinstance(result, Acked):
                reply.set(refused)
            else:
                reply.fail(result)

        entries: list[Entry] = [
            (OffsetKey(message.group, place), records.encode_offset(committed)) for place, committed in offsets.items()
        ]
        self._table.log.store(entries, stored)

    def _check_commit(self, group: Group, message: Commit, places: list[Place]) -> dict[Place, DduomqError]:
        """Raises what is wrong with all of it; the places that may not be committed, each with why."""
        now, refused = self._table.now(), dict[Place, DduomqError]()
        if group.share is not None:
            raise GroupNotFound(f"group {group.name!r} is a share group: it has no offsets to commit")
        if group.consumer is None:
            group.classic.check_commit(message.member_id, message.instance_id, message.generation, now)
        else:
            foreign = group.consumer.check_commit(
                message.member_id, message.instance_id, message.generation, places, now
            )
            if message.is_strict:
                refused.update({place: NotOwner() for place in foreign})
        if message.is_strict and not message.rewind:
            for place, committed in message.offsets:
                held = group.newest(place)
                if held is not None and held.offset > committed.offset:
                    refused.setdefault(
                        place, OffsetMovedBack(f"{held.offset} is committed; {committed.offset} would move it back")
                    )
        return refused

    def fetch(self, message: FetchOffsets) -> None:
        assert message.reply is not None
        try:
            group = self._table.ready(message.group)
        except GroupNotFound:
            message.reply.set({})
            return
        message.reply.set(dict(group.offsets))

    def delete(self, message: DeleteOffsets) -> None:
        reply = message.reply
        assert reply is not None
        group = self._table.ready(message.group)
        subscribed = (
            group.share.subscribed() if group.share is not None
            else group.classic.subscribed(topics_of) if group.consumer is None
            else group.consumer.subscribed(self._consumer.catalog)
        )  # fmt: skip
        refused = {place: SubscribedToTopic() for place, topic in message.places.items() if topic in subscribed}
        gone = [place for place in message.places if place not in refused and group.newest(place) is not None]
        group.send(dict.fromkeys(gone))

        def stored(result: Acked | DduomqError) -> None:
            group.arrived(dict.fromkeys(gone), is_stored=isinstance(result, Acked))
            if isinstance(result, Acked):
                reply.set(refused)
            else:
                reply.fail(result)

        if gone:
            self._table.log.store([(OffsetKey(message.group, place), None) for place in gone], stored)
        else:
            reply.set(refused)

    def forget(self, group: Group, places: list[Place]) -> None:
        gone = dict.fromkeys(places)
        group.send(gone)

        def stored(result: Acked | DduomqError) -> None:
            group.arrived(gone, is_stored=isinstance(result, Acked))

        entries: list[Entry] = [(OffsetKey(group.name, place), None) for place in places]
        self._table.log.store(entries, stored)
