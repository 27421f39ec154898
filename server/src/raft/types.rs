//! openraft's types as this house fills them in.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use model::command::Outcome;
use model::{LogIndex, Name, NodeId};
use openraft::impls::leader_id_std;

/// Where openraft runs. A simulation seeds its random election timeouts.
#[cfg(not(feature = "sim"))]
pub(crate) type Runtime = openraft::TokioRuntime;
#[cfg(feature = "sim")]
pub(crate) type Runtime = openraft::rt::deterministic_rng::DeterministicRng<openraft::TokioRuntime>;

/// Standard Raft: one leader per term, so a log id is a term and an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = (LogIndex, Outcome);
    type NodeId = RaftId;
    type Node = RaftNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, RaftId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Payload, RaftId, RaftNode>;
    type Entry = openraft::Entry<
        <Self::LeaderId as openraft::vote::RaftLeaderId>::Committed,
        <Self as openraft::RaftTypeConfig>::Payload,
    >;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = super::proposer::Reply<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<RaftId, RaftNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// The log id of this term and index.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: term.into(), index }
}

/// Identity of a server: its node's UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RaftId(pub(crate) NodeId);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the configuration says of a server beside its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RaftNode {
    /// Name of the node.
    pub(crate) name: Name,
    /// Where its RPC listens.
    pub(crate) address: SocketAddr,
}

/// An encoded [`model::command::EnvelopeV1`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes that an entry takes in memory and on the wire, roughly: what limits count.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const FRAME: usize = 32;
    FRAME
        + match &entry.payload {
            openraft::EntryPayload::Blank => 0,
            openraft::EntryPayload::Normal(payload) => payload.0.len(),
            openraft::EntryPayload::Membership(membership) => membership.nodes().count() * 64,
        }
}

#[cfg(test)]
impl From<u64> for RaftId {
    fn from(number: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        Self(NodeId(bytes))
    }
}

#[cfg(test)]
impl Default for RaftNode {
    fn default() -> Self {
        Self { name: "".into(), address: ([127, 0, 0, 1], 1).into() }
    }
}
