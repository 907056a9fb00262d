"""dduomq: a log broker of the Kafka family on trio.

Names are imported when first used, so that a broker does not load the client, nor a client the broker.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dduomq import blocking as blocking
    from dduomq import errors as errors
    from dduomq.builder import Node as Node
    from dduomq.client import group_events as events
    from dduomq.client.app import App as App
    from dduomq.client.client import Client as Client
    from dduomq.client.client import connect as connect
    from dduomq.client.group import Consumer as Consumer
    from dduomq.client.idempotence import MemoryStore as MemoryStore
    from dduomq.client.idempotence import RedisStore as RedisStore
    from dduomq.client.idempotence import SqliteStore as SqliteStore
    from dduomq.client.idempotence import once as once
    from dduomq.client.interceptor import Interceptor as Interceptor
    from dduomq.client.part import GroupRecord as GroupRecord
    from dduomq.client.producer import Delivery as Delivery
    from dduomq.client.queue import Queue as Queue
    from dduomq.client.queue_record import QueueRecord as QueueRecord
    from dduomq.client.record import Message as Message
    from dduomq.client.record import Record as Record
    from dduomq.client.record import SendResult as SendResult
    from dduomq.client.retrying import RETRY_LADDER as RETRY_LADDER
    from dduomq.client.serializers import CBOR as cbor
    from dduomq.client.serializers import JSON as json
    from dduomq.client.serializers import TEXT as text
    from dduomq.client.serializers import ModelSerializer as ModelSerializer
    from dduomq.node import open_node as open_node
    from dduomq.wire.delay import DELAY_LEVELS as DELAY_LEVELS

__version__ = "0.1.0"

_HOMES = {
    "RETRY_LADDER": ("dduomq.client.retrying", "RETRY_LADDER"),
    "DELAY_LEVELS": ("dduomq.wire.delay", "DELAY_LEVELS"),
    "App": ("dduomq.client.app", "App"),
    "Client": ("dduomq.client.client", "Client"),
    "Delivery": ("dduomq.client.producer", "Delivery"),
    "Consumer": ("dduomq.client.group", "Consumer"),
    "GroupRecord": ("dduomq.client.part", "GroupRecord"),
    "Interceptor": ("dduomq.client.interceptor", "Interceptor"),
    "MemoryStore": ("dduomq.client.idempotence", "MemoryStore"),
    "Message": ("dduomq.client.record", "Message"),
    "ModelSerializer": ("dduomq.client.serializers", "ModelSerializer"),
    "Node": ("dduomq.builder", "Node"),
    "Queue": ("dduomq.client.queue", "Queue"),
    "QueueRecord": ("dduomq.client.queue_record", "QueueRecord"),
    "RedisStore": ("dduomq.client.idempotence", "RedisStore"),
    "SqliteStore": ("dduomq.client.idempotence", "SqliteStore"),
    "once": ("dduomq.client.idempotence", "once"),
    "Record": ("dduomq.client.record", "Record"),
    "SendResult": ("dduomq.client.record", "SendResult"),
    "blocking": ("dduomq.blocking", None),
    "cbor": ("dduomq.client.serializers", "CBOR"),
    "connect": ("dduomq.client.client", "connect"),
    "events": ("dduomq.client.group_events", None),
    "errors": ("dduomq.errors", None),
    "json": ("dduomq.client.serializers", "JSON"),
    "open_node": ("dduomq.node", "open_node"),
    "text": ("dduomq.client.serializers", "TEXT"),
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    try:
        module_name, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'dduomq' has no attribute {name!r}") from None
    module = import_module(module_name)
    return module if attribute is None else getattr(module, attribute)
