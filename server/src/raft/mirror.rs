//! Our own forms of openraft's structs, for disk and wire. openraft's positional encodings change
//! between its versions; these do not. Released variants and structs are never edited: a change is
//! a new version.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use model::wire::{self, Kind, WireError};
use model::{Name, NodeId};
use openraft::impls::leader_id_std;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::consensus::ServerStats;

use super::checkpoint::{Checkpoint, KEPT_MAX};
use super::types::{
    Entry, LogId, Membership, Payload, RaftId, RaftNode, SnapshotMeta, StoredMembership,
    TypeConfig, Vote, log_id,
};

/// Largest encoded command. A frame carries at most 16 MiB; the rest is room for what goes round it.
pub(crate) const ENTRY_BYTES_MAX: usize = 15 << 20;

/// Largest message between servers' Raft rooms: one frame.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Servers in a configuration, voters and learners: far above any sane cluster, below harm.
const SERVERS_MAX: usize = 1_000;

/// Why bytes of a peer or a file are not a message or record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MirrorError {
    /// Not what the codec writes.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Well-formed, but not a value that openraft can hold.
    #[error("malformed: {0}")]
    Value(&'static str),
}

/// Term and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdV1 {
    term: u64,
    index: u64,
}

/// Whom a server votes for, and whether a quorum did too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteV1 {
    term: u64,
    node: NodeId,
    committed: bool,
}

/// A configuration: one set of voters, two while it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipV1 {
    configs: Vec<Vec<NodeId>>,
    nodes: Vec<(NodeId, Name, SocketAddr)>,
}

/// A configuration and the entry that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredMembershipV1 {
    log_id: Option<LogIdV1>,
    membership: MembershipV1,
}

