"""Turns a table of fields into a reader and a writer for each version.

A structure is read into a dict; fields that its version does not have are there with their defaults, so whoever
handles it need not ask for the version. What is written may hold more than its version has: the rest is left out.
Always true: unknown tagged fields are skipped, as KIP-482 promises to those who add them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from dduomq.errors import WireError
from dduomq.wire.kafka.primitives import NO_ID, Reader, Writer

LATEST = 2**15 - 1
STRING_BYTES_MAX = 2**15 - 1
Read: TypeAlias = Callable[[Reader], Any]
Write: TypeAlias = Callable[[Writer, Any], None]
NUMBERS = ("int8", "int16", "int32", "int64", "uint16", "uint32", "float64")
DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(NUMBERS, 0), "boolean": False, "string": "", "bytes": b"", "records": None, "uuid": NO_ID,
}  # fmt: skip


@attrs.frozen
class Versions:
    """From the first to the last, both included."""

    first: int
    last: int

    def __contains__(self, version: int) -> bool:
        return self.first <= version <= self.last


NEVER = Versions(LATEST, -1)


@attrs.frozen
class Field:
    """One line of a table. `kind` is a primitive's name, `{}` for a structure; `fields` are the structure's."""

    name: str
    kind: str
    is_array: bool
    versions: Versions
    nullable: Versions
    tag: int | None
    default: Any
    fields: tuple["Field", ...]


def parse(text: str) -> tuple[Field, ...]:
    """The fields of a table; see `dduomq.wire.kafka.tables`."""
    lines = [(len(line) - len(line.lstrip()), line.split()) for line in text.splitlines() if line.strip()]
    fields, end = _parse_from(lines, 0)
    if end != len(lines):
        raise ValueError(f"a table's line {end + 1} is indented less than its first")
    return fields


def _parse_from(lines: Sequence[tuple[int, list[str]]], at: int) -> tuple[tuple[Field, ...], int]:
    found: list[Field] = []
    indent = lines[at][0]
    while at < len(lines) and lines[at][0] == indent:
        words = lines[at][1]
        inner: tuple[Field, ...] = ()
        at += 1
        if at < len(lines) and lines[at][0] > indent:
            inner, at = _parse_from(lines, at)
        found.append(_field(words, inner))
    return tuple(found), at


def _field(words: list[str], inner: tuple[Field, ...]) -> Field:
    name, kind, versions = words[:3]
    options = dict(word.split("=", 1) for word in words[3:])
    is_array = kind.startswith("[")
    item = kind.strip("[]") if is_array else kind
    item = "{}" if is_array and not item else item
    tag = options.get("tag")
    return Field(
        name, item, is_array, _versions(versions), _versions(options.get("nullable")),
        None if tag is None else int(tag), _default(item, options.get("default"), is_array=is_array, inner=inner),
        inner,
    )  # fmt: skip


def _versions(text: str | None) -> Versions:
    if text is None:
        return NEVER
    first, dash, last = text.removesuffix("+").partition("-")
    return Versions(int(first), LATEST if text.endswith("+") else int(last) if dash else int(first))


def _default(kind: str, text: str | None, *, is_array: bool, inner: tuple[Field, ...]) -> Any:
    if text == "null":
        return None
    if is_array:
        return ()
    if kind == "{}":
        return {field.name: field.default for field in inner}
    if text is None:
        return DEFAULTS[kind]
    return text == "true" if kind == "boolean" else int(text) if kind in NUMBERS else text


# --- reading ----------------------------------------------------------------------------------------


def reader(fields: tuple[Field, ...], version: int, *, flexible: bool) -> Read:
    """Reads the structure of `fields` as it is in `version`."""
    plain = [(f.name, _field_reader(f, version, flexible)) for f in fields if version in f.versions and f.tag is None]
    tagged = {f.tag: (f.name, _field_reader(f, version, flexible)) for f in fields if _is_tagged(f, version)}
    present = {name for name, _ in plain}
    absent = {field.name: field.default for field in fields if field.name not in present}

    def read(source: Reader) -> dict[str, Any]:
        value = absent.copy()
        for name, read_field in plain:
            value[name] = read_field(source)
        if flexible:
            _read_tags(source, tagged, value)
        return value

    return read


def _is_tagged(field: Field, version: int) -> bool:
    return field.tag is not None and version in field.versions


def _read_tags(source: Reader, tagged: Mapping[int | None, tuple[str, Read]], value: dict[str, Any]) -> None:
    for _ in range(source.count(source.uvarint())):
        tag, size = source.uvarint(), source.uvarint()
        end = source.position + size
        known = tagged.get(tag)
        if known is None:
            source.take(size)
            continue
        value[known[0]] = known[1](source)
        if source.position != end:
            raise WireError(f"tagged field {tag} says it has {size} bytes, but it has not")


def _field_reader(field: Field, version: int, flexible: bool) -> Read:
    is_nullable = version in field.nullable
    if field.is_array:
        return _array_reader(_item_reader(field, version, flexible, nullable=False), flexible, is_nullable)
    return _item_reader(field, version, flexible, nullable=is_nullable)


def _item_reader(field: Field, version: int, flexible: bool, *, nullable: bool) -> Read:
    if field.kind == "{}":
        read = reader(field.fields, version, flexible=flexible)
        return _nullable_struct(read) if nullable else read
    if field.kind in {"string", "bytes", "records"}:
        return _sized_reader(field.kind, flexible, nullable)
    return getattr(Reader, field.kind)  # type: ignore[no-any-return]  # the primitives' own methods


def _nullable_struct(read: Read) -> Read:
    return lambda source: None if source.int8() < 0 else read(source)


def _size_reader(kind: str, flexible: bool) -> Read:
    """Reads the length of a string, of bytes or of an array; -1 is null."""
    if flexible:
        return lambda source: source.uvarint() - 1
    return Reader.int16 if kind == "string" else Reader.int32


def _sized_reader(kind: str, flexible: bool, nullable: bool) -> Read:
    read_size = _size_reader(kind, flexible)
    take: Callable[[Reader, int], Any] = _string if kind == "string" else Reader.take

    def read(source: Reader) -> Any:
        size = read_size(source)
        if size >= 0:
            return take(source, size)
        if not nullable or size < -1:
            raise WireError("a field that can't be null has no length")
        return None

    return read


def _string(source: Reader, size: int) -> str:
    """No longer than Kafka takes it, in the compact form, too: so that older versions can tell it to others."""
    if size > STRING_BYTES_MAX:
        raise WireError(f"a string has {size} bytes, the most is {STRING_BYTES_MAX}")
    return source.text(size)


def _array_reader(read_item: Read, flexible: bool, nullable: bool) -> Read:
    read_size = _size_reader("array", flexible)

    def read(source: Reader) -> Any:
        size = read_size(source)
        if size >= 0:
            return [read_item(source) for _ in range(source.count(size))]
        if not nullable or size < -1:
            raise WireError("an array that can't be null has no length")
        return None

    return read


# --- writing ----------------------------------------------------------------------------------------


def writer(fields: tuple[Field, ...], version: int, *, flexible: bool) -> Write:
    """Writes the structure of `fields` as it is in `version`; a field that is not given has its default."""
    plain = [
        (f.name, f.default, _field_writer(f, version, flexible))
        for f in fields
        if version in f.versions and f.tag is None
    ]
    tagged = sorted(
        ((f.tag or 0, f, _field_writer(f, version, flexible)) for f in fields if _is_tagged(f, version)),
        key=lambda entry: entry[0],
    )

    def write(out: Writer, value: Mapping[str, Any]) -> None:
        for name, default, write_field in plain:
            write_field(out, value.get(name, default))
        if flexible:
            _write_tags(out, tagged, value)

    return write


def _write_tags(out: Writer, tagged: Sequence[tuple[int, Field, Write]], value: Mapping[str, Any]) -> None:
    given = [entry for entry in tagged if _is_given(entry[1], value)]
    out.uvarint(len(given))
    for tag, field, write in given:
        body = Writer()
        write(body, value[field.name])
        out.uvarint(tag)
        out.uvarint(len(body.out))
        out.splice(body.out)


def _is_given(field: Field, value: Mapping[str, Any]) -> bool:
    """Whether a tagged field has something to say beyond its default."""
    held = value.get(field.name, field.default)
    return bool(held) if field.is_array else bool(held != field.default)


def _field_writer(field: Field, version: int, flexible: bool) -> Write:
    is_nullable = version in field.nullable
    if field.is_array:
        return _array_writer(field.name, _item_writer(field, version, flexible, False), flexible, is_nullable)
    return _item_writer(field, version, flexible, is_nullable)


def _item_writer(field: Field, version: int, flexible: bool, nullable: bool) -> Write:
    if field.kind == "{}":
        write = writer(field.fields, version, flexible=flexible)
        return _nullable_struct_writer(write) if nullable else write
    if field.kind in {"string", "bytes", "records"}:
        return _sized_writer(field, flexible, nullable)
    return getattr(Writer, field.kind)  # type: ignore[no-any-return]  # the primitives' own methods


def _nullable_struct_writer(write: Write) -> Write:
    def write_it(out: Writer, value: Any) -> None:
        out.int8(-1 if value is None else 1)
        if value is not None:
            write(out, value)

    return write_it


def _size_writer(kind: str, flexible: bool) -> Write:
    if flexible:
        return lambda out, size: out.uvarint(size + 1)
    return Writer.int16 if kind == "string" else Writer.int32


def _sized_writer(field: Field, flexible: bool, nullable: bool) -> Write:
    write_size = _size_writer(field.kind, flexible)
    is_text = field.kind == "string"

    def write(out: Writer, value: Any) -> None:
        if value is None:
            if not nullable:
                raise ValueError(f"{field.name} can't be null in this version")
            write_size(out, -1)
        elif is_text:
            data = value.encode()
            write_size(out, len(data))
            out.out += data
        else:
            write_size(out, _size(value))
            out.splice(value)

    return write


def _size(value: Any) -> int:
    return len(value) if isinstance(value, bytes | bytearray | memoryview) else int(value.size)


def _array_writer(name: str, write_item: Write, flexible: bool, nullable: bool) -> Write:
    write_size = _size_writer("array", flexible)

    def write(out: Writer, value: Any) -> None:
        if value is None:
            if not nullable:
                raise ValueError(f"{name} can't be null in this version")
            write_size(out, -1)
            return
        write_size(out, len(value))
        for item in value:
            write_item(out, item)

    return write
