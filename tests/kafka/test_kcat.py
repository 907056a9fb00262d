"""kcat: the tool that most people look into a broker with."""

import json
import subprocess

TIMEOUT_S = 60


def run(kcat, node, *arguments, given=None):
    """What kcat writes."""
    done = subprocess.run(
        [kcat, "-b", node.address, *arguments], input=given, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_metadata(kcat, node, topic):
    """-L: the node and the topics, with leaders."""
    shown = run(kcat, node, "-L", "-t", topic)
    assert f"broker 1 at {node.address} (controller)" in shown
    assert f'topic "{topic}" with 1 partitions' in shown
    assert "partition 0, leader 1, replicas: 1, isrs: 1" in shown
    everything = json.loads(run(kcat, node, "-L", "-J"))
    assert topic in {each["topic"] for each in everything["topics"]}


def test_produce_and_consume(kcat, node, topic):
    """-P and -C: keys, values and headers."""
    run(kcat, node, "-P", "-t", topic, "-p", "0", "-K", ":", "-H", "from=kcat", given="anna:2 apples\nbert:1 pear\n")
    shown = run(kcat, node, "-C", "-t", topic, "-p", "0", "-e", "-q", "-f", "%o %k=%s %h\n")
    assert shown == "0 anna=2 apples from=kcat\n1 bert=1 pear from=kcat\n"
    assert run(kcat, node, "-C", "-t", topic, "-o", "-1", "-e", "-q") == "1 pear\n"


def test_every_codec(kcat, node, name):
    """-z: each batch on the disk is compressed as kcat was told."""
    lines = ("to be compressed " * 50 + "\n") * 50
    topics = {codec: node.create(f"{name}-{codec}") for codec in ("gzip", "snappy", "lz4", "zstd")}
    for codec, topic in topics.items():
        run(kcat, node, "-P", "-t", topic, "-p", "0", "-z", codec, given=lines)
        assert run(kcat, node, "-C", "-t", topic, "-e", "-q") == lines
    stored = {(batch["file"].split("/")[-2], batch["compression"]) for batch in node.dump(*topics.values())}
    assert stored == {(f"{topic}-0", codec) for codec, topic in topics.items()}


def test_offsets_by_time(kcat, node, topic):
    """-Q: earliest, latest, and the first that is not older."""
    run(kcat, node, "-P", "-t", topic, "-p", "0", given="one\ntwo\n")
    for when, offset in ((-2, 0), (-1, 2), (1_000, 0)):
        assert run(kcat, node, "-Q", "-t", f"{topic}:0:{when}") == f"{topic} [0] offset {offset}\n"


def test_a_topic_is_made_on_first_use(kcat, node, name):
    """By who sends to it."""
    run(kcat, node, "-P", "-t", name, given="first\n")
    assert run(kcat, node, "-C", "-t", name, "-e", "-q") == "first\n"
