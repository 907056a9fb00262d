"""What leaders commit, how logs come to agree, what is sent and how much of it, snapshots, unknown outcomes."""

from random import Random

import pytest

from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_conf import bootstrap
from dduomq.cluster.raft_progress import PIPELINE, PROBE, SNAPSHOT
from dduomq.cluster.raft_ready import FOLLOWER, LEADER, HardState, Proposed, Settings, Stored
from dduomq.cluster.raft_refusals import ProposalTooLarge, QuorumBusy
from dduomq.errors import InvariantBroken
from dduomq.limits import RAFT_PROPOSAL_BYTES_MAX
from dduomq.wire.raft_messages import (
    Append,
    Appended,
    AppendRefused,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    LogEntry,
    PreVoteAnswer,
    VoteAnswer,
)
from tests.cluster.quorum import Quorum, peer, until


def commands(quorum, node):
    member = quorum[node]
    return [entry.data for entry in member.log.entries(member.log.base, member.log.last) if entry.data]


def log_of(*terms):
    """Entries behind the bootstrap, one for each term."""
    return tuple(LogEntry(index, term, b"%d.%d" % (index, term)) for index, term in enumerate(terms, 2))


def with_logs(term, **logs):
    """A quorum whose members n1, n2, ... hold these entries."""
    nodes = sorted(int(name[1:]) for name in logs)
    quorum = Quorum(*nodes)
    for node in nodes:
        entries = log_of(*logs[f"n{node}"])
        quorum.disks[node] = Stored(quorum.disks[node].snapshot, HardState(term), entries)
        quorum.start(node)
    return quorum


def test_a_command_is_applied_everywhere_in_one_order():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    assert quorum[1].propose(b"a") == Proposed(2, 3)
    assert quorum[1].propose(b"b") == Proposed(2, 4)
    quorum.settle()
    assert quorum.applied == {1: [b"a", b"b"], 2: [b"a", b"b"], 3: [b"a", b"b"]}


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting():
    """Figure 8: S1 of five has the entry of term 2 on a majority in term 4; S5, with one of term 3, may still win."""
    quorum = with_logs(3, n1=[2], n2=[2], n3=[], n4=[], n5=[3])
    leader = _elected_without_sending(quorum, 1, votes=[2, 3])
    assert leader.term == 4
    for node, match in ((2, 2), (3, 2)):
        leader.step(Appended(source=peer(node), target=peer(1), term=4, match=match))
    assert leader.log.committed == 1, "a majority has it, and yet S5 may take it out"
    leader.step(Appended(source=peer(2), target=peer(1), term=4, match=3))
    assert leader.log.committed == 1
    leader.step(Appended(source=peer(3), target=peer(1), term=4, match=3))
    assert leader.log.committed == 3, "(e): with one of its own term all before it are committed"


def test_figure_8_to_the_bitter_end():
    """(d): as nothing was committed, S5 wins and its entry takes the place; nobody has applied the other."""
    quorum = with_logs(3, n1=[2], n2=[2], n3=[2], n4=[], n5=[3])
    quorum.cut(1)
    quorum.elect(5)
    assert [commands(quorum, node) for node in (2, 3, 4, 5)] == [[b"2.3"]] * 4
    quorum.heal()
    quorum.tick(4)
    assert quorum.applied == {node: [b"2.3"] for node in (1, 2, 3, 4, 5)}


def _elected_without_sending(quorum, node, votes):
    """It wins its term by these votes; what it sends goes nowhere."""
    member = quorum[node]
    for _ in range(20):
        member.tick()
    for kind in (PreVoteAnswer, VoteAnswer):
        quorum.work(node)
        for voter in votes:
            term = member.term + 1 if kind is PreVoteAnswer else member.term
            member.step(kind(source=peer(voter), target=peer(node), term=term, is_granted=True))
    for _ in until(lambda: not quorum.work(node)):
        pass
    quorum.wire.clear()
    assert member.role == LEADER
    return member


