"""Whole nodes in seeded simulation: no seed breaks an invariant, a seed is a run, and planted bugs are found."""

import os
import socket
import subprocess
import sys
import threading
from collections import Counter

import pytest

from dduomq.testing.sim import simulate
from tests.sim.delay_mutants import DELAY_MUTANTS
from tests.sim.group_mutants import GROUP_MUTANTS
from tests.sim.mutants import MUTANTS
from tests.sim.queue_mutants import QUEUE_MUTANTS

SEEDS = 200
GROUP = 10
SEEDS_FOR_A_MUTANT = 240
FAULTS = {
    "stop", "kill", "power loss", "broken connection", "clock jump", "full disk", "failing sync", "slow disk",
    "actor crash", "flipped bit in a log", "flipped bit in a hint",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_no_seed_breaks_an_invariant(first):
    """Whatever happens to node, disk and network: what was promised holds, and service comes back."""
    for seed in range(first, first + GROUP):
        outcome = simulate(seed)
        assert outcome.acked, f"seed {seed} acknowledged nothing"
        assert outcome.read, f"seed {seed} read nothing"


@pytest.mark.slow
def test_every_kind_of_fault_happens():
    """A fault that is never injected proves nothing."""
    happened = Counter()
    for seed in range(40):
        happened.update(simulate(seed).faults)
        if not FAULTS - set(happened):
            return
    pytest.fail(f"never injected: {FAULTS - set(happened)}")


def test_the_same_seed_is_the_same_run_in_every_process():
    """To the last event, whatever the hash seed of the process."""
    code = "from dduomq.testing.sim import simulate; print(simulate(7).trace, simulate(12).trace)"
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
    assert traces == {f"{simulate(7).trace} {simulate(12).trace}\n"}


def test_different_seeds_are_different_runs():
    """The seed decides."""
    assert simulate(1).trace != simulate(2).trace


def test_no_thread_socket_or_file_is_used(monkeypatch):
    """Everything a run does happens in memory, in one thread, on the virtual clock."""
    expected = simulate(3).trace  # whatever is imported when it is first used has been imported

    def refuse(*_arguments, **_options):
        raise AssertionError("the simulation has left its world")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "pwritev", refuse)
    assert simulate(3).trace == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MUTANTS, *GROUP_MUTANTS, *DELAY_MUTANTS, *QUEUE_MUTANTS])
def test_planted_bugs_are_found(monkeypatch, name):
    """A simulation that can't fail proves nothing."""
    for owner, attribute, mutant in (MUTANTS | GROUP_MUTANTS | DELAY_MUTANTS | QUEUE_MUTANTS)[name]:
        monkeypatch.setattr(owner, attribute, mutant)
    for seed in range(SEEDS_FOR_A_MUTANT):
        try:
            simulate(seed)
        except (Exception, BaseExceptionGroup):  # a violation, a crash, or no service within the time to heal
            return
    pytest.fail(f"the simulation did not find: {name}")
