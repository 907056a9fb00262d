"""`dduomq`: what people and scripts get from it, against a real node."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dduomq
from dduomq.wire.compress import Compression
from dduomq.wire.records import encode
from tests.cli.shell import Shell, objects

TIMEOUT_S = 60


def test_topic_is_made_listed_described_and_removed(shell: Shell) -> None:
    """A topic's life, in JSON for programs."""
    made = objects(shell("topic", "create", "life", "-p", 3, "-c", "durability=pagecache", "--json"))[0]
    assert (made["name"], made["partitions"]) == ("life", 3)
    assert {"name": "life", "topic_id": made["topic_id"], "partitions": 3} in objects(shell("topic", "list", "--json"))
    described = objects(shell("topic", "describe", "life", "--json"))[0]
    assert [part["partition"] for part in described["partitions"]] == [0, 1, 2]
    assert objects(shell("topic", "add-partitions", "life", 5, "--json")) == [{"name": "life", "partitions": 5}]
    assert objects(shell("topic", "delete", "life", "--yes", "--json")) == [{"deleted": "life"}]
    assert "no topic 'life'" in shell.fails("topic", "describe", "life", code=1)


def test_people_get_tables(shell: Shell) -> None:
    """Without --json there are headings and what each setting does."""
    shell("topic", "create", "table")
    assert "topic" in shell("topic", "list")
    text = shell("topic", "describe", "table")
    assert "committed" in text
    assert "a log file is closed at this size" in text


def test_settings_are_changed_and_put_back(shell: Shell) -> None:
    """--set and --unset show in the settings at once."""
    shell("topic", "create", "settings")
    changed = objects(shell("topic", "config", "settings", "--set", "retention.ms=1000", "--json"))[0]
    assert changed["retention.ms"] == "1000"
    back = objects(shell("topic", "config", "settings", "--unset", "retention.ms", "--json"))[0]
    assert back["retention.ms"] != "1000"


def test_existing_topic_can_be_accepted(shell: Shell) -> None:
    """A second create fails, unless that is all right."""
    shell("topic", "create", "twice")
    assert "exists already" in shell.fails("topic", "create", "twice", code=1)
    shell("topic", "create", "twice", "--if-not-exists")


def test_lines_go_in_and_come_out(shell: Shell, tmp_path: Path) -> None:
    """A file's lines come back as they were, a last line without an end too, UTF-8 or not."""
    lines = [b"", b"plain", "žluťoučký".encode(), b"\xff\xfe", b"last"]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    shell("topic", "create", "lines", "-p", 1)
    shell("produce", "lines", tmp_path / "in", "--compression", "zstd")
    assert shell.run("consume", "lines").stdout == b"\n".join(lines) + b"\n"


def test_keys_and_headers(shell: Shell) -> None:
    """--key-separator cuts the key off, --header goes to all, consume shows both."""
    shell("topic", "create", "keys", "-p", 1)
    shell("produce", "keys", "-K", ":", "-H", "from=test", "--null", "-", stdin="a:1\nb:x:y\n-:3\nd:-\n")
    assert shell("consume", "keys", "--keys", "--null", "-") == "a\t1\nb\tx:y\n-\t3\nd\t-\n"
    assert shell("consume", "keys", "--headers", "-K", "|", "-n", 1) == "from=test|a|1\n"


def test_json_makes_the_round_trip(shell: Shell) -> None:
    """What consume --json writes, produce --input json reads: keys, headers, times, bytes and nulls."""
    given = [
        {"key": "k", "value": "v", "headers": {"h": "1"}, "timestamp_ms": 1_700_000_000_000, "tag": "t"},
        {"key_base64": "/w==", "value_base64": "/v8="},
        {"key": "gone", "value": None},
        {"value": {"nested": [1, 2]}},
    ]
    for topic in ("first", "second"):
        shell("topic", "create", topic, "-p", 1)
    shell("produce", "first", "--input", "json", stdin="\n".join(json.dumps(one) for one in given))
    first = shell("consume", "first", "--json")
    shell("produce", "second", "-i", "json", stdin=first)
    assert objects(first) == [{**record, "topic": "first"} for record in objects(shell("consume", "second", "--json"))]
    assert objects(first)[0]["headers"] == [{"name": "h", "value": "1"}, {"name": "dduomq-tag", "value": "t"}]
    assert objects(first)[3]["value"] == '{"nested": [1, 2]}'


