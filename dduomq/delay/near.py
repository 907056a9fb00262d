"""Messages that are due soon, in memory, so that they need not be read when their time comes.

A pure machine. Always true: what is kept takes no more than `DELAY_CACHE_BYTES_MAX`; what finds no room is read again.
"""

from collections.abc import Iterable

from dduomq.delay.records import Parked
from dduomq.limits import DELAY_CACHE_BYTES_MAX
from dduomq.wire.records import size_of

SOON_MS = 10_000  # what is parked for so soon is kept


class Near:
    """`get(number)`: the message, if it is here."""

    __slots__ = ("_messages", "_size_bytes", "get")

    def __init__(self) -> None:
        self._messages: dict[int, Parked] = {}
        self._size_bytes = 0
        self.get = self._messages.get

    def __contains__(self, number: int) -> bool:
        return number in self._messages

    @property
    def room_bytes(self) -> int:
        return DELAY_CACHE_BYTES_MAX - self._size_bytes

    def keep(self, messages: Iterable[Parked]) -> None:
        """As many as there is room for."""
        for message in messages:
            size = size_of(message.key, message.value, message.headers)
            if size <= self.room_bytes and message.number not in self._messages:
                self._messages[message.number] = message
                self._size_bytes += size

    def drop(self, numbers: Iterable[int]) -> None:
        """They are needed no more."""
        for number in numbers:
            message = self._messages.pop(number, None)
            if message is not None:
                self._size_bytes -= size_of(message.key, message.value, message.headers)
