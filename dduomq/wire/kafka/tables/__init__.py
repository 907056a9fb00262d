"""Kafka's messages, field by field, as its own definitions have them (https://kafka.apache.org/protocol).

A line is `name type versions`, then `nullable=VERSIONS`, `default=VALUE`, `tag=NUMBER`; `[]` is an array of
the fields indented below, `{}` one structure of them.
"""
