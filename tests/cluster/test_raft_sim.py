"""A quorum in seeded simulation: no seed breaks an invariant, a seed is a run, and planted bugs are found."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from dduomq.testing.raft_sim import simulate
from tests.cluster.raft_mutants import RAFT_MUTANTS, SEEDS_NEEDED

SEEDS = 300
GROUP = 30
SEEDS_FOR_A_MUTANT = 200
MUST_HAPPEN = {
    "elections", "commits", "reads", "snapshots received", "compactions", "changes", "transfers", "unknown outcomes",
    "power losses", "kills", "torn saves", "messages lost", "messages twice", "slow disks", "slow clocks",
    "cuts in", "cuts out", "cuts both", "ChangeUnderWay", "LearnerBehind", "LeaderHandsOver", "QuorumBusy",
}  # fmt: skip


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_no_seed_breaks_an_invariant(first):
    """Whatever happens to members, disks and network; and when it is over, all of them agree."""
    commits = [simulate(seed).seen["commits"] for seed in range(first, first + GROUP)]
    assert min(commits) > 0
    assert sum(commits) > 20 * GROUP


def test_everything_happens():
    """What never happens is not proven."""
    seen = Counter()
    for seed in range(SEEDS):
        seen.update(simulate(seed).seen)
        if set(seen) >= MUST_HAPPEN:
            return
    pytest.fail(f"never seen: {MUST_HAPPEN - set(seen)}")


def test_the_same_seed_is_the_same_run_in_every_process():
    """Whatever the hash seed of the process; and another seed is another run."""
    code = "from dduomq.testing.raft_sim import simulate; print(simulate(7).trace, simulate(12).trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert traces == {f"{simulate(7).trace} {simulate(12).trace}\n"}
    assert simulate(1).trace != simulate(2).trace


def test_it_is_written_down_how_long_each_planted_bug_took():
    assert list(SEEDS_NEEDED) == list(RAFT_MUTANTS)
    assert max(SEEDS_NEEDED.values()) < SEEDS_FOR_A_MUTANT


@pytest.mark.parametrize("name", RAFT_MUTANTS)
def test_planted_bugs_are_found(monkeypatch, name):
    """A simulation that can't fail proves nothing."""
    for owner, attribute, mutant in RAFT_MUTANTS[name]:
        monkeypatch.setattr(owner, attribute, mutant)
    for seed in range(SEEDS_FOR_A_MUTANT):
        try:
            simulate(seed)
        except Exception as error:  # an invariant, a crash of the machine, or no agreement at the end
            print(f"{name}: {seed + 1} seeds; {error}")
            return
    pytest.fail(f"the simulation did not find: {name}")
