"""Kafka's protocol, carried out: one module for each subject, `session` for the connection."""
