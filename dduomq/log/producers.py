"""What is known of each producer: its epoch, its last five batches, its open transaction.

Always true: a batch is accepted once (KIP-98): its sequence must follow the producer's last, one of the last
five again is a duplicate and gets the same answer, an older epoch is refused. State is changed only by
`replay` of a stored batch's header, so that recovery and normal running are one code.

The `.snapshot` file is Kafka's: version int16 = 1, CRC-32C uint32 of what follows, count int32, then entries.
"""

import struct
from collections.abc import Iterable, MutableMapping

import attrs
from crc32c import crc32c

from dduomq.errors import CorruptMessage, InvalidProducerEpoch, OutOfOrderSequence, Overloaded
from dduomq.limits import PRODUCER_BATCHES_REMEMBERED, PRODUCER_EXPIRY_MS, PRODUCERS_MAX
from dduomq.wire.batch import NO_PRODUCER_ID, OWN_PRODUCER_IDS, SEQUENCE_MAX, BatchHeader

NO_OFFSET = -1
_HEAD = struct.Struct(">hI")
_COUNT = struct.Struct(">i")
_ENTRY = struct.Struct(">qhiqiqiq")
SNAPSHOT_VERSION = 1


@attrs.frozen(slots=True)
class StoredBatch:
    """One batch of a producer, as the log has it."""

    base_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    append_time_ms: int


@attrs.frozen(slots=True)
class ProducerState:
    """`batches`: the last five, oldest first. `first_offset`: of its open transaction, or -1."""

    epoch: int
    batches: tuple[StoredBatch, ...]
    first_offset: int
    seen_ms: int
    coordinator_epoch: int = -1


Overlay = MutableMapping[int, ProducerState]


class Producers:
    """The producers of one log."""

    __slots__ = ("open_transactions", "states")

    def __init__(self) -> None:
        self.states: dict[int, ProducerState] = {}
        self.open_transactions: dict[int, int] = {}

    def check(self, header: BatchHeader, overlay: Overlay) -> StoredBatch | None:
        """The batch stored before if this one is a duplicate, None if it may be appended.

        `overlay` holds what the plan in hand adds. Raises `OutOfOrderSequence`, `InvalidProducerEpoch`.
        """
        pid = header.producer_id
        state = overlay.get(pid) or self.states.get(pid)
        if state is None:
            if len(self.states) + len(overlay) >= PRODUCERS_MAX:
                raise Overloaded(f"this partition remembers {PRODUCERS_MAX} producers, not more; try again later")
            return None
        if header.producer_epoch < state.epoch:
            raise InvalidProducerEpoch(f"producer {pid} epoch {header.producer_epoch} was replaced by {state.epoch}")
        if header.producer_epoch > state.epoch:
            if header.base_sequence != 0:
                raise OutOfOrderSequence(f"producer {pid} begins its epoch at sequence {header.base_sequence}, not 0")
            return None
        return self._check_sequence(header, state)

    def stored(self, header: BatchHeader, overlay: Overlay) -> StoredBatch | None:
        """The batch stored before if this one is a duplicate, whatever else may be wrong with it."""
        state = overlay.get(header.producer_id) or self.states.get(header.producer_id)
        if header.is_control or state is None or state.epoch != header.producer_epoch:
            return None
        return _same(header, state)

    def _check_sequence(self, header: BatchHeader, state: ProducerState) -> StoredBatch | None:
        if not state.batches:
            return None
        stored = _same(header, state)
        if stored is not None:
            return stored
        expected = (state.batches[-1].last_sequence + 1) & SEQUENCE_MAX
        if header.base_sequence != expected:
            raise OutOfOrderSequence(
                f"producer {header.producer_id} sent sequence {header.base_sequence}, {expected} is next"
            )
        return None

    def after(self, header: BatchHeader, base_offset: int, now_ms: int, overlay: Overlay) -> ProducerState:
        """The producer's state once this batch is stored at `base_offset`."""
        state = overlay.get(header.producer_id) or self.states.get(header.producer_id)
        stored = StoredBatch(
            header.base_sequence, header.last_sequence, base_offset, base_offset + header.last_offset_delta,
            header.max_timestamp,
        )  # fmt: skip
        first = NO_OFFSET if state is None else state.first_offset
        if header.is_transactional and first == NO_OFFSET:
            first = base_offset
        if state is None or state.epoch != header.producer_epoch:
            return ProducerState(header.producer_epoch, (stored,), first, now_ms)
        kept = state.batches[-(PRODUCER_BATCHES_REMEMBERED - 1) :]
        return ProducerState(state.epoch, (*kept, stored), first, now_ms, state.coordinator_epoch)

    def take(self, overlay: Overlay) -> None:
        """The plan is written: what it adds is so."""
        for pid, state in overlay.items():
            self.states[pid] = state
            if state.first_offset != NO_OFFSET:
                self.open_transactions[pid] = state.first_offset
            elif self.open_transactions:
                self.open_transactions.pop(pid, None)

    def ended(self, header: BatchHeader, now_ms: int, overlay: Overlay) -> tuple[ProducerState, int]:
        """The producer's state behind a control batch, and where the transaction began that it ends; -1 for none.

        Raises `InvalidProducerEpoch` for a marker older than the producer.
        """
        state = overlay.get(header.producer_id) or self.states.get(header.producer_id)
        if state is None:
            return ProducerState(header.producer_epoch, (), NO_OFFSET, now_ms), NO_OFFSET
        if header.producer_epoch < state.epoch:
            raise InvalidProducerEpoch(
                f"a marker of producer {header.producer_id} epoch {header.producer_epoch} came behind {state.epoch}"
            )
        batches = state.batches if state.epoch == header.producer_epoch else ()
        return ProducerState(header.producer_epoch, batches, NO_OFFSET, now_ms), state.first_offset

    def replay(self, header: BatchHeader) -> int:
        """A stored batch, met again in recovery; where the transaction began that it ends, -1 for none."""
        first = NO_OFFSET
        if header.producer_id == NO_PRODUCER_ID:
            return first
        if header.is_control:
            known = self.states.get(header.producer_id)
            if known is not None and header.producer_epoch < known.epoch:
                return first
            state, first = self.ended(header, header.max_timestamp, {})
        else:
            state = self.after(header, header.base_offset, header.max_timestamp, {})
        self.take({header.producer_id: state})
        return first

    def first_open_offset(self, overlay: Overlay | None = None) -> int | None:
        """Where the oldest open transaction begins; with `overlay`, as it will be once that is taken."""
        if not overlay:
            return min(self.open_transactions.values(), default=None)
        firsts = [first for pid, first in self.open_transactions.items() if pid not in overlay]
        firsts += [state.first_offset for state in overlay.values() if state.first_offset != NO_OFFSET]
        return min(firsts, default=None)

    def expire(self, now_ms: int) -> None:
        """Forget producers that were silent for a day and have no open transaction; not the broker's own few."""
        gone = [
            pid
            for pid, state in self.states.items()
            if now_ms - state.seen_ms > PRODUCER_EXPIRY_MS
            and pid not in self.open_transactions
            and pid < OWN_PRODUCER_IDS
        ]
        for pid in gone:
            del self.states[pid]

    def encode(self) -> bytes:
        """The snapshot file.

        Kafka's entry holds one batch and of several entries of a producer the last counts; so a producer's
        batches are written one behind the other, and Kafka reads the newest where we read all five.
        """
        entries = [entry for pid, state in self.states.items() for entry in _encode_entries(pid, state)]
        body = _COUNT.pack(len(entries)) + b"".join(entries)
        return _HEAD.pack(SNAPSHOT_VERSION, crc32c(body)) + body