/// A log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryV1 {
    log_id: LogIdV1,
    payload: PayloadV1,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum PayloadV1 {
    Blank,
    Normal(Bytes),
    Membership(MembershipV1),
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotMetaV1 {
    last_log_id: Option<LogIdV1>,
    last_membership: StoredMembershipV1,
}

/// A request and the server that it is meant for. Connections are made by address, and behind an
/// address another server may have come up: one that lost its data, and with it its id. What it
/// holds, votes and acknowledges must never count for the one that was there before.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AddressedV1<T> {
    pub(crate) to: NodeId,
    pub(crate) request: T,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct VoteRequestV1 {
    vote: VoteV1,
    last_log_id: Option<LogIdV1>,
    leadership_transfer: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct VoteResponseV1 {
    vote: VoteV1,
    granted: bool,
    last_log_id: Option<LogIdV1>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AppendV1 {
    vote: VoteV1,
    prev_log_id: Option<LogIdV1>,
    entries: Vec<EntryV1>,
    leader_commit: Option<LogIdV1>,
}

/// Hashes of the state, by log index, oldest first.
#[derive(Serialize, Deserialize)]
pub(crate) struct CheckpointsV1 {
    checkpoints: Vec<(u64, u64)>,
}

/// A server's state has another hash than those of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DifferenceV1 {
    pub(crate) index: u64,
    /// The hash of the others.
    pub(crate) hash: u64,
    /// Voters that have it.
    pub(crate) agreeing: u32,
    /// Voters in all.
    pub(crate) voters: u32,
    /// Whether those are a majority.
    pub(crate) decided: bool,
}

/// Answer to one append of a stream.
#[derive(Serialize, Deserialize)]
pub(crate) enum StreamAppendedV1 {
    Matched(Option<LogIdV1>),
    Conflict(LogIdV1),
    HigherVote(VoteV1),
}

/// Answer to a single append.
#[derive(Serialize, Deserialize)]
pub(crate) enum AppendedV1 {
    Success,
    PartialSuccess(Option<LogIdV1>),
    Conflict,
    HigherVote(VoteV1),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TransferV1 {
    from_leader: VoteV1,
    to: NodeId,
    last_log_id: Option<LogIdV1>,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum TransferredV1 {
    Accepted,
    VoteChanged { expected: VoteV1, actual: VoteV1 },
    LogNotFlushed { expected: Option<LogIdV1>, actual: Option<LogIdV1> },
}

/// Opens a snapshot stream. The receiver says what it has; the bytes of the file behind that follow.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotOpenV1 {
    pub(crate) vote: VoteV1,
    pub(crate) meta: SnapshotMetaV1,
    pub(crate) bytes: u64,
    /// SHA-256 of the file's outline (README.md): whether it is the same file as before.
    pub(crate) outline: [u8; 32],
}

/// What the receiver of a snapshot answers: first `Held`, in the end `Installed`; that alone when
/// it has voted for a newer leader.
#[derive(Serialize, Deserialize)]
pub(crate) enum SnapshotAnswerV1 {
    /// Checked bytes of this very file that it has from a transfer that was cut.
    Held(u64),
    Installed(VoteV1),
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatsV1 {
    pub(crate) node: NodeId,
    pub(crate) state_version: u32,
    pub(crate) last_log_id: Option<LogIdV1>,
    pub(crate) contact_ms: Option<u64>,
}

impl StatsV1 {
    /// As the rest of the server has it.
    pub(crate) fn stats(self) -> ServerStats {
        ServerStats {
            id: self.node,
            state_version: self.state_version,
            last_term: self.last_log_id.map_or(0, |id| id.term),
            last_index: self.last_log_id.map_or(0, |id| id.index),
            contact_ms: self.contact_ms,
        }
    }
}

/// Message bytes of a mirror.
pub(crate) fn message<T: Serialize>(value: &T) -> Bytes {
    wire::encode(Kind::RaftMessage, value).into()
}

/// The mirror in these message bytes.
pub(crate) fn read_message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MirrorError> {
    Ok(wire::decode(Kind::RaftMessage, bytes, MESSAGE_BYTES_MAX)?)
}

impl From<Vec<Checkpoint>> for CheckpointsV1 {
    fn from(list: Vec<Checkpoint>) -> Self {
        Self { checkpoints: list.into_iter().map(|one| (one.index, one.hash)).collect() }
    }
}

impl From<CheckpointsV1> for Vec<Checkpoint> {
    fn from(list: CheckpointsV1) -> Self {
        let list = list.checkpoints.into_iter().take(KEPT_MAX);
        list.map(|(index, hash)| Checkpoint { index, hash }).collect()
    }
}

impl From<&LogId> for LogIdV1 {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        log_id(id.term, id.index)
    }
}

impl From<&Vote> for VoteV1 {
    fn from(vote: &Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for.0,
            committed: vote.committed,
        }
    }
}

impl From<VoteV1> for Vote {
    fn from(vote: VoteV1) -> Self {
        let leader_id = leader_id_std::LeaderId { term: vote.term, voted_for: RaftId(vote.node) };
        Self { leader_id, committed: vote.committed }
    }
}

fn id(from: Option<&LogId>) -> Option<LogIdV1> {
    from.map(LogIdV1::from)
}

fn unid(from: Option<LogIdV1>) -> Option<LogId> {
    from.map(LogId::from)
}

impl From<&Membership> for MembershipV1 {
    fn from(membership: &Membership) -> Self {
        let configs = membership.get_joint_config();
        Self {
            configs: configs.iter().map(|set| set.iter().map(|id| id.0).collect()).collect(),
            nodes: membership.nodes().map(|(id, n)| (id.0, n.name.clone(), n.address)).collect(),
        }
    }
}

impl TryFrom<MembershipV1> for Membership {
    type Error = MirrorError;

    fn try_from(from: MembershipV1) -> Result<Self, MirrorError> {
        if from.configs.len() > 2 || from.nodes.len() > SERVERS_MAX {
            return Err(MirrorError::Value("a configuration of impossible size"));
        }
        let nodes: BTreeMap<RaftId, RaftNode> = from
            .nodes
            .into_iter()
            .map(|(id, name, address)| (RaftId(id), RaftNode { name, address }))
            .collect();
        let configs: Vec<BTreeSet<RaftId>> =
            from.configs.into_iter().map(|set| set.into_iter().map(RaftId).collect()).collect();
        if configs.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes)
            .map_err(|_| MirrorError::Value("a configuration names a voter that is no server"))
    }
}

impl From<&StoredMembership> for StoredMembershipV1 {
    fn from(stored: &StoredMembership) -> Self {
        Self { log_id: id(stored.log_id().as_ref()), membership: stored.membership().into() }
    }
}

impl TryFrom<StoredMembershipV1> for StoredMembership {
    type Error = MirrorError;

    fn try_from(from: StoredMembershipV1) -> Result<Self, MirrorError> {
        Ok(StoredMembership::new(unid(from.log_id), from.membership.try_into()?))
    }
}

impl From<&SnapshotMeta> for SnapshotMetaV1 {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last_log_id: id(meta.last_log_id.as_ref()),
            last_membership: (&meta.last_membership).into(),
        }
    }
}

impl TryFrom<SnapshotMetaV1> for SnapshotMeta {
    type Error = MirrorError;

    fn try_from(from: SnapshotMetaV1) -> Result<Self, MirrorError> {
        Ok(SnapshotMeta {
            last_log_id: unid(from.last_log_id),
            last_membership: from.last_membership.try_into()?,
        })
    }
}

impl From<&Entry> for EntryV1 {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            openraft::EntryPayload::Blank => PayloadV1::Blank,
            openraft::EntryPayload::Normal(payload) => PayloadV1::Normal(payload.0.clone()),
            openraft::EntryPayload::Membership(m) => PayloadV1::Membership(m.into()),
        };
        Self { log_id: (&entry.log_id).into(), payload }
    }
}

impl EntryV1 {
    /// As openraft holds it.
    pub(crate) fn entry(self) -> Result<Entry, MirrorError> {
        let payload = match self.payload {
            PayloadV1::Blank => openraft::EntryPayload::Blank,
            PayloadV1::Normal(bytes) => openraft::EntryPayload::Normal(Payload(bytes)),
            PayloadV1::Membership(m) => openraft::EntryPayload::Membership(m.try_into()?),
        };
        Ok(Entry { log_id: self.log_id.into(), payload })
    }
}

