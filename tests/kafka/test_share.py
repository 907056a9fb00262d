"""Share groups (KIP-932) with a client that no one here wrote, and by hand where it can't be made to do it."""

import time
from contextlib import contextmanager

from confluent_kafka import KafkaException, ShareConsumer

from tests.kafka.members import TIMEOUT_S
from tests.kafka.nodes import eventually

COUNT = 500


@contextmanager
def sharing(node, group, *topics, **options):
    """A member that has its partitions."""
    consumer = ShareConsumer({
        "bootstrap.servers": node.address, "group.id": group, "share.acknowledgement.mode": "explicit", "log_level": 0,
        **options,
    })  # fmt: skip
    consumer.subscribe(list(topics))
    try:
        yield consumer
    finally:
        consumer.close()


def poll(consumer, seconds=0.5):
    """What has come; an error of any message is raised."""
    messages = list(consumer.poll(seconds))
    for message in messages:
        if message.error():
            raise KafkaException(message.error())
    return messages


def ready(consumer, node, group):
    """Waits until the group's queues begin: it starts with what comes from then on."""

    def has_begun():
        poll(consumer, 0.1)
        return "share_ready" in group or bool(queues(node, group))

    eventually(has_begun)


def queues(node, group):
    """Where the group is, as the broker says."""
    from tests.kafka.share_wire import Share

    with Share(node) as share:
        return share.offsets(group)


def take(consumer, count):
    """So many messages, each with its number of deliveries."""
    found = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += poll(consumer)
        if len(found) < count:
            continue
    return found
