"""A node as users meet it: in their process, or as a process of its own."""

import contextlib
import json
import socket
import subprocess
import sys

import anyio
import pytest
import trio

import dduomq
from dduomq.errors import (
    CapacityReached,
    ConfigError,
    DataDirError,
    DduomqError,
    InvalidConfig,
    InvalidTopic,
    ListenError,
    MessageTooLarge,
    NetworkError,
    OffsetOutOfRange,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from dduomq.wire import frame, native
from tests.e2e.processes import running


@pytest.fixture
async def node(tmp_path):
    async with dduomq.open_node(tmp_path / "data", default_partitions=2) as opened:
        yield opened


@pytest.fixture
async def mq(node):
    async with dduomq.connect(node.address) as client:
        yield client


async def test_what_is_sent_is_read(mq):
    """Value, key, headers, tag and keys come back as they went."""
    result = await mq.send("orders", "hello", key="k", headers={"a": b"1"}, tag="new", keys=["o1", "o2"])
    (record,) = await mq.pull("orders", partition=result.partition)
    assert (record.value, record.key, record.offset) == (b"hello", b"k", result.offset)
    assert (record.header("a"), record.tag, record.keys) == (b"1", "new", ("o1", "o2"))
    assert result.durability == "fsync"


async def test_a_fetch_that_waits_is_woken_by_the_append(mq):
    """Long poll: no polling, no waiting for the time-out."""
    await mq.admin.create_topic("quiet", partitions=1)
    got = []
    with trio.fail_after(30):
        async with mq.reader("quiet", wait=60) as reader, trio.open_nursery() as nursery:

            async def read():
                got.extend(await reader.pull())

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await mq.send("quiet", "news")
    assert got[0].value == b"news"


async def test_topics_and_settings_survive_a_restart(tmp_path):
    """Metadata and records are there again, under a new leader epoch."""
    async with dduomq.open_node(tmp_path / "d") as node, dduomq.connect(node.address) as mq:
        await mq.admin.create_topic("kept", partitions=3, config={"retention.ms": "12345"})
        await mq.send("kept", "x", partition=1)
    async with dduomq.open_node(tmp_path / "d") as node, dduomq.connect(node.address) as mq:
        described = await mq.admin.describe_topic("kept")
        assert len(described.partitions) == 3
        assert {c.key: c.value for c in described.config}["retention.ms"] == "12345"
        assert described.partitions[0].leader_epoch == 1
        assert [r.value for r in await mq.pull("kept", partition=1)] == [b"x"]


async def test_a_deleted_topic_is_gone_and_its_name_free(node, mq):
    """A topic of the same name afterwards has another id and no records."""
    await mq.send("brief", "x", partition=0)
    before = (await mq.admin.describe_topic("brief")).topic_id
    await mq.admin.delete_topic("brief")
    with pytest.raises(UnknownTopicOrPartition):
        await mq.admin.describe_topic("brief")
    await mq.admin.create_topic("brief", partitions=2)
    after = await mq.admin.describe_topic("brief")
    assert after.topic_id != before
    assert [p.log_end_offset for p in after.partitions] == [0, 0]


async def test_partitions_can_be_added_and_settings_changed(mq):
    """The old partitions go on undisturbed."""
    await mq.admin.create_topic("grows", partitions=1)
    await mq.send("grows", "x", partition=0)
    assert len((await mq.admin.add_partitions("grows", 3)).partitions) == 3
    await mq.admin.alter_topic("grows", {"max.message.bytes": "2000"})
    async with dduomq.connect(mq._wire._addresses[0][0] + f":{mq._wire._addresses[0][1]}") as other:
        await other.send("grows", "y", partition=2)
        with pytest.raises(MessageTooLarge, match=r"max\.message\.bytes"):
            await other.send("grows", "z" * 3000, partition=2)


async def test_purging_moves_the_start(mq):
    """Records before it can't be read any more."""
    await mq.admin.create_topic("purged", partitions=1)
    await mq.send_batch("purged", ["a", "b", "c"])
    assert await mq.admin.purge("purged", 0, before=2) == {0: 2}
    with pytest.raises(OffsetOutOfRange):
        await mq.pull("purged", offset=0)
    assert await mq.admin.purge("purged") == {0: 3}


@pytest.mark.parametrize("policy", ["reject", "drop-oldest"])
async def test_bounded_topics(mq, policy):
    """A full topic refuses, or lets the oldest go."""
    await mq.admin.create_topic("small", partitions=1, config={"capacity.records": "3", "capacity.policy": policy})
    for number in range(3):
        await mq.send("small", f"{number}")
    if policy == "reject":
        with pytest.raises(CapacityReached, match=r"capacity\.records=3"):
            await mq.send("small", "3")
    else:
        await mq.send("small", "3")
    values = [r.value for r in await mq.pull("small")]
    assert values == ([b"0", b"1", b"2"] if policy == "reject" else [b"1", b"2", b"3"])


async def test_a_bounded_topic_that_blocks_goes_on_when_there_is_room(mq):
    """capacity.policy=block parks the record until the topic is purged."""
    await mq.admin.create_topic("waits", partitions=1, config={"capacity.records": "1", "capacity.policy": "block"})
    await mq.send("waits", "0")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mq.send, "waits", "1")
            await trio.sleep(0.1)
            await mq.admin.purge("waits")
    assert [r.value for r in await mq.pull("waits")] == [b"1"]


