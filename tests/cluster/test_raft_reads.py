"""Reads without a log entry: only a leader that a majority has just heard may say from where (dissertation 6.4)."""

import pytest

from dduomq.cluster.raft_conf import AddLearner
from dduomq.cluster.raft_ready import ReadIndex
from dduomq.cluster.raft_refusals import NoQuorumLeader, QuorumBusy
from dduomq.limits import RAFT_READS_MAX
from dduomq.wire.raft_messages import Append, Heartbeat, HeartbeatAnswer, ReadAnswer
from tests.cluster.quorum import Quorum, peer, until


def led():
    quorum = Quorum(1, 2, 3)
    quorum.elect(1)
    quorum[1].propose(b"a")
    quorum.settle()
    return quorum


def test_a_leader_reads_after_a_round_of_heartbeats():
    quorum = led()
    quorum[1].read(7)
    quorum.work(1)
    assert quorum.reads[1] == []
    quorum.settle()
    assert quorum.reads[1] == [ReadIndex(7, 3)]


def test_a_follower_asks_the_leader():
    quorum = led()
    quorum[2].read(8)
    quorum.settle()
    assert quorum.reads[2] == [ReadIndex(8, 3)]
    assert quorum.reads[1] == []


def test_one_voter_needs_nobody():
    quorum = Quorum(1)
    quorum.elect(1)
    quorum[1].read(1)
    quorum.settle()
    assert quorum.reads[1] == [ReadIndex(1, 2)]


def test_a_deposed_leader_that_does_not_know_it_answers_no_read():
    """The others have elected and committed without it; its own index would be of the past."""
    quorum = led()
    quorum.cut(1)
    quorum.elect(2)
    quorum[2].propose(b"b")
    quorum.settle()
    assert quorum[1].leadership is not None, "it believes that it leads"
    quorum[1].read(9)
    quorum.tick(5, nodes=[1])
    assert quorum.reads[1] == []
    quorum.tick(20, nodes=[1])
    lost = [context for ready in quorum.readies[1] for context in ready.lost_reads]
    assert lost == [9], "and when it knows, it says so"
    quorum.heal()
    quorum.tick(4)
    quorum[1].read(10)
    quorum.settle()
    assert quorum.reads[1] == [ReadIndex(10, quorum[2].log.committed)]


def test_answers_to_an_earlier_round_prove_nothing():
    """They may have been given before the read was asked for."""
    quorum = led()
    quorum[1].read(1)
    quorum.settle()
    quorum[1].read(2)
    quorum.work(1)
    number = quorum[1].leadership.reads.number
    for node in (2, 3):
        quorum[1].step(HeartbeatAnswer(source=peer(node), target=peer(1), term=2, round=number - 1))
    quorum.work(1)
    assert ReadIndex(2, 3) not in quorum.reads[1]
    quorum[1].step(HeartbeatAnswer(source=peer(2), target=peer(1), term=2, round=number))
    quorum.work(1)
    assert ReadIndex(2, 3) in quorum.reads[1]


def test_a_new_leader_reads_nothing_before_it_has_committed_in_its_term():
    """6.4: until then it does not know how far its predecessor had come."""
    quorum = led()
    quorum.crash(1)
    for node in (2, 3):
        quorum[node]._silence = 10
    for _ in until(lambda: quorum[2].leadership is not None):
        quorum[2].tick()
        quorum.work(2)
        quorum.wire = [message for message in quorum.wire if not isinstance(message, Append)]
        quorum.deliver()
        quorum.work(3)
        quorum.deliver()
    quorum[2].read(3)
    for _ in range(3):
        quorum[2].tick()
        quorum.work(2)
        quorum.wire = [message for message in quorum.wire if isinstance(message, Heartbeat)]
        quorum.deliver()
        quorum.work(3)
        quorum.deliver()
    assert quorum.reads[2] == []
    quorum.tick(4)
    assert quorum.reads[2] == [ReadIndex(3, 4)]


def test_many_reads_share_a_round():
    quorum = led()
    for context in range(100):
        quorum[1].read(context)
    quorum.work(1)
    assert len(quorum.sent(Heartbeat)) == 2
    quorum.settle()
    assert len(quorum.reads[1]) == 100


def test_a_learner_reads_too_and_confirms_nothing():
    quorum = Quorum(1, 2, 3, outside=(4,))
    quorum.elect(1)
    quorum[1].change(AddLearner(peer(4)))
    quorum.tick(4)
    quorum[4].read(5)
    quorum.settle()
    assert quorum.reads[4] == [ReadIndex(5, 3)]
    quorum.cut(2, 3)
    quorum[1].read(6)
    quorum.tick(5)
    assert quorum.reads[1] == []


def test_reads_are_bounded_and_need_a_leader():
    quorum = Quorum(1, 2, 3)
    with pytest.raises(NoQuorumLeader):
        quorum[1].read(1)
    quorum.elect(1)
    for context in range(RAFT_READS_MAX):
        quorum[1].read(context)
    with pytest.raises(QuorumBusy):
        quorum[1].read(0)
    quorum[2].read(1)  # it asks, and is not answered: it asks again one day
    quorum.work(2)
    quorum.deliver()
    quorum.work(1)
    assert not quorum.sent(ReadAnswer)