def test_reading_starts_and_stops_where_told(shell: Shell) -> None:
    """--from an offset or a time, --max, --partition."""
    shell("topic", "create", "places", "-p", 2)
    lines = "\n".join(json.dumps({"value": str(n), "timestamp_ms": 1_700_000_000_000 + n * 1000}) for n in range(10))
    shell("produce", "places", "-i", "json", "--partition", 1, stdin=lines)
    assert shell("consume", "places", "-p", 1, "--from", 7) == "7\n8\n9\n"
    assert shell("consume", "places", "--from", "2023-11-14T22:13:25Z", "--max", 2) == "5\n6\n"
    assert shell("consume", "places", "-p", 0) == ""


def test_summary_counts_acknowledged_records(shell: Shell) -> None:
    """--json says how many were sent and acknowledged; --rate and --max hold."""
    summary = objects(shell("produce", "summary", "--rate", 50, "--max", 3, "--json", stdin="a\nb\nc\nd\n"))[0]
    assert (summary["topic"], summary["sent"], summary["acknowledged"]) == ("summary", 3, 3)
    assert summary["seconds"] >= 2 / 50


def test_purge_keeps_the_topic(shell: Shell) -> None:
    """Purged records are gone, the topic and its offsets stay."""
    shell("topic", "create", "purged", "-p", 1)
    shell("produce", "purged", stdin="a\nb\nc\n")
    assert objects(shell("topic", "purge", "purged", "--yes", "--before", 2, "--json")) == [
        [{"partition": 0, "log_start_offset": 2}]
    ]
    assert shell("consume", "purged") == "c\n"


def test_follow_sees_new_records_and_ends_on_ctrl_c(shell: Shell) -> None:
    """A record sent later is printed at once; Ctrl-C ends quietly with 130."""
    shell("topic", "create", "news", "-p", 1)
    shell("produce", "news", stdin="old\n")
    follower = shell.start("consume", "news", "--follow")
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"old\n"
    shell("produce", "news", stdin="new\n")
    assert follower.stdout.readline() == b"new\n"
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=TIMEOUT_S) == (b"", b"")
    assert follower.returncode == 130


def test_standard_input_is_sent_as_it_comes(shell: Shell) -> None:
    """A line typed is a record sent, before the input ends; Ctrl-C while waiting for more is quiet."""
    shell("topic", "create", "typed", "-p", 1)
    follower = shell.start("consume", "typed", "--follow")
    typist = shell.start("produce", "typed", "--quiet")
    assert typist.stdin is not None
    assert follower.stdout is not None
    typist.stdin.write(b"hello\n")
    typist.stdin.flush()
    assert follower.stdout.readline() == b"hello\n"
    for process in (typist, follower):
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=TIMEOUT_S) == (b"", b"")
        assert process.returncode == 130


def test_closed_pipe_is_quiet(shell: Shell) -> None:
    """`dduomq consume … | head` ends without a word."""
    shell("produce", "pipe", stdin="x\n" * 10_000)
    reader = shell.start("consume", "pipe")
    assert reader.stdout is not None
    assert reader.stderr is not None
    reader.stdout.close()
    assert reader.wait(TIMEOUT_S) == 0
    assert reader.stderr.read() == b""
    reader.stderr.close()
    assert reader.stdin is not None
    reader.stdin.close()


@pytest.mark.parametrize(
    ("args", "stdin", "code", "hint"),
    [
        (("topic", "create", "a b"), "", 2, "may hold only letters"),
        (("topic", "create", "x", "-c", "retention.m=1"), "", 2, "did you mean 'retention.ms'"),
        (("topic", "create", "x", "-c", "retention"), "", 2, "KEY=VALUE"),
        (("topic", "create", "x", "-p", "1000000"), "", 2, "1 to 10000 partitions"),
        (("topic", "delete", "x"), "", 2, "--yes"),
        (("topic", "frobnicate"), "", 2, "No such command"),
        (("consume", "nowhere"), "", 1, "no topic 'nowhere'"),
        (("consume", "nowhere", "--from", "soon"), "", 2, "--from wants"),
        (("consume", "nowhere", "--json", "--keys"), "", 2, "--json shows keys"),
        (("produce", "bad", "-K", ":"), "no key\n", 2, "line 1 has no ':'"),
        (("produce", "bad", "-i", "json"), '{"valu": 1}\n', 2, "line 1 is no object"),
        (("produce", "bad", "-i", "json"), '{"value": 1, "hedaers": {}}\n', 2, "'hedaers'"),
        (("produce", "bad", "/nonexistent"), "", 2, "no such file"),
        (("produce", "bad", "--compression", "brotli", "--quiet"), "x\n", 2, "gzip, snappy, lz4, zstd"),
        (("topic", "list", "--server", "127.0.0.1:1"), "", 1, "is the node running?"),
        (("topic", "list", "--server", "here:there"), "", 2, "HOST:PORT"),
    ],
)
def test_mistakes_are_one_line(shell: Shell, args: tuple[str, ...], stdin: str, code: int, hint: str) -> None:
    """Each error is one line that says what to do; 2 when the command was wrong, 1 when the broker said no."""
    assert hint in shell.fails(*args, stdin=stdin, code=code)


