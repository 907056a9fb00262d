"""Known bugs, planted: the stories of `test_faults` must find each of them, or they prove nothing."""

import logging

import pytest
import trio
from trio.testing import MockClock

from dduomq.actors.coordinator_aside import SettingAside
from dduomq.actors.coordinator_handover import Handover
from dduomq.actors.coordinator_messages import BeenSetAside
from dduomq.client.part import Part
from dduomq.delay.wheel import Wheel
from dduomq.groups.aside import Outbox
from tests.retry.test_faults import story

SEEDS_MAX = 40
_apply = SettingAside.apply


def _answer_and_store_nothing(self, message):
    for part in message.parts:
        self._entries(message.group, part, is_moved=False)
    message.reply.set(BeenSetAside({}, (1,) * len(message.parts)))


def _note_before_it_is_handed_over(self, source, taken):
    self._note(taken[-1][0].number)


def _forget_marks(self, message):
    message.reply.set({})


def _take_all(_self, messages):
    return tuple(messages)


def _count_from_one(self, key, value):
    _apply(self, key, value)
    for lane in self._handover._lanes.values():
        lane.outbox.next_number = max(1, lane.outbox.next_number - 3)


def _note_nowhere(self, number):
    lane = self._free()
    lane.tries, lane.at = 0, self._table.now()
    lane.outbox.hand(number)


def _never_told(self, _offset):
    self.wake()


PLANTED = {
    "set aside, and stored nowhere": [(SettingAside, "set_aside", _answer_and_store_nothing)],
    "noted as handed over, and not handed over": [(Handover, "_park", _note_before_it_is_handed_over)],
    "whoever takes over is not told what stands aside": [(SettingAside, "fetch", _forget_marks)],
    "a wheel takes what it has taken before": [(Wheel, "not_handed", _take_all)],
    "numbers are given out twice": [(SettingAside, "apply", _count_from_one)],
    "what was handed over is not noted": [
        (Handover, "_note", _note_nowhere), (Wheel, "not_handed", _take_all)
    ],
    "what has stepped aside is not passed": [(Part, "done", _never_told)],
    "the outbox is empty after a restart": [(Outbox, "add", lambda *_: None)],
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_it_is_found(bug, monkeypatch):
    monkeypatch.setattr(logging.getLogger("dduomq"), "level", logging.CRITICAL)
    for owner, name, wrong in PLANTED[bug]:
        monkeypatch.setattr(owner, name, wrong)
    for seed in range(SEEDS_MAX):
        try:
            trio.run(story, seed, clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            leaves = _leaves(error)
            assert not any(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in leaves)
            print(f"{bug}: found by seed {seed}: {leaves[0]!r}")
            return
    raise AssertionError(f"not found in {SEEDS_MAX} seeds")


def _leaves(error):
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
