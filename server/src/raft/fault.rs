//! What this room says when it refuses to start or has to end the process.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why Raft does not start. Each text is one line: the file, what is wrong, the way out.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file or directory cannot be read, written or made.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The bytes on disk are not what was written, or something is missing.
    #[error("{path} is damaged: {what}; {remedy}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fact.
        what: String,
        /// The way out.
        remedy: &'static str,
    },
    /// A newer release wrote the file.
    #[error(
        "{path} was written by a newer release ({release}) in format {format}, and this release reads \
         format {known}; start that release or a newer one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Who wrote it.
        release: String,
        /// In which format.
        format: u32,
        /// The newest format that we know.
        known: u32,
    },
    /// The log is another server's.
    #[error(
        "{path} belongs to server {owner}, but this server is {us}; restore the file node-id that \
         belongs to it, or run `muster operator raft reset -force -data-dir=…` to join as a new \
         server"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who we are.
        us: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process; stop it first")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The quorum cannot be replaced as the operator asks.
    #[error("{path}: {what}; correct or remove it to start")]
    Recovery {
        /// The file that asks for it.
        path: PathBuf,
        /// What stands against it.
        what: String,
    },
    /// A setting is out of range.
    #[error("raft settings: {0}")]
    Settings(String),
    /// The library refused what it was given.
    #[error("raft cannot start: {0}")]
    Raft(String),
}

/// The way out of a damaged log or snapshot.
pub(super) const REJOIN: &str = "if the other servers have a leader, run `muster operator raft \
                                 reset -data-dir=…` here and start again: this server then \
                                 refetches all data; otherwise restore the data directory from a \
                                 backup";

/// This release, as files carry it: cut off at `N` bytes, filled with zeros.
pub(super) fn release<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
        *to = from;
    }
    bytes
}

/// A release as files carry it, for people: whatever stands there, it prints as one word.
pub(super) fn release_text(bytes: &[u8]) -> String {
    let text = bytes.iter().take_while(|byte| byte.is_ascii_graphic());
    let text: String = text.map(|byte| char::from(*byte)).collect();
    if text.is_empty() { "unnamed".to_owned() } else { text }
}

impl StartError {
    pub(super) fn io(action: &'static str, path: &Path, cause: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), cause }
    }

    pub(super) fn damaged(path: &Path, what: impl fmt::Display) -> Self {
        // Libraries' texts may have several lines; ours is one.
        let what = what.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self::Damaged { path: path.to_owned(), what, remedy: REJOIN }
    }
}

/// What happens when storage fails at run time: what, where, remedy.
///
/// Outside of tests and simulations it never returns ([`rt::fatal`]). Where it does return, the
/// one who called it refuses all further work.
#[derive(Clone)]
pub(crate) struct OnFault(Arc<Tell>);

type Tell = dyn Fn(&str, &str, &str) + Send + Sync;

impl OnFault {
    /// Ends the process.
    pub(crate) fn fatal() -> Self {
        Self(Arc::new(|what, place, remedy| rt::fatal(what, place, remedy)))
    }

    /// Tells a test or a simulation, which stops the node by itself.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn told(tell: impl Fn(&str, &str, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn raise(&self, what: &str, place: &str, remedy: &str) {
        (self.0)(what, place, remedy);
    }
}

impl fmt::Debug for OnFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFault")
    }
}

impl From<super::snapshot::SnapshotError> for StartError {
    fn from(cause: super::snapshot::SnapshotError) -> Self {
        use super::snapshot::SnapshotError;
        match cause {
            SnapshotError::Io { action, path, cause } => Self::Io { action, path, cause },
            SnapshotError::Damaged { path, what } => Self::Damaged { path, what, remedy: REJOIN },
            SnapshotError::Newer { path, release, found, known } => {
                Self::Newer { path, release, format: found, known }
            }
        }
    }
}
