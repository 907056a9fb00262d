"""Bytes of the quorum: every message comes back as it was, and bad bytes are refused by name."""

from random import Random

import pytest

from dduomq.errors import UnsupportedVersion, WireError
from dduomq.wire import raft_messages as words
from dduomq.wire.raft import VERSION, decode, encode
from dduomq.wire.raft_messages import Configuration, LogEntry, Peer, Snapshot

A, B, C = Peer(1, "disk-a"), Peer(2, "b"), Peer(4_294_967_295, "ü" * 50)
ENDS = {"source": A, "target": C, "term": 2**63 - 1}
CONFIGURATION = Configuration((A, B), (C,))
ENTRIES = (LogEntry(8, 2), LogEntry(9, 2, b"\x00data"), LogEntry(10, 3, configuration=CONFIGURATION))
MESSAGES = [
    words.PreVote(last_index=7, last_term=2, **ENDS),
    words.PreVoteAnswer(is_granted=True, **ENDS),
    words.Vote(last_index=7, last_term=2, is_transfer=True, **ENDS),
    words.VoteAnswer(is_granted=False, **ENDS),
    words.Append(previous_index=7, previous_term=2, entries=ENTRIES, commit=6, **ENDS),
    words.Append(previous_index=7, previous_term=2, commit=6, **ENDS),
    words.Appended(match=10, **ENDS),
    words.AppendRefused(previous_index=9, hint_index=4, hint_term=1, **ENDS),
    words.Heartbeat(commit=6, round=12, **ENDS),
    words.HeartbeatAnswer(round=12, **ENDS),
    words.InstallSnapshot(snapshot=Snapshot(7, 2, CONFIGURATION, b"state"), **ENDS),
    words.ReadAsk(context=2**64 - 1, **ENDS),
    words.ReadAnswer(context=5, index=6, **ENDS),
    words.TransferNow(**ENDS),
]


def test_every_kind_of_message_is_tried():
    assert {type(message) for message in MESSAGES} == set(words.RaftMessage.__args__)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message):
    assert decode(encode(message)) == message
    assert decode(memoryview(bytearray(encode(message)))) == message


def test_the_bytes_stay_as_they_are():
    """A member of the next release must read what this one sends."""
    message = words.Append(
        source=Peer(1, "a"), target=Peer(2, "b"), term=3, previous_index=4, previous_term=2,
        entries=(LogEntry(5, 3, b"xy"), LogEntry(6, 3, configuration=Configuration((Peer(1, "a"),)))), commit=4,
    )  # fmt: skip
    assert encode(message).hex(" ") == (
        "05 01 00 00 00 01 01 61 00 00 00 02 01 62 00 00 00 00 00 00 00 03 "
        "00 00 00 00 00 00 00 04 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 04 00 00 00 02 "
        "00 00 00 00 00 00 00 05 00 00 00 00 00 00 00 03 01 00 00 00 02 78 79 "
        "00 00 00 00 00 00 00 06 00 00 00 00 00 00 00 03 02 00 00 00 0a 00 01 00 00 00 01 01 61 00 00"
    )


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_that_is_cut_or_has_a_tail_is_refused(message):
    data = encode(message)
    for size in range(len(data)):
        with pytest.raises(WireError):
            decode(data[:size])
    with pytest.raises(WireError, match="follow the last field"):
        decode(data + b"\x00")


def test_bad_bytes_are_refused_or_make_another_message():
    """Never anything else, whatever the bytes."""
    rng, refused = Random(1), 0
    for _ in range(20_000):
        data = bytearray(encode(rng.choice(MESSAGES)))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
        try:
            decode(data)
        except (WireError, UnsupportedVersion):
            refused += 1
    assert 1_000 < refused < 19_000


def test_noise_is_refused():
    rng = Random(2)
    for _ in range(5_000):
        data = bytes((rng.randrange(1, 14), VERSION)) + rng.randbytes(rng.randrange(60))
        try:
            decode(data)
        except WireError:
            continue


def test_a_newer_version_is_named():
    data = bytearray(encode(MESSAGES[0]))
    data[1] = VERSION + 1
    with pytest.raises(UnsupportedVersion, match="version 2"):
        decode(data)


def test_counts_are_held_against_what_is_left():
    """Four thousand million entries are announced in 60 bytes: nothing is made of them."""
    data = bytearray(encode(MESSAGES[5]))
    data[-4:] = b"\xff\xff\xff\xff"
    with pytest.raises(WireError, match="items are announced"):
        decode(data)


@pytest.mark.parametrize("entries", [
    (LogEntry(9, 2), LogEntry(11, 2)),
    (LogEntry(8, 3), LogEntry(9, 2)),
    (LogEntry(9, 2),),
    (LogEntry(8, 1),),
])  # fmt: skip
def test_entries_that_can_not_follow_one_another_are_refused(entries):
    with pytest.raises(WireError, match="can't follow"):
        decode(encode(words.Append(previous_index=7, previous_term=2, entries=entries, commit=6, **ENDS)))


@pytest.mark.parametrize("configuration", [
    Configuration((B, A)), Configuration((A,), (C, B)), Configuration((A, A)), Configuration((A,), (Peer(1, "b"),)),
    Configuration((), (A,)),
])  # fmt: skip
def test_configurations_are_sorted_and_name_a_node_once(configuration):
    with pytest.raises(WireError):
        decode(encode(words.InstallSnapshot(snapshot=Snapshot(7, 2, configuration), **ENDS)))


def test_terms_have_an_end_and_nothing_is_of_a_later_one():
    """A member always has a next term to stand in, and no log gets ahead of the term it was sent in."""
    ends = {**ENDS, "term": 5}
    later = [
        words.TransferNow(**{**ENDS, "term": 2**63}),
        words.Append(previous_index=7, previous_term=6, commit=6, **ends),
        words.Append(previous_index=7, previous_term=2, entries=(LogEntry(8, 6),), commit=6, **ends),
        words.InstallSnapshot(snapshot=Snapshot(7, 6, CONFIGURATION), **ends),
    ]
    for message in later:
        with pytest.raises(WireError, match="term"):
            decode(encode(message))