def test_the_own_log_counts_only_when_it_is_on_the_disk():
    """One answer of three is a majority only together with the leader's own disk."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    leader = quorum[1]
    before = leader.log.committed
    leader.propose(b"a")
    ready = leader.ready()
    leader.step(Appended(source=peer(2), target=peer(1), term=2, match=leader.log.last))
    assert leader.log.committed == before, "the leader's own entry is not synced yet"
    quorum.persist(1, ready)
    leader.advance()
    assert leader.log.committed == leader.log.last


def test_two_followers_commit_without_the_leaders_own_disk():
    """The leader's slow disk holds up nobody (dissertation 10.2.1)."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    leader = quorum[1]
    leader.propose(b"a")
    leader.ready()
    for node in (2, 3):
        leader.step(Appended(source=peer(node), target=peer(1), term=2, match=leader.log.last))
    assert leader.log.committed == leader.log.last


def test_a_follower_says_what_it_has_in_the_ready_that_writes_it():
    quorum = Quorum(1, 2, 3)
    follower = quorum[2]
    entries = (LogEntry(2, 2), LogEntry(3, 2, b"a"))
    follower.step(Append(
        source=peer(1), target=peer(2), term=2, previous_index=1, previous_term=1, entries=entries, commit=1,
    ))  # fmt: skip
    ready = follower.ready()
    assert ready.entries == entries
    assert ready.messages == (Appended(source=peer(2), target=peer(1), term=2, match=3),)
    assert ready.must_sync


def append(term, previous_index, previous_term, *entries, commit=1):
    return Append(
        source=peer(1), target=peer(2), term=term, previous_index=previous_index, previous_term=previous_term,
        entries=entries, commit=commit,
    )  # fmt: skip


def test_an_append_that_does_not_match_is_refused_with_a_hint():
    """Figure 2, AppendEntries 2, and 5.3: all of a wrong term is passed over at once."""
    quorum = with_logs(9, n1=[], n2=[2, 3, 3, 3], n3=[])
    quorum[2].step(append(9, 4, 2))
    quorum[2].step(append(9, 9, 5))
    quorum.work(2)
    refused = [
        (message.previous_index, message.hint_index, message.hint_term) for message in quorum.sent(AppendRefused)
    ]
    assert refused == [(4, 2, 2), (9, 5, 3)]


def test_conflicting_entries_are_taken_out_and_only_they():
    """Figure 2, AppendEntries 3 and 4."""
    quorum = with_logs(5, n1=[], n2=[2, 2, 3, 3], n3=[])
    quorum[2].step(append(5, 2, 2, LogEntry(3, 2, b"3.2")))
    assert quorum[2].log.last == 5, "an old message with nothing new cuts nothing"
    quorum[2].step(append(5, 3, 2, LogEntry(4, 4, b"x")))
    quorum.work(2)
    assert [(entry.index, entry.term) for entry in quorum.disks[2].entries] == [(2, 2), (3, 2), (4, 4)]


def test_what_is_committed_is_never_taken_out():
    quorum = with_logs(5, n1=[], n2=[2, 2], n3=[])
    quorum[2].step(append(5, 3, 2, commit=3))
    quorum[2].log.commit_to(3)
    with pytest.raises(InvariantBroken, match="committed"):
        quorum[2].log.append([LogEntry(3, 5)])


def test_an_append_from_before_what_is_committed_is_answered_with_that():
    quorum = with_logs(5, n1=[], n2=[2, 2], n3=[])
    quorum[2].step(append(5, 3, 2, commit=3))
    quorum[2].step(append(5, 1, 1, LogEntry(2, 2, b"2.2"), commit=3))
    quorum.work(2)
    assert [message.match for message in quorum.sent(Appended)] == [3, 3]


def test_a_follower_commits_no_more_than_what_it_has_compared():
    """Figure 2, AppendEntries 5: entries behind the message's last one may be another leader's."""
    quorum = with_logs(5, n1=[], n2=[2, 3, 3], n3=[])
    quorum[2].step(append(5, 1, 1, LogEntry(2, 2, b"2.2"), commit=4))
    assert quorum[2].log.committed == 2


