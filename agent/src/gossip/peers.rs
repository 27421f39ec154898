//! `serf/local.snapshot`: who was there, for the next start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::GossipError;

/// Format of the file.
const VERSION: u32 = 1;
/// Largest file that is read.
const FILE_MAX: u64 = 16 * 1_024 * 1_024;
/// Peers that are kept: enough to find the cluster again.
pub(super) const PEERS_MAX: usize = 256;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Peers {
    /// See `VERSION`.
    pub(super) version: u32,
    /// No run of this node has used a higher generation or record version.
    pub(super) generation: u64,
    /// The last run left on purpose.
    pub(super) left: bool,
    /// Where live members listened.
    pub(super) members: Vec<SocketAddr>,
}

/// Where it is.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("serf").join("local.snapshot")
}

/// Reads it; a missing file is an empty one. A damaged one too, with a warning: all that it holds
/// are hints, and the generation, which the clock gives as well.
pub(super) fn load(path: &Path) -> Result<Peers, GossipError> {
    let fail = |cause| GossipError::Peers { verb: "read", path: path.to_owned(), cause };
    let bytes = match fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_MAX => Vec::new(),
        Ok(_) => fs::read(path).map_err(fail)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Peers::default()),
        Err(error) => return Err(fail(error)),
    };
    match serde_json::from_slice::<Peers>(&bytes) {
        Ok(peers) if peers.version == VERSION => Ok(peers),
        Ok(peers) => {
            tracing::warn!(path = %path.display(), version = peers.version,
                "known peers were written by another release; starting without them");
            Ok(Peers { generation: peers.generation, ..Peers::default() })
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error,
                "the file of known peers is damaged; starting without them");
            Ok(Peers::default())
        }
    }
}

/// Replaces it: written beside, synced, renamed.
pub(super) fn store(path: &Path, peers: &Peers) -> Result<(), GossipError> {
    let fail = |cause| GossipError::Peers { verb: "write", path: path.to_owned(), cause };
    write(path, peers).map_err(fail)
}

fn write(path: &Path, peers: &Peers) -> io::Result<()> {
    let peers = Peers { version: VERSION, ..peers.clone() };
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = path.with_extension("snapshot.tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(&peers)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_back_and_a_damaged_one_is_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(dir.path());
        assert_eq!(load(&path).expect("missing is empty"), Peers::default());
        let peers = Peers {
            version: VERSION,
            generation: 7,
            left: true,
            members: vec!["10.0.0.1:8301".parse().expect("address")],
        };
        store(&path, &peers).expect("written");
        assert_eq!(load(&path).expect("read"), peers);
        fs::write(&path, b"{").expect("written");
        assert_eq!(load(&path).expect("damaged is empty"), Peers::default());
        fs::write(&path, br#"{"version":9,"generation":7,"left":false,"members":[]}"#)
            .expect("written");
        assert_eq!(load(&path).expect("read").generation, 7);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("serf"), b"a file").expect("written");
        let path = path(dir.path());
        let error = store(&path, &Peers::default()).expect_err("serf is a file");
        assert!(error.to_string().contains("local.snapshot"), "{error}");
        assert!(load(&path).is_err());
    }
}
