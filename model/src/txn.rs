//! Transactions: their operations, as the log holds them, and what they yield.
//!
//! Invariant: as in [`crate::command`], released types are never edited and variants are only
//! appended.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{LogIndex, Name};
use crate::row::{CheckV1, KvV1, NodeV1, ServiceV1};

/// Operations that one transaction may have. Consul: 128, although its documents say 64.
pub const OPERATIONS_MAX: usize = 128;

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOpV1 {
    /// On a key.
    Kv(KvTxnV1),
    /// On a node, found by its id if it has one. The row's modify index is what `cas` compares.
    Node(CatalogVerbV1, NodeV1),
    /// On a service of the node that the row names.
    Service(CatalogVerbV1, ServiceV1),
    /// On a check of the node that the row names.
    Check(CatalogVerbV1, CheckV1),
}

/// An operation on a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvTxnV1 {
    /// What to do.
    pub verb: KvVerbV1,
    /// The key, or a prefix.
    pub key: Bytes,
    /// New value.
    pub value: Bytes,
    /// New flags.
    pub flags: u64,
    /// What `cas`, `check-index` and `delete-cas` compare.
    pub index: LogIndex,
    /// As the client wrote it: errors repeat it.
    pub session: Name,
}

/// Verbs on keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the verbs are the client's own words")]
pub enum KvVerbV1 {
    Set,
    Cas,
    Lock,
    Unlock,
    Get,
    GetOrEmpty,
    GetTree,
    CheckIndex,
    CheckSession,
    CheckNotExists,
    Delete,
    DeleteCas,
    DeleteTree,
}

impl KvVerbV1 {
    /// The verb of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "set" => Self::Set,
            "cas" => Self::Cas,
            "lock" => Self::Lock,
            "unlock" => Self::Unlock,
            "get" => Self::Get,
            "get-or-empty" => Self::GetOrEmpty,
            "get-tree" => Self::GetTree,
            "check-index" => Self::CheckIndex,
            "check-session" => Self::CheckSession,
            "check-not-exists" => Self::CheckNotExists,
            "delete" => Self::Delete,
            "delete-cas" => Self::DeleteCas,
            "delete-tree" => Self::DeleteTree,
            _ => return None,
        })
    }

    /// Whether it changes something.
    pub fn is_write(self) -> bool {
        use KvVerbV1::{Cas, Delete, DeleteCas, DeleteTree, Lock, Set, Unlock};
        matches!(self, Set | Cas | Lock | Unlock | Delete | DeleteCas | DeleteTree)
    }
}

/// Verbs on nodes, services and checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the verbs are the client's own words")]
pub enum CatalogVerbV1 {
    Get,
    Set,
    Cas,
    Delete,
    DeleteCas,
}

impl CatalogVerbV1 {
    /// The verb of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "get" => Self::Get,
            "set" => Self::Set,
            "cas" => Self::Cas,
            "delete" => Self::Delete,
            "delete-cas" => Self::DeleteCas,
            _ => return None,
        })
    }
}

impl TxnOpV1 {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Kv(op) => op.verb.is_write(),
            Self::Node(verb, _) | Self::Service(verb, _) | Self::Check(verb, _) => {
                *verb != CatalogVerbV1::Get
            }
        }
    }
}

/// What one operation yields. Values are left out where the client only wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnResultV1 {
    /// A key.
    Kv(Arc<KvV1>),
    /// A node.
    Node(Arc<NodeV1>),
    /// A service.
    Service(Arc<ServiceV1>),
    /// A check.
    Check(Arc<CheckV1>),
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnErrorV1 {
    /// Its place in the transaction.
    pub op_index: u32,
    /// Consul's text.
    pub what: String,
}

/// Results of a transaction in order, or the errors for which nothing of it was done.
pub type TxnOutcomeV1 = Result<Vec<TxnResultV1>, Vec<TxnErrorV1>>;
