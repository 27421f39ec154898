//! The data directory: one process only, and the node's identity in it (design: data directory).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use model::NodeId;

/// Makes the directory if it is missing and locks it for this process. The lock lives as long as
/// the file.
pub(crate) fn lock(dir: &Path) -> Result<File, String> {
    let shown = dir.display();
    if dir.exists() && !dir.is_dir() {
        return Err(format!("data_dir {shown} is not a directory"));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| format!("cannot make data_dir {shown}: {error}"))?;
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(format!(
            "data_dir {shown} is in use by another process; stop it or choose another -data-dir"
        )),
        Err(TryLockError::Error(error)) => Err(format!("cannot lock {}: {error}", path.display())),
    }
}

/// The node's identity: configured, else from the file, else new and written to the file. A retired
/// one ([`server::raft::reset`]) is refused where it is configured, and replaced where it is not.
pub(crate) fn node_id(
    dir: Option<&Path>,
    configured: Option<&str>,
    retired: &[NodeId],
    fresh: impl FnOnce() -> NodeId,
) -> Result<NodeId, String> {
    let path = dir.map(|dir| dir.join("node-id"));
    let known = match (configured, &path) {
        (Some(text), _) => {
            let id = text.parse().map_err(|error| format!("node_id \"{text}\" is {error}"))?;
            if retired.contains(&id) {
                return Err(format!(
                    "node_id {id} was retired when this server's Raft log was reset: its vote is \
                     lost with the log, so it can never vote again; remove node_id from the \
                     settings, or name a new one"
                ));
            }
            Some(id)
        }
        (None, Some(path)) => read(path)?.filter(|id| !retired.contains(id)),
        (None, None) => None,
    };
    let id = known.unwrap_or_else(fresh);
    if let Some(path) = path {
        write(&path, id)?;
    }
    Ok(id)
}

fn read(path: &Path) -> Result<Option<NodeId>, String> {
    let shown = path.display();
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|error| {
            format!(
                "{shown} is damaged: its content is {error}; restore it, or remove it to join as \
                 a new node"
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {shown}: {error}")),
    }
}

fn write(path: &Path, id: NodeId) -> Result<(), String> {
    let text = id.to_string();
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let temporary = path.with_extension("tmp");
    let result = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        });
    result.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> NodeId {
        NodeId([7; 16])
    }

    #[test]
    fn an_identity_is_made_once_and_a_configured_one_wins() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = node_id(Some(dir.path()), None, &[], fresh).expect("made");
        let again = node_id(Some(dir.path()), None, &[], || NodeId([8; 16])).expect("read");
        assert_eq!(first, again);
        let retired = [first];
        let text = first.to_string();
        let refused = node_id(Some(dir.path()), Some(&text), &retired, fresh);
        assert!(refused.expect_err("retired").contains("was retired"));
        let new = node_id(Some(dir.path()), None, &retired, || NodeId([8; 16]));
        assert_eq!(new, Ok(NodeId([8; 16])));
        let text = "40e4a748-2192-161a-0510-9bf59fe950b5";
        assert_eq!(
            node_id(Some(dir.path()), Some(text), &[], fresh).map(|id| id.to_string()),
            Ok(text.to_owned())
        );
        assert_eq!(
            node_id(Some(dir.path()), None, &[], fresh).map(|id| id.to_string()),
            Ok(text.to_owned())
        );
    }

    #[test]
    fn a_damaged_identity_and_a_second_process_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("node-id"), "half").expect("written");
        assert!(
            node_id(Some(dir.path()), None, &[], fresh).expect_err("damaged").contains("node-id")
        );
        let held = lock(dir.path()).expect("first");
        assert!(lock(dir.path()).expect_err("second").contains("in use by another process"));
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
