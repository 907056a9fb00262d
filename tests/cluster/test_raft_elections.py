"""Who leads, and who does not: votes, pre-votes, leases, check-quorum, transfer."""

import pytest

from dduomq.cluster.raft_ready import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, HardState
from dduomq.cluster.raft_refusals import InvalidChange, LeaderHandsOver, NoQuorumLeader, NotQuorumLeader
from dduomq.errors import InvariantBroken
from dduomq.wire.raft_messages import Append, Heartbeat, PreVote, PreVoteAnswer, TransferNow, Vote, VoteAnswer
from tests.cluster.quorum import Quorum, peer, until


def vote(source, target, term, last_index=1, last_term=1, is_transfer=False):
    return Vote(
        source=peer(source), target=peer(target), term=term,
        last_index=last_index, last_term=last_term, is_transfer=is_transfer,
    )  # fmt: skip


def answers(quorum, node, kind):
    quorum.work(node)
    found = [message.is_granted for message in quorum.sent(kind) if message.source.node == node]
    quorum.wire.clear()
    return found


def test_three_members_elect_one_leader():
    quorum = Quorum(1, 2, 3)
    quorum.tick(40)
    leaders = [node for node in (1, 2, 3) if quorum[node].role == LEADER]
    assert len(leaders) == 1
    assert {quorum[node].leader for node in (1, 2, 3)} == {peer(leaders[0])}
    assert {quorum[node].term for node in (1, 2, 3)} == {2}


def test_one_voter_leads_alone_and_commits_when_it_is_on_the_disk():
    quorum = Quorum(1)
    quorum.elect(1)
    quorum[1].propose(b"a")
    ready = quorum[1].ready()
    assert [entry.data for entry in ready.entries] == [b"a"]
    assert ready.committed == (), "nothing is committed before the sync"
    quorum.persist(1, ready)
    quorum[1].advance()
    quorum.settle()
    assert quorum.applied[1] == [b"a"]


def test_the_own_vote_counts_when_it_is_on_the_disk():
    """A lone voter that led before that, and crashed, could lead in the same term again with another log."""
    quorum = Quorum(1)
    for _ in until(lambda: quorum[1].role != FOLLOWER):
        quorum[1].tick()
    assert (quorum[1].role, quorum[1].term) == (CANDIDATE, 2)
    ready = quorum[1].ready()
    assert quorum[1].role == CANDIDATE
    quorum.persist(1, ready)
    quorum[1].advance()
    assert quorum[1].role == LEADER


def test_a_member_has_one_vote_a_term():
    """Figure 2, RequestVote: the first that asks gets it, and again if its question comes again."""
    quorum = Quorum(1, 2, 3)
    quorum[1].step(vote(2, 1, 5))
    assert answers(quorum, 1, VoteAnswer) == [True]
    quorum[1].step(vote(3, 1, 5))
    quorum[1].step(vote(2, 1, 5))
    assert answers(quorum, 1, VoteAnswer) == [False, True]


def test_a_vote_is_known_again_after_a_crash():
    quorum = Quorum(1, 2, 3)
    quorum[1].step(vote(2, 1, 5))
    assert answers(quorum, 1, VoteAnswer) == [True]
    quorum.start(1)
    quorum[1].step(vote(3, 1, 5))
    assert answers(quorum, 1, VoteAnswer) == [False]


def test_a_vote_leaves_together_with_what_makes_it_durable():
    """The answer and the hard state are in one Ready: the disk comes first there."""
    quorum = Quorum(1, 2, 3)
    quorum[1].step(vote(2, 1, 5))
    ready = quorum[1].ready()
    assert ready.hard_state == HardState(5, peer(2), 1)
    assert ready.must_sync
    assert [type(message) for message in ready.messages] == [VoteAnswer]


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"), [(9, 1, False), (2, 2, True), (1, 3, True), (1, 2, False)]
)
def test_a_shorter_log_gets_no_vote(last_index, last_term, granted):
    """5.4.1: the later last term wins, then the longer log."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    assert (quorum[2].log.last, quorum[2].log.last_term) == (2, 2)
    quorum[2]._silence = 10
    quorum[2].step(vote(3, 2, 9, last_index, last_term))
    assert answers(quorum, 2, VoteAnswer) == [granted]


def test_a_member_that_was_cut_off_does_not_depose_the_leader_when_it_is_back():
    """Dissertation 9.6: pre-votes change nobody's term, so time alone makes none."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.cut(3)
    quorum.tick(100)
    assert quorum[3].role in {FOLLOWER, PRE_CANDIDATE}
    assert quorum[3].term == 2
    quorum[1].propose(b"a")
    quorum.settle()
    quorum.heal()
    quorum.tick(30)
    assert quorum[1].role == LEADER
    assert [quorum[node].term for node in (1, 2, 3)] == [2, 2, 2]
    assert quorum.applied[3] == [b"a"]


