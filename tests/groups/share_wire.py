"""A member of a share group by hand, in Kafka's words, on a virtual clock."""

import trio

from dduomq.errors import CoordinatorLoading
from dduomq.wire.batch import iter_headers
from dduomq.wire.records import decode
from tests.listeners.kafka_wire import KafkaWire

LOADING = CoordinatorLoading.code


class ShareMember:
    """One connection. Codes are Kafka's."""

    def __init__(self, machine, member_id, group="g"):
        self.machine = machine
        self.member_id = member_id
        self.group = group
        self.epoch = 0
        self.session = 0
        self.assigned = []
        self.topic_id = None

    async def connect(self):
        self.wire = KafkaWire(await self.machine.network.dial("sim", 6086))
        self.session = 0
        return self

    async def ask(self, api, version=None, **fields):
        return await self.wire.ask(api, version, group_id=self.group, member_id=self.member_id, **fields)

    async def beat(self, *topics, epoch=None):
        """Its error code; waits while the coordinator reads its log."""
        for _ in range(100):
            answer = await self.ask(
                "ShareGroupHeartbeat", member_epoch=self.epoch if epoch is None else epoch,
                subscribed_topic_names=list(topics) or None,
            )  # fmt: skip
            if answer["error_code"] != LOADING:
                break
            await trio.sleep(0.1)
        if answer["error_code"] == 0:
            self.epoch = answer["member_epoch"]
            if answer["assignment"] is not None:
                parts = answer["assignment"]["topic_partitions"]
                self.assigned = [(part["topic_id"], at) for part in parts for at in part["partitions"]]
                self.topic_id = parts[0]["topic_id"] if parts else self.topic_id
        return answer["error_code"]

    async def join(self, *topics):
        self.epoch = 0
        assert await self.beat(*topics or ("t",)) == 0
        return self

    async def fetch(self, acks=(), *, forget=(), session=None, wait_ms=0, records=500, version=None, **fields):
        """The whole answer. `acks`: (first, last, types) of partition 0."""
        epoch = self.session if session is None else session
        answer = await self.ask(
            "ShareFetch", version, share_session_epoch=epoch, max_wait_ms=wait_ms, min_bytes=1, max_bytes=1 << 20,
            max_records=records, batch_size=records,
            topics=self.topics(acks, all_parts=epoch == 0),
            forgotten_topics_data=[{"topic_id": self.topic_id, "partitions": list(forget)}] if forget else [], **fields,
        )  # fmt: skip
        if answer["error_code"] == 0 and session is None:
            self.session += 1
        return answer

    async def take(self, acks=(), **fields):
        """[(offset, deliveries)] of what it got of partition 0."""
        answer = await self.fetch(acks, **fields)
        assert answer["error_code"] == 0, answer
        return [got for topic in answer["responses"] for part in topic["partitions"] for got in given(part)]

    async def acknowledge(self, *acks, session=None, version=None, **fields):
        """(the request's code, partition 0's code)"""
        answer = await self.ask(
            "ShareAcknowledge", version, share_session_epoch=self.session if session is None else session,
            topics=self.topics(acks), **fields,
        )  # fmt: skip
        if answer["error_code"]:
            return answer["error_code"], None
        if session is None:
            self.session += 1
        parts = [part["error_code"] for topic in answer["responses"] for part in topic["partitions"]]
        return 0, parts[0] if parts else None

    def topics(self, acks, *, all_parts=False):
        words = [(first, last, [types] if isinstance(types, int) else types) for first, last, types in acks]
        batches = [
            {"first_offset": first, "last_offset": last, "acknowledge_types": types} for first, last, types in words
        ]
        parts = {at: [] for topic_id, at in self.assigned if all_parts and topic_id == self.topic_id}
        if batches:
            parts[0] = batches
        if not parts:
            return []
        found = [{"partition_index": at, "acknowledgement_batches": held} for at, held in parts.items()]
        return [{"topic_id": self.topic_id, "partitions": found}]

    async def aclose(self):
        await self.wire.aclose()


def given(part):
    """(offset, deliveries) of the records that a partition's answer holds and that were acquired."""
    assert part["error_code"] == 0, part
    data = memoryview(bytearray(part["records"]))
    there = {record.offset for at, header in iter_headers(data) for record in decode(data[at : at + header.size])}
    found = []
    for span in part["acquired_records"]:
        assert {*range(span["first_offset"], span["last_offset"] + 1)} <= there
        found += [(at, span["delivery_count"]) for at in range(span["first_offset"], span["last_offset"] + 1)]
    return found
