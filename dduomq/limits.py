"""Every bound in one place. Nothing in dduomq grows past a number that stands here.

Sizes are bytes, times milliseconds, unless the name says otherwise.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# wire
FRAME_BYTES_MAX = 16 * MIB  # one request or answer; a client that wants more asks twice
FRAME_BYTES_MAX_UNGREETED = 64 * KIB  # before `Hello` nothing larger is read
LINE_BYTES_MAX = 64 * KIB  # line protocol
KAFKA_ELEMENTS_MAX = 200_000  # array elements in one Kafka request
CBOR_DEPTH_MAX = 16
BATCH_BYTES_MAX = 1_048_588  # Kafka's default max.message.bytes, batch overhead included
BATCH_BYTES_CEILING = 8 * MIB  # the most that a topic may allow itself: it must fit a frame
RECORDS_PER_BATCH_MAX = 1_000_000
HEADERS_PER_RECORD_MAX = 1_000
DECOMPRESSED_BYTES_MAX = 64 * MIB  # one batch, on the client and wherever the broker must look
PARTITIONS_PER_REQUEST_MAX = 10_000

# connections
CONNECTIONS_MAX = 10_000
STREAMS_PER_CONNECTION_MAX = 4_096  # partitions that are pushed to one client
CREDITS_MAX = 1_000_000_000
SIFT_INLINE_BYTES_MAX = 16 * 1024  # more is filtered in a thread
REQUESTS_IN_FLIGHT_MAX = 256  # per connection; then the broker stops reading from it
UNANSWERED_BYTES_MAX = 4 * MIB  # of one connection: more would only leave the processor's caches before it is written
IN_FLIGHT_BYTES_MAX = 256 * MIB  # request bytes held by the whole node
SEND_BACKLOG_BYTES_MAX = 32 * MIB  # answers a client has not read yet; then it is cut off
IDLE_TIMEOUT_MS = 600_000
HELLO_TIMEOUT_MS = 10_000
FRAME_TIMEOUT_MS = 30_000  # a request that has begun must be whole by then, and by its size at the rate below
FRAME_BYTES_PER_S_MIN = 64 * KIB
SEND_STALL_TIMEOUT_MS = 60_000  # a client that reads nothing for so long is cut off
FETCH_WAIT_MS_MAX = 60_000
FETCH_BYTES_MAX = 8 * MIB

# a client's view of the cluster
CLIENT_NODES_MAX = 1_000
CLIENT_TOPICS_MAX = 100_000  # whose leaders it remembers
CLIENT_COORDINATORS_MAX = 10_000

# actors
MAILBOX_MESSAGES_MAX = 4_096
MAILBOX_BYTES_MAX = 64 * MIB
DRAIN_MESSAGES_MAX = 1_024
RESTARTS_MAX = 5  # within RESTART_WINDOW_MS, then the node stops
RESTART_WINDOW_MS = 60_000
RESTART_BACKOFF_MS = 50
RESTART_BACKOFF_MS_MAX = 5_000
PARKED_APPENDS_MAX = 4_096
WATCHERS_MAX = 4_096  # parked fetches of one partition

# log
INLINE_WRITE_BYTES_MAX = 2 * MIB  # written on the event loop, while the bytes are in the processor's caches
INLINE_WRITE_HELD_UP_S = 0.02  # a write into the page cache that takes longer was held up by the kernel
INLINE_WRITE_PAUSE_S = 2.0  # then so long writes go to the disk threads
INLINE_SEEK_BYTES_MAX = 3 * MIB  # read from the page cache at once; more is read by a disk thread
RESERVE_STEP_BYTES = 1 * MIB
RESERVE_STEP_BYTES_MAX = 64 * MIB
TAIL_POSITIONS_MAX = 64  # batches at the end of a log whose place is known without the index
PENDING_INDEX_ENTRIES_MAX = 512
PRODUCERS_MAX = 100_000  # per partition
PRODUCER_EXPIRY_MS = 86_400_000
PRODUCER_BATCHES_REMEMBERED = 5
SCAN_CHUNK_BYTES = 256 * KIB
CORRUPTION_SEARCH_BYTES_MAX = 64 * MIB
SNAPSHOT_INTERVAL_BYTES = 64 * MIB
OPEN_FILES_MAX = 4_096  # the LRU of open log files
CHECKPOINT_INTERVAL_MS = 5_000
RETENTION_INTERVAL_MS = 10_000

# topics
PARTITIONS_PER_TOPIC_MAX = 10_000
PARTITIONS_PER_NODE_MAX = 100_000
TOPICS_AUTO_CREATED_PER_MINUTE = 600
PRODUCER_ID_BLOCK = 1_000

# groups
GROUPS_PARTITIONS = 8  # of the internal topic: so many coordinators
GROUP_MEMBERS_MAX = 2_000  # each that comes or goes has all of them looked at: about 30 ms at this many
MEMBER_PROTOCOLS_MAX = 64
MEMBER_METADATA_BYTES_MAX = 1 * MIB  # of all its protocols together
MEMBER_NAME_CHARACTERS_MAX = 1_000  # its id, its instance, its zone
MEMBER_TOPICS_MAX = 10_000  # that one member names
PATTERN_BYTES_MAX = 1_000
HEARTBEAT_INTERVAL_MS = 3_000  # of members whose partitions the broker shares out
CONSUMER_SESSION_TIMEOUT_MS = 45_000  # of those that can't ask for another
DESCRIBE_WAIT_MS_MAX = 60_000
GROUPS_PER_COORDINATOR_MAX = 100_000
GROUP_NAME_CHARACTERS_MAX = 1_000
SESSION_TIMEOUT_MS_MIN = 100
SESSION_TIMEOUT_MS_MAX = 1_800_000
INITIAL_REBALANCE_DELAY_MS = 250  # so long an empty group waits for more members than the first
OFFSET_METADATA_CHARACTERS_MAX = 4_096
OFFSET_RETENTION_MS = 7 * 24 * 3_600_000  # of a group without members
GROUPS_REWRITE_BYTES = 64 * MIB  # when a coordinator's log has grown by so much, its state is written anew

# records that a group sets aside
ASIDE_OFFSETS_MAX = 500  # of one request
ASIDE_RANGES_MAX = 10_000  # that one group has of one partition behind what it has committed
ASIDE_LANES = 64  # of one coordinator: what can't be copied just now holds up its lane
ASIDE_WAITING_MAX = 20_000  # records of one lane that are to be copied
ASIDE_TEXT_CHARACTERS_MAX = 1_000  # of an error or a reason
HANDOVER_RECORDS_MAX = 500  # copied at once
HANDOVER_BYTES_MAX = 4 * MIB
# queues: share groups
QUEUE_LOCKS_MAX = 10_000  # records of one partition that a group has in hand
QUEUE_LOCK_MS = 30_000
QUEUE_LOCK_MS_MIN = 100
QUEUE_LOCK_MS_MAX = 12 * 3_600_000
QUEUE_DELIVERIES = 5  # so often a record is given out, then it is dead
QUEUE_DELIVERIES_MAX = 1_000
QUEUE_DELAY_MS_MAX = 366 * 86_400_000  # that a released record waits
QUEUE_ENDINGS_MAX = 100_000  # ranges of records that one request settles
QUEUE_REASON_CHARACTERS_MAX = 1_000
QUEUE_WATCHERS_MAX = 4_096  # who waits for records of one group
SHARE_MEMBER_ID_CHARACTERS_MAX = 100  # it stands in each record that the member has in hand
SHARE_ASSIGNMENT_MAX = 1_000  # members times partitions: up to there everybody gets everything
SHARE_SESSIONS_PER_CONNECTION_MAX = 16

# delayed messages
DELAY_PARTITIONS = 4  # of the internal topic: so many wheels
DELAY_MS_MAX = 100 * 366 * 86_400_000
DELAYED_PER_WHEEL_MAX = 10_000_000
DELAY_REMEMBERED_MAX = 200_000  # messages of producers' last batches that a wheel would know again
DELAY_PRODUCERS_MAX = 10_000  # whose last batches a wheel would know again
DELAY_PARKED_BYTES_MAX = 6 * MIB  # of one batch, decompressed, with 400 bytes for each message
DELAY_CACHE_BYTES_MAX = 32 * MIB  # messages that are due soon, of one wheel
DELAY_ROUND_MESSAGES_MAX = 10_000  # taken up at once
DELAY_SPLIT_INLINE_BYTES_MAX = 64 * KIB  # larger batches are decompressed and looked through in a thread
DELAY_LIST_MAX = 10_000
SCHEDULED_BYTES_MAX = 1 * MIB + 64 * KIB  # of one message that recurs
SCHEDULES_PER_WHEEL_MAX = 10_000
SCHEDULE_NAME_CHARACTERS_MAX = 200
SCHEDULE_RULE_CHARACTERS_MAX = 200
SCHEDULE_EVERY_MS_MIN = 100
DELAY_CLEAN_BYTES = 64 * MIB  # a wheel's log may have so much more than twice what waits

# filters
FILTER_CHARACTERS_MAX = 4_096
FILTER_NODES_MAX = 512  # operands and operators of one filter
FILTER_DEPTH_MAX = 100  # of parentheses and operators inside one another
FILTER_STEPS_MAX = 250_000  # that all LIKEs of a filter may take for one record; what needs more is NULL
FILTER_VALUE_BYTES_MAX = 64 * KIB  # a header or key that is longer is NULL to a filter
FILTER_NUMBER_CHARACTERS_MAX = 64  # a longer number is none

# replicas
REPLICA_LAG_MAX_MS = 10_000  # a follower that is behind for so long is in sync no more
REPLICA_CHECK_MS = 5_000  # so often a leader looks for those, and for appends that wait too long for followers
REPLICA_FETCH_WAIT_MS = 2_000  # of partitions without news, at the leader
REPLICA_FETCHES_MAX = 8  # on their way from one node to one other
REPLICA_FETCHES_WAITING_MAX = 4  # at the leader; one more, and the oldest is answered, so that new ones may come
REPLICA_FETCH_PARTS_MAX = 500  # that are asked for, or answered, at once: others have their turn
REPLICA_LINE_MS = 300_000  # then a follower asks for everything anew
REPLICA_STAND_MS = 10_000  # what stands for so long is looked at again, should nobody have said that there is news
REPLICA_FETCH_BYTES_MAX = 8 * MIB
REPLICA_PART_BYTES_MAX = 1 * MIB
REPLICA_PART_BYTES_MIN = 64 * KIB  # however slowly replicas may catch up
REPLICA_BACKOFF_MS = 50
REPLICA_BACKOFF_MS_MAX = 2_000
REPLICA_REQUEST_TIMEOUT_MS = 10_000  # beyond the wait that was asked for
ISR_BACKOFF_MS = 100
ISR_BACKOFF_MS_MAX = 2_000
# metadata
METADATA_OPERATIONS_MAX = 32  # of one transaction: what every engine can take
METADATA_VALUE_BYTES_MAX = 64 * KIB
METADATA_TRANSACTION_BYTES_MAX = 512 * KIB  # half of what ZooKeeper takes in one message
METADATA_CALL_TIMEOUT_MS = 5_000  # then an engine that stands elsewhere is taken as out of reach
METADATA_START_TIMEOUT_MS = 10_000
METADATA_SCAN_PAGE = 1_000  # keys of one answer
METADATA_WATCH_TAKEN_MAX = 32  # by one watcher, before others have their turn
METADATA_WATCH_KEYS_MAX = 1_024  # that one watcher has not taken yet; beyond that it scans again

# the metadata quorum
RAFT_MEMBERS_MAX = 1_000  # voters and learners
RAFT_BATCH_BYTES_MAX = 1 * MIB  # entries of one message; a larger entry goes alone
RAFT_IN_FLIGHT_MAX = 64  # messages with entries that one follower has not answered yet
RAFT_UNCOMMITTED_BYTES_MAX = 64 * MIB  # proposals that a leader has taken and not committed
RAFT_PROPOSAL_BYTES_MAX = 4 * MIB
RAFT_APPLY_BYTES_MAX = 4 * MIB  # committed entries that are handed out at once; a larger entry goes alone
RAFT_MESSAGES_MAX = 4_096  # that wait to be sent; beyond that the oldest are lost, as on a bad network
RAFT_READS_MAX = 4_096  # reads that wait until a leader is sure that it leads
RAFT_ENTRIES_KEPT = 1_000  # behind a snapshot, for followers that are a little late
RAFT_LEARNER_LAG_MAX = 100  # entries that a learner may be behind and still be given a vote
RAFT_SNAPSHOT_BYTES_MAX = 64 * MIB
RAFT_SEGMENT_BYTES = 4 * MIB  # of the write-ahead log; the write that fills it goes into it whole
QUORUM_TICK_MS = 50
QUORUM_ELECTION_TICKS = 8  # and up to twice that, by chance
QUORUM_HEARTBEAT_TICKS = 2
QUORUM_TIMEOUT_MS = 5_000  # a request to the metadata ends by then: a few elections fit
QUORUM_ATTEMPT_MS = 1_500  # then the leader is asked again, or another one
QUORUM_PAUSE_MS = 40  # between two attempts, more or less
QUORUM_COMMANDS_MAX = 256  # of one node that are under way
QUORUM_SNAPSHOT_ENTRIES = 10_000  # applied since the last snapshot, or so many bytes
QUORUM_SNAPSHOT_BYTES = 8 * MIB
QUORUM_FORMING_MS = 200  # between two looks around, before a cluster has formed
VOTERS_MAX = 5

# a cluster
CALLS_PER_DOOR_MAX = 256  # messages to one actor of another node that are under way
# nodes of a cluster, to one another
LINK_REQUESTS_MAX = (
    192  # under way to one node; fewer than a connection is served at once, so nothing waits behind them
)
LINK_REQUEST_BYTES_MAX = 32 * MIB  # of them that were not sent yet
LINK_MESSAGES_BYTES_MAX = 80 * MIB  # one way, not sent yet: a snapshot fits; beyond that the oldest are dropped
LINK_ADDRESSES_MAX = 4  # at which one node is looked for
LINK_BACKOFF_MS = 50
LINK_BACKOFF_MS_MAX = 1_000
LINK_DIAL_TIMEOUT_MS = 2_000  # until both sides have proved who they are
LINK_PING_MS = 1_000  # a connection on which nothing comes is asked whether it still stands
LINK_SILENCE_MS = 3_000  # then it does not
LINK_PIECE_BYTES = 8 * MIB  # a larger message of the quorum is sent in pieces
LINKS_MAX = 1_000
PEER_REQUEST_BYTES_MAX = 256 * MIB  # of requests from other nodes that are held at once
# the cluster
TXN_OPERATIONS_MAX = 30  # of one transaction; the smallest limit of an engine is 32
CONTROLLER_BATCH_PARTITIONS = 14  # changed by one transaction: two operations each, and the check of the epoch
CONTROLLER_BATCHES_MAX = 16  # transactions that a controller has under way
CONTROLLER_DECISIONS_MAX = 200  # taken before others have their turn
CONTROLLER_TICK_MS = 1_000
SESSIONS_OUTLAST = 3  # after so many times its time-out the session of a node that has died is over
CONTROLLER_RETRY_MS = 50  # doubled with each failure in a row
CONTROLLER_RETRY_MS_MAX = 2_000
ORPHAN_GRACE_MS = 120_000  # records of a topic that is not there may belong to one that is being made
TOPIC_MAKING_MS_MAX = 30_000  # so it takes no longer than that
PREFERRED_GRACE_MS = 10_000  # a preferred replica is in sync so long before it leads again
PREFERRED_PER_TICK = 100  # partitions that change their leader for that alone
LEAVE_POLL_MS = 200
SESSION_LOOK_MS = 100  # whether a node's session counts again
QUORUM_NODES_ADVISED = 7  # with more than that the nodes' own quorum is not the best place for the metadata
