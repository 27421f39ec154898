//! The two seams of the house: what an agent asks of servers ([`Backend`]), and what a server asks
//! of gossip ([`Cluster`]). Both are object-safe; the binary builds the implementations and joins
//! them. Nothing else asks "am I a server?".

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;

use crate::id::{Name, NodeId};
use crate::rpc::{Answer, Reply, Request, RpcError};

/// A future on the heap, as both traits return it. Dropping it cancels what it does.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A bounded stream of byte blocks: snapshots, later change streams.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, RpcError>> + Send>>;

/// An agent's way to the servers: an RPC client on client agents, the endpoint itself on servers.
pub trait Backend: Send + Sync + 'static {
    /// Asks, waits as the request says, answers. Retries inside within `hold_ms` over elections and
    /// broken connections. Dropping the future cancels the request everywhere.
    fn ask(&self, request: Request) -> BoxFuture<'static, Answer>;

    /// Like [`Backend::ask`] with bodies in both directions.
    fn stream(
        &self,
        request: Request,
        body: ByteStream,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>>;

    /// Whether servers can be reached now.
    fn link(&self) -> Link;

    /// Prepares a clean departure. Server: hand over leadership, leave the Raft configuration.
    /// Client: nothing.
    fn leave(&self) -> BoxFuture<'static, Result<(), RpcError>>;

    /// Prepares a stop of a process that comes back: a leading server puts leadership into other
    /// hands and stays a member. Client: nothing.
    fn resign(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Facts about this side for people (`agent/self`, `muster info`): group, key, value.
    fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>>;
}

/// State of an agent's way to the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// At least one server answers.
    pub connected: bool,
    /// That server knows a leader.
    pub leader_known: bool,
    /// Milliseconds since either of the two changed.
    pub since_ms: u64,
}

/// Gossip as a server and the doors see it.
pub trait Cluster: Send + Sync + 'static {
    /// All members that are remembered, ourselves included.
    fn members(&self) -> Arc<Members>;

    /// Waits until the membership's sequence number is above `after`, then returns it.
    fn changed(&self, after: u64) -> BoxFuture<'static, Arc<Members>>;

    /// Replaces our own tags; the others learn of it without a new join.
    fn set_tags(&self, tags: BTreeMap<Name, Name>);

    /// A hint that this node may be gone (its connection broke): probe it now.
    fn probe_now(&self, node: NodeId);

    /// Contacts these members (`ip:port` or `host:port`) and merges both states. The number that
    /// answered, or the first failure when none did.
    fn join(&self, addresses: Vec<String>) -> BoxFuture<'static, Result<usize, ClusterError>>;

    /// Turns a failed member into one that left; with `prune` forgets it at once.
    fn force_leave(&self, name: &str, prune: bool) -> BoxFuture<'static, Result<(), ClusterError>>;

    /// Says that we leave, and returns when the others have had time to hear it.
    fn leave(&self) -> BoxFuture<'static, Result<(), ClusterError>>;

    /// Members of the WAN pool; empty until there is one.
    fn wan_members(&self) -> Arc<Members>;

    /// Facts for people (`serf_lan` in `agent/self`): key, value.
    fn stats(&self) -> BTreeMap<String, String>;
}

/// Why gossip refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Consul's text for an unknown member.
    #[error("agent: No node found with name '{0}'")]
    UnknownMember(String),
    /// The other side refused us, or could not be reached.
    #[error("{0}")]
    Join(String),
    /// Gossip has stopped.
    #[error("gossip has stopped")]
    Stopped,
}

/// A snapshot of the membership.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Counts up with every change.
    pub sequence: u64,
    /// Sorted by name.
    pub list: Vec<Arc<Member>>,
}

impl Members {
    /// The member of this name, whatever its case.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Member>> {
        self.list.iter().find(|member| member.name.eq_ignore_ascii_case(name))
    }

    /// Members held alive.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.list.iter().filter(|member| member.state == MemberState::Alive)
    }
}

/// A member of a gossip pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Identity.
    pub id: NodeId,
    /// Unique in the datacenter.
    pub name: Name,
    /// Where its gossip listens.
    pub address: SocketAddr,
    /// Consul's names and values (spec/agent.md §20).
    pub tags: BTreeMap<Name, Name>,
    /// What we hold it for.
    pub state: MemberState,
}

impl Member {
    /// Value of a tag, empty when absent.
    pub fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", |value| value)
    }

    /// Whether it says that it is a server.
    pub fn is_server(&self) -> bool {
        self.tag("role") == "consul"
    }

    /// Where its RPC listens, if it is a server with a sane `port` tag.
    pub fn rpc_address(&self) -> Option<SocketAddr> {
        if !self.is_server() {
            return None;
        }
        let port = self.tag("port").parse().ok().filter(|port| *port > 0_u16)?;
        Some(SocketAddr::new(self.address.ip(), port))
    }
}

/// What a member is held for. The numbers are Consul's in `agent/members`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemberState {
    /// Answers, or is only suspected.
    Alive = 1,
    /// Said that it leaves.
    Leaving = 2,
    /// Left.
    Left = 3,
    /// Stopped answering.
    Failed = 4,
}

impl MemberState {
    /// Consul's word.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Alive => "alive",
            MemberState::Leaving => "leaving",
            MemberState::Left => "left",
            MemberState::Failed => "failed",
        }
    }
}