@pytest.mark.parametrize("follower", [
    [1, 1, 1, 4, 4, 5, 5, 6, 6],
    [1, 1, 1, 4],
    [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    [1, 1, 1, 4, 4, 4, 4],
    [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
])  # fmt: skip
def test_every_log_of_figure_7_comes_to_agree(follower):
    """And quickly: the leader goes back by terms, not by entries."""
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    quorum = with_logs(7, n1=leader_terms, n2=follower, n3=leader_terms)
    quorum.cut(2)
    quorum.elect(1)
    quorum.heal()
    probes = 0
    for _ in range(4):
        quorum[1].tick()
        quorum.work(1)
        for _ in until(lambda: not quorum.wire):
            probes += sum(isinstance(m, AppendRefused) for m in quorum.wire)
            quorum.deliver()
            for node in (1, 2, 3):
                quorum.work(node)
    assert commands(quorum, 2) == commands(quorum, 1)
    assert quorum.applied[2] == quorum.applied[1]
    assert probes <= 4


def test_a_probe_is_one_message_and_a_pipeline_many():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    leader, progress = quorum[1], quorum[1].leadership.progress
    assert progress[peer(2)].state == PIPELINE
    quorum.cut(2)
    for _ in range(5):
        leader.propose(b"a")
        quorum.work(1)
    to_2 = [message for message in quorum.sent(Append) if message.target == peer(2)]
    assert [len(message.entries) for message in to_2] == [1] * 5
    leader.leadership.progress[peer(2)].probe()
    quorum.wire.clear()
    for _ in range(5):
        leader.propose(b"a")
        quorum.work(1)
    to_2 = [message for message in quorum.sent(Append) if message.target == peer(2)]
    assert len(to_2) == 1
    assert progress[peer(2)].state == PROBE


def test_messages_under_way_and_their_bytes_are_bounded():
    settings = Settings(in_flight_max=3, batch_bytes_max=100, entries_kept=0)
    quorum = Quorum(1, 2, 3, settings=settings)
    quorum.elect(1)
    quorum.wire.clear()
    for _ in range(20):
        quorum[1].propose(b"x" * 60)
    quorum[1].propose(b"y" * 500)  # too large for a message, and sent all the same, alone
    quorum.work(1)
    to_2 = [message for message in quorum.sent(Append) if message.target == peer(2)]
    assert [len(message.entries) for message in to_2] == [1, 1, 1]
    largest = 0
    for _ in until(lambda: not quorum.wire):
        largest = max([largest, *(len(m.entries) for m in quorum.sent(Append) if len(m.entries[:1]))])
        quorum.deliver()
        for node in (1, 2, 3):
            quorum.work(node)
    assert largest == 1
    assert [len(quorum.applied[node]) for node in (1, 2, 3)] == [21, 21, 21]


def test_small_entries_share_a_message():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    for _ in range(50):
        quorum[1].propose(b"a")
    quorum.work(1)
    assert [len(message.entries) for message in quorum.sent(Append)] == [50, 50]


def test_lost_messages_are_found_out_by_a_heartbeat():
    """Nothing else is proposed: the gap shows when the follower answers a heartbeat."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum[1].propose(b"a")
    quorum.work(1)
    quorum.wire.clear()  # all copies are lost
    quorum.tick(6)
    assert quorum.applied == {1: [b"a"], 2: [b"a"], 3: [b"a"]}


def test_a_full_pipeline_that_was_lost_begins_again():
    quorum = Quorum(1, 2, 3, settings=Settings(in_flight_max=2, batch_bytes_max=1, entries_kept=0))
    quorum.elect(1)
    for letter in b"abcdef":
        quorum[1].propose(bytes([letter]))
    quorum.work(1)
    quorum.wire.clear()
    quorum.tick(10)
    assert quorum.applied[2] == quorum.applied[1] == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_a_follower_far_behind_gets_the_snapshot_and_what_follows():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.cut(3)
    for letter in (b"a", b"b", b"c"):
        quorum[1].propose(letter)
    quorum.settle()
    quorum.compact(1, b"abc")
    quorum[1].propose(b"d")
    quorum.settle()
    assert quorum[1].log.base == 5
    quorum.heal()
    quorum.tick(4)
    assert quorum.applied[3] == [b"abc", b"d"]
    assert quorum.disks[3].snapshot == quorum.disks[1].snapshot
    assert quorum[3].log.configuration == quorum[1].log.configuration
    quorum.start(3)
    quorum.tick(4)
    assert quorum.applied[3] == [b"abc", b"d"], "and a restart goes on from there"


def test_entries_behind_a_snapshot_are_kept_for_those_a_little_late():
    quorum = Quorum(1, 2, 3, settings=Settings(entries_kept=2))
    quorum.elect(1)
    quorum.cut(3)
    for letter in (b"a", b"b"):
        quorum[1].propose(letter)
    quorum.settle()
    quorum[1].compact(quorum[1].log.applied, b"ab")
    assert quorum[1].log.base == 2
    quorum.heal()
    quorum.tick(4)
    assert quorum.applied[3] == [b"a", b"b"]


@pytest.mark.parametrize("says_so", [True, False])
def test_a_snapshot_that_got_lost_is_sent_again(says_so):
    """When the transport says so, or by itself after some time."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.cut(3)
    quorum[1].propose(b"a")
    quorum.settle()
    quorum.compact(1, b"a")
    quorum.heal()
    for _ in until(lambda: quorum.sent(InstallSnapshot)):
        quorum[1].tick()
        quorum[3].tick()
        quorum.work(1)
        if not quorum.sent(InstallSnapshot):
            quorum.deliver()
            quorum.work(3)
            quorum.work(2)
    quorum.wire.clear()
    assert quorum[1].leadership.progress[peer(3)].state == SNAPSHOT
    if says_so:
        quorum[1].unreachable(peer(3))
    quorum.tick(1 if says_so else 45)
    assert quorum.applied[3] == [b"a"]


def test_an_old_snapshot_changes_nothing_and_one_that_is_all_here_only_commits():
    quorum = with_logs(5, n1=[], n2=[2, 2, 3], n3=[])
    base = quorum[2].log.snapshot
    configuration = base.configuration
    for index, term, committed in ((1, 1, 1), (3, 2, 3)):
        snapshot = type(base)(index, term, configuration, b"s")
        quorum[2].step(InstallSnapshot(source=peer(1), target=peer(2), term=5, snapshot=snapshot))
        quorum.work(2)
        assert quorum[2].log.last == 4
        assert quorum[2].log.committed == committed
    assert quorum.applied[2] == [b"2.2", b"3.2"]
    assert [message.match for message in quorum.sent(Appended)] == [1, 3]


def test_a_snapshot_takes_out_a_log_that_is_another_one():
    quorum = with_logs(5, n1=[], n2=[2, 2, 2, 2], n3=[])
    configuration = quorum[2].log.configuration
    snapshot = type(quorum[2].log.snapshot)(3, 4, configuration, b"s")
    quorum[2].step(InstallSnapshot(source=peer(1), target=peer(2), term=5, snapshot=snapshot))
    quorum.work(2)
    assert quorum.disks[2].snapshot == snapshot
    assert quorum.disks[2].entries == ()
    assert quorum.applied[2] == [b"s"]
    assert (quorum[2].log.last, quorum[2].log.applied, quorum[2].log.stable) == (3, 3, 3)


def test_no_snapshot_of_what_is_not_applied():
    quorum = Quorum(1)
    quorum.elect(1)
    applied = quorum[1].log.applied
    for wrong in (applied + 1, quorum[1].log.snapshot.index):
        with pytest.raises(InvariantBroken):
            quorum[1].compact(wrong, b"")


def test_a_slow_disk_stops_neither_time_nor_proposals():
    """While a Ready is under way, everything goes on in memory and comes with the next one, in one sync."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum[1].propose(b"a")
    ready = quorum[1].ready()
    for letter in (b"b", b"c"):
        quorum[1].propose(letter)
    quorum[1].tick()
    quorum.persist(1, ready)
    quorum.send(ready)
    quorum[1].advance()
    following = quorum[1].ready()
    assert [entry.data for entry in following.entries] == [b"b", b"c"]


def test_entries_that_were_cut_while_they_were_written_are_not_taken_for_stable():
    quorum = with_logs(5, n1=[], n2=[], n3=[])
    member = quorum[2]
    member.step(append(5, 1, 1, LogEntry(2, 5, b"old"), LogEntry(3, 5, b"old")))
    ready = member.ready()
    member.step(append(6, 1, 1, LogEntry(2, 6, b"new")))
    quorum.persist(2, ready)
    member.advance()
    assert member.log.stable == 1
    quorum.work(2)
    assert [entry.data for entry in quorum.disks[2].entries] == [b"new"]
    assert member.log.stable == 2


def test_who_is_deposed_names_what_it_does_not_know():
    """Neither done nor refused: the next leader decides."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum[1].propose(b"done")
    quorum.settle()
    quorum.cut(1)
    lost = quorum[1].propose(b"lost")
    quorum.tick(20, nodes=[1])
    named = [proposed for ready in quorum.readies[1] for proposed in ready.unknown]
    assert named == [lost]
    quorum.elect(2)
    quorum[2].propose(b"other")
    quorum.settle()
    quorum.heal()
    quorum.tick(4)
    assert quorum.applied[1] == [b"done", b"other"]
    assert quorum[1].log.term_at(lost.index) != lost.term, "so it is surely lost"


def test_proposals_are_bounded():
    quorum = Quorum(1, 2, 3, settings=Settings(uncommitted_bytes_max=100))
    quorum.elect(1)
    for wrong in (b"", bytes(RAFT_PROPOSAL_BYTES_MAX + 1)):
        with pytest.raises(ProposalTooLarge):
            quorum[1].propose(wrong)
    quorum[1].propose(b"x" * 200)  # one alone may be larger
    with pytest.raises(QuorumBusy):
        quorum[1].propose(b"x")
    quorum.settle()
    for _ in range(2):
        quorum[1].propose(b"x" * 50)
    with pytest.raises(QuorumBusy):
        quorum[1].propose(b"x")
    quorum.settle()
    assert [len(data) for data in quorum.applied[2]] == [200, 50, 50]


def test_what_is_applied_at_once_is_bounded():
    quorum = Quorum(1, settings=Settings(apply_bytes_max=100))
    quorum.elect(1)
    for _ in range(5):
        quorum[1].propose(b"x" * 60)
    quorum.settle()
    assert len(quorum.applied[1]) == 5
    assert max(sum(len(entry.data) for entry in ready.committed) for ready in quorum.readies[1]) <= 100


def test_a_vote_does_not_outlive_its_term_when_a_snapshot_brings_a_later_one():
    """A crash came between the snapshot of term 5 and the save that would have said so: the vote was of term 3."""
    base = bootstrap([peer(1), peer(2), peer(3)])
    snapshot = type(base)(7, 5, base.configuration, b"s")
    member = Raft(peer(1), Stored(snapshot, HardState(3, peer(2), 1)), Random(1))
    assert (member.term, member.vote, member.log.committed) == (5, None, 7)


def test_a_log_shorter_than_what_was_committed_stops_the_member():
    base = bootstrap([peer(1)])
    with pytest.raises(InvariantBroken, match="was committed"):
        Raft(peer(1), Stored(base, HardState(3, None, 9)), Random(1))


def test_answers_of_another_term_or_of_strangers_count_nothing():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum[1].propose(b"a")
    quorum.work(1)
    before = quorum[1].log.committed
    for source, term in ((peer(2), 1), (peer(9), 2), (peer(2, "b"), 2)):
        quorum[1].step(Appended(source=source, target=peer(1), term=term, match=3))
        quorum[1].step(HeartbeatAnswer(source=source, target=peer(1), term=term, round=9))
    assert quorum[1].log.committed == before


def test_a_heartbeat_commits_only_what_is_known_to_match():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.cut(3)
    quorum[1].propose(b"a")
    quorum.settle()
    quorum.heal()
    quorum[1].tick()
    quorum[1].tick()
    quorum.work(1)
    commits = {m.target.node: m.commit for m in quorum.sent(Heartbeat)}
    assert commits == {2: 3, 3: 2}
    assert quorum[2].role == FOLLOWER
