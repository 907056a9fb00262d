"""Frozen values to plain CBOR arrays and back, by their classes' own annotations.

Fields may be added at the end: unknown trailing ones are ignored, missing ones take their default. Always true:
`from_plain` raises `WireError` or returns a value, nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from dduomq.errors import DduomqError, WireError, from_code
from dduomq.limits import PARTITIONS_PER_REQUEST_MAX

T = TypeVar("T")


# --- values to arrays -------------------------------------------------------------------------------


@cache
def _encoder(cls: type) -> Callable[[Any], object]:
    names = tuple(field.name for field in attrs.fields(cls))
    return lambda value: [to_plain(getattr(value, name)) for name in names]


def to_plain(value: object) -> object:
    """`value` as CBOR can carry it: attrs classes become arrays, mappings with other keys than text arrays of pairs."""
    if value is None or isinstance(value, int | str | bytes):
        return value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value):
            return {key: to_plain(item) for key, item in value.items()}
        return [[to_plain(key), to_plain(item)] for key, item in value.items()]
    if isinstance(value, range):
        return [value.start, value.stop]
    if isinstance(value, DduomqError):
        return [value.code, value.message]
    return _encoder(type(value))(value)  # type: ignore[arg-type]  # a class is hashable


# --- arrays to values -------------------------------------------------------------------------------

_Reader = Callable[[Any], Any]


def _exactly(kind: type) -> _Reader:
    def read(plain: Any) -> Any:
        if type(plain) is not kind:
            raise WireError(f"{kind.__name__} expected, {type(plain).__name__} came")
        return plain

    return read


def _tuple_of(items: tuple[Any, ...]) -> _Reader:
    if len(items) == 2 and items[1] is Ellipsis:
        each = _reader(items[0])

        def read_many(plain: Any) -> Any:
            if type(plain) is not list or len(plain) > PARTITIONS_PER_REQUEST_MAX:
                raise WireError(f"a list of at most {PARTITIONS_PER_REQUEST_MAX} was expected")
            return tuple([each(item) for item in plain])

        return read_many
    readers = tuple(_reader(item) for item in items)

    def read_fixed(plain: Any) -> Any:
        if type(plain) is not list or len(plain) != len(readers):
            raise WireError(f"a list of {len(readers)} was expected")
        return tuple([reader(item) for reader, item in zip(readers, plain, strict=True)])

    return read_fixed


def _enumerated(kind: type[StrEnum]) -> _Reader:
    def read(plain: Any) -> Any:
        try:
            return kind(_exactly(str)(plain))
        except ValueError:
            raise WireError(f"{plain!r} is none of {', '.join(kind)}") from None

    return read


def _map_of(key_hint: Any, value_hint: Any) -> _Reader:
    read_key, read_value = _reader(key_hint), _reader(value_hint)

    def read(plain: Any) -> Any:
        pairs = list(plain.items()) if type(plain) is dict else plain
        if type(pairs) is not list or any(type(pair) not in {list, tuple} or len(pair) != 2 for pair in pairs):
            raise WireError("a map was expected")
        return {read_key(key): read_value(value) for key, value in pairs}

    return read


def _string_map(plain: Any) -> Any:
    if type(plain) is not dict or not all(type(k) is str and type(v) is str for k, v in plain.items()):
        raise WireError("a map of strings was expected")
    return plain


def _reader(hint: Any) -> _Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return _tuple_of(arguments)
    if origin in {UnionType, Union}:
        inner = _reader(next(item for item in arguments if item is not NoneType))
        return lambda plain: None if plain is None else inner(plain)
    if origin is not None and issubclass(origin, Mapping):
        return _string_map if arguments == (str, str) else _map_of(*arguments)
    if origin is not None and issubclass(origin, Sequence):
        read_all = _tuple_of((arguments[0], ...))
        return lambda plain: list(read_all(plain))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enumerated(hint)
    if hint is range:
        return lambda plain: range(*_tuple_of((int, int))(plain))
    if isinstance(hint, type) and issubclass(hint, DduomqError):
        return lambda plain: from_code(*_tuple_of((int, str))(plain))
    if attrs.has(hint):
        return lambda plain: from_plain(hint, plain)
    return _exactly(hint)


@cache
def _class_reader(cls: type) -> tuple[tuple[_Reader, ...], int]:
    hints = get_type_hints(cls)
    fields = attrs.fields(cls)
    required = sum(field.default is attrs.NOTHING for field in fields)
    return tuple(_reader(hints[field.name]) for field in fields), required


def read_as(hint: Any, plain: Any) -> Any:
    """The value of the annotated type `hint` that `plain` stands for; raises `WireError`."""
    return _reader(hint)(plain)


def from_plain(cls: type[T], plain: Any) -> T:
    """The value of class `cls` that `to_plain` made `plain` from; raises `WireError`."""
    readers, required = _class_reader(cls)  # type: ignore[arg-type]  # a class is hashable
    if type(plain) is not list or len(plain) < required:
        raise WireError(f"{cls.__name__} needs a list of at least {required}")
    return cls(*[reader(item) for reader, item in zip(readers, plain, strict=False)])
