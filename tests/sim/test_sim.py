"""Whole nodes in seeded simulation: no seed breaks an invariant, and a seed is a run."""

import os
import subprocess
import sys

import pytest

from dduomq.errors import DduomqError
from dduomq.log.plog import PartitionLog
from dduomq.log.producers import Producers
from dduomq.testing.checker import Acked, History, Mark, Seen, Violation, check
from dduomq.testing.sim import simulate

SEEDS = 200
GROUP = 10


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_no_seed_breaks_an_invariant(first):
    """Kills, power losses, torn and lost writes: what was promised holds, and service comes back."""
    for seed in range(first, first + GROUP):
        outcome = simulate(seed)
        assert outcome.acked, f"seed {seed} acknowledged nothing"
        assert outcome.kills + outcome.power_losses, f"seed {seed} never crashed"


def test_the_same_seed_is_the_same_run_in_every_process():
    """To the last event, whatever the hash seed of the process."""
    code = "from dduomq.testing.sim import simulate; print(simulate(7).trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(traces) == 1


def test_different_seeds_are_different_runs():
    """The seed decides."""
    assert simulate(1).trace != simulate(2).trace


# --- known bugs, planted: the simulation must find each within a few seeds ----------------------------


def _no_duplicates(self, header, overlay):
    """Mutant: a retry is taken for a new batch."""


def _plan_flush_that_does_nothing(original):
    def plan_flush(self):
        flush = original(self)
        if flush is None:
            return None

        class Nothing:
            end_offset = flush.end_offset

            @staticmethod
            def run(_files):
                """Nothing is synced."""

        return Nothing

    return plan_flush


MUTANTS = {
    "ack before the sync": (PartitionLog, "plan_flush", _plan_flush_that_does_nothing(PartitionLog.plan_flush)),
    "retries are stored again": (Producers, "check", _no_duplicates),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bugs_are_caught(monkeypatch, name):
    """A simulation that can't fail proves nothing."""
    owner, attribute, mutant = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, mutant)
    for seed in range(40):
        try:
            simulate(seed)
        except (Violation, DduomqError):
            return
        except BaseExceptionGroup:
            return
    pytest.fail(f"the simulation did not catch: {name}")


# --- the checker itself -------------------------------------------------------------------------------


def _history(**fields):
    history = History(durability={"t": "fsync"}, final={("t", 0): [(0, "a:1"), (1, "a:2")]})
    for name, value in fields.items():
        setattr(history, name, value)
    return history


def test_a_good_history_passes():
    """The checker has no objection to what is right."""
    check(_history(acked=[Acked("t", 0, 0, "a", 1, 0), Acked("t", 0, 1, "a", 2, 0)]))


SWAPPED = {("t", 0): [(0, "a:2"), (1, "a:1")]}


@pytest.mark.parametrize(
    ("invariant", "fields"),
    [
        ("I1", {"acked": [Acked("t", 0, 5, "a", 1, 0)]}),
        ("I2", {"seen": [Seen("t", 0, 0, "a:1", 0), Seen("t", 0, 0, "b:1", 0)]}),
        ("I3", {"acked": [Acked("t", 0, 1, "a", 1, 0), Acked("t", 0, 0, "a", 2, 0)], "final": SWAPPED}),
        ("I4", {"final": {("t", 0): [(0, "a:1"), (2, "a:2")]}}),
        ("I5", {"seen": [Seen("t", 0, 1, "gone", 0)]}),
        ("I6", {"marks": [Mark("t", 0, 5, 0), Mark("t", 0, 4, 1)]}),
        ("I9", {"final": {("t", 0): [(0, "a:1"), (1, "a:1")]}}),
    ],
)  # fmt: skip
def test_the_checker_sees_each_violation(invariant, fields):
    """One bad history for each invariant."""
    with pytest.raises(Violation, match=invariant):
        check(_history(**fields))
