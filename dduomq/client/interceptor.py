"""Hooks of the user's own around sending and consuming."""

from dduomq.client.record import Message, Record, SendResult
from dduomq.errors import DduomqError


class Interceptor:
    """Hooks around sending and consuming; override what is wanted. An error raised here reaches the caller."""

    def before_send(self, topic: str, message: Message) -> Message:
        """The message to send instead."""
        return message

    def after_send(self, topic: str, message: Message, result: SendResult | None, error: DduomqError | None) -> None:
        """How it ended."""

    def before_consume(self, record: Record) -> Record | None:
        """The record to hand over instead; None to skip it."""
        return record