impl From<&VoteRequest<TypeConfig>> for VoteRequestV1 {
    fn from(request: &VoteRequest<TypeConfig>) -> Self {
        Self {
            vote: (&request.vote).into(),
            last_log_id: id(request.last_log_id.as_ref()),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteRequestV1> for VoteRequest<TypeConfig> {
    fn from(from: VoteRequestV1) -> Self {
        let mut request = VoteRequest::new(from.vote.into(), unid(from.last_log_id));
        request.leadership_transfer = from.leadership_transfer;
        request
    }
}

impl From<&VoteResponse<TypeConfig>> for VoteResponseV1 {
    fn from(response: &VoteResponse<TypeConfig>) -> Self {
        Self {
            vote: (&response.vote).into(),
            granted: response.vote_granted,
            last_log_id: id(response.last_log_id.as_ref()),
        }
    }
}

impl From<VoteResponseV1> for VoteResponse<TypeConfig> {
    fn from(from: VoteResponseV1) -> Self {
        VoteResponse::new(Vote::from(from.vote), unid(from.last_log_id), from.granted)
    }
}

impl From<&AppendEntriesRequest<TypeConfig>> for AppendV1 {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        Self {
            vote: (&request.vote).into(),
            prev_log_id: id(request.prev_log_id.as_ref()),
            entries: request.entries.iter().map(EntryV1::from).collect(),
            leader_commit: id(request.leader_commit.as_ref()),
        }
    }
}

impl TryFrom<AppendV1> for AppendEntriesRequest<TypeConfig> {
    type Error = MirrorError;

    fn try_from(from: AppendV1) -> Result<Self, MirrorError> {
        // openraft asserts these; a peer's bytes must not reach an assertion.
        let mut next = from.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
        for entry in &from.entries {
            if entry.log_id.index != next {
                return Err(MirrorError::Value("entries of an append are not consecutive"));
            }
            next = next.saturating_add(1);
        }
        Ok(AppendEntriesRequest {
            vote: from.vote.into(),
            prev_log_id: unid(from.prev_log_id),
            entries: from.entries.into_iter().map(EntryV1::entry).collect::<Result<_, _>>()?,
            leader_commit: unid(from.leader_commit),
        })
    }
}

impl From<&StreamAppendResult<TypeConfig>> for StreamAppendedV1 {
    fn from(result: &StreamAppendResult<TypeConfig>) -> Self {
        match result {
            Ok(matched) => Self::Matched(id(matched.as_ref())),
            Err(StreamAppendError::Conflict(at)) => Self::Conflict(at.into()),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<StreamAppendedV1> for StreamAppendResult<TypeConfig> {
    fn from(from: StreamAppendedV1) -> Self {
        match from {
            StreamAppendedV1::Matched(matched) => Ok(unid(matched)),
            StreamAppendedV1::Conflict(at) => Err(StreamAppendError::Conflict(at.into())),
            StreamAppendedV1::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

impl From<&AppendEntriesResponse<TypeConfig>> for AppendedV1 {
    fn from(response: &AppendEntriesResponse<TypeConfig>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(at) => Self::PartialSuccess(id(at.as_ref())),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendedV1> for AppendEntriesResponse<TypeConfig> {
    fn from(from: AppendedV1) -> Self {
        match from {
            AppendedV1::Success => Self::Success,
            AppendedV1::PartialSuccess(at) => Self::PartialSuccess(unid(at)),
            AppendedV1::Conflict => Self::Conflict,
            AppendedV1::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<&TransferLeaderRequest<TypeConfig>> for TransferV1 {
    fn from(request: &TransferLeaderRequest<TypeConfig>) -> Self {
        Self {
            from_leader: request.from_leader().into(),
            to: request.to_node_id().0,
            last_log_id: id(request.last_log_id()),
        }
    }
}

impl From<TransferV1> for TransferLeaderRequest<TypeConfig> {
    fn from(from: TransferV1) -> Self {
        Self::new(from.from_leader.into(), RaftId(from.to), unid(from.last_log_id))
    }
}

impl From<&TransferLeaderResponse<TypeConfig>> for TransferredV1 {
    fn from(response: &TransferLeaderResponse<TypeConfig>) -> Self {
        match response {
            Ok(()) => Self::Accepted,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Self::VoteChanged { expected: expected.into(), actual: actual.into() }
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Self::LogNotFlushed { expected: id(expected.as_ref()), actual: id(actual.as_ref()) }
            }
        }
    }
}

impl From<TransferredV1> for TransferLeaderResponse<TypeConfig> {
    fn from(from: TransferredV1) -> Self {
        match from {
            TransferredV1::Accepted => Ok(()),
            TransferredV1::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                })
            }
            TransferredV1::LogNotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: unid(expected),
                    actual: unid(actual),
                })
            }
        }
    }
}

impl From<&SnapshotResponse<TypeConfig>> for SnapshotAnswerV1 {
    fn from(response: &SnapshotResponse<TypeConfig>) -> Self {
        Self::Installed((&response.vote).into())
    }
}
