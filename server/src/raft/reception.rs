//! A snapshot that another server sends: taken in, verified, installed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::rpc::RpcError;
use model::seam::ByteStream;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::SnapshotResponse;
use openraft::storage::Snapshot;

use super::errors;
use super::inbound::{Inbound, broken, convert, off};
use super::log::Stepping;
use super::mirror::{SnapshotAnswerV1, SnapshotOpenV1, message};
use super::snapshot::{Announced, Incoming, Shelf};
use super::types::{SnapshotMeta, TypeConfig, Vote};

/// What a cut transfer left is kept for once to twice this long: a server that cannot be reached for
/// longer is better served with a newer snapshot.
const KEPT_TIME: Duration = Duration::from_secs(300);

/// Removes, now and then, what is kept of transfers that did not go on.
pub(super) async fn sweep(shelf: Shelf, stepping: Stepping) {
    loop {
        tokio::time::sleep(KEPT_TIME).await;
        let swept = {
            let shelf = shelf.clone();
            off(stepping, move || shelf.sweep()).await.and_then(|swept| swept.map_err(broken))
        };
        if let Err(cause) = swept {
            tracing::warn!(%cause, "what is left of a snapshot cannot be removed");
        }
    }
}

/// What comes next on the stream.
enum Step {
    Open { inbound: Inbound, first: Bytes, incoming: ByteStream },
    Receive { inbound: Inbound, accepted: Box<Accepted>, incoming: ByteStream },
    End,
}

/// A snapshot whose bytes may come.
struct Accepted {
    vote: Vote,
    meta: SnapshotMeta,
    sink: Incoming,
}

impl Inbound {
    /// Receives a snapshot, verifies it, installs it. Says first how much of it is here already.
    pub(crate) fn snapshot(self, first: Bytes, incoming: ByteStream) -> ByteStream {
        let steps = stream::try_unfold(Step::Open { inbound: self, first, incoming }, step);
        Box::pin(steps)
    }

    /// Takes it on, unless there was a vote for a newer leader.
    async fn open(&self, first: Bytes) -> Result<Result<Box<Accepted>, Vote>, RpcError> {
        let open: SnapshotOpenV1 = self.read(&first).map_err(RpcError::from)?;
        let vote = Vote::from(open.vote);
        let meta: SnapshotMeta = convert(open.meta).map_err(RpcError::from)?;
        let ours = self.raft.metrics().borrow_watched().vote;
        if ours > vote {
            return Ok(Err(ours));
        }
        if meta.last_log_id.is_none_or(|last| last.leader_id.term > vote.leader_id.term) {
            let text = "a snapshot that its sender cannot have".to_owned();
            return Err(RpcError::Protocol(text));
        }
        let number = self.receptions.fetch_add(1, Ordering::Relaxed);
        let shelf = self.shelf.clone();
        let (bytes, outline) = (open.bytes, open.outline);
        let announced = Announced { meta: meta.clone(), bytes, outline };
        let sink = self
            .off(move || shelf.begin(announced, &format!("received-{number}")))
            .await?
            .map_err(broken)?;
        if sink.held() > 0 {
            tracing::info!(held = sink.held(), bytes, "the transfer of a snapshot goes on");
        }
        Ok(Ok(Box::new(Accepted { vote, meta, sink })))
    }

    /// If this ends early, in whatever way, the sink keeps what came.
    async fn receive(
        self,
        accepted: Box<Accepted>,
        mut incoming: ByteStream,
    ) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        let Accepted { vote, meta, mut sink } = *accepted;
        while let Some(block) = incoming.next().await {
            let block = block?;
            let pushed: Result<Incoming, _> =
                self.off(move || sink.push(&block).map(|()| sink)).await?;
            sink = pushed.map_err(broken)?;
            // A snapshot can take longer than an election: its bytes are a sign of life.
            self.contact.hear();
        }
        let shelf = self.shelf.clone();
        let stored = self.off(move || shelf.verify(sink)).await?.map_err(broken)?;
        if stored.meta != meta {
            let text = "the snapshot is not the one that was announced".to_owned();
            return Err(RpcError::Protocol(text));
        }
        let snapshot = Snapshot { meta, snapshot: stored };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        installed.map_err(|fatal| errors::of_fatal(&fatal))
    }
}

async fn step(step: Step) -> Result<Option<(Bytes, Step)>, RpcError> {
    let (answer, next) = match step {
        Step::Open { inbound, first, incoming } => match inbound.open(first).await? {
            Ok(accepted) => {
                let held = SnapshotAnswerV1::Held(accepted.sink.held());
                (held, Step::Receive { inbound, accepted, incoming })
            }
            Err(newer) => (SnapshotAnswerV1::Installed((&newer).into()), Step::End),
        },
        Step::Receive { inbound, accepted, incoming } => {
            let installed = inbound.receive(accepted, incoming).await?;
            (SnapshotAnswerV1::from(&installed), Step::End)
        }
        Step::End => return Ok(None),
    };
    Ok(Some((message(&answer), next)))
}
