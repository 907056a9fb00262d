"""Messages as Hypothesis strategies, made from a table: every kind at its extremes, what may be null null."""

from hypothesis import strategies as st

from dduomq.wire.kafka.primitives import NO_ID

RANGES = {
    "int8": (-(2**7), 2**7 - 1), "int16": (-(2**15), 2**15 - 1), "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1), "uint16": (0, 2**16 - 1), "uint32": (0, 2**32 - 1),
}  # fmt: skip
# One byte of a compact length holds 126 at most, two hold 16,382; an old length takes them as they are.
SIZES = (126, 127, 128)
TEXTS = ("größer", "日本語", "🦆", "\0", *("x" * size for size in SIZES), "ß" * 63 + "x")
LONG = (16_382, 16_383, 2**15 - 1)
COUNTS = (126, 127, 128)


def integers(field):
    """The whole range of a number's kind, its ends and what is special to Kafka more often than by chance."""
    low, high = RANGES[field.kind]
    return st.sampled_from(sorted({low, max(low, -1), 0, 1, high})) | st.integers(low, high)


def messages(fields, version, numbers=integers, *, outer=True):
    """Values for the structure of `fields` with all that its version has; `numbers` gives a number's strategy."""
    return st.fixed_dictionaries({
        field.name: _values(field, version, numbers, outer) for field in fields if version in field.versions
    })  # fmt: skip


def _values(field, version, numbers, outer):
    item = _items(field, version, numbers, outer=outer and not field.is_array)
    values = _arrays(field, item, outer) if field.is_array else item
    if version in field.nullable:
        values = st.none() | values
    return values if field.tag is None else st.just(field.default) | values


def _arrays(field, item, outer):
    """Long ones, too: of one element many times, and none in an array."""
    short = st.lists(item, max_size=3)
    return short | st.builds(lambda value, count: [value] * count, item, st.sampled_from(COUNTS)) if outer else short


def _items(field, version, numbers, *, outer):
    if field.kind == "{}":
        return messages(field.fields, version, numbers, outer=False)
    if field.kind == "string":
        return st.sampled_from(("", *TEXTS, *("x" * size for size in LONG if outer))) | st.text(max_size=20)
    if field.kind in {"bytes", "records"}:
        return st.binary(max_size=40) | st.sampled_from([bytes(size) for size in (*SIZES, *(LONG if outer else ()))])
    if field.kind == "boolean":
        return st.booleans()
    if field.kind == "uuid":
        return st.just(NO_ID) | st.binary(min_size=16, max_size=16).map(bytes.hex)
    if field.kind == "float64":
        return st.floats(allow_nan=False)
    return numbers(field)
