"""The bounds of one metadata transaction, which every engine keeps.

Always true: what passes here fits all of them: ZooKeeper's messages, etcd's transactions, an entry of the quorum.
"""

from collections.abc import Sequence

from dduomq import limits
from dduomq.cluster.ports import Check, Operation, Put
from dduomq.errors import UsageError


def check_operations(operations: Sequence[Operation]) -> None:
    """Raises `UsageError` for too much, for a key that is written twice, and for one that does not begin with "/"."""
    if len(operations) > limits.METADATA_OPERATIONS_MAX:
        raise UsageError(
            f"{len(operations)} operations in one transaction, {limits.METADATA_OPERATIONS_MAX} are allowed"
        )
    if any(not operation.key.startswith("/") for operation in operations):
        raise UsageError('a key begins with "/"')
    written = [operation.key for operation in operations if not isinstance(operation, Check)]
    if len(set(written)) < len(written):
        raise UsageError("a key is written twice in one transaction")
    sizes = {operation.key: len(operation.value) for operation in operations if isinstance(operation, Put)}
    for key, size in sizes.items():
        if size > limits.METADATA_VALUE_BYTES_MAX:
            raise UsageError(f"the value of {key} has {size} bytes, {limits.METADATA_VALUE_BYTES_MAX} are allowed")
    if sum(sizes.values()) > limits.METADATA_TRANSACTION_BYTES_MAX:
        raise UsageError(f"a transaction has at most {limits.METADATA_TRANSACTION_BYTES_MAX} bytes of values")
