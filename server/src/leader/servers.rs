//! Which servers belong into Raft (core).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::rpc::RaftServer;
use model::seam::{Member, MemberState, Members};
use model::{Name, NodeId};
use tokio::time::Instant;

use super::autopilot::cleanup;

/// How long a server that was removed on order is not added again although it lives: the next full
/// pass may (spec: http-api-1 §14.3).
const SHUN_TIME: Duration = Duration::from_secs(60);

/// Servers that were removed on order.
#[derive(Debug, Default)]
pub(crate) struct Shunned(Mutex<BTreeMap<NodeId, Instant>>);

impl Shunned {
    /// This server is about to be removed.
    pub(crate) fn shun(&self, id: NodeId, now: Instant) {
        let mut shunned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.retain(|_, at| now.saturating_duration_since(*at) < SHUN_TIME);
        shunned.insert(id, now);
    }

    /// This server has left by itself: if it comes back, it is meant to.
    fn forgive(&self, id: NodeId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn contains(&self, id: NodeId, now: Instant) -> bool {
        let shunned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.get(&id).is_some_and(|at| now.saturating_duration_since(*at) < SHUN_TIME)
    }
}

/// A change of the Raft configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// As a learner, which autopilot makes a voter; or its new address.
    Add { id: NodeId, name: Name, address: SocketAddr },
    /// It has left, gossip has forgotten it, or another server is at its address.
    Remove { id: NodeId },
}

/// Compares gossip with the Raft configuration.
#[derive(Debug)]
pub(super) struct ServerReconcile {
    us: NodeId,
    datacenter: String,
    /// Servers that gossip knew when we last looked.
    known: BTreeSet<NodeId>,
    /// Servers that gossip knew under this leader and has forgotten.
    forgotten: BTreeSet<NodeId>,
}

impl ServerReconcile {
    pub(super) fn new(us: NodeId, datacenter: String) -> Self {
        Self { us, datacenter, known: BTreeSet::new(), forgotten: BTreeSet::new() }
    }