def test_help_shows_defaults_and_examples(shell: Shell) -> None:
    """Every command explains itself without a node."""
    shell.environment["COLUMNS"] = "200"
    assert "DDUOMQ_SERVER" in shell("produce", "--help")
    assert "Example: dduomq topic create" in shell("topic", "create", "--help")
    assert "default: earliest" in shell("consume", "--help")
    assert "Examples: dduomq consume" in shell("consume", "--help")
    assert "Examples: dduomq produce" in shell("produce", "--help")
    assert shell("--version") == f"dduomq {dduomq.__version__}\n"


def test_no_command_gets_the_help_alone(shell: Shell) -> None:
    """Nothing was wrong but that nothing was asked for."""
    for args in ((), ("topic",)):
        done = shell.run(*args)
        assert (done.returncode, done.stderr) == (2, b"")
        assert b"Commands" in done.stdout


def test_lines_before_a_bad_one_are_sent(shell: Shell) -> None:
    """The error says which line it is; all before it are stored, and counted."""
    done = shell.run(
        "produce", "half", "-i", "json", "--json", "-p", "0", stdin='{"value": "a"}\n{"value": "b"}\n{oops\n'
    )
    assert done.returncode == 2
    assert b"line 3 is not JSON" in done.stderr
    assert objects(done.stdout.decode())[0]["acknowledged"] == 2
    assert shell("consume", "half") == "a\nb\n"


def test_without_acks_none_is_claimed(shell: Shell) -> None:
    """Sent is not acknowledged."""
    summary = objects(shell("produce", "unsure", "--acks", "0", "--json", stdin="a\nb\n"))[0]
    assert (summary["sent"], summary["acknowledged"]) == (2, None)


def test_a_purge_that_goes_too_far_names_the_partition(shell: Shell) -> None:
    """One of many has fewer records than were to be deleted."""
    shell("topic", "create", "short", "-p", 2)
    assert "short-0: records can be deleted up to offset 0" in shell.fails(
        "topic", "purge", "short", "--before", 5, "--yes", code=1
    )


def test_dumped_log_is_replayed(shell: Shell, tmp_path: Path) -> None:
    """`dduomq-dump --replay` publishes a file's records again: keys, headers and times as they were."""
    log = tmp_path / "00000000000000000000.log"
    stored = [(1_700_000_000_000 + n, f"k{n}".encode(), f"v{n}".encode(), [("h", b"x")]) for n in range(5)]
    log.write_bytes(bytes(encode(stored, compression=Compression.LZ4)))
    shell("topic", "create", "replayed", "-p", 1)
    server = shell.environment["DDUOMQ_SERVER"]
    command = [sys.executable, "-m", "dduomq.dump", "--from", "2", "--replay", f"{server}/replayed", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, env=shell.environment, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == f"3 records published to {server}/replayed\n"
    found = objects(shell("consume", "replayed", "--json"))
    assert [(one["key"], one["value"], one["timestamp_ms"]) for one in found] == [
        (key.decode(), value.decode(), at) for at, key, value, _ in stored[2:]
    ]
    assert found[0]["headers"] == [{"name": "h", "value": "x"}]


def test_a_replay_stops_where_told_and_wants_a_real_topic(shell: Shell, tmp_path: Path) -> None:
    """`--max` bounds what is published as it bounds what is printed; a wrong name is a wrong command."""
    log = tmp_path / "00000000000000000000.log"
    log.write_bytes(bytes(encode([(1_700_000_000_000, None, b"v", []) for _ in range(5)])))
    server = shell.environment["DDUOMQ_SERVER"]
    ended = [
        subprocess.run(
            [sys.executable, "-m", "dduomq.dump", "--max", "2", "--replay", f"{server}/{topic}", str(log)],
            capture_output=True, text=True, env=shell.environment, check=False,
        )
        for topic in ("replay-max", "not allowed")
    ]  # fmt: skip
    assert [done.returncode for done in ended] == [0, 2]
    assert ended[0].stderr == f"2 records published to {server}/replay-max\n"
    assert len(objects(shell("consume", "replay-max", "--json"))) == 2
