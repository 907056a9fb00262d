"""Known bugs, as changes to the product: the simulation must find each of them."""

from dduomq.actors import partition
from dduomq.client.accumulator import PartitionQueue
from dduomq.errors import StorageError
from dduomq.log import producers, recover, scan
from dduomq.log.datadir import DataDir
from dduomq.log.plans import FlushPlan, Removal
from dduomq.log.plog import PartitionLog
from dduomq.log.producers import Producers
from dduomq.stores.embedded import EmbeddedStore

_run_flush, _run_removal, _read_plan, _send = FlushPlan.run, Removal.run, PartitionLog.read_plan, PartitionQueue._send


def _flush_nothing(_self, _files):
    """The ack comes, the sync does not."""


def _flush_no_directory(self, files):
    for path in self.paths:
        files.sync(path)


def _flush_again_when_it_fails(self, files):
    """As databases did before they learned that the kernel forgets what it could not write."""
    try:
        _run_flush(self, files)
    except StorageError:
        _flush_again_when_it_fails(self, files)


def _stored_crc(view, position, _size):
    return int.from_bytes(bytes(view[position + 17 : position + 21]), "big")


def _read_all_that_is_written(self, offset, max_bytes, _upper):
    return _read_plan(self, offset, max_bytes, self.log_end_offset)


def _remove_without_a_note(self, files):
    for path in self.paths:
        files.remove(path)


def _append_without_sync(self, data):
    self._files.write_at(self._path, [data], self._end)


def _number_anew(self, batch):
    batch.is_numbered = False
    return _send(self, batch)


def _nothing(*_arguments):
    """What should be done here is not done."""


class _Anything:
    """Equal to whatever is asked."""

    def __ne__(self, _other):
        return False


def _size_does_not_matter(_data):
    return _Anything()


def _open_trusting(*arguments, clean, **options):
    del clean
    return recover.open_log(*arguments, clean=True, **options)


# name: what is replaced by what
MUTANTS = {
    "an ack does not wait for the sync": [(FlushPlan, "run", _flush_nothing)],
    "directories are not synced": [(FlushPlan, "run", _flush_no_directory)],
    "a failed sync is simply tried again": [(FlushPlan, "run", _flush_again_when_it_fails)],
    "recovery does not look at CRCs": [(scan, "crc_of", _stored_crc)],
    "recovery does not sync what it serves": [(recover._Opening, "_sync", _nothing)],
    "recovery forgets the producers": [
        (Producers, "replay", lambda _self, _header: -1),
        (producers, "decode", lambda _data: Producers()),
    ],
    "a crash passes for a clean stop": [
        (DataDir, "take_clean", _nothing),
        (recover, "decode_whole", _size_does_not_matter),
    ],
    "a crashed partition's successor trusts the log": [
        (partition, "open_log", _open_trusting),
        (recover, "decode_whole", _size_does_not_matter),
    ],
    "retries are stored again": [(Producers, "check", _nothing)],
    "what is not yet synced can be read": [(PartitionLog, "read_plan", _read_all_that_is_written)],
    "a log's start is not written down": [(Removal, "run", _remove_without_a_note)],
    "metadata are not synced": [(EmbeddedStore, "_append", _append_without_sync)],
    "the client numbers a retry anew": [(PartitionQueue, "_send", _number_anew)],
}
