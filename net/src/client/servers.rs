//! Which servers there are, and which one to ask. No sockets, no time.

use std::net::SocketAddr;

use model::NodeId;
use model::seam::Members;
use rt::Rng;

/// Servers that a client agent keeps a connection to.
pub(super) const HELD_MAX: usize = 3;

/// A server that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
}

/// The servers of our datacenter that gossip holds alive, in the order in which we prefer them.
///
/// The order is random, so that agents spread over the servers, and stable between rare shuffles:
/// reads of one agent stay on one server, whose index only grows. A server that fails goes to the
/// end.
#[derive(Debug, Default)]
pub(super) struct Servers {
    list: Vec<Server>,
    leader: Option<SocketAddr>,
}

impl Servers {
    /// Takes over what gossip says. True: something changed.
    pub(super) fn update(&mut self, members: &Members, datacenter: &str, rng: &Rng) -> bool {
        let mut now: Vec<Server> = members
            .alive()
            .filter(|member| member.tag("dc") == datacenter)
            .filter_map(|member| {
                member.rpc_address().map(|address| Server { id: member.id, address })
            })
            .collect();
        let before = self.list.clone();
        self.list.retain(|server| now.contains(server));
        now.retain(|server| !self.list.contains(server));
        rng.shuffle(&mut now);
        self.list.extend(now);
        if self.leader.is_some_and(|leader| !self.known(leader)) {
            self.leader = None;
        }
        self.list != before
    }

    /// A new order: after servers came and went, most agents would prefer the same few.
    pub(super) fn shuffle(&mut self, rng: &Rng) {
        rng.shuffle(&mut self.list);
    }

    /// All, best first.
    pub(super) fn list(&self) -> &[Server] {
        &self.list
    }

    /// Those to keep a connection to: the leader and the first ones.
    pub(super) fn held(&self) -> Vec<Server> {
        let mut held = self.list.clone();
        held.sort_by_key(|server| Some(server.address) != self.leader);
        held.truncate(HELD_MAX);
        held
    }

    fn known(&self, address: SocketAddr) -> bool {
        self.list.iter().any(|server| server.address == address)
    }

    /// The server at this address.
    pub(super) fn at(&self, address: SocketAddr) -> Option<Server> {
        self.list.iter().find(|server| server.address == address).copied()
    }

    /// A server said who leads (`None`: it knows of none).
    pub(super) fn set_leader(&mut self, leader: Option<SocketAddr>) {
        self.leader = leader.filter(|leader| self.known(*leader));
    }

    /// This one did not answer.
    pub(super) fn failed(&mut self, address: SocketAddr) {
        if let Some(at) = self.list.iter().position(|server| server.address == address) {
            self.list[at..].rotate_left(1);
        }
        if self.leader == Some(address) {
            self.leader = None;
        }
    }

    /// Whom to ask: the leader if wanted and known, else the first that is connected, else the
    /// first; those that this request has already failed on only if there is no other.
    pub(super) fn pick(
        &self,
        leader: bool,
        failed: &[SocketAddr],
        connected: impl Fn(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        self.list.iter().map(|server| server.address).min_by_key(|address| {
            let is_leader = leader && self.leader == Some(*address);
            (failed.contains(address), !is_leader, !connected(*address))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use model::seam::{Member, MemberState};

    use super::*;

    fn member(n: u8, role: &str, dc: &str, state: MemberState) -> Arc<Member> {
        let tags = [("role", role), ("dc", dc), ("port", "8300")];
        Arc::new(Member {
            id: NodeId([n; 16]),
            name: format!("n{n}").into(),
            address: SocketAddr::from(([127, 0, 0, n], 8301)),
            tags: tags.map(|(key, value)| (key.into(), value.into())).into(),
            state,
        })
    }

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, n], 8300))
    }

    fn servers(count: u8) -> Servers {
        let list = (1..=count).map(|n| member(n, "consul", "dc1", MemberState::Alive)).collect();
        let mut servers = Servers::default();
        servers.update(&Members { sequence: 1, list }, "dc1", &Rng::from_seed(1));
        servers
    }

    #[test]
    fn only_live_servers_of_the_datacenter_with_a_port_count() {
        let mut without_port = member(6, "consul", "dc1", MemberState::Alive);
        Arc::make_mut(&mut without_port).tags = BTreeMap::from([("dc".into(), "dc1".into())]);
        let list = vec![
            member(1, "consul", "dc1", MemberState::Alive),
            member(2, "node", "dc1", MemberState::Alive),
            member(3, "consul", "dc2", MemberState::Alive),
            member(4, "consul", "dc1", MemberState::Failed),
            member(5, "consul", "dc1", MemberState::Leaving),
            without_port,
        ];
        let mut servers = Servers::default();
        let members = Members { sequence: 1, list };
        assert!(servers.update(&members, "dc1", &Rng::from_seed(1)));
        assert_eq!(servers.list(), [Server { id: NodeId([1; 16]), address: address(1) }]);
        assert!(!servers.update(&members, "dc1", &Rng::from_seed(1)), "nothing changed");
    }

    #[test]
    fn the_order_is_stable_and_a_gone_leader_is_forgotten() {
        let mut servers = servers(5);
        let before = servers.list().to_vec();
        let gone = before[1];
        servers.set_leader(Some(gone.address));
        let list = (1..=6)
            .filter(|n| address(*n) != gone.address)
            .map(|n| member(n, "consul", "dc1", MemberState::Alive))
            .collect();
        servers.update(&Members { sequence: 2, list }, "dc1", &Rng::from_seed(2));
        let kept: Vec<_> = before.iter().filter(|server| **server != gone).copied().collect();
        assert_eq!(servers.list()[..4], kept);
        assert_eq!(servers.list()[4].address, address(6));
        assert_eq!(servers.leader, None);
    }

    #[test]
    fn whom_to_ask() {
        let mut servers = servers(3);
        let [a, b, c] = [0, 1, 2].map(|at: usize| servers.list()[at].address);
        servers.set_leader(Some(c));
        // (leader wanted, failed, connected, picked)
        let cases: [(bool, &[SocketAddr], &[SocketAddr], SocketAddr); 6] = [
            (true, &[], &[a], c),
            (false, &[], &[], a),
            (false, &[], &[b], b),
            (true, &[c], &[b], b),
            (true, &[c, b], &[b, c], a),
            (true, &[a, b, c], &[], c),
        ];
        for (leader, failed, connected, picked) in cases {
            let got = servers.pick(leader, failed, |address| connected.contains(&address));
            assert_eq!(got, Some(picked), "{leader} {failed:?} {connected:?}");
        }
        servers.failed(a);
        assert_eq!(servers.list().last().map(|server| server.address), Some(a));
        assert_eq!(Servers::default().pick(true, &[], |_| true), None);
    }

    #[test]
    fn the_leader_is_among_the_held_ones() {
        let mut servers = servers(5);
        let last = servers.list()[4];
        servers.set_leader(Some(last.address));
        let held = servers.held();
        assert_eq!(held.len(), HELD_MAX);
        assert_eq!(held[0], last);
        servers.set_leader(Some(address(99)));
        assert_eq!(servers.leader, None, "not a server that gossip knows");
    }
}