async def test_a_memory_topic_leaves_nothing_on_disk(tmp_path):
    """Its records are gone with the node; no file was written for it."""
    async with dduomq.open_node(tmp_path / "d") as node, dduomq.connect(node.address) as mq:
        await mq.admin.create_topic("fleeting", partitions=1, config={"storage": "memory"})
        await mq.send("fleeting", "x")
        assert [r.value for r in await mq.pull("fleeting")] == [b"x"]
        assert not (tmp_path / "d" / "topics" / "fleeting-0").exists()
    async with dduomq.open_node(tmp_path / "d") as node, dduomq.connect(node.address) as mq:
        assert await mq.pull("fleeting", wait=0) == []


async def test_a_time_is_found(mq):
    """Reading from a datetime begins at the first record at or after it."""
    from datetime import UTC, datetime

    await mq.admin.create_topic("timed", partitions=1)
    for number in range(5):
        await mq.send("timed", f"{number}", timestamp_ms=1_700_000_000_000 + number * 1000)
    start = datetime.fromtimestamp(1_700_000_002, UTC)
    assert [r.value for r in await mq.pull("timed", offset=start)] == [b"2", b"3", b"4"]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_are_read_by_anyone(node, compression):
    """The reader need not know how the writer compressed."""
    async with dduomq.connect(node.address, compression=compression) as mq:
        await mq.admin.create_topic("packed", partitions=1)
        await mq.send_batch("packed", [f"value {n}" for n in range(1000)])
        async with mq.reader("packed") as reader:
            values = [r.value for r in await reader.pull(5000)]
    assert values == [f"value {n}".encode() for n in range(1000)]


async def test_hundreds_of_sends_at_once_are_all_acknowledged_in_order_per_key(mq):
    """Coalescing keeps the order of each key."""
    await mq.admin.create_topic("many", partitions=4)
    deliveries = [await mq.send_async("many", f"{n}", key=f"k{n % 7}") for n in range(700)]
    for delivery in deliveries:
        await delivery
    async with mq.reader("many") as reader:
        records = []
        while len(records) < 700:
            records += await reader.pull(1000)
    by_key = {}
    for record in records:
        by_key.setdefault(record.key, []).append(int(record.value))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sum(map(len, by_key.values())) == 700


async def test_oneway_sends_arrive(mq):
    """acks=0: nobody is told, but it is there."""
    await mq.admin.create_topic("oneway", partitions=1)
    await mq.send_oneway("oneway", "x")
    await mq.flush()
    async with mq.reader("oneway", wait=10) as reader:
        assert [r.value for r in await reader.pull()] == [b"x"]


def test_the_client_under_asyncio(tmp_path):
    """The same client, on the other event loop."""

    async def main(address):
        async with dduomq.connect(address) as mq:
            await mq.send("aio", "x", partition=0)
            return await mq.pull("aio", partition=0)

    with running(tmp_path / "d") as node:
        (record,) = anyio.run(main, node.address, backend="asyncio")
    assert record.value == b"x"


