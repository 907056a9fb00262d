"""Values to bytes and back. A serializer is any object with `dumps(value) -> bytes` and `loads(bytes) -> value`."""

import json
from typing import Any, Protocol

import attrs
import cbor2

from dduomq.errors import UsageError


class Serializer(Protocol):
    def dumps(self, value: Any) -> bytes | None: ...

    def loads(self, data: bytes | None) -> Any: ...


class AutoSerializer:
    """Bytes as they are, text as UTF-8; reads bytes. The default."""

    def dumps(self, value: Any) -> bytes | None:
        if value is None or isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        raise UsageError(
            f"a value of type {type(value).__name__} needs a serializer: connect(..., serializer=dduomq.json)"
        )

    def loads(self, data: bytes | None) -> Any:
        return data


class TextSerializer:
    """UTF-8 text."""

    def dumps(self, value: Any) -> bytes | None:
        return None if value is None else str(value).encode()

    def loads(self, data: bytes | None) -> Any:
        return None if data is None else data.decode()


class JsonSerializer:
    """JSON; attrs values are written as objects."""

    def dumps(self, value: Any) -> bytes | None:
        return json.dumps(value, default=_plain, separators=(",", ":"), ensure_ascii=False).encode()

    def loads(self, data: bytes | None) -> Any:
        return None if data is None else json.loads(data)


class CborSerializer:
    """CBOR (RFC 8949)."""

    def dumps(self, value: Any) -> bytes | None:
        return cbor2.dumps(value, default=lambda encoder, item: encoder.encode(_plain(item)))

    def loads(self, data: bytes | None) -> Any:
        return None if data is None else cbor2.loads(data)


class ModelSerializer:
    """attrs classes and pydantic models as JSON objects, read back into `model`."""

    def __init__(self, model: type) -> None:
        self._model = model

    def dumps(self, value: Any) -> bytes | None:
        if hasattr(value, "model_dump_json"):
            return str(value.model_dump_json()).encode()
        return JsonSerializer().dumps(value)

    def loads(self, data: bytes | None) -> Any:
        if data is None:
            return None
        if hasattr(self._model, "model_validate_json"):
            return self._model.model_validate_json(data)
        return self._model(**json.loads(data))


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return attrs.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    raise UsageError(f"a value of type {type(value).__name__} can't be serialized")


AUTO = AutoSerializer()
TEXT = TextSerializer()
JSON = JsonSerializer()
CBOR = CborSerializer()
