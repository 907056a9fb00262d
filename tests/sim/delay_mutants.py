"""Known bugs of delayed messages, as changes to the product: the simulation must find each of them."""

from dduomq.actors.wheel import WheelActor
from dduomq.actors.wheel_firing import WheelFiring
from dduomq.actors.wheel_messages import ParkedMessages
from dduomq.delay.recent import Recent
from dduomq.delay.replay import Replay
from dduomq.delay.timeline import Timeline

_apply, _pop = Replay.apply, Timeline.pop


def _send_and_write_nothing_down(self, begun):
    self._is_busy = False
    for one in begun:
        one.fired = self.wheel.fired_at(one.fired, -2)
        self._sending[one.fired.target] = one
        self._send(one)


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


def _early(self, now_ms, limit):
    return _pop(self, now_ms + 700, limit)


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
    "a delayed message comes early": [(Timeline, "pop", _early)],
    "a batch on its way is forgotten by a restart": [(Replay, "apply", _forget_what_was_on_its_way)],
}
