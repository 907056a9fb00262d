"""How members come and go: one at a time, learners first, and what becomes of who was removed."""

from itertools import combinations

import pytest

from dduomq.cluster.raft_conf import AddLearner, Promote, Remove, bootstrap, changed, has_quorum, quorum, reached
from dduomq.cluster.raft_ready import FOLLOWER, LEADER, PRE_CANDIDATE, HardState, Settings, Stored
from dduomq.cluster.raft_refusals import ChangeUnderWay, InvalidChange, LearnerBehind
from dduomq.wire.raft_messages import Append, Configuration, LogEntry, Vote
from tests.cluster.quorum import Quorum, peer, until


def of(*voters, learners=()):
    return Configuration(tuple(map(peer, voters)), tuple(map(peer, learners)))


# --- configurations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_majority(voters, needed):
    configuration = of(*range(voters))
    assert quorum(configuration) == needed
    assert has_quorum(configuration, map(peer, range(needed)))
    assert not has_quorum(configuration, map(peer, range(needed - 1)))


def test_learners_do_not_count():
    configuration = of(1, 2, 3, learners=[4, 5])
    assert not has_quorum(configuration, map(peer, (1, 4, 5)))
    assert reached(configuration, {peer(1): 5, peer(4): 9, peer(5): 9, peer(2): 3}) == 3
    assert reached(of(learners=[4]), {peer(4): 9}) == 0


def test_changes_are_by_one_and_keep_a_majority_in_common():
    """Figure 4.3: any majority before and any after share a member."""
    before = of(1, 2, 3, 4, learners=[5])
    for change in (Promote(peer(5)), Remove(peer(1))):
        after = changed(before, change)
        for old in combinations(before.voters, quorum(before)):
            for new in combinations(after.voters, quorum(after)):
                assert set(old) & set(new)


@pytest.mark.parametrize("change", [
    AddLearner(peer(1)), AddLearner(peer(1, "b")), AddLearner(peer(3)), Promote(peer(1)), Promote(peer(9)),
    Remove(peer(9)), Remove(peer(1, "b")), Remove(peer(1)),
])  # fmt: skip
def test_what_can_not_be_changed(change):
    with pytest.raises(InvalidChange):
        changed(of(1, learners=[3]), change)


def test_a_quorum_begins_the_same_everywhere():
    assert bootstrap([peer(2), peer(1)]) == bootstrap([peer(1), peer(2)])
    for wrong in ([], [peer(1), peer(1, "b")]):
        with pytest.raises(InvalidChange):
            bootstrap(wrong)


# --- changes ----------------------------------------------------------------------------------------


def grown():
    """Three voters; a fourth node is up and knows nothing."""
    members = Quorum(1, 2, 3, outside=(4,))
    members.elect(1)
    return members


def change(members, node, what):
    proposed = members[node].change(what)
    members.settle()
    return proposed


def test_a_learner_gets_everything_and_counts_for_nothing():
    members = grown()
    members[1].propose(b"a")
    change(members, 1, AddLearner(peer(4)))
    members.tick(4)
    assert members.applied[4] == [b"a"]
    assert members[4].log.configuration == of(1, 2, 3, learners=[4])
    members.cut(2, 3)
    members[1].propose(b"b")
    members.settle()
    assert members.applied[1] == [b"a"], "the leader and a learner are no majority"
    members.tick(20, nodes=[1, 4])
    assert members[1].role == FOLLOWER, "nor do they keep a leader"
    members.tick(50, nodes=[4])
    assert members[4].role == FOLLOWER, "and a learner does not stand"


def test_a_learner_is_promoted_and_then_counts():
    members = grown()
    change(members, 1, AddLearner(peer(4)))
    members.tick(4)
    change(members, 1, Promote(peer(4)))
    assert members[4].log.configuration == of(1, 2, 3, 4)
    members.cut(3)
    members[1].propose(b"a")
    members.settle()
    assert members.applied[4] == [b"a"]
    members.cut(2)
    members[1].propose(b"b")
    members.settle()
    assert members.applied[1] == [b"a"], "two of four are no majority"


def test_a_learner_that_is_far_behind_is_not_promoted():
    members = Quorum(1, 2, 3, outside=(4,), settings=Settings(learner_lag_max=2))
    members.elect(1)
    members.crash(4)
    change(members, 1, AddLearner(peer(4)))
    for _ in range(5):
        members[1].propose(b"a")
    members.settle()
    with pytest.raises(LearnerBehind):
        members[1].change(Promote(peer(4)))
    members.start(4)
    members.tick(4)
    change(members, 1, Promote(peer(4)))
    assert members[1].log.configuration == of(1, 2, 3, 4)


def test_one_change_at_a_time():
    members = grown()
    members[1].change(AddLearner(peer(4)))
    with pytest.raises(ChangeUnderWay):
        members[1].change(Remove(peer(3)))
    members.settle()
    change(members, 1, Remove(peer(3)))
    assert members[2].log.configuration == of(1, 2, learners=[4])


def test_no_change_before_the_leader_has_committed_an_entry_of_its_term():
    """Ongaro's correction of 2015: else changes of two leaders may have no majority in common."""
    members = grown()
    members.crash(1)
    for node in (2, 3):
        members[node]._silence = 10
    for _ in until(lambda: members[2].role == LEADER):
        members[2].tick()
        members.work(2)
        members.wire = [m for m in members.wire if not isinstance(m, Append)]
        members.deliver()
        members.work(3)
        members.deliver()
    with pytest.raises(ChangeUnderWay):
        members[2].change(AddLearner(peer(4)))
    members.tick(4)
    change(members, 2, AddLearner(peer(4)))
    assert members[3].log.configuration == of(1, 2, 3, learners=[4])


