"""Known bugs of delayed messages, as changes to the product: the simulation must find each of them."""

from dduomq.actors.wheel import WheelActor
from dduomq.actors.wheel_firing import WheelFiring
from dduomq.actors.wheel_messages import ParkedMessages
from dduomq.actors.wheel_sending import WheelSending
from dduomq.delay.recent import Recent
from dduomq.delay.replay import Replay

_apply, _add = Replay.apply, WheelSending.add


def _send_and_write_nothing_down(self, round_):
    self._sending.is_taking = False
    for fired, messages in round_.begun:
        self._sending.add(self.wheel.fired_at(fired, -2), messages)


def _answer_before_it_is_stored(self, message):
    self._check_loaded()
    wheel = self._firing.wheel
    pairs = tuple((one.due_ms, 10**9 + wheel.count) for one in message.messages)
    message.reply.set(ParkedMessages(pairs, is_new=True))
    message = message.__class__(messages=message.messages, reply=type(message.reply)())
    _on_park(self, message)


def _take_out_and_write_nothing_down(self, pairs):
    found = self._firing.wheel.cancel(pairs)
    return bool(found)


def _know_nobody_again(_self, _target, _origin):
    return None


def _do_not_wait_until_it_is_due(self, fired, messages):
    _add(self, fired, messages)
    self._queues[fired.target][-1].due_ms = 0


def _forget_what_was_on_its_way(self, record):
    _apply(self, record)
    self._open.clear()


_on_park = WheelActor._on_park

DELAY_MUTANTS = {
    "a delayed message is delivered before that is written down": [
        (WheelFiring, "_store", _send_and_write_nothing_down)
    ],
    "a delayed message is acknowledged before it is stored": [(WheelActor, "_on_park", _answer_before_it_is_stored)],
    "a cancelled message is not cancelled in the log": [(WheelActor, "_cancel", _take_out_and_write_nothing_down)],
    "a batch that comes again is parked again": [(Recent, "find", _know_nobody_again)],
    "a delayed message comes early": [(WheelSending, "add", _do_not_wait_until_it_is_due)],
    "a batch on its way is forgotten by a restart": [(Replay, "apply", _forget_what_was_on_its_way)],
}
