"""Headers of a record that was put elsewhere: where it came from, how often it was tried, and what went wrong.

A record in a retry or dead-letter topic has them; the broker writes them, from what it knows itself.
"""

ORIGIN_TOPIC_HEADER = "dduomq-origin-topic"
ORIGIN_PARTITION_HEADER = "dduomq-origin-partition"
ORIGIN_OFFSET_HEADER = "dduomq-origin-offset"
ORIGIN_TIME_HEADER = "dduomq-origin-timestamp"  # milliseconds since 1970
GROUP_HEADER = "dduomq-group"  # whose work it is
ATTEMPT_HEADER = "dduomq-attempt"  # how often it has been delivered in vain
FAILED_HEADER = "dduomq-failed-at"  # when that was last, milliseconds since 1970
ERROR_HEADER = "dduomq-error"  # what its handler said then
REASON_HEADER = "dduomq-reason"  # why it is a dead letter
PASSED_HEADER = "dduomq-passed"  # how often members that don't read its topic have passed it on
HEADERS = frozenset(
    {
        ORIGIN_TOPIC_HEADER, ORIGIN_PARTITION_HEADER, ORIGIN_OFFSET_HEADER, ORIGIN_TIME_HEADER, GROUP_HEADER,
        ATTEMPT_HEADER, FAILED_HEADER, ERROR_HEADER, REASON_HEADER, PASSED_HEADER,
    }
)  # fmt: skip
