"""`dduomq-dump`: what it prints, what it finds wrong, what it says when it can't."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dduomq.dump import cli
from dduomq.dumping.bounds import Bounds, parse_bound
from dduomq.dumping.printing import Printer, Style
from dduomq.dumping.replay import records_of, undecided_in
from dduomq.dumping.targets import expand
from dduomq.errors import ConfigError
from dduomq.log import index, time_index
from dduomq.wire.batch import HEADER_BYTES, build, set_producer, stamp
from dduomq.wire.compress import Compression
from dduomq.wire.records import encode

BASE_MS = 1_700_000_000_000
PER_BATCH = 10


def make_batch(base_offset: int, compression: Compression = Compression.NONE) -> bytes:
    """Ten records; offset N has the time BASE_MS + N."""
    offsets = range(base_offset, base_offset + PER_BATCH)
    batch = encode(
        [(BASE_MS + n, f"k{n}".encode(), f"value {n}".encode(), [("h", b"x")]) for n in offsets],
        compression=compression,
    )
    stamp(batch, 0, base_offset, 3)
    return bytes(batch)


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """Two segments of five batches, indexed at every batch."""
    directory = tmp_path / "orders-0"
    directory.mkdir()
    for base in (0, 50):
        data, entries, times = b"", [], []
        for first in range(base, base + 50, PER_BATCH):
            last = first + PER_BATCH - 1
            entries.append((last - base, len(data)))
            times.append((BASE_MS + last, last - base))
            data += make_batch(first, Compression.ZSTD if first % 20 else Compression.NONE)
        name = f"{base:020d}"
        (directory / f"{name}.log").write_bytes(data)
        (directory / f"{name}.index").write_bytes(index.encode(entries[1:]))
        (directory / f"{name}.timeindex").write_bytes(time_index.encode(times[1:]))
    (directory / "leader-epoch-checkpoint").write_text("0\n1\n3 0\n")
    return directory


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one call."""
    with pytest.raises(SystemExit) as stopped:
        cli([str(arg) for arg in args])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def shown(partition: Path, start: str | None = None, stop: str | None = None) -> list[int]:
    """The offsets that are printed."""
    bounds = Bounds(
        *(parse_bound(text) if text else parse_bound(other) for text, other in ((start, "0"), (stop, "999")))
    )
    out = io.StringIO()
    printer = Printer(out, bounds, Style(json=True, batches=False))
    for target in expand([str(partition)], logs_only=True):
        printer.show(target, title=False)
    return [json.loads(line)["offset"] for line in out.getvalue().splitlines()]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_directory_prints_all_records(partition: Path) -> None:
    """A partition's directory gives every record of every segment, once and in order."""
    assert shown(partition) == list(range(100))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        ("37", "42", range(37, 42)),
        ("95", None, range(95, 100)),
        (None, "3", range(3)),
        (f"{BASE_MS + 48}ms", f"{BASE_MS + 52}ms", range(48, 52)),
        ("2023-11-14T22:13:20.090+00:00", None, range(90, 100)),
        ("200", None, range(0)),
    ],
)
def test_bounds(partition: Path, start: str | None, stop: str | None, expected: range) -> None:
    """--from is included, --to is not, whether offset or time, within and across batches and segments."""
    assert shown(partition, start, stop) == list(expected)


def test_a_wrong_index_does_not_hide_records(partition: Path) -> None:
    """--from uses the index as a hint only."""
    (partition / f"{0:020d}.index").write_bytes(index.encode([(19, 77)]))
    assert shown(partition, "30", "33") == [30, 31, 32]


