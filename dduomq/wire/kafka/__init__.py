"""Kafka's protocol as bytes: tables of its messages, a small codec, and a session without input or output."""
