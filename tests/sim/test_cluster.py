"""Clusters in seeded simulation: no seed breaks an invariant, a seed is a run, and planted bugs are found."""

import os
import socket
import subprocess
import sys
import threading
from collections import Counter

import pytest

from dduomq.testing.cluster_sim import simulate_cluster
from tests.sim.cluster_mutants import CLUSTER_MUTANTS

SEEDS = 300
GROUP = 5
FAULTS = {
    "stop", "kill", "power loss", "blackout", "silence", "cut off", "cut one way", "two cut from each other",
    "broken connection", "clock jump", "metadata outage", "full disk", "failing sync", "slow disk",
    "flipped bit in a log", "flipped bit in a hint", "new leader", "reassignment", "preferred leaders", "drained node",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_no_seed_breaks_an_invariant(first):
    """Whatever happens to a minority of the nodes: what was promised holds, and everything comes back."""
    for seed in range(first, first + GROUP):
        outcome = simulate_cluster(seed)
        assert outcome.acked, f"seed {seed} acknowledged nothing"
        assert outcome.read, f"seed {seed} read nothing"


@pytest.mark.slow
def test_every_kind_of_fault_happens():
    """A fault that is never injected proves nothing."""
    happened = Counter()
    for seed in range(SEEDS):
        happened.update({kind: count for kind, count in simulate_cluster(seed).faults.items() if count})
        if not FAULTS - set(happened):
            return
    pytest.fail(f"never injected: {FAULTS - set(happened)}")


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_in_every_process():
    """To the last event, whatever the hash seed of the process."""
    code = f"from dduomq.testing.cluster_sim import simulate_cluster as s; print(*(s(seed).trace for seed in {TOLD}))"
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1
    assert traces == {" ".join(simulate_cluster(seed).trace for seed in TOLD) + "\n"}


TOLD = (1, 4)  # one with its metadata inside, one with an engine outside


@pytest.mark.slow
def test_no_thread_socket_or_file_is_used(monkeypatch):
    """Everything a run does happens in memory, in one thread, on the virtual clock."""
    expected = simulate_cluster(3).trace  # whatever is imported when it is first used has been imported

    def refuse(*_arguments, **_options):
        raise AssertionError("the simulation has left its world")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "pwritev", refuse)
    assert simulate_cluster(3).trace == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTER_MUTANTS)
def test_planted_bugs_are_found(monkeypatch, name):
    """A simulation that can't fail proves nothing."""
    mutant = CLUSTER_MUTANTS[name]
    for owner, attribute, replacement in mutant.changes:
        monkeypatch.setattr(owner, attribute, replacement)
    for seed in mutant.seeds:
        try:
            simulate_cluster(seed)
        except (Exception, BaseExceptionGroup):  # a violation, a crash, or no service within the time to heal
            return
    pytest.fail(f"the simulation did not find: {name}")
