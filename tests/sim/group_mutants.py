"""Known bugs of groups, as changes to the product: the simulation must find each of them."""

from dduomq.actors.coordinator_consumer import ConsumerMembers
from dduomq.actors.coordinator_offsets import Offsets
from dduomq.client.group_life import GroupLife
from dduomq.client.progress import Progress
from dduomq.groups.consumer import ConsumerGroup
from dduomq.groups.consumer_member import NOTHING, ConsumerMember

_reconcile, _settle, _restore = ConsumerGroup._reconcile, ConsumerMembers.settle, ConsumerMember.restore


def _give_at_once(self, member, owned, now):
    """Whoever is to have a partition gets it, whoever has it."""
    self._holders.clear()
    _reconcile(self, member, frozenset() if owned is None else owned, now)


def _answer_and_store_nothing(self, group, answers, then=None):
    group.consumer.changes(0)
    _settle(self, group, answers, then)


def _restore_without_what_it_holds(self, record):
    _restore(self, record)
    self.assigned = self.revoking = NOTHING


def _take_any_commit(_self, _group, _message, _places):
    return {}


def _is_never_late(_self, _now):
    """Its session has no end."""


def _all_that_was_handed_out(self):
    return self._handed_to


async def _never(_self):
    """What a silent member must know it never learns."""


GROUP_MUTANTS = {
    "a partition is given before it was let go": [(ConsumerGroup, "_reconcile", _give_at_once)],
    "heartbeats are answered and not stored": [(ConsumerMembers, "settle", _answer_and_store_nothing)],
    "a restart forgets who holds what": [(ConsumerMember, "restore", _restore_without_what_it_holds)],
    "anybody may commit anything": [(Offsets, "_check_commit", _take_any_commit)],
    "sessions do not end": [(ConsumerMember, "heard", _is_never_late)],
    "a commit passes what is not done": [(Progress, "position", property(_all_that_was_handed_out))],
    "a silent member goes on": [(GroupLife, "_watch_session", _never)],
}