def _same(header: BatchHeader, state: ProducerState) -> StoredBatch | None:
    """The batch with these sequences, if it is one of the last five."""
    for stored in state.batches:
        if stored.base_sequence == header.base_sequence and stored.last_sequence == header.last_sequence:
            return stored
    return None


_NO_BATCH = StoredBatch(-1, -1, -1, -1, -1)


def _encode_entries(pid: int, state: ProducerState) -> list[bytes]:
    return [
        _ENTRY.pack(
            pid, state.epoch, batch.last_sequence, batch.last_offset, batch.last_offset - batch.base_offset,
            state.seen_ms, state.coordinator_epoch, state.first_offset,
        )
        for batch in state.batches or (_NO_BATCH,)
    ]  # fmt: skip


def decode(data: bytes) -> Producers:
    """Raises `CorruptMessage`; the caller then replays the log from its start."""
    if len(data) < _HEAD.size + _COUNT.size:
        raise CorruptMessage("a producer snapshot is too short")
    version, crc = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if version != SNAPSHOT_VERSION or crc32c(body) != crc:
        raise CorruptMessage("a producer snapshot has a wrong version or CRC")
    (count,) = _COUNT.unpack_from(body)
    if len(body) != _COUNT.size + count * _ENTRY.size:
        raise CorruptMessage("a producer snapshot has a wrong length")
    producers = Producers()
    for pid, state in _decode_entries(body):
        before = producers.states.get(pid)
        batches = state.batches if before is None else before.batches + state.batches
        producers.take({pid: attrs.evolve(state, batches=batches[-PRODUCER_BATCHES_REMEMBERED:])})
    return producers


def _decode_entries(body: bytes) -> Iterable[tuple[int, ProducerState]]:
    for pid, epoch, last_sequence, last_offset, delta, timestamp, coordinator, first in _ENTRY.iter_unpack(
        body[_COUNT.size :]
    ):
        base_sequence = (last_sequence - delta) & SEQUENCE_MAX if last_sequence >= 0 else -1
        stored = StoredBatch(base_sequence, last_sequence, last_offset - delta, last_offset, timestamp)
        batches = (stored,) if last_offset >= 0 else ()
        yield pid, ProducerState(epoch, batches, first, timestamp, coordinator)
