"""Serializers, interceptors and the node's configuration, as users meet them."""

from contextlib import aclosing

import attrs
import pydantic
import pytest
import trio

import dduomq
from dduomq.config import Config
from dduomq.errors import ConfigError, UsageError


@attrs.frozen
class Order:
    total: int
    city: str


class Item(pydantic.BaseModel):
    name: str
    price: float


@pytest.mark.parametrize(
    ("serializer", "value", "shown"),
    [
        (dduomq.json, {"a": [1, None, "é"]}, {"a": [1, None, "é"]}),
        (dduomq.json, Order(5, "Bern"), {"total": 5, "city": "Bern"}),
        (dduomq.cbor, {"a": b"\x00", "b": 1.5}, {"a": b"\x00", "b": 1.5}),
        (dduomq.text, "grüezi", "grüezi"),
        (dduomq.ModelSerializer(Order), Order(5, "Bern"), Order(5, "Bern")),
        (dduomq.ModelSerializer(Item), Item(name="x", price=2.5), Item(name="x", price=2.5)),
    ],
)
async def test_serializers(tmp_path, serializer, value, shown):
    """What goes in comes out, as the serializer says."""
    async with dduomq.open_node(tmp_path / "d", listen=None) as node, node.connect(serializer=serializer) as mq:
        await mq.send("s", value, partition=0)
        (record,) = await mq.pull("s", partition=0)
    assert record.value == shown


async def test_a_value_without_a_serializer_says_what_to_do(tmp_path):
    """Bytes and text need none; everything else does."""
    async with dduomq.open_node(tmp_path / "d", listen=None) as node, node.connect() as mq:
        with pytest.raises(UsageError, match=r"serializer=dduomq\.json"):
            await mq.send("s", {"a": 1})


class Spy(dduomq.Interceptor):
    """Marks what is sent, hides what is secret, notes how it ended."""

    def __init__(self):
        self.ended = []

    def before_send(self, topic, message):
        return attrs.evolve(message, headers={"seen-by": "spy"})

    def after_send(self, topic, message, result, error):
        self.ended.append((topic, message.value, result and result.offset, error))

    def before_consume(self, record):
        return None if record.raw_value == b"secret" else record


async def test_interceptors_see_and_change_what_passes(tmp_path):
    """Before and after a send, before a record is shown."""
    spy = Spy()
    async with dduomq.open_node(tmp_path / "d", listen=None) as node, node.connect(interceptors=[spy]) as mq:
        await mq.send("t", "open", partition=0)
        await mq.send("t", "secret", partition=0)
        (record,) = await mq.pull("t", partition=0)
        async with mq.reader("t", partitions=[0]) as reader:
            assert [r.value for r in await reader.pull()] == [b"open"]
    assert record.header("seen-by") == b"spy"
    assert spy.ended == [("t", "open", 0, None), ("t", "secret", 1, None)]


async def test_callbacks_tell_how_an_async_send_ended(tmp_path):
    """Success or an error, once."""
    ended = []
    async with dduomq.open_node(tmp_path / "d", listen=None) as node, node.connect() as mq:
        await mq.send_async("t", "x", partition=0, callback=lambda result, error: ended.append((result.offset, error)))
        await mq.flush()
    assert ended == [(0, None)]


def test_command_line_over_environment_over_file_over_defaults(tmp_path):
    """Each layer only where the one above says nothing."""
    file = tmp_path / "node.toml"
    file.write_text('id = 3\ndata = "from-file"\ndefault.partitions = 9\n[topic]\ndurability = "flushed"\n')
    environ = {"DDUOMQ_DATA": "from-environment", "DDUOMQ_DEFAULT_PARTITIONS": "8", "HOME": "/"}
    config = Config.load(["--config", str(file), "--set", "default.partitions=7"], environ)
    assert (config.node_id, config.data_dir, config.default_partitions) == (3, "from-environment", 7)
    assert config.topic == {"durability": "flushed"}
    assert config.log_level == "info"


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"DDUOMQ_DATTA": "x"}, "did you mean 'data'"),
        ({"DDUOMQ_LOG_LEVEL": "loud"}, "debug, info, warning, error"),
    ],
)
def test_the_environment_is_checked_too(environ, text):
    """A misspelt variable is an error that names the right one."""
    with pytest.raises(ConfigError, match=text):
        Config.load([], environ)


