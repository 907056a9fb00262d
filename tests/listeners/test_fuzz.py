"""A little of the fuzzing with every run of the tests; `./scripts/fuzz` goes on for as long as one likes."""

import pytest
import trio
import trio.testing

from dduomq.listeners.kafka import session
from dduomq.wire.kafka.registry import APIS
from tests.listeners.fuzzing import REQUESTS, Finding, fuzz


@pytest.mark.parametrize("seed", range(30))
async def test_faulty_requests_cost_themselves(autojump_clock, seed):
    """See `fuzzing` for what must hold."""
    assert await fuzz(seed) == REQUESTS


def run_all(seeds):
    for seed in seeds:
        trio.run(fuzz, seed, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("api", ["Metadata", "ListOffsets"])
def test_a_bug_is_found(monkeypatch, api):
    """A handler that breaks on what it was not made for."""

    async def breaks(_asking):
        raise KeyError("a bug")

    [key] = [key for key, found in APIS.items() if found.name == api]
    monkeypatch.setattr(session, "HANDLERS", {**session.HANDLERS, key: breaks})
    with pytest.raises(ExceptionGroup) as caught:
        run_all(range(10))
    assert caught.value.subgroup(Finding) is not None
