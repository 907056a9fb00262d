"""The log beside a model that is a plain list: whatever happens in whatever order, they agree."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dduomq.errors import DduomqError
from dduomq.log import epochs, index, txn_index
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import ReadPlan
from dduomq.wire.batch import check_batches
from tests.log.helpers import DIRECTORY, batch, opened

CONFIG = {"segment_bytes": 2_000, "index_interval_bytes": 300}


class LogMachine(RuleBasedStateMachine):
    """Appends, flushes, crashes, clean stops, purges, rot: `kept` maps each base offset to its record count."""

    @initialize()
    def begin(self):
        self.files = MemoryFiles()
        self.epoch = 1
        self.now_ms = 2_000
        self.log, _ = opened(self.files, epoch=1, **CONFIG)
        self.kept: dict[int, int] = {}
        self.end = 0
        self.start = 0
        self.sequences: dict[int, int] = {}

    @rule(counts=st.lists(st.integers(1, 4), min_size=1, max_size=6), size=st.integers(1, 700))
    def append(self, counts, size):
        plan = self.log.plan_append([batch(size, count=count) for count in counts], self.now_ms)
        plan.run(self.files)
        self.log.written(plan, self.now_ms)
        for count in counts:
            self.kept[self.end] = count
            self.end += count

    @rule(pid=st.integers(1, 3), count=st.integers(1, 3))
    def append_and_retry(self, pid, count):
        """Sent twice, stored once."""
        sequence = self.sequences.get(pid, 0)
        for _ in range(2):
            again = [batch(pid=pid, epoch=0, sequence=sequence, count=count)]
            plan = self.log.plan_append(again, self.now_ms)
            (outcome,) = plan.outcomes
            assert outcome.base_offset == self.end
            if plan.size:
                plan.run(self.files)
                self.log.written(plan, self.now_ms)
        self.kept[self.end] = count
        self.end += count
        self.sequences[pid] = sequence + count

    @rule()
    def abandon(self):
        self.log.abandon(self.log.plan_append([batch(3_000)], self.now_ms))

    @rule()
    def flush(self):
        flush = self.log.plan_flush()
        if flush is not None:
            flush.run(self.files)
            self.log.flushed(flush.end_offset)
        assert self.log.flushed_offset == self.end
        self.log.advance_high_watermark(self.end)

    @rule()
    def checkpoint(self):
        checkpoint = self.log.plan_checkpoint()
        if checkpoint is not None:
            checkpoint.run(self.files)

    @rule(share=st.floats(0, 1))
    def purge(self, share):
        removal = self.log.delete_records(int(self.log.high_watermark * share))
        if removal is not None:
            removal.run(self.files)
        self.start = max(self.start, self.log.log_start_offset)

    @rule(clean=st.booleans(), lost=st.sampled_from([".index", ".timeindex", ".snapshot", "nothing"]))
    def restart(self, clean, lost):
        """A stop in good order, or a kill: the page cache stays. Hints may be gone."""
        if clean:
            self.log.plan_close().run(self.files)
        elif lost != "nothing":
            for name in self.files.list(DIRECTORY):
                is_needed = lost == ".snapshot" and self.start > 0  # what it knew of is deleted
                if name.endswith(lost) and not is_needed:
                    self.files.remove(f"{DIRECTORY}/{name}")
        self.epoch += 1
        self.log, report = opened(self.files, clean=clean, epoch=self.epoch, **CONFIG)
        assert (report.cut_bytes, report.quarantined) == (0, ())

    @precondition(lambda self: self.log.flushed_offset < self.end)
    @rule(data=st.data())
    def lose_power(self, data):
        """The active segment keeps what was flushed, and any part of the rest."""
        segment = self.log.active
        path = segment.path(DIRECTORY)
        if self.log.flushed_offset < segment.base_offset or path not in self.files.contents:
            return
        ends = {}
        for position, header in check_batches(self.files.read(path)):
            ends[position + header.size] = header.next_offset
        least = max((at for at, offset in ends.items() if offset <= self.log.flushed_offset), default=0)
        cut = data.draw(st.integers(least, segment.size))
        self.files.truncate(path, cut)
        end = max((offset for at, offset in ends.items() if at <= cut), default=segment.base_offset)
        self.kept = {base: count for base, count in self.kept.items() if base < end}
        self.end = max(end, self.start)
        self.sequences.clear()
        self.epoch += 1
        self.log, report = opened(self.files, epoch=self.epoch, **CONFIG)
        assert report.quarantined == ()
        for pid, state in self.log.producers.states.items():
            self.sequences[pid] = state.batches[-1].last_sequence + 1 if state.batches else 0

    @rule(share=st.floats(0, 1), max_bytes=st.integers(1, 3_000))
    def read(self, share, max_bytes):
        """From any offset: every batch from there on, once, whole, with its own offset."""
        self.log.advance_high_watermark(self.end)
        offset = self.start + int((self.end - self.start) * share)
        wanted = [base for base, count in self.kept.items() if base + count > offset]
        found = []
        while True:
            plan = self.log.read_plan(offset, max_bytes, self.end)
            if plan is not None and not isinstance(plan, ReadPlan):
                plan = plan.run(self.files)
            if plan is None:
                break
            data = self.files.read_at(plan.path, plan.position, plan.size)
            found += [header.base_offset for _, header in check_batches(data)]
            assert plan.next_offset > offset
            offset = plan.next_offset
        assert found == wanted

    @invariant()
    def marks_are_in_order(self):
        if not hasattr(self, "log"):
            return
        log = self.log
        assert (log.log_start_offset, log.log_end_offset) == (self.start, self.end)
        assert log.last_stable_offset <= log.high_watermark <= log.log_end_offset
        assert log.flushed_offset <= log.log_end_offset
        assert log.size_bytes == sum(segment.size for segment in log.segments)
        for segment in log.segments:
            path = segment.path(DIRECTORY)
            assert len(self.files.contents.get(path, b"")) == segment.size
        starts = [start for _, start in log.epochs.entries]
        assert starts == sorted(starts)


LogMachine.TestCase.settings = settings(
    deadline=None, max_examples=150, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
test_log_and_model_agree = LogMachine.TestCase


@settings(deadline=None, max_examples=400)
@example(at=333, bit=5, point=0, segment_bytes=1024)  # a length that reaches over zeros of the next batch's sector
@given(
    at=st.integers(0, 10 * 161 - 1),
    bit=st.integers(0, 7),
    point=st.integers(0, 10),
    segment_bytes=st.sampled_from([1024, 10_000]),
)
def test_one_flipped_bit_costs_one_batch_and_is_never_served(at, bit, point, segment_bytes):
    """Wherever it is; only in the very last batch, unsynced for all that is known, may it pass for a torn tail."""
    files = MemoryFiles()
    log, _ = opened(files, segment_bytes=segment_bytes)
    stored = {}
    for number in range(10):
        plan = log.plan_append([batch()], 2_000)
        plan.run(files)
        log.written(plan, 2_000)
        stored[number] = bytes(files.read_at(plan.path, plan.position, plan.size))
    log.flushed(point)
    log.advance_high_watermark(10)
    files.replace(f"{DIRECTORY}/recovery-point", f"0\n{point}\n".encode())
    number, inside = divmod(at, 161)
    is_outside_crc = 12 <= inside < 16  # the leader epoch
    segment = max((held for held in log.segments if held.base_offset <= number), key=lambda held: held.base_offset)
    files.contents[segment.path(DIRECTORY)][(number - segment.base_offset) * 161 + inside] ^= 1 << bit
    log, report = opened(files, epoch=2, segment_bytes=segment_bytes)
    if number < 9 or point == 10:
        assert log.log_end_offset == 10
        assert report.cut_bytes == 0
    served = _served(log, files)
    for offset, data in served.items():
        assert data == stored[offset] or (is_outside_crc and offset == number)
    missing = set(range(10)) - set(served)
    assert missing <= {number}


def _served(log, files):
    """Every batch that can be read, by its offset."""
    found, offset = {}, 0
    while offset < log.log_end_offset:
        try:
            plan = log.read_plan(offset, 1, log.high_watermark)
            plan = plan.run(files) if hasattr(plan, "run") else plan
        except DduomqError:
            offset += 1
            continue
        if plan is None:
            break
        data = files.read_at(plan.path, plan.position, plan.size)
        found[offset] = data
        offset = plan.next_offset
    return found


# --- small formats ------------------------------------------------------------------------------------------

rising = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)), unique_by=lambda pair: pair[0])


@given(entries=rising, relative=st.integers(0, 2**31 - 1), extra=st.binary(max_size=7))
def test_an_index_is_searched_in_its_file_as_in_memory(entries, relative, extra):
    """Blocks, part entries at the end, any offset."""
    entries = sorted(entries)
    entries = list(zip([pair[0] for pair in entries], sorted(pair[1] for pair in entries), strict=True))
    files = MemoryFiles()
    data = index.encode(entries) + extra
    files.contents["i"] = bytearray(data)
    whole = len(data) - len(data) % 8
    assert index.decode(data) == entries
    assert index.floor_in_file(files, "i", whole, relative) == index.floor(entries, relative)


@given(
    entries=st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)), max_size=20),
    epoch=st.integers(0, 1_100),
    cut=st.integers(0, 1_100),
)
def test_epochs_rise_and_survive_their_file(entries, epoch, cut):
    """Whatever is assigned; each known epoch, and what was before them, ends where the next begins."""
    cache = epochs.EpochCache()
    for known, start in entries:
        cache.assign(known, start)
    again = epochs.decode(cache.encode())
    assert again.entries == cache.entries
    assert list(cache.entries) == sorted(cache.entries)
    found, end = cache.end_offset_of(epoch, 2_000)
    assert found <= epoch
    assert found == max((known for known, _ in cache.entries if known <= epoch), default=epoch if entries else -1)
    assert end == next((start for known, start in cache.entries if known > epoch), 2_000 if entries else -1)
    cache.truncate(cut)
    assert all(start < cut for _, start in cache.entries)


@given(data=st.binary(max_size=200))
def test_garbage_is_never_more_than_nothing(data):
    """Checkpoints and indexes of any bytes are read or ignored."""
    epochs.decode(data)
    index.decode(data)
    held = txn_index.Aborted()
    held.load(data, 0, 1 << 62)
    held.between(0, 1 << 62)
    txn_index.marker_of(data)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=30),
    offset=st.integers(0, 200),
    width=st.integers(1, 50),
)
def test_aborted_transactions_are_those_that_touch_the_range(lengths, offset, width):
    """Found by search as by looking at each."""
    held, plain, last = txn_index.Aborted(), [], 0
    for pid, (back, step) in enumerate(lengths):
        last += step
        first = max(last - back - 1, 0)
        held.add(pid, first, last, last + 1)
        plain.append((pid, first, last))
    wanted = tuple((pid, first) for pid, first, end in plain if end >= offset and first < offset + width)
    assert held.between(offset, offset + width) == wanted
    again = txn_index.Aborted()
    again.load(held.encode(0, last + 1), 0, last + 1)
    assert again.between(offset, offset + width) == wanted
    held.drop_before(offset)
    assert held.between(offset, offset + width) == wanted