def test_text_shows_batches_and_records(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees one line for each batch and one for each record."""
    code, out, err = run(capsys, partition / f"{0:020d}.log", "--max", 1)
    batch, record = out.splitlines()
    assert (code, err) == (0, "")
    assert batch.startswith("batch at 0: offsets 0..9, 10 records")
    assert "epoch 3" in batch
    assert record == "  0 2023-11-14T22:13:20.000Z key=k0 h=x value 0"


def test_columns_can_be_chosen(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Headers only, records only, keys without values, values alone."""
    log = partition / f"{50:020d}.log"
    assert len(run(capsys, log, "--headers-only")[1].splitlines()) == 5
    assert len(run(capsys, log, "--records")[1].splitlines()) == 50
    assert "value" not in run(capsys, log, "--keys")[1]
    assert run(capsys, log, "--values", "--max", 2)[1] == "value 50\nvalue 51\n"


def test_json_is_one_object_a_line(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get a type in each line, and bytes that are no text as base64."""
    odd = partition / "odd.log"
    odd.write_bytes(bytes(encode([(BASE_MS, None, b"\xff", [])])))
    batch, record = (json.loads(line) for line in run(capsys, odd, "--json")[1].splitlines())
    assert (batch["type"], batch["count"], batch["crc_is_right"]) == ("batch", 1, True)
    assert (record["key"], record["value_base64"]) == (None, "/w==")


def test_indexes_are_printed(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """.index and .timeindex show absolute offsets."""
    _, out, _ = run(capsys, partition / f"{50:020d}.index", "--json")
    assert json.loads(out.splitlines()[0])["offset"] == 69
    _, out, _ = run(capsys, partition / f"{50:020d}.timeindex")
    assert out.startswith("time 2023-11-14T22:13:20.069Z (1700000000069), offset 69\n")


def test_sound_log_verifies(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing wrong: exit 0 and a summary."""
    code, out, err = run(capsys, "--verify", partition)
    assert (code, err) == (0, "")
    assert "all is well: 3 files, 100 records" in out


@pytest.mark.parametrize("byte", range(61))
def test_no_flipped_header_bit_passes(partition: Path, capsys: pytest.CaptureFixture[str], byte: int) -> None:
    """Any bit of a batch's header that matters is found, with the position of the batch."""
    log = partition / f"{0:020d}.log"
    position = index.decode((partition / f"{0:020d}.index").read_bytes())[0][1]
    flip(log, position + byte)
    code, _, err = run(capsys, "--verify", partition)
    assert code == 1
    assert f"{log} at byte {position}:" in err or "index" in err or byte in range(12, 16)


def test_flipped_bit_is_found_and_the_rest_shown(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged batch's records are not printed, those around it are; the exit code tells."""
    log = partition / f"{0:020d}.log"
    position = index.decode((partition / f"{0:020d}.index").read_bytes())[0][1]
    flip(log, position + 80)
    assert run(capsys, "--verify", log)[0] == 1
    code, out, _ = run(capsys, log)
    assert code == 1
    assert "WRONG" in out
    offsets = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert offsets == [str(n) for n in [*range(10), *range(20, 50)]]


def test_lost_length_does_not_lose_the_rest(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch whose length is damaged is skipped to the next one that is sound."""
    log = partition / f"{0:020d}.log"
    flip(log, 9)
    code, out, _ = run(capsys, log, "--records")
    assert code == 1
    assert out.startswith("DAMAGE at 0:")
    assert sum(line.startswith("  ") for line in out.splitlines()) == 40


@pytest.mark.parametrize("lost", [1, 30, 61, 100])
def test_incomplete_tail_is_no_corruption(partition: Path, capsys: pytest.CaptureFixture[str], lost: int) -> None:
    """A file that ends inside a batch is still being written, or torn: said, but no fault."""
    log = partition / f"{50:020d}.log"
    for suffix in (".index", ".timeindex"):
        log.with_suffix(suffix).unlink()
    log.write_bytes(log.read_bytes()[:-lost])
    code, out, _ = run(capsys, "--verify", partition)
    assert code == 0
    assert "incomplete tail" in out
    assert run(capsys, log)[0] == 0


def test_zeros_at_the_end_are_a_tail(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Space that was reserved but never written is not corruption."""
    log = partition / f"{50:020d}.log"
    log.write_bytes(log.read_bytes() + bytes(5000))
    code, out, _ = run(capsys, "--verify", log)
    assert (code, "incomplete tail of 5000 bytes" in out) == (0, True)


def test_index_that_disagrees_is_a_fault(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An index entry that points into the middle of a batch is found, with its own position."""
    path = partition / f"{0:020d}.index"
    entries = index.decode(path.read_bytes())
    path.write_bytes(index.encode([entries[0], (entries[1][0], entries[1][1] + 1)]))
    code, _, err = run(capsys, "--verify", partition)
    assert code == 1
    assert f"{path} at byte 8: entry 1 points at byte" in err


def test_time_index_that_disagrees_is_a_fault(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A time index entry must have its batch's largest timestamp."""
    path = partition / f"{0:020d}.timeindex"
    path.write_bytes(time_index.encode([(BASE_MS + 5, 19)]))
    code, _, err = run(capsys, "--verify", "--json", partition)
    assert (code, f"{path} at byte 0: entry 0 says" in err) == (1, True)


def test_offsets_that_go_back_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that is stored twice is found."""
    log = tmp_path / f"{0:020d}.log"
    log.write_bytes(make_batch(0) + make_batch(0))
    code, _, err = run(capsys, "--verify", log)
    assert (code, "offsets 0..9 come after offset 9" in err) == (1, True)


def test_a_wrong_count_of_records_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A header with a right CRC whose records are not there is reported, not believed."""
    log = tmp_path / f"{0:020d}.log"
    log.write_bytes(build(b"", count=3, last_offset_delta=2, base_timestamp=0, max_timestamp=0))
    code, out, _ = run(capsys, log)
    assert (code, "DAMAGE at 0" in out) == (1, True)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["missing.log"], "no such file"),
        (["--from", "soon", "."], "neither an offset"),
        (["--replay", "localhost", "."], "HOST:PORT/TOPIC"),
        (["pyproject.toml"], "not a file of a log"),
        (["--max", "-1", "."], "--max wants 0 or more"),
        (["--cut", "-1", "."], "--cut wants 0 or more"),
        (["--verify", "--from", "5", "."], "leave --from, --to and --max out"),
        (["--partition", "1", "."], "says where --replay publishes"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], args: list[str], hint: str) -> None:
    """A wrong argument ends with exit code 2 and one line that says what to do."""
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert hint in err
    assert len(err.splitlines()) == 1


def test_empty_directory_says_so(tmp_path: Path) -> None:
    """A directory without a log is a mistake, not an empty answer."""
    with pytest.raises(ConfigError, match="no log files"):
        expand([str(tmp_path)], logs_only=True)


def test_closed_pipe_is_quiet(partition: Path) -> None:
    """`dduomq-dump … | head` ends without a word."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "dduomq.dump", str(partition)], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("how", ["--records", "--values", "--json", "--batches"])
def test_damage_is_never_passed_over_in_silence(partition: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    """Whatever is printed, standard error says that something is missing, and where."""
    log = partition / f"{0:020d}.log"
    data = bytearray(log.read_bytes())
    position = len(make_batch(0))
    data[position + 70] ^= 1
    log.write_bytes(data)
    code, _, err = run(capsys, how, log)
    assert code == 1
    assert f"{log} at byte {position}" in err


def test_each_json_line_names_its_file(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With many partitions in one stream, a program can tell them apart."""
    code, out, _ = run(capsys, "--json", partition, *partition.glob("*.index"))
    files = {Path(json.loads(line)["file"]).name for line in out.splitlines()}
    assert (code, len(files)) == (0, 4)


def test_a_tail_is_torn_only_where_the_log_ends(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A segment that others follow is written to by nobody: what is missing at its end is lost."""
    first, last = (partition / f"{base:020d}.log" for base in (0, 50))
    for name in ("index", "timeindex"):
        for log in (first, last):
            log.with_suffix(f".{name}").unlink()
    last.write_bytes(last.read_bytes()[:-5])
    assert run(capsys, "--verify", partition)[0] == 0
    position = len(first.read_bytes()) - len(make_batch(40, Compression.NONE))
    first.write_bytes(first.read_bytes()[:-5])
    code, _, err = run(capsys, "--verify", partition)
    assert code == 1
    assert f"the first: {first} at byte {position}: incomplete tail" in err


def test_an_index_that_ends_inside_an_entry_is_noted(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A running node may be writing it; a dead one's is mended by recovery."""
    path = partition / f"{50:020d}.index"
    path.write_bytes(path.read_bytes() + b"abc")
    code, out, _ = run(capsys, "--verify", partition)
    assert (code, f"{path.name} ends inside an entry, 3 bytes of it" in out) == (0, True)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("leader-epoch-checkpoint", "0\n2\n0 0\n3 50\n", "0\n2\n3 50\n0 0\n"),
        ("leader-epoch-checkpoint", "0\n0\n", "0\n7\n0 0\n"),
        ("partition.metadata", "version: 0\ntopic_id: abc\n", "garbage"),
        ("partition.metadata", "", "topic_id: abc\n"),
        ("recovery-point", "0\n17\n", "\x00\x00"),
        ("log-start-offset", "0\n17\n", "0\nx\n"),
    ],
)
def test_checkpoints_are_verified(
    partition: Path, capsys: pytest.CaptureFixture[str], name: str, good: str, bad: str
) -> None:
    """The small files count, too."""
    (partition / name).write_text(good)
    assert run(capsys, "--verify", partition)[0] == 0
    (partition / name).write_text(bad)
    code, _, err = run(capsys, "--verify", partition)
    assert (code, f"{partition / name} at byte 0" in err) == (1, True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_verifying_shows_how_far_it_is(partition: Path) -> None:
    """A person at a terminal sees a bar, which is gone at the end; a pipe gets the verdicts alone."""
    import pty

    terminal, slave = pty.openpty()
    command = [sys.executable, "-m", "dduomq.dump", "--verify", str(partition)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, env=environment, check=True)
    os.close(slave)
    seen = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "verifying" in seen
    assert done.stdout.decode().splitlines()[-1].startswith("all is well")


def transactional(offset: int, producer: int, key: bytes | None = None) -> bytes:
    """A batch of one record in a transaction; with a key, the marker that ends it."""
    body = bytes(encode([(BASE_MS, key, b"", [])])[HEADER_BYTES:])
    attributes = 0x10 if key is None else 0x30
    batch = build(
        body, count=1, last_offset_delta=0, base_timestamp=BASE_MS, max_timestamp=BASE_MS, attributes=attributes
    )
    set_producer(batch, producer, 0, 0)
    stamp(batch, 0, offset, 0)
    return bytes(batch)


def test_only_what_was_committed_is_replayed(tmp_path: Path) -> None:
    """Aborted and unfinished transactions are not made true by publishing them again; others beside them are kept."""
    abort, commit = b"\0\0\0\0", b"\0\0\0\1"
    steps: list[tuple[int, bytes | None]] = [
        (1, None), (2, None), (1, abort), (2, None), (2, commit), (1, None), (3, None), (1, commit),
    ]  # fmt: skip
    data = [transactional(at, producer, key) for at, (producer, key) in enumerate(steps)]
    (tmp_path / f"{0:020d}.log").write_bytes(b"".join(data[:4]))
    (tmp_path / f"{4:020d}.log").write_bytes(b"".join(data[4:]))
    targets = expand([str(tmp_path)], logs_only=True)
    undecided = undecided_in(targets)
    found = [record.offset for record in records_of(targets, Bounds(), [0], undecided)]
    assert (found, undecided.left_out) == ([1, 3, 5], 2)
