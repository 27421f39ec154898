//! Archives out of this server, and back into the cluster.
//!
//! A restore is received whole and checked whole before the first piece of it enters the log, so
//! that a damaged archive changes nothing anywhere. Then its pieces are proposed one after the
//! other, and one last entry swaps the tables on all servers (crate `state`, module `stage`).

use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::command::{
    Command, Outcome, RESTORE_CHUNK_BYTES_MAX, RestoreChunkV1, RestoreCommitV1, RestoreId,
};
use model::rpc::RpcError;
use model::seam::ByteStream;
use model::{LogIndex, NodeId};
use openraft::async_runtime::WatchReceiver as _;
use sha2::{Digest as _, Sha256};
use state::snapshot::Loader;
use state::stage::{STAGE_BYTES_MAX, frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::inbound::off;
use super::log::{Stepping, raft_directory};
use super::membership::rejected;
use super::snapshot::archive::{self, ArchiveError, ArchiveMeta};
use super::types::SnapshotMeta;
use super::{Node, errors};
use crate::consensus::Proposal;

/// Bytes of an archive in one message of its stream.
const MESSAGE_BYTES: usize = 256 << 10;
/// Messages that wait between the thread that makes them and the connection.
const MESSAGES_AHEAD: usize = 4;
/// Bytes that an archive may have: what it unfolds to is limited to this too.
const ARCHIVE_BYTES_MAX: u64 = STAGE_BYTES_MAX;
/// Archives that are made at once: each keeps a state alive and a thread busy.
pub(super) const ARCHIVES_MAX: usize = 4;
/// Pieces that wait to be proposed.
const PIECES_AHEAD: usize = 2;
/// Time for one piece to be committed.
const PROPOSE_MAX: Duration = Duration::from_secs(30);
/// Pause while the leader has too much under way, or is not ready yet.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A checked archive in a file without a name: gone with the process.
struct Spooled {
    file: File,
    /// Bytes of all pieces, and their checksum.
    length: u64,
    sha256: [u8; 32],
}

impl Node {
    /// See [`crate::consensus::Consensus::archive`].
    pub(super) fn archive(&self) -> Result<(LogIndex, ByteStream), RpcError> {
        let permit = Arc::clone(&self.archives).try_acquire_owned().map_err(|_| RpcError::Busy)?;
        let state = self.published.state();
        let (index, applied) = (state.applied(), self.published.applied());
        let term = applied.map_or(0, |id| id.leader_id.term);
        let membership = {
            let metrics = self.core.metrics();
            metrics.borrow_watched().membership_config.as_ref().clone()
        };
        let (configuration_index, servers) = self.servers();
        let described = servers.into_iter().map(|server| archive::Server {
            suffrage: u8::from(!server.voter),
            id: server.id.to_string(),
            address: server.address.to_string(),
        });
        let description = ArchiveMeta {
            version: 1,
            id: format!("{term}-{index}-{}", self.wall_ms()),
            index: index.0,
            term,
            peers: String::new(),
            configuration: archive::Configuration { servers: described.collect() },
            configuration_index,
            size: 0,
        };
        let meta = SnapshotMeta { last_log_id: applied, last_membership: membership };
        let write = move |out: &mut dyn Write| archive::write(out, description, &meta, &state);
        Ok((index, written(self.stepping, permit, write)?))
    }

    /// See [`crate::consensus::Consensus::restore`].
    pub(super) async fn restore(
        self: Arc<Self>,
        archive: ByteStream,
    ) -> Result<LogIndex, RpcError> {
        self.must_lead()?;
        let one = Arc::clone(&self.restores).try_acquire_owned();
        let one = one.map_err(|_| rejected("another restore is under way".to_owned()))?;
        let spooled = self.spool(archive).await?;
        let (done, restored) = oneshot::channel();
        // On its own: what has begun is ended, one way or the other, also when nobody waits for it.
        let (tasks, node) = (self.tasks.clone(), Arc::clone(&self));
        tasks.spawn_until_stop("raft restore", async move {
            let _ = done.send(node.replay(spooled, one).await);
        });
        restored.await.unwrap_or_else(|_| Err(errors::unknown_outcome()))
    }

    /// Receives an archive and checks all of it.
    async fn spool(&self, mut archive: ByteStream) -> Result<Spooled, RpcError> {
        let stepping = self.stepping;
        let directory = self.config.data_dir.as_deref().map(raft_directory);
        let mut file = off(stepping, move || unnamed(directory.as_deref()))
            .await?
            .map_err(|cause| RpcError::Broken(format!("no room for the archive: {cause}")))?;
        let mut bytes = 0_u64;
        while let Some(part) = archive.next().await {
            let part = part?;
            bytes += part.len() as u64;
            if bytes > ARCHIVE_BYTES_MAX {
                let text = format!("the archive has more than {ARCHIVE_BYTES_MAX} bytes");
                return Err(rejected(text));
            }
            let written = off(stepping, move || file.write_all(&part).map(|()| file)).await?;
            file = written
                .map_err(|cause| RpcError::Broken(format!("no room for the archive: {cause}")))?;
        }
        // What any server of the cluster might not know must not reach it.
        let known = self.published.state().version();
        let checked = off(stepping, move || check(file, known)).await?;
        checked.map_err(|cause| rejected(cause.to_string()))
    }

    /// Proposes what was checked.
    async fn replay(
        &self,
        spooled: Spooled,
        _one: OwnedSemaphorePermit,
    ) -> Result<LogIndex, RpcError> {
        let Spooled { file, length, sha256 } = spooled;
        let id = self.restore_id(&sha256);
        // One that a client or a leader has given up would stand in the way for ten minutes.
        if let Some(left) = self.published.state().restoring() {
            self.order(Command::RestoreAbortV1(left)).await?;
        }
        let restored = self.send_pieces(id, file, RestoreCommitV1 { id, length, sha256 }).await;
        match &restored {
            Ok(index) => {
                tracing::warn!(%index, bytes = length, "the state was replaced by a restore")
            }
            Err(error) => {
                tracing::warn!(%error, "a restore was given up");
                if let Err(error) = self.order(Command::RestoreAbortV1(id)).await {
                    tracing::debug!(%error, "what is staged of it is dropped later");
                }
            }
        }
        restored
    }

    async fn send_pieces(
        &self,
        id: RestoreId,
        file: File,
        commit: RestoreCommitV1,
    ) -> Result<LogIndex, RpcError> {
        let mut pieces = pieces(self.stepping, file)?;
        let mut offset = 0;
        while let Some(bytes) = pieces.next().await {
            let bytes = bytes?;
            let next = offset + bytes.len() as u64;
            self.order(Command::RestoreChunkV1(RestoreChunkV1 { id, offset, bytes })).await?;
            offset = next;
        }
        self.order(Command::RestoreCommitV1(commit)).await
    }

    /// Proposes and waits until it is applied. One after the other: a piece that was refused as too
    /// much for now must not be overtaken.
    async fn order(&self, command: Command) -> Result<LogIndex, RpcError> {
        let tries = async {
            loop {
                let proposal = Proposal {
                    namespace: "default".into(),
                    retry: None,
                    actor: "restore".into(),
                    reason: "".into(),
                    command: command.clone(),
                };
                match self.proposer.propose(proposal).await {
                    // Neither entered the log. A new leader is not ready for this command until it
                    // has heard from all servers that they know it.
                    Err(RpcError::Busy | RpcError::NotReady) => {
                        tokio::time::sleep(BUSY_PAUSE).await;
                    }
                    done => return done,
                }
            }
        };
        let done = tokio::time::timeout(PROPOSE_MAX, tries).await;
        match done.unwrap_or_else(|_| Err(errors::unknown_outcome()))? {
            (index, Outcome::Done | Outcome::Bool(_) | Outcome::Txn(_)) => Ok(index),
            (_, Outcome::Rejected(reason)) => Err(RpcError::Rejected(reason)),
        }
    }

    /// Differs from that of any other restore: in content, or in what the log held before it.
    fn restore_id(&self, sha256: &[u8; 32]) -> RestoreId {
        let mut hash = Sha256::new();
        hash.update(sha256);
        hash.update(self.published.state().applied().0.to_le_bytes());
        hash.update(self.leadership.borrow().term.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        NodeId::from_random(id)
    }
}

fn unnamed(directory: Option<&Path>) -> io::Result<File> {
    match directory {
        Some(directory) => tempfile::tempfile_in(directory),
        None => tempfile::tempfile(),
    }
}

/// Reads the whole archive as the restore will, and tries it out. `known`: the state version that
/// all servers know.
fn check(mut file: File, known: u32) -> Result<Spooled, ArchiveError> {
    let unreadable = |cause: io::Error| ArchiveError::Content(cause.to_string());
    file.rewind().map_err(unreadable)?;
    let (mut loader, mut sha256, mut length) = (Loader::new(), Sha256::new(), 0_u64);
    archive::read(BufReader::new(&file), |block| {
        loader.push(&block).map_err(|cause| ArchiveError::Content(cause.to_string()))?;
        let framed = frame(&block).ok_or_else(|| ArchiveError::Content("a huge block".into()))?;
        sha256.update(&framed);
        length += framed.len() as u64;
        if length > STAGE_BYTES_MAX {
            let text = format!("its state has more than {STAGE_BYTES_MAX} bytes");
            return Err(ArchiveError::Content(text));
        }
        Ok(())
    })?;
    let state = loader.finish().map_err(|cause| ArchiveError::Content(cause.to_string()))?;
    state.verify().map_err(ArchiveError::Content)?;
    if state.version() > known {
        let text = format!(
            "it needs state version {}, and this cluster is at {known}: upgrade all servers first",
            state.version()
        );
        return Err(ArchiveError::Content(text));
    }
    Ok(Spooled { file, length, sha256: sha256.finalize().into() })
}

/// Cuts the blocks of a checked archive into pieces.
fn cut(mut file: &File, mut take: impl FnMut(Bytes) -> bool) -> Result<(), ArchiveError> {
    let gone = || ArchiveError::Content("nobody reads it any more".into());
    file.rewind().map_err(|cause| ArchiveError::Content(cause.to_string()))?;
    let mut piece = Vec::with_capacity(RESTORE_CHUNK_BYTES_MAX);
    archive::read(BufReader::new(file), |block| {
        let framed = frame(&block).ok_or_else(|| ArchiveError::Content("a huge block".into()))?;
        let mut rest = &framed[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(RESTORE_CHUNK_BYTES_MAX - piece.len()));
            piece.extend_from_slice(now);
            rest = later;
            if piece.len() == RESTORE_CHUNK_BYTES_MAX {
                let full =
                    std::mem::replace(&mut piece, Vec::with_capacity(RESTORE_CHUNK_BYTES_MAX));
                if !take(full.into()) {
                    return Err(gone());
                }
            }
        }
        Ok(())
    })?;
    if !piece.is_empty() && !take(piece.into()) {
        return Err(gone());
    }
    Ok(())
}

/// The pieces, read on a thread a little ahead of the log.
fn pieces(stepping: Stepping, file: File) -> Result<ByteStream, RpcError> {
    let broken = |cause: ArchiveError| RpcError::Broken(cause.to_string());
    if stepping == Stepping::Inline {
        let mut all = Vec::new();
        let cut = cut(&file, |piece| {
            all.push(Ok(piece));
            true
        });
        cut.map_err(broken)?;
        return Ok(Box::pin(stream::iter(all)));
    }
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let work = move || {
        let cut = cut(&file, |piece| sender.blocking_send(Ok(piece)).is_ok());
        let _ = sender.blocking_send(cut.map(|()| Bytes::new()).map_err(broken));
    };
    on_thread("raft-restore", work)?;
    Ok(received(pieces))
}

/// What the work writes, as a stream: made on a thread a little ahead of its reader. The permit is
/// given back when both are done with it.
fn written(
    stepping: Stepping,
    permit: OwnedSemaphorePermit,
    work: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Result<ByteStream, RpcError> {
    let failed = |cause: io::Error| RpcError::Broken(format!("cannot write the archive: {cause}"));
    if stepping == Stepping::Inline {
        let mut all = Vec::new();
        work(&mut all).map_err(failed)?;
        return Ok(Box::pin(stream::iter([Ok(Bytes::from(all))])));
    }
    let (sender, messages) = mpsc::channel(MESSAGES_AHEAD);
    on_thread("raft-archive", move || {
        let mut out = Messages { sender, message: Vec::with_capacity(MESSAGE_BYTES) };
        let done = work(&mut out).and_then(|()| out.flush());
        let last = done.map(|()| Bytes::new()).map_err(failed);
        let _ = out.sender.blocking_send(last);
        drop(permit);
    })?;
    Ok(received(messages))
}

fn on_thread(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), RpcError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(|cause| RpcError::Broken(format!("cannot start {name}: {cause}")))
}

/// An empty message is the end. Without it the thread was lost, and what came is no whole.
fn received(messages: mpsc::Receiver<Result<Bytes, RpcError>>) -> ByteStream {
    Box::pin(stream::unfold(Some(messages), |messages| async {
        let mut messages = messages?;
        match messages.recv().await {
            Some(Ok(message)) if message.is_empty() => None,
            Some(Ok(message)) => Some((Ok(message), Some(messages))),
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(RpcError::Broken("the archive breaks off".to_owned())), None)),
        }
    }))
}

/// Bytes into messages of a bounded queue.
struct Messages {
    sender: mpsc::Sender<Result<Bytes, RpcError>>,
    message: Vec<u8>,
}

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MESSAGE_BYTES - self.message.len());
        self.message.extend_from_slice(&bytes[..count]);
        if self.message.len() == MESSAGE_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.message.is_empty() {
            return Ok(());
        }
        let message = std::mem::replace(&mut self.message, Vec::with_capacity(MESSAGE_BYTES));
        let sent = self.sender.blocking_send(Ok(message.into()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