def test_a_file_with_unknown_keys_is_refused(tmp_path):
    """It names the file and the key."""
    file = tmp_path / "node.toml"
    file.write_text("retenton = 5\n")
    with pytest.raises(ConfigError, match=r"node\.toml.*'retenton'"):
        Config.load(["--config", str(file)], {})


async def test_a_record_as_large_as_its_topic_allows_is_sent(tmp_path):
    """Neither the size of a batch nor that of the buffer stands in its way."""
    async with (
        dduomq.open_node(tmp_path / "d", listen=None) as node,
        node.connect(batch_bytes=1_000, buffer_bytes=1_000) as mq,
    ):
        await mq.admin.create_topic("large", partitions=1, config={"max.message.bytes": "4000000"})
        with trio.fail_after(30):
            await mq.send("large", b"x" * 3_000_000)
            (record,) = await mq.pull("large")
    assert len(record.value) == 3_000_000


async def test_a_callback_that_raises_does_not_keep_its_neighbours_from_their_end(tmp_path):
    """Its error comes out of the client's block; all that went with it in one batch has ended."""
    ended = []

    def broken(_result, _error):
        raise ValueError("in the callback")

    async def send_two(node):
        async with node.connect(linger=0.1) as mq:
            await mq.send_async("t", "a", partition=0, callback=broken)
            await mq.send_async("t", "b", partition=0, callback=lambda result, _: ended.append(result))
            await mq.flush()

    async with dduomq.open_node(tmp_path / "d", listen=None) as node:
        with trio.fail_after(30), pytest.raises(ValueError, match="in the callback"):
            await send_two(node)
    assert [result.offset for result in ended] == [1]


async def test_batches_begin_with_what_a_pull_has_left_over(tmp_path):
    """No way of reading skips what another has fetched."""
    async with dduomq.open_node(tmp_path / "d", listen=None) as node, node.connect() as mq:
        await mq.send_batch("t", [str(number) for number in range(10)], partition=0)
        async with mq.reader("t", partitions=[0]) as reader:
            await reader.pull(max_records=3)
            with trio.fail_after(30):
                async with aclosing(reader.batches()) as batches:
                    records = await anext(batches)
    assert [record.offset for record in records] == list(range(3, 10))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"linger": -1}, "linger is 0 or more"),
        ({"batch_bytes": 0}, "batch_bytes must be more than 0"),
        ({"buffer_bytes": -5}, "buffer_bytes must be more than 0, not -5"),
        ({"request_timeout": 0}, "request_timeout must be more than 0"),
        ({"delivery_timeout": -1}, "delivery_timeout must be more than 0"),
    ],
)
async def test_options_that_make_no_sense_are_refused_before_anything_is_sent(options, hint):
    """Not by a hang, nor by an error of the machinery inside."""
    with pytest.raises(UsageError, match=hint):
        await dduomq.connect("127.0.0.1:1", **options).__aenter__()


async def test_mistakes_in_a_send_say_what_is_wrong(tmp_path):
    """A partitioner's wild answer, fields beside a message that has its own, a client that is closed."""
    async with dduomq.open_node(tmp_path / "d", listen=None) as node:
        async with node.connect(partitioner=lambda _count, _waiting: 99) as mq:
            with pytest.raises(UsageError, match="chose 99, topic 't' has partitions 0 to 3"):
                await mq.send("t", "x")
            with pytest.raises(UsageError, match="give key to it"):
                await mq.send("t", dduomq.Message("x"), key="k")
        with pytest.raises(UsageError, match="this client is closed"):
            await mq.send("t", "x", partition=0)
        with pytest.raises(UsageError, match="this client is closed"):
            await mq.pull("t")
