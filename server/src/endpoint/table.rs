//! The table of RPCs: for each operation who may call it, what it needs, where it runs, and how
//! important it is. An operation without an entry does not compile.

use model::rpc::{KvWrite, Op};

use super::admission::Class;
use super::authorizer::Need;
use super::route::Caller;

/// Where an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Reads tables: where its consistency says; may block.
    Tables,
    /// On the server that it reaches, at once, also without a leader.
    Here,
    /// On the leader; with `stale` on the server that it reaches.
    LeaderUnlessStale,
    /// On the leader.
    Leader,
    /// Like [`Place::LeaderUnlessStale`], but it has a body: see [`super::archive`].
    Archive,
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// Agents and servers.
    Anyone,
}

impl Callers {
    pub(crate) fn admit(self, caller: Caller) -> bool {
        match (self, caller) {
            (Callers::Anyone, Caller::Agent | Caller::Server) => true,
        }
    }
}

/// What happens to a request whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Reads, and writes for which a second time changes nothing.
    Harmless,
    /// May be asked again if it carries a retry stamp.
    Stamped,
    /// Never: its effect is not in the log, and twice is not once.
    Never,
}

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) callers: Callers,
    pub(crate) need: Need,
    pub(crate) place: Place,
    pub(crate) class: Class,
    pub(crate) again: Again,
}

impl Rule {
    fn read(need: Need) -> Self {
        Self {
            callers: Callers::Anyone,
            need,
            place: Place::Tables,
            class: Class::Read,
            again: Again::Harmless,
        }
    }

    fn here() -> Self {
        Self { place: Place::Here, ..Self::read(Need::Nothing) }
    }

    fn write(need: Need) -> Self {
        Self {
            callers: Callers::Anyone,
            need,
            place: Place::Leader,
            class: Class::Write,
            again: Again::Stamped,
        }
    }

    fn session(need: Need) -> Self {
        Self { class: Class::Session, ..Self::write(need) }
    }

    fn operator() -> Self {
        Self { class: Class::Session, again: Again::Never, ..Self::write(Need::OperatorWrite) }
    }
}

/// The table.
pub(crate) fn rule(op: &Op) -> Rule {
    match op {
        Op::KvGet { key } => Rule::read(Need::KeyRead(key.clone())),
        Op::KvList { .. }
        | Op::KvKeys { .. }
        | Op::SessionGet { .. }
        | Op::SessionList
        | Op::SessionsOfNode { .. }
        | Op::Nodes { .. }
        | Op::Services { .. }
        | Op::AllInstances { .. }
        | Op::ServiceNodes { .. }
        | Op::NodeServices { .. }
        | Op::HealthService { .. }
        | Op::HealthNode { .. }
        | Op::HealthChecks { .. }
        | Op::HealthState { .. } => Rule::read(Need::Filtered),
        Op::AutopilotConfiguration => Rule::read(Need::OperatorRead),
        // What it says is in the leader's memory alone.
        Op::AutopilotState => Rule { again: Again::Harmless, ..Rule::session(Need::OperatorRead) },
        Op::AutopilotConfigure { .. } => {
            Rule { class: Class::Session, ..Rule::write(Need::OperatorWrite) }
        }
        Op::StatusLeader | Op::StatusPeers | Op::Datacenters => Rule::here(),
        Op::RaftConfiguration => {
            Rule { place: Place::LeaderUnlessStale, ..Rule::read(Need::OperatorRead) }
        }
        Op::Register(registration) => Rule::write(Need::Registration {
            node: registration.node.name.clone(),
            services: registration.services.iter().map(|row| row.name.clone()).collect(),
        }),
        Op::Deregister { node, service_id, check_id: _ } => {
            Rule::write(Need::Deregistration { node: node.clone(), service: service_id.clone() })
        }
        Op::Kv(write) => Rule::write(match write {
            KvWrite::Set { key, .. }
            | KvWrite::Cas { key, .. }
            | KvWrite::Acquire { key, .. }
            | KvWrite::Release { key, .. }
            | KvWrite::Delete { key }
            | KvWrite::DeleteCas { key, .. } => Need::KeyWrite(key.clone()),
            KvWrite::DeleteTree { prefix } => Need::KeyWritePrefix(prefix.clone()),
        }),
        Op::SessionCreate(session) => Rule::session(Need::SessionWrite(session.node.clone())),
        Op::SessionDestroy { id } => Rule::session(Need::SessionWriteOf(id.clone())),
        // No log entry, and a second time only starts the timer once more.
        Op::SessionRenew { id } => {
            Rule { again: Again::Harmless, ..Rule::session(Need::SessionWriteOf(id.clone())) }
        }
        Op::TransferLeader { .. } | Op::RemovePeer { .. } => Rule::operator(),
        Op::SnapshotSave | Op::SnapshotRestore => {
            Rule { place: Place::Archive, need: Need::Management, ..Rule::operator() }
        }
        // Each operation in it is authorised for itself, and fails for itself.
        Op::Txn(_) if op.is_write() => Rule::write(Need::Nothing),
        Op::Txn(_) => Rule::read(Need::Nothing),
        // Each operation in it is authorised for itself. Only such are allowed in it that change
        // nothing the second time.
        Op::Batch(_) => Rule { again: Again::Harmless, ..Rule::write(Need::Nothing) },
    }
}

/// Whether an operation may stand in a batch: a batch carries one retry stamp for all, so what is
/// in it must not matter twice.
pub(crate) fn may_be_batched(op: &Op) -> bool {
    matches!(
        op,
        Op::Register(_)
            | Op::Deregister { .. }
            | Op::SessionDestroy { .. }
            | Op::SessionRenew { .. }
    )
}
