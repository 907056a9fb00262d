"""Messages by chance, of any API and version: every field, now and then null, empty, or at its default."""

from dduomq.wire.kafka.primitives import NO_ID
from dduomq.wire.kafka.schema import NUMBERS

BITS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63, "uint16": 16, "uint32": 32}
ERRORS = (0, 1, 3, 6, 35, 74)
TEXTS = ("", "a", "orders", "größer", "x" * 200)
TIMES_MAX = 10**9


def message(fields, version, rng):
    """A value for the structure of `fields`."""
    return {field.name: value(field, version, rng) for field in fields if version in field.versions}


def value(field, version, rng):
    if version in field.nullable and rng.random() < 0.2:
        return None
    if field.tag is not None and rng.random() < 0.4:
        return field.default
    if field.is_array:
        return [item(field, version, rng) for _ in range(rng.choice((0, 1, 1, 2, 130 if rng.random() < 0.02 else 3)))]
    return item(field, version, rng)


def item(field, version, rng):
    if field.kind == "{}":
        return message(field.fields, version, rng)
    if field.kind == "string":
        return rng.choice(TEXTS)
    if field.kind in {"bytes", "records"}:
        return rng.randbytes(rng.choice((0, 1, 70, 300)))
    if field.kind == "boolean":
        return rng.random() < 0.5
    if field.kind == "uuid":
        return rng.choice((NO_ID, f"{rng.getrandbits(128):032x}"))
    return number(field, rng)


def number(field, rng):
    assert field.kind in NUMBERS
    if field.name.endswith("error_code"):
        return rng.choice(ERRORS)
    bits = BITS[field.kind]
    top = min(2**bits - 1, TIMES_MAX) if field.name.endswith(("_ms", "timestamp")) else 2**bits - 1
    return rng.choice((0, 1, top, rng.randrange(top + 1)))