def test_who_hears_a_leader_gives_no_vote_and_keeps_its_term():
    """4.2.3: neither a vote nor a pre-vote, until the shortest election time-out has passed in silence."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    asked = PreVote(source=peer(3), target=peer(2), term=3, last_index=9, last_term=9)
    for _ in range(9):
        quorum[2].step(asked)
        quorum[2].step(vote(3, 2, 7, 9, 9))
        assert answers(quorum, 2, PreVoteAnswer | VoteAnswer) == []
        assert quorum[2].term == 2
        quorum[2].tick()
    quorum[2].tick()
    quorum[2].step(asked)
    assert answers(quorum, 2, PreVoteAnswer) == [True]


def test_who_has_no_vote_forgets_a_silent_leader_too():
    """The lease of a learner lapses: the bug that made one refuse votes for ever because it set its clock anew."""
    quorum = Quorum(1, 2, 3, outside=(4,))
    quorum.elect(1)
    quorum[4].step(Heartbeat(source=peer(1), target=peer(4), term=2, commit=0, round=0))
    quorum.work(4)
    quorum.wire.clear()
    assert quorum[4].leader == peer(1)
    for _ in range(25):
        quorum[4].tick()
    quorum.work(4)
    assert quorum[4].leader is None
    assert quorum[4].role == FOLLOWER, "and it does not stand, either"
    quorum[4].step(vote(2, 4, 7, 9, 9))
    assert answers(quorum, 4, VoteAnswer) == [True]


def test_a_leader_without_a_majority_steps_down():
    """Check-quorum, 6.2: within two election time-outs, and who asks is told that there is no leader."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.cut(1)
    quorum.tick(20, nodes=[1])
    assert quorum[1].role == FOLLOWER
    with pytest.raises(NoQuorumLeader):
        quorum[1].propose(b"a")


def test_a_leader_with_a_majority_stays():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.crash(3)
    quorum.tick(100)
    assert quorum[1].role == LEADER


def test_proposals_go_to_the_leader_only():
    quorum = Quorum(1, 2, 3)
    with pytest.raises(NoQuorumLeader):
        quorum[2].propose(b"a")
    quorum.elect(1)
    with pytest.raises(NotQuorumLeader, match="1@a"):
        quorum[2].propose(b"a")


def test_a_candidate_that_is_refused_by_a_majority_stops():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.cut(3)
    quorum[1].propose(b"a")
    quorum.settle()
    for node in (1, 2):  # both have forgotten the leader, and their logs are longer
        quorum.crash(node)
        quorum.start(node)
    quorum.heal()
    for _ in range(20):
        quorum[3].tick()
        quorum.settle()
    assert quorum[3].role == FOLLOWER
    assert quorum[3].term == 2


def test_who_is_in_a_later_term_brings_it_to_the_leader():
    """A member that stood in vain and then hears the leader of an earlier term: that one learns of the term."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.disks[3] = type(quorum.disks[3])(quorum.disks[3].snapshot, HardState(7, peer(3)), quorum.disks[3].entries)
    quorum.start(3)
    quorum.tick(60)
    assert {quorum[node].term for node in (1, 2, 3)} == {8}
    assert [quorum[node].role for node in (1, 2, 3)].count(LEADER) == 1


def test_a_leader_hands_over_when_the_other_has_all():
    """3.10: TransferNow waits for the log; the vote is given although a leader is heard."""
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum[1].propose(b"a")
    quorum[1].transfer(peer(3))
    with pytest.raises(LeaderHandsOver):
        quorum[1].propose(b"b")
    quorum.work(1)
    assert not quorum.sent(TransferNow)
    quorum.settle()
    assert [quorum[node].role for node in (1, 2, 3)] == [FOLLOWER, FOLLOWER, LEADER]
    assert [quorum.applied[node] for node in (1, 2, 3)] == [[b"a"]] * 3


def test_a_transfer_that_does_not_come_about_ends():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum.crash(3)
    quorum[1].transfer(peer(3))
    quorum.tick(11)
    quorum[1].propose(b"a")
    quorum.settle()
    assert quorum.applied[1] == [b"a"]


def test_only_another_voter_can_be_handed_to():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    for wrong in (peer(1), peer(9), peer(2, "b")):
        with pytest.raises(InvalidChange):
            quorum[1].transfer(wrong)


def test_a_message_for_another_disk_of_this_node_is_not_taken():
    """Identity is node and directory: whoever had the old disk may have promised something."""
    quorum = Quorum(1, 2, 3)
    message = vote(2, 1, 5)
    quorum[1].step(type(message)(
        source=peer(2), target=peer(1, "b"), term=5, last_index=1, last_term=1,
    ))  # fmt: skip
    assert quorum[1].term == 1
    assert answers(quorum, 1, VoteAnswer) == []


def test_two_leaders_in_a_term_stop_the_member():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    with pytest.raises(InvariantBroken, match="two leaders"):
        quorum[2].step(Append(source=peer(3), target=peer(2), term=2, previous_index=1, previous_term=1, commit=0))


def test_a_candidate_gives_way_to_the_leader_of_its_term():
    quorum = Quorum(1, 2, 3)
    for _ in range(20):
        quorum[1].tick()
    quorum.work(1)
    quorum[1].step(PreVoteAnswer(source=peer(2), target=peer(1), term=2, is_granted=True))
    assert quorum[1].role == CANDIDATE
    quorum[1].step(Heartbeat(source=peer(3), target=peer(1), term=2, commit=1, round=0))
    assert quorum[1].role == FOLLOWER
    assert quorum[1].leader == peer(3)


def test_a_ready_must_be_done_before_the_next():
    quorum = Quorum(1)
    with pytest.raises(InvariantBroken):
        quorum[1].advance()
    quorum[1].ready()
    with pytest.raises(InvariantBroken):
        quorum[1].ready()
