"""The decoder: fetched bytes to records."""

from dduomq.client.consumer import Decoder
from dduomq.wire.batch import HEADER_BYTES, build, set_producer, stamp
from dduomq.wire.records import encode

TRANSACTIONAL = 0x10
PRODUCER = 7


def transactional(offset):
    """A batch of one record, part of a transaction of `PRODUCER`."""
    body = encode([(1, None, b"v", [])])[HEADER_BYTES:]
    batch = build(
        bytes(body), count=1, last_offset_delta=0, base_timestamp=1, max_timestamp=1, attributes=TRANSACTIONAL
    )
    set_producer(batch, PRODUCER, 0, 0)
    stamp(batch, 0, offset, 0)
    return memoryview(batch)


def test_an_aborted_transaction_is_forgotten_by_a_seek():
    """The end of an aborted transaction may lie in what is jumped over; the next one is shown."""
    decoder = Decoder("t", 0, 0, None)
    assert decoder.decode(transactional(0), [(PRODUCER, 0)]) == []
    decoder.seek(5)
    assert [record.offset for record in decoder.decode(transactional(5), [])] == [5]
