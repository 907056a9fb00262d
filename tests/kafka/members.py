"""Members of a group, each in a thread of its own, and what they have read."""

import asyncio
import threading
import time

from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer
from kafka import KafkaConsumer

TIMEOUT_S = 60
PARTITIONS = 6
WAITING = {
    KafkaError._WAIT_COORD, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT,
}  # fmt: skip


class Seen:
    """What the members of a group have read, and whether they are to stop."""

    def __init__(self):
        self.values = []
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def add(self, values):
        with self._lock:
            self.values += values

    def wait_for(self, count):
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.values) < count:
            assert time.monotonic() < deadline, f"{len(self.values)} of {count} records were read"
            time.sleep(0.02)


class Members:
    """Threads that each run one member; all have ended when the block is left."""

    def __init__(self):
        self._threads = []
        self.seen = Seen()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.seen.stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def start(self, run, *arguments):
        thread = threading.Thread(target=run, args=(*arguments, self.seen))
        self._threads.append(thread)
        thread.start()
        return thread


def librdkafka(address, topic, group, leave, seen, **options):
    """A member that commits what it has read, and leaves in order."""
    classic = {"session.timeout.ms": 6_000} if options.get("group.protocol") != "consumer" else {}
    consumer = Consumer({
        "bootstrap.servers": address, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "log_level": 0, **classic, **options,
    })  # fmt: skip
    consumer.subscribe([topic])
    while not (seen.stop.is_set() or leave.is_set()):
        messages = [message for message in consumer.consume(100, 0.2) if message.error() is None]
        seen.add([message.value() for message in messages])
        if messages:
            commit(consumer)
    consumer.close()


def commit(consumer):
    """Until the coordinator, which may be starting again, takes it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            if time.monotonic() > deadline or error.args[0].code() not in WAITING:
                raise
            time.sleep(0.1)
        else:
            return


def kafka_python(address, topic, group, seen):
    consumer = KafkaConsumer(
        topic, bootstrap_servers=address, group_id=group, auto_offset_reset="earliest", consumer_timeout_ms=200,
        session_timeout_ms=6_000, auto_commit_interval_ms=200,
    )  # fmt: skip
    while not seen.stop.is_set():
        seen.add([message.value for message in consumer])
    consumer.close()


def aiokafka(address, topic, group, seen):
    async def consume():
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=address, group_id=group, auto_offset_reset="earliest", session_timeout_ms=6_000,
            auto_commit_interval_ms=200,
        )  # fmt: skip
        await consumer.start()
        while not seen.stop.is_set():
            found = await consumer.getmany(timeout_ms=200)
            seen.add([message.value for messages in found.values() for message in messages])
        await consumer.stop()

    asyncio.run(consume())


def produce(address, topic, values, partitions=PARTITIONS):
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    for number, value in enumerate(values):
        producer.produce(topic, value, partition=number % partitions)
    assert producer.flush(TIMEOUT_S) == 0


def numbers(first, last):
    return [str(number).encode() for number in range(first, last)]


def committed(admin, group):
    """All offsets of a group, added up."""
    result = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(TIMEOUT_S)
    return sum(part.offset for part in result.topic_partitions)