def test_a_change_that_is_cut_out_of_the_log_is_undone():
    """The configuration in force is the log's last one, so it goes with its entry."""
    members = grown()
    members.cut(1)
    members[1].change(Remove(peer(3)))
    members.work(1)
    assert members[1].log.configuration == of(1, 2)
    members.elect(2)
    members.heal()
    members.tick(4)
    assert members[1].log.configuration == of(1, 2, 3)


def test_a_leader_that_is_removed_leads_until_that_is_committed():
    """4.2.2: it does not count itself, says what it has committed, and leaves the lead to another."""
    members = grown()
    members[1].change(Remove(peer(1)))
    members.work(1)
    assert members[1].role == LEADER
    before = members[1].log.committed
    for message in members.sent(Append):
        if message.target == peer(2):
            members[2].step(message)
    members.wire.clear()
    members.work(2)
    members.deliver()
    assert members[1].log.committed == before, "itself and one of two are no majority of the two"
    members.tick(4)
    assert members[1].role == FOLLOWER
    assert [members[node].role for node in (2, 3)].count(LEADER) == 1
    assert members[2].log.configuration == of(2, 3)
    members.tick(100, nodes=[1])
    assert members[1].role == FOLLOWER
    assert members[1].term <= members[2].term


def test_a_removed_leader_may_be_the_only_one_that_can_commit_its_removal():
    """Figure 4.6: of two, the other's log is shorter. It stands again, by the other's vote alone."""
    members = Quorum(1, 2)
    members.elect(1)
    members[1].change(Remove(peer(1)))
    members.work(1)
    members.wire.clear()
    for node in (1, 2):
        members.crash(node)
        members.start(node)
    assert members[1].log.configuration == of(2)
    for _ in range(40):
        members[2].tick()
        members.settle()
    assert members[2].role != LEADER, "its log is too short for the vote of the first"
    members.tick(60)
    assert members[2].role == LEADER
    assert members[2].log.configuration == of(2)
    assert members[1].role == FOLLOWER
    members[2].propose(b"a")
    members.settle()
    assert members.applied[2] == [b"a"]


def test_a_candidate_that_is_removed_stands_no_more():
    """It stood when its removal came: it follows, its log says that it has no vote, and it never leads again."""
    members = grown()
    members.cut(3)
    change(members, 1, Remove(peer(3)))
    members.tick(20, nodes=[3])
    assert members[3].role == PRE_CANDIDATE
    removal = members[1].log.entries(2, members[1].log.last)
    members[3].step(Append(
        source=peer(1), target=peer(3), term=2, previous_index=2, previous_term=2, entries=removal,
        commit=removal[-1].index,
    ))  # fmt: skip
    members.heal()
    members.tick(100, nodes=[3])
    assert members[3].role == FOLLOWER
    assert members[3].term == 2
    assert members[1].role == LEADER


def test_who_was_removed_and_does_not_know_it_disturbs_nobody():
    """4.2.3: it asks and asks, and those that hear their leader do not listen; nor has it the log for it."""
    members = grown()
    members.cut(3)
    change(members, 1, Remove(peer(3)))
    members.heal()
    members.tick(100)
    assert members[1].role == LEADER
    assert members[1].term == 2
    assert members[3].role != LEADER


def test_who_is_in_no_configuration_does_not_stand_and_votes_all_the_same():
    """Whoever asks may be a voter by an entry that has not come here yet (4.1)."""
    members = Quorum(1, 2, 3, outside=(4,))
    members.tick(50, nodes=[4])
    assert members[4].role == FOLLOWER
    members[4].step(Vote(source=peer(2), target=peer(4), term=5, last_index=1, last_term=1))
    members.work(4)
    assert members.disks[4].hard_state == HardState(5, peer(2), 0)


def test_a_transfer_to_who_is_removed_ends_at_once():
    members = grown()
    leadership = members[1].leadership
    members[1].change(Remove(peer(3)))
    leadership.transferring = peer(3)
    leadership.configure()
    assert leadership.transferring is None


def test_a_new_disk_is_a_new_member():
    """The node comes back with an empty directory: it is added as a learner when its old self is out."""
    members = grown()
    members.crash(3)
    with pytest.raises(InvalidChange, match="remove it before"):
        members[1].change(AddLearner(peer(3, "new")))
    change(members, 1, Remove(peer(3)))
    members[1].propose(b"a")
    change(members, 1, AddLearner(peer(3, "new")))
    assert members[1].log.configuration.learners == (peer(3, "new"),)


def test_members_survive_a_restart_and_a_compaction():
    members = grown()
    change(members, 1, AddLearner(peer(4)))
    members.tick(4)
    members.start(4)
    assert members[4].log.configuration == of(1, 2, 3, learners=[4])
    members.tick(4)
    members.compact(4, b"s")
    members.start(4)
    assert members[4].log.configuration == of(1, 2, 3, learners=[4])


def test_a_configuration_in_a_snapshot_is_of_its_index():
    """A change behind the snapshot is not in it."""
    members = grown()
    members[1].propose(b"a")
    members.settle()
    index = members[1].log.applied
    change(members, 1, AddLearner(peer(4)))
    snapshot = members[1].compact(index, b"a")
    assert snapshot.configuration == of(1, 2, 3)
    assert members[1].log.configuration == of(1, 2, 3, learners=[4])


def test_a_stored_log_brings_its_configuration():
    base = bootstrap([peer(1), peer(2)])
    entries = (LogEntry(2, 2, configuration=of(1, 2, learners=[3])), LogEntry(3, 2, b"a"))
    members = Quorum(1, 2)
    members.disks[1] = Stored(base, HardState(2), entries)
    members.start(1)
    assert members[1].log.configuration == of(1, 2, learners=[3])
