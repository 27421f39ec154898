//! [`Gossip`]: what the rest of the process holds of the gossip thread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use model::seam::{BoxFuture, Cluster, ClusterError, Members};
use model::{Name, NodeId};
use rt::Rng;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::join;

/// Requests that may wait for the gossip thread. Full means that it is stuck or stopped; callers
/// that can wait do, hints are dropped.
pub(super) const COMMANDS_MAX: usize = 256;

/// A running gossip pool. Listens from the start, answers nobody until [`Gossip::open`].
pub struct Gossip {
    pub(super) link: Arc<Link>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) tags: watch::Sender<BTreeMap<Name, Name>>,
    pub(super) members: watch::Receiver<Arc<Members>>,
    pub(super) wan: Arc<Members>,
    pub(super) address: SocketAddr,
    pub(super) peers: Vec<SocketAddr>,
    pub(super) rng: Rng,
}

/// What both sides write to at any time.
#[derive(Default)]
pub(super) struct Link {
    /// Holds a permit once the pool may answer.
    pub(super) open: Notify,
    /// Facts for people, replaced by the thread.
    pub(super) stats: Mutex<BTreeMap<String, String>>,
}

/// What the gossip thread is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Contact this address and merge both states.
    Join { address: SocketAddr, done: oneshot::Sender<Result<Contact, ClusterError>> },
    /// This node may be gone.
    Probe(NodeId),
    /// See [`Cluster::force_leave`].
    ForceLeave { name: String, prune: bool, done: oneshot::Sender<Result<(), ClusterError>> },
    /// See [`Cluster::leave`].
    Leave { done: oneshot::Sender<()> },
}

/// Who answered at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contact {
    /// A member of this name.
    Member(Name),
    /// This very process.
    Ourselves,
}

impl Gossip {
    /// From now on others are answered.
    pub fn open(&self) {
        self.link.open.notify_one();
    }

    /// Where it listens: the port that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Members that the last run knew; empty after it left on purpose, unless settings say that it
    /// should rejoin.
    pub fn known_peers(&self) -> &[SocketAddr] {
        &self.peers
    }

    /// Contacts one address and merges both states.
    pub async fn contact(&self, address: SocketAddr) -> Result<Contact, ClusterError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Join { address, done }).await?;
        answer.await.map_err(|_| ClusterError::Stopped)?
    }

    async fn send(&self, command: Command) -> Result<(), ClusterError> {
        self.commands.send(command).await.map_err(|_| ClusterError::Stopped)
    }

    /// A handle of its own for a future that outlives the borrow.
    pub(super) fn handle(&self) -> Gossip {
        Gossip {
            link: Arc::clone(&self.link),
            commands: self.commands.clone(),
            tags: self.tags.clone(),
            members: self.members.clone(),
            wan: Arc::clone(&self.wan),
            address: self.address,
            peers: Vec::new(),
            rng: self.rng.clone(),
        }
    }
}

impl Cluster for Gossip {
    fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.borrow())
    }

    fn changed(&self, after: u64) -> BoxFuture<'static, Arc<Members>> {
        let mut members = self.members.clone();
        Box::pin(async move {
            let found = members.wait_for(|members| members.sequence > after).await;
            let found = found.ok().map(|members| Arc::clone(&members));
            match found {
                Some(members) => members,
                // The thread has stopped: nothing will change any more.
                None => std::future::pending().await,
            }
        })
    }

    fn set_tags(&self, tags: BTreeMap<Name, Name>) {
        self.tags.send_replace(tags);
    }

    fn probe_now(&self, node: NodeId) {
        if self.commands.try_send(Command::Probe(node)).is_err() {
            metrics::counter!("serf.hint.dropped").increment(1);
        }
    }

    fn join(&self, addresses: Vec<String>) -> BoxFuture<'static, Result<usize, ClusterError>> {
        let gossip = self.handle();
        Box::pin(async move {
            let attempt = join::attempt(&gossip, &addresses, &[]).await;
            match attempt.failures.into_iter().next() {
                Some(failure) if attempt.members + attempt.ourselves == 0 => {
                    Err(ClusterError::Join(failure))
                }
                _ => Ok(attempt.members + attempt.ourselves),
            }
        })
    }

    fn force_leave(&self, name: &str, prune: bool) -> BoxFuture<'static, Result<(), ClusterError>> {
        let gossip = self.handle();
        let name = name.to_owned();
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            gossip.send(Command::ForceLeave { name, prune, done }).await?;
            answer.await.map_err(|_| ClusterError::Stopped)?
        })
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), ClusterError>> {
        let gossip = self.handle();
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            gossip.send(Command::Leave { done }).await?;
            answer.await.map_err(|_| ClusterError::Stopped)
        })
    }

    fn wan_members(&self) -> Arc<Members> {
        Arc::clone(&self.wan)
    }

    fn stats(&self) -> BTreeMap<String, String> {
        self.link.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