def test_the_blocking_client(tmp_path):
    """The same again, for scripts."""
    with running(tmp_path / "d") as node, dduomq.blocking.connect(node.address) as mq:
        assert mq.send("plain", "x", partition=0).offset == 0
        assert mq.send_async("plain", "y", partition=0).result().offset == 1
        assert [r.value for r in mq.pull("plain", partition=0)] == [b"x", b"y"]
        with mq.reader("plain") as reader:
            assert len(reader.pull()) == 2
        assert [t.name for t in mq.admin.list_topics()] == ["plain"]


def test_the_blocking_admin_lists_what_waits(tmp_path):
    """An asynchronous iterator is a plain one there."""
    with running(tmp_path / "d") as node, dduomq.blocking.connect(node.address) as mq:
        sent = [mq.send("t", "x", delay=100 + n).delay_id for n in range(3)]
        assert [message.delay_id for message in mq.admin.delayed("t")] == sent
        mq.admin.cancel_delayed(sent[0])
        assert mq.admin.count_delayed() == 2


def test_a_blocking_reader_goes_on_when_the_node_is_back(tmp_path):
    """Iterating waits for a lost node, and skips nothing that was fetched and not yet looked at."""
    with running(tmp_path / "d") as node, dduomq.blocking.connect(node.address) as mq:
        mq.send_batch("t", ["a", "b", "c"], partition=0)
        with mq.reader("t", partitions=[0]) as reader:
            assert next(iter(reader)).value == b"a"
            assert [record.value for record in reader.pull()] == [b"b", b"c"]
            reader.pause(0)
            assert reader.pull(timeout=0.1) == []
            reader.resume(0)
            node.kill()
            with running(tmp_path / "d", port=node.port):
                mq.send("t", "d", partition=0)
                assert next(iter(reader)).value == b"d"
                mq.send("t", "e", partition=0)
                assert [record.value for record in next(reader.batches())] == [b"e"]


async def test_an_embedded_node_needs_no_port(tmp_path):
    """`node.connect()` reaches it inside the process, large answers too."""
    async with dduomq.open_node(tmp_path / "d", listen=None) as node, node.connect() as mq:
        assert node.address is None
        await mq.admin.create_topic("inside", partitions=1)
        await mq.send_batch("inside", ["x" * 1000] * 900)
        await mq.send_batch("inside", ["y" * 1000] * 900)
        async with mq.reader("inside") as reader:
            records = await reader.pull(900) + await reader.pull(900)
        assert len(records) == 1800


def test_an_embedded_node_under_asyncio(tmp_path):
    """The same broker, from the other event loop; its errors come out as they are."""

    async def main():
        async with dduomq.open_node(tmp_path / "d") as node, node.connect() as mq:
            await mq.send("aio", "x", partition=0)
            with pytest.raises(DataDirError, match="in use"):
                async with dduomq.open_node(tmp_path / "d"):
                    pass
            return await mq.pull("aio", partition=0)

    (record,) = anyio.run(main, backend="asyncio")
    assert record.value == b"x"


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "é", "x" * 250, "__mine"])
async def test_topic_names_that_are_not_allowed(mq, name):
    """Each is refused with what is wrong."""
    with pytest.raises(InvalidTopic):
        await mq.admin.create_topic(name)


async def test_wrong_settings_name_the_right_ones(mq):
    """A misspelt key and an impossible value."""
    with pytest.raises(InvalidConfig, match=r"did you mean 'retention\.ms'"):
        await mq.admin.create_topic("t", config={"retenton.ms": "1"})
    with pytest.raises(InvalidConfig, match="fsync, flushed, pagecache"):
        await mq.admin.create_topic("t", config={"durability": "maybe"})
    await mq.admin.create_topic("t")
    with pytest.raises(TopicAlreadyExists):
        await mq.admin.create_topic("t")


