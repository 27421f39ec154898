//! openraft's errors, said in the words of [`RpcError`].

use model::command::Rejection;
use model::rpc::RpcError;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, Fatal, InitializeError, LinearizableReadError,
    RaftError,
};

use super::types::TypeConfig;

/// A write that may or may not have happened.
pub(super) fn unknown_outcome() -> RpcError {
    RpcError::Broken("leadership lost while committing log".to_owned())
}

/// Of a write that openraft answered.
pub(super) fn of_write(error: ClientWriteError<TypeConfig>) -> RpcError {
    match error {
        ClientWriteError::ForwardToLeader(_) => RpcError::NoLeader,
        ClientWriteError::LogEntryDiscarded(_) => unknown_outcome(),
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))
        | ClientWriteError::ChangeMembershipError(ChangeMembershipError::UncommittedLeaderLog(_)) => {
            RpcError::NotReady
        }
        error => RpcError::Rejected(Rejection::Other(error.to_string())),
    }
}

/// Of a configuration change.
pub(super) fn of_change(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> RpcError {
    match error {
        RaftError::APIError(error) => of_write(error),
        RaftError::Fatal(fatal) => of_fatal(&fatal),
    }
}

/// Of the first configuration.
pub(super) fn of_initialize(error: RaftError<TypeConfig, InitializeError<TypeConfig>>) -> RpcError {
    match error {
        RaftError::APIError(error) => RpcError::Rejected(Rejection::Other(error.to_string())),
        RaftError::Fatal(fatal) => of_fatal(&fatal),
    }
}

/// Of a read that wants a quorum's word.
pub(super) fn of_read(error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> RpcError {
    match error {
        RaftError::APIError(_) => RpcError::NoLeader,
        RaftError::Fatal(fatal) => of_fatal(&fatal),
    }
}

/// Of a node that has stopped.
pub(super) fn of_fatal(fatal: &Fatal<TypeConfig>) -> RpcError {
    match fatal {
        Fatal::Stopped => RpcError::Leaving,
        fatal => RpcError::Broken(fatal.to_string()),
    }
}
