"""A classic group becomes one that the broker shares out for, while its members go on (KIP-848's online upgrade).

Its members keep what they have; they still speak the classic protocol, and are answered in it.
"""

from collections.abc import Mapping

from dduomq.errors import CoordinatorNotAvailable, InconsistentProtocol
from dduomq.groups.assignors import Assignor
from dduomq.groups.catalog import Catalog
from dduomq.groups.classic import STABLE, ClassicGroup
from dduomq.groups.consumer import ConsumerGroup
from dduomq.groups.consumer_member import ConsumerMember
from dduomq.groups.member import Member
from dduomq.groups.records import SubscriptionRecord
from dduomq.groups.subscription import read_assignment, read_subscription

CONSUMER = "consumer"


def upgraded(classic: ClassicGroup, catalog: Catalog, own: Mapping[str, Assignor], now: float) -> ConsumerGroup:
    """The same members with the same partitions. `classic` is not changed.

    Raises `InconsistentProtocol` if they are not consumers, `CoordinatorNotAvailable` while they are being shared out
    anew: then nobody knows what each of them has.
    """
    if classic.protocol_type != CONSUMER:
        raise InconsistentProtocol(f"group {classic.name!r} is of type {classic.protocol_type!r}, not of consumers")
    if classic.state != STABLE:
        raise CoordinatorNotAvailable(f"group {classic.name!r} is being shared out anew; try again")
    group = ConsumerGroup(classic.name, own)
    group.epoch = group.target_epoch = classic.generation
    for member in classic.members.values():
        group.adopt(_adopted(member, classic, catalog, now))
    return group


def _adopted(member: Member, classic: ClassicGroup, catalog: Catalog, now: float) -> ConsumerMember:
    subscription = read_subscription(member.metadata(classic.protocol))
    if subscription is None:
        raise InconsistentProtocol(f"member {member.member_id} of group {classic.name!r} is not a consumer")
    said = SubscriptionRecord(
        member.instance_id, member.client_id, member.host, None, member.session_ms, member.rebalance_ms,
        tuple(sorted(set(subscription.topics))), None, None, member.protocols,
    )  # fmt: skip
    adopted = ConsumerMember(member.member_id, said)
    adopted.epoch = classic.generation
    found = ((catalog.topic(name), parts) for name, parts in read_assignment(member.assignment).items())
    adopted.assigned = frozenset((topic.topic_id, at) for topic, parts in found if topic is not None for at in parts)
    adopted.heard(now)
    return adopted