async def test_auto_creation_can_be_turned_off(tmp_path):
    """A send to an unknown topic then says so."""
    async with dduomq.open_node(tmp_path / "d", auto_create_topics=False) as node, dduomq.connect(node.address) as mq:
        with pytest.raises(UnknownTopicOrPartition, match="not made on first use"):
            await mq.send("unknown", "x")


GARBAGE = {
    "random": bytes(range(128, 256)),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01",
    "a giant length": frame.MAGIC + b"\xff\xff\xff\xff\x00\x00\x00\x10",
    "not CBOR": frame.MAGIC + b"\x00\x00\x00\x08\x00\x00\x00\x04\xff\xff\xff\xff",
    "no hello": frame.MAGIC + frame.write(native.request_header(1, 1000, native.Metadata(None))),
    "a large frame before hello": frame.MAGIC + frame.PREFIX.pack(100_000, 50_000),
    "half a magic": frame.MAGIC[:5],
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_costs_its_connection_only(node, mq, kind):
    """The connection is closed, the node goes on."""
    host, _, port = node.address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(GARBAGE[kind])
    await stream.send_eof()
    with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    await stream.aclose()
    assert (await mq.send("alive", "x")).offset >= 0


async def test_a_corrupt_batch_is_refused_and_the_connection_goes_on(node):
    """Only the damaged part fails."""
    from dduomq.client.conn import dial_tcp
    from dduomq.client.wire import Wire, parse_addresses
    from dduomq.wire.records import encode_one

    async with trio.open_nursery() as nursery:
        wire = Wire(parse_addresses(node.address), "test", dial_tcp)

        class Tasks:
            start_soon = staticmethod(nursery.start_soon)

        wire.tasks = Tasks
        await wire.ask(native.CreateTopic("c", 1), 10_000)
        data = encode_one(b"x", timestamp_ms=1)
        data[65] ^= 1
        for payload, code in ((data, 2), (encode_one(b"x", timestamp_ms=1), 0), (b"", 2), (b"\x00" * 80, 2)):
            body = native.Produce(-1, (native.ProducePart("c", 0, len(payload)),))
            plain, _ = await (await wire.post(body, 10_000, [payload])).wait()
            assert native.from_plain(native.Produced, plain).parts[0].code == code
        nursery.cancel_scope.cancel()


async def test_a_client_that_stops_reading_does_not_hurt_the_others(node, mq):
    """It is cut off when its answers fill the bound; everybody else is served."""
    await mq.admin.create_topic("big", partitions=1)
    for _ in range(40):
        await mq.send_batch("big", ["x" * 1000] * 900, partition=0)
    host, _, port = node.address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(frame.MAGIC + frame.write(native.request_header(1, 1000, native.Hello(1, "stuck"))))
    for number in range(50):
        body = native.Fetch(0, 0, 2**23, 0, (native.FetchPart("big", 0, 0, 2**23),))
        await stream.send_all(frame.write(native.request_header(number + 2, 1000, body)))
    assert (await mq.send("big", "y", partition=0)).offset == 36_000
    await stream.aclose()


async def test_nobody_at_the_address():
    """The error says how to start a node."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(NetworkError, match=r"trio-run dduomq\.node"):
            async with dduomq.connect(f"127.0.0.1:{held.getsockname()[1]}"):
                pass


async def test_a_data_directory_in_use_or_of_another_node(tmp_path, node):
    """Each start-up error says what to do."""
    with pytest.raises(DataDirError, match="in use"):
        async with dduomq.open_node(tmp_path / "data"):
            pass
    async with dduomq.open_node(tmp_path / "other"):
        pass
    with pytest.raises(DataDirError, match="belongs to node 1"):
        async with dduomq.open_node(tmp_path / "other", id=2):
            pass
    meta = tmp_path / "other" / "meta.toml"
    meta.write_text(meta.read_text().replace("least_reader_version = 1", "least_reader_version = 9"))
    with pytest.raises(DataDirError, match="newer dduomq"):
        async with dduomq.open_node(tmp_path / "other"):
            pass
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(DataDirError, match="not a dduomq data directory"):
        async with dduomq.open_node(tmp_path / "home"):
            pass


async def test_a_port_that_is_taken(tmp_path, node):
    """The error names the flag that helps."""
    with pytest.raises(ListenError, match="--listen"):
        async with dduomq.open_node(tmp_path / "third", listen=node.address):
            pass


async def test_unknown_settings_of_an_embedded_node(tmp_path):
    """A misspelt keyword is an error, as everywhere."""
    with pytest.raises(ConfigError, match="there is no option"):
        async with dduomq.open_node(tmp_path / "x", lisen="127.0.0.1:0"):
            pass


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--idd", "1"], "unrecognized arguments: --idd"),
        (["--id", "x"], "--id: a whole number"),
        (["--set", "no.such.key=1"], "there is no option 'no.such.key'"),
        (["--set", "topic.retention.mss=1"], "did you mean 'topic.retention.ms'"),
        (["--set", "topic.durability=maybe"], "fsync, flushed, pagecache"),
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--listen", "0.0.0.0:1"], "plaintext.allowed"),
        (["--config", "/no/such/file.toml"], "No such file"),
        (["--peers", "1@a:1,2@b:1"], "--cluster-secret"),
        (["--peers", "2@a:1,3@b:1"], "this one included"),
        (["--peers", "1@127.0.0.1:1,2"], "ID@HOST:PORT"),
        (["--peers", "1@127.0.0.1:1,1@127.0.0.1:2"], "twice"),
        (["--peers", "1@127.0.0.1:1,2@127.0.0.1:1"], "one address"),
    ],
)
def test_start_up_errors_are_one_line_and_exit_2(tmp_path, args, text):
    """No traceback reaches a user."""
    command = [sys.executable, "-m", "dduomq.run", "dduomq.node", "--data", str(tmp_path / "d"), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert text in done.stderr


@pytest.mark.parametrize("name", ["../node", "", "dduomq.nodes"])
def test_a_module_that_is_none_is_one_line_too(name):
    """`trio-run` with a path, nothing, or a typing mistake."""
    done = subprocess.run(
        [sys.executable, "-m", "dduomq.run", name], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_a_node_stops_in_good_order(tmp_path):
    """SIGTERM: exit 0, logs closed, the next start reads nothing."""
    with running(tmp_path / "d") as node:
        with dduomq.blocking.connect(node.address) as mq:
            mq.send("t", "x")
        assert node.stop() == 0
    assert (tmp_path / "d" / "clean-shutdown").exists()


def _sent_until_refused(mq):
    for number in range(100):
        try:
            yield mq.send("t", f"{number}" + "x" * 10_000, partition=0).offset
        except DduomqError:
            return


def test_a_full_disk_makes_the_log_read_only(tmp_path):
    """Sends fail with what to do, reads go on, and what was acknowledged stays."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from dduomq.run import cli; sys.argv = ['trio-run', *sys.argv[1:]]; cli()"
    )
    command = [sys.executable, "-c", script, "dduomq.node", "--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True)
    try:
        address = next(json.loads(line)["listen"][0] for line in process.stderr if "node_ready" in line)
        with dduomq.blocking.connect(address, delivery_timeout=1.0) as mq:
            acked = list(_sent_until_refused(mq))
            assert 10 < len(acked) < 100
            with mq.reader("t", partitions=[0]) as reader:
                assert [r.offset for r in reader.pull(1000)] == acked
    finally:
        process.terminate()
        process.stderr.read()
        process.wait(60)
        process.stderr.close()


def test_the_line_protocol(tmp_path):
    """netcat is a client too."""
    with running(tmp_path / "d") as node:
        host, _, port = node.address.rpartition(":")

        def talk(lines, answers):
            with socket.create_connection((host, int(port)), timeout=30) as sock, sock.makefile("rw") as file:
                file.write(lines)
                file.flush()
                return [file.readline().rstrip("\n") for _ in range(answers)]

        assert talk("SEND:chat hello\n", 1)[0].startswith("OK chat-")
        assert talk("SEND:chat\nDANCE:chat\nHELP\n", 3)[0].startswith("ERROR write it so")
        greeting, record = talk("CONSUME:chat people\n", 2)
        assert (greeting, record) == ("OK consuming chat for people", "hello")
