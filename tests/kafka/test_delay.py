"""Records that Kafka's clients delay by a header: librdkafka, aiokafka, kcat."""

import subprocess
import time

import aiokafka
import pytest
import trio
from confluent_kafka import Consumer, Producer, TopicPartition

import dduomq

TIMEOUT_S = 30
INVALID_RECORD = 87


def consume(node, topic, count):
    consumer = Consumer({"bootstrap.servers": node.address, "group.id": "alone", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(count, TIMEOUT_S)
        assert len(messages) == count
        return messages
    finally:
        consumer.close()


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("idempotent", [False, True])
def test_librdkafka(node, topic, compression, idempotent):
    """Now and later in one batch: none early, each once, keys and headers as they were."""
    producer = Producer(
        {
            "bootstrap.servers": node.address, "compression.type": compression, "linger.ms": 50,
            "enable.idempotence": idempotent,
        }
    )  # fmt: skip
    offsets = {}
    begun = time.time() * 1000
    for n in range(10):
        headers = [("n", str(n).encode())] + ([("dduomq-delay", b"700")] if n % 2 else [])
        producer.produce(
            topic, f"{n}", key=f"k{n}", partition=0, headers=headers,
            on_delivery=lambda error, message, n=n: offsets.update({n: message.offset()}),
        )  # fmt: skip
    assert producer.flush(TIMEOUT_S) == 0
    assert sorted(offsets.values()) == list(range(10))
    messages = consume(node, topic, 10)
    assert [m.value().decode() for m in messages] == [*"02468", *"13579"]
    for message in messages[5:]:
        headers = dict(message.headers())
        until = int(headers.pop("dduomq-delayed-until"))
        assert headers == {"n": message.value()}
        assert message.key() == b"k" + message.value()
        assert begun + 700 <= until <= message.timestamp()[1]


def test_a_header_that_means_nothing_is_refused(node, topic):
    producer = Producer({"bootstrap.servers": node.address})
    errors = []
    producer.produce(
        topic, "x", partition=0, headers=[("dduomq-delay", b"soon")], on_delivery=lambda error, _: errors.append(error)
    )
    producer.flush(TIMEOUT_S)
    (error,) = errors
    assert error.code() == INVALID_RECORD


def test_kcat(node, topic, kcat):
    command = [kcat, "-b", node.address, "-P", "-t", topic, "-p", "0", "-H", "dduomq-delay=300ms"]
    subprocess.run(command, input=b"later", check=True, timeout=TIMEOUT_S)
    (message,) = consume(node, topic, 1)
    assert message.value() == b"later"


def test_aiokafka_delays_and_the_native_client_takes_back(node, topic):
    import asyncio

    async def send():
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=node.address, enable_idempotence=True)
        await producer.start()
        try:
            headers = [("dduomq-deliver-at", b"2099-01-01T00:00:00Z")]
            await producer.send_and_wait(topic, b"far", partition=0, headers=headers)
        finally:
            await producer.stop()

    asyncio.run(send())

    async def take_back():
        async with dduomq.connect(node.address) as mq:
            (waiting,) = [one async for one in mq.admin.delayed(topic)]
            await mq.admin.cancel_delayed(waiting.delay_id)
            assert not [one async for one in mq.admin.delayed(topic)]

    trio.run(take_back)
