//! Gossip as a stand-in: one view for all, set by the simulation.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::seam::{BoxFuture, Cluster, ClusterError, Member, MemberState, Members};
use model::{Name, NodeId};
use tokio::sync::watch;

use crate::net::{address, node_id};

/// The membership.
pub(crate) struct Gossip(watch::Sender<Arc<Members>>);

pub(crate) fn name(number: u8) -> Name {
    format!("n{number}").into()
}

impl Gossip {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Arc::default())))
    }

    /// What this server is held for from now on. `expect`: how many make the first configuration.
    pub(crate) fn set(&self, number: u8, state: MemberState, expect: Option<u32>) {
        let usual = [("role", "consul"), ("dc", "dc1"), ("port", "8300"), ("build", "1.21.4:abc")];
        let mut tags: BTreeMap<Name, Name> =
            usual.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        if let Some(expect) = expect {
            tags.insert("expect".into(), expect.to_string().into());
        }
        let at = std::net::SocketAddr::new(address(number).ip(), 8301);
        let member = Member { id: node_id(number), name: name(number), address: at, tags, state };
        self.0.send_modify(|now| {
            let mut list = now.list.clone();
            list.retain(|known| known.id != member.id);
            list.push(Arc::new(member));
            list.sort_by(|a, b| a.name.cmp(&b.name));
            *now = Arc::new(Members { sequence: now.sequence + 1, list });
        });
    }
}

/// Gossip as one server sees it.
pub(crate) struct View(pub(crate) Arc<Gossip>);

impl Cluster for View {
    fn members(&self) -> Arc<Members> {
        Arc::clone(&self.0.0.borrow())
    }

    fn changed(&self, after: u64) -> BoxFuture<'static, Arc<Members>> {
        let mut members = self.0.0.subscribe();
        Box::pin(async move {
            let now =
                members.wait_for(|now| now.sequence > after).await.map(|now| Arc::clone(&now));
            match now {
                Ok(now) => now,
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn set_tags(&self, _tags: BTreeMap<Name, Name>) {}

    fn probe_now(&self, _node: NodeId) {}

    fn join(&self, _addresses: Vec<String>) -> BoxFuture<'static, Result<usize, ClusterError>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn force_leave(&self, _: &str, _: bool) -> BoxFuture<'static, Result<(), ClusterError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), ClusterError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn wan_members(&self) -> Arc<Members> {
        Arc::default()
    }

    fn stats(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}
