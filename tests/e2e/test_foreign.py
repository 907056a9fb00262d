"""What we store is Kafka's format: readers that no one here wrote read our segments."""

import warnings

import pytest
import trio

import dduomq

START_MS = 1_700_000_000_000


def _message(number, n):
    return dduomq.Message(f"value {number}-{n}", key=f"k{n}", headers={"n": str(n)}, timestamp_ms=START_MS + n)


def _expected(number, n):
    text = str(n).encode()
    return (number * 100 + n, START_MS + n, b"k" + text, f"value {number}-{n}".encode(), [("n", text)])


EXPECTED = [_expected(number, n) for number in range(3) for n in range(100)]


async def _filled(tmp_path, compression):
    """The first segment of a topic with 300 records in it."""
    async with (
        dduomq.open_node(tmp_path / "d") as node,
        dduomq.connect(node.address, compression=compression) as mq,
    ):
        await mq.admin.create_topic("foreign", partitions=1)
        for number in range(3):
            await mq.send_batch("foreign", [_message(number, n) for n in range(100)])
    path = trio.Path(tmp_path / "d" / "topics" / "foreign-0" / f"{0:020d}.log")
    return await path.read_bytes()


def _read(records):
    found = []
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        found += [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in batch]
    return found


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_kafka_python_reads_our_segments(tmp_path, compression):
    """Offsets, times, keys, values and headers, CRC checked by the foreign reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, on import
        from kafka.record import MemoryRecords

    assert _read(MemoryRecords(await _filled(tmp_path, compression))) == EXPECTED


async def test_aiokafka_reads_our_segments(tmp_path):
    """The other reader, from its own entry point."""
    from aiokafka.record.memory_records import MemoryRecords

    assert _read(MemoryRecords(await _filled(tmp_path, "none"))) == EXPECTED