    /// What to change. A server whose address another one has now goes first: what is sent to it
    /// reaches the other. Otherwise additions come first.
    pub(super) fn plan(
        &mut self,
        members: &Members,
        configuration: &[RaftServer],
        shunned: &Shunned,
        now: Instant,
    ) -> Vec<Change> {
        let ours: BTreeMap<NodeId, &Member> = members
            .list
            .iter()
            .filter(|member| member.is_server() && member.tag("dc") == self.datacenter)
            .map(|member| (member.id, &**member))
            .collect();
        let known: BTreeSet<NodeId> = ours.keys().copied().collect();
        let before = std::mem::replace(&mut self.known, known);
        self.forgotten.extend(before.difference(&self.known));
        self.forgotten.retain(|id| !self.known.contains(id));

        for member in ours.values() {
            if matches!(member.state, MemberState::Leaving | MemberState::Left) {
                shunned.forgive(member.id);
            }
        }
        let adds: Vec<(&Member, SocketAddr)> = ours
            .values()
            .filter(|member| member.state == MemberState::Alive)
            .filter_map(|member| Some((*member, member.rpc_address()?)))
            .filter(|(member, address)| {
                let server = configuration.iter().find(|server| server.id == member.id);
                if server.is_none() && member.tags.contains_key("bootstrap") {
                    tracing::error!(
                        server = %member.name,
                        "not added to Raft: it was started with -bootstrap and leads a cluster of \
                         its own; start it without"
                    );
                    return false;
                }
                let right = server.is_some_and(|server| *server.address == *address.to_string());
                !right && !shunned.contains(member.id, now)
            })
            .collect();
        let mut replaced = Vec::new();
        for (member, address) in &adds {
            let address = address.to_string();
            let other =
                |server: &&RaftServer| *server.address == *address && server.id != member.id;
            let Some(old) = configuration.iter().find(other) else { continue };
            let voters = configuration.iter().filter(|server| server.voter).count();
            if old.id == self.us || (old.voter && cleanup::removals_max(voters) == 0) {
                tracing::error!(
                    server = %member.name, id = %member.id, old = %old.id, %address,
                    "not added to Raft: another voter has its address, and there are too few \
                     voters to remove that one; remove it by hand"
                );
                continue;
            }
            replaced.push(old.id);
        }
        let blocked = |address: &SocketAddr, id: NodeId| {
            let address = address.to_string();
            configuration.iter().any(|server| {
                *server.address == *address && server.id != id && !replaced.contains(&server.id)
            })
        };
        let additions =
            adds.iter().filter(|(member, at)| !blocked(at, member.id)).map(|(member, address)| {
                let (id, name) = (member.id, member.name.clone());
                Change::Add { id, name, address: *address }
            });
        let removes = configuration.iter().filter_map(|server| {
            let left = match ours.get(&server.id) {
                Some(member) => member.state == MemberState::Left,
                None => self.forgotten.contains(&server.id),
            };
            // A leader that leaves is removed by the next one.
            (left && server.id != self.us && !replaced.contains(&server.id))
                .then_some(Change::Remove { id: server.id })
        });
        let first = replaced.iter().map(|id| Change::Remove { id: *id });
        first.chain(additions).chain(removes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::endpoint::fake::{member, raft_server};
    use super::*;

    type Row = (u8, MemberState, &'static [(&'static str, &'static str)]);

    fn members(list: &[Row]) -> Members {
        let list = list.iter().map(|(n, state, tags)| member(*n, *state, true, tags)).collect();
        Members { sequence: 1, list }
    }

    fn add(n: u8) -> Change {
        let Member { id, name, .. } = (*member(n, MemberState::Alive, true, &[])).clone();
        Change::Add { id, name, address: SocketAddr::from(([127, 0, 0, n], 8300)) }
    }

    #[tokio::test(start_paused = true)]
    async fn members_and_configuration_yield_changes() {
        use MemberState::{Alive, Failed, Leaving, Left};
        let now = Instant::now();
        let remove = |n: u8| Change::Remove { id: NodeId([n; 16]) };
        let voters = |list: &[u8]| list.iter().map(|n| raft_server(*n, true)).collect::<Vec<_>>();
        let at =
            |n: u8, address: u8| RaftServer { id: NodeId([n; 16]), ..raft_server(address, true) };
        let one: Row = (1, Alive, &[]);
        for (number, (list, configuration, wanted)) in [
            (vec![one], voters(&[1]), vec![]),
            (vec![one, (2, Alive, &[])], voters(&[1]), vec![add(2)]),
            // When a learner becomes a voter is autopilot's business.
            (vec![one, (2, Alive, &[])], vec![raft_server(1, true), raft_server(2, false)], vec![]),
            // A moved server gets its new address.
            (vec![one, (2, Alive, &[])], vec![raft_server(1, true), at(2, 9)], vec![add(2)]),
            // Another server is at an old one's address.
            (
                vec![one, (2, Alive, &[]), (3, Alive, &[])],
                vec![raft_server(1, true), raft_server(3, true), at(9, 2)],
                vec![remove(9), add(2)],
            ),
            // With two voters there is none to spare.
            (vec![one, (2, Alive, &[])], vec![raft_server(1, true), at(9, 2)], vec![]),
            (vec![one, (2, Failed, &[])], voters(&[1, 2]), vec![]),
            (vec![one, (2, Failed, &[])], voters(&[1]), vec![]),
            (vec![one, (2, Leaving, &[])], voters(&[1]), vec![]),
            (vec![one, (2, Left, &[]), (3, Alive, &[])], voters(&[1, 2]), vec![add(3), remove(2)]),
            (vec![(1, Left, &[])], voters(&[1, 2]), vec![]),
            // Gossip has not heard of it yet.
            (vec![one], voters(&[1, 2]), vec![]),
            (vec![one, (2, Alive, &[("bootstrap", "1")])], voters(&[1]), vec![]),
            (vec![one, (2, Alive, &[("dc", "dc2")])], voters(&[1]), vec![]),
        ]
        .into_iter()
        .enumerate()
        {
            let mut reconcile = ServerReconcile::new(NodeId([1; 16]), "dc1".into());
            let plan = reconcile.plan(&members(&list), &configuration, &Shunned::default(), now);
            assert_eq!(plan, wanted, "case {number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_removed_on_order_is_added_again_only_later() {
        let now = Instant::now();
        let shunned = Shunned::default();
        shunned.shun(NodeId([2; 16]), now);
        let mut reconcile = ServerReconcile::new(NodeId([1; 16]), "dc1".into());
        let alive = members(&[(1, MemberState::Alive, &[]), (2, MemberState::Alive, &[])]);
        let configuration = [raft_server(1, true)];
        assert_eq!(reconcile.plan(&alive, &configuration, &shunned, now), []);
        let later = now + SHUN_TIME;
        assert_eq!(reconcile.plan(&alive, &configuration, &shunned, later), [add(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_left_and_comes_back_is_added_at_once() {
        let now = Instant::now();
        let shunned = Shunned::default();
        // It has asked for its removal itself.
        shunned.shun(NodeId([2; 16]), now);
        let mut reconcile = ServerReconcile::new(NodeId([1; 16]), "dc1".into());
        let with = |state| members(&[(1, MemberState::Alive, &[]), (2, state, &[])]);
        let configuration = [raft_server(1, true)];
        let mut plan = |state| reconcile.plan(&with(state), &configuration, &shunned, now);
        assert_eq!(plan(MemberState::Alive), []);
        assert_eq!(plan(MemberState::Left), []);
        assert_eq!(plan(MemberState::Alive), [add(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_gossip_has_forgotten_is_removed() {
        let now = Instant::now();
        let mut reconcile = ServerReconcile::new(NodeId([1; 16]), "dc1".into());
        let configuration = [raft_server(1, true), raft_server(2, true)];
        let both = members(&[(1, MemberState::Alive, &[]), (2, MemberState::Failed, &[])]);
        let one = members(&[(1, MemberState::Alive, &[])]);
        let shunned = Shunned::default();
        assert_eq!(reconcile.plan(&both, &configuration, &shunned, now), []);
        let remove = [Change::Remove { id: NodeId([2; 16]) }];
        for _ in 0..2 {
            assert_eq!(reconcile.plan(&one, &configuration, &shunned, now), remove);
        }
        assert_eq!(reconcile.plan(&both, &configuration, &shunned, now), []);
    }
}
