"""What the quorum refuses, by name. Nothing that was refused is in any log; an unknown outcome is no refusal.

An unknown outcome is named by `Ready.unknown`, and becomes `dduomq.cluster.ports.MetadataUnknown` for who asked.
"""

from dduomq.wire.cluster_errors import ChangeUnderWay as ChangeUnderWay
from dduomq.wire.cluster_errors import InvalidChange as InvalidChange
from dduomq.wire.cluster_errors import LeaderHandsOver as LeaderHandsOver
from dduomq.wire.cluster_errors import LearnerBehind as LearnerBehind
from dduomq.wire.cluster_errors import NoQuorumLeader as NoQuorumLeader
from dduomq.wire.cluster_errors import NotQuorumLeader as NotQuorumLeader
from dduomq.wire.cluster_errors import ProposalTooLarge as ProposalTooLarge
from dduomq.wire.cluster_errors import QuorumBusy as QuorumBusy
