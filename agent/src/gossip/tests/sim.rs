//! A network of cores in virtual time: seeded, so that a failure can be replayed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use model::NodeId;
use model::seam::{ClusterError, MemberState, Members};
use rt::Rng;

use crate::gossip::config::{GossipConfig, TOMBSTONE_TIMEOUT, Timing};
use crate::gossip::core::{Core, Effect};
use crate::gossip::handle::Contact;
use crate::gossip::peers::Peers;

/// One node of the network.
pub(super) struct SimNode {
    pub(super) core: Core,
    pub(super) up: bool,
    pub(super) members: Arc<Members>,
    pub(super) peers: Option<Peers>,
    pub(super) joins: BTreeMap<u64, Result<Contact, ClusterError>>,
    pub(super) left: bool,
    pub(super) generation: u64,
    addr: SocketAddr,
}

/// Who was seen in which state by whom, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at: Duration,
    pub(super) by: usize,
    pub(super) of: usize,
    pub(super) state: MemberState,
}

enum Arrival {
    Datagram(Vec<u8>),
    Request { from: usize, token: u64, hello: Vec<u8>, state: Vec<u8> },
    Answer { token: u64, answer: Result<(Vec<u8>, Option<Vec<u8>>), String> },
}

pub(super) struct Sim {
    pub(super) now: Duration,
    pub(super) nodes: Vec<SimNode>,
    /// Probability that a datagram is lost.
    pub(super) loss: f64,
    /// Nodes that cannot reach those outside their own set.
    pub(super) cut: BTreeSet<usize>,
    /// Every change of state that a node published.
    pub(super) history: Vec<Seen>,
    rng: Rng,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    arrivals: BTreeMap<u64, Arrival>,
    sequence: u64,
}

pub(super) fn node_id(index: usize) -> NodeId {
    NodeId((0x0100 + index as u128).to_be_bytes())
}

pub(super) fn config(index: usize) -> GossipConfig {
    let index8 = u8::try_from(index + 1).expect("small networks");
    let address = SocketAddr::new(Ipv4Addr::new(10, 0, 0, index8).into(), 8301);
    GossipConfig {
        node_id: node_id(index),
        node_name: format!("n{index}"),
        datacenter: "dc1".to_owned(),
        label: String::new(),
        bind: address,
        advertise: address,
        tags: BTreeMap::from([("role".into(), "node".into()), ("dc".into(), "dc1".into())]),
        data_dir: Some("/nowhere".into()),
        rejoin_after_leave: false,
        reconnect_timeout: Duration::from_secs(72 * 3600),
        tombstone_timeout: TOMBSTONE_TIMEOUT,
        timing: Timing::lan(),
    }
}

impl Sim {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Duration::from_secs(1_000),
            nodes: Vec::new(),
            loss: 0.0,
            cut: BTreeSet::new(),
            history: Vec::new(),
            rng: Rng::from_seed(seed),
            queue: BinaryHeap::new(),
            arrivals: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// A network of `count` nodes that all know each other.
    pub(super) fn joined(seed: u64, count: usize) -> Self {
        let mut sim = Self::new(seed);
        for _ in 0..count {
            sim.add();
        }
        for index in 1..count {
            sim.join(index, 0);
        }
        sim.run_until(Duration::from_secs(30), "all know all", Sim::all_know_all);
        sim
    }

    pub(super) fn add(&mut self) -> usize {
        let index = self.nodes.len();
        let node = self.boot(config(index), 1_000);
        self.nodes.push(node);
        self.settle(index);
        index
    }

    fn boot(&self, config: GossipConfig, generation: u64) -> SimNode {
        let addr = config.advertise;
        SimNode {
            core: Core::new(config, generation, self.rng.clone(), self.now),
            up: true,
            members: Arc::default(),
            peers: None,
            joins: BTreeMap::new(),
            left: false,
            generation,
            addr,
        }
    }

    /// Starts a stopped node again, with a generation above its last one.
    pub(super) fn restart(&mut self, index: usize) {
        self.restart_as(index, config(index), 1_000);
    }

    pub(super) fn restart_as(&mut self, index: usize, config: GossipConfig, step: u64) {
        let generation = self.nodes[index].generation + step;
        self.nodes[index] = self.boot(config, generation);
        self.settle(index);
    }

    pub(super) fn kill(&mut self, index: usize) {
        self.nodes[index].up = false;
    }

    pub(super) fn join(&mut self, index: usize, at: usize) -> u64 {
        let (now, to) = (self.now, self.nodes[at].addr);
        let token = self.nodes[index].core.join(now, to);
        self.settle(index);
        token
    }

    /// Does something with a node's core.
    pub(super) fn with<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Core, Duration) -> T,
    ) -> T {
        let result = act(&mut self.nodes[index].core, self.now);
        self.settle(index);
        result
    }

    fn connected(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&from) == self.cut.contains(&to)
    }

    fn index_of(&self, addr: SocketAddr) -> Option<usize> {
        // The last one: a restarted node may have moved to another's old address.
        self.nodes.iter().rposition(|node| node.addr == addr)
    }

    fn later(&mut self, after: Duration, to: usize, arrival: Arrival) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence, to)));
        self.arrivals.insert(self.sequence, arrival);
    }

    fn latency(&self) -> Duration {
        Duration::from_micros(250 + self.rng.below(500))
    }

    /// Carries out what a core asks for.
    fn settle(&mut self, index: usize) {
        while let Some(effect) = self.nodes[index].core.effect() {
            match effect {
                Effect::Send { to, bytes } => {
                    assert!(bytes.len() <= 1_400, "datagram of {} bytes", bytes.len());
                    let lost = self.rng.unit() < self.loss;
                    if let Some(to) = self.index_of(to)
                        && !lost
                        && self.connected(index, to)
                    {
                        let latency = self.latency();
                        self.later(latency, to, Arrival::Datagram(bytes));
                    }
                }
                Effect::Dial { token, to, hello, state } => {
                    self.dial(index, token, to, hello, state)
                }
                Effect::Joined { token, result } => {
                    self.nodes[index].joins.insert(token, result);
                }
                Effect::Publish(members) => self.note_changes(index, members),
                Effect::Persist(peers) => self.nodes[index].peers = Some(peers),
                Effect::Left => self.nodes[index].left = true,
            }
        }
    }

    fn dial(&mut self, index: usize, token: u64, to: SocketAddr, hello: Vec<u8>, state: Vec<u8>) {
        let target = self.index_of(to).filter(|to| self.nodes[*to].up);
        let Some(target) = target else {
            let refused = Arrival::Answer { token, answer: Err("connection refused".to_owned()) };
            return self.later(Duration::from_millis(1), index, refused);
        };
        if !self.connected(index, target) {
            let silent = Arrival::Answer { token, answer: Err("no answer within 10s".to_owned()) };
            return self.later(Duration::from_secs(10), index, silent);
        }
        let latency = self.latency() * 3;
        self.later(latency, target, Arrival::Request { from: index, token, hello, state });
    }

    fn note_changes(&mut self, by: usize, members: Arc<Members>) {
        let before = std::mem::replace(&mut self.nodes[by].members, members);
        for member in &self.nodes[by].members.list {
            let same =
                |old: &Arc<model::seam::Member>| old.id == member.id && old.state == member.state;
            if before.list.iter().any(same) {
                continue;
            }
            let of = (u128::from_be_bytes(member.id.0) - 0x0100) as usize;
            self.history.push(Seen { at: self.now, by, of, state: member.state });
        }
    }

    fn deliver(&mut self, to: usize, arrival: Arrival) {
        if !self.nodes[to].up {
            return;
        }
        let now = self.now;
        match arrival {
            Arrival::Datagram(bytes) => self.nodes[to].core.on_datagram(now, &bytes),
            Arrival::Request { from, token, hello, state } => {
                let core = &mut self.nodes[to].core;
                let answer = match core.on_hello(now, &hello) {
                    Err(refusal) => Ok((refusal, None)),
                    Ok(()) => core
                        .on_state(now, &state)
                        .map(|(welcome, state)| (welcome, Some(state)))
                        .map_err(|error| error.to_string()),
                };
                let latency = self.latency() * 3;
                self.later(latency, from, Arrival::Answer { token, answer });
            }
            Arrival::Answer { token, answer } => {
                self.nodes[to].core.on_dialed(now, token, answer);
            }
        }
        self.settle(to);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// The next event before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let arrival = self.queue.peek().map(|Reverse((at, ..))| *at);
        let timer = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].up)
            .filter_map(|index| self.nodes[index].core.deadline().map(|at| (at, index)))
            .min();
        let timer_first = match (arrival, timer) {
            (None, None) => return false,
            // Sockets before timers.
            (Some(arrival), Some((at, _))) => at < arrival,
            (None, Some(_)) => true,
            (Some(_), None) => false,
        };
        if timer_first {
            let (at, index) = timer.expect("there is one");
            if at > end {
                return false;
            }
            self.now = self.now.max(at);
            let now = self.now;
            self.nodes[index].core.on_time(now);
            self.settle(index);
        } else {
            let Reverse((at, sequence, to)) = *self.queue.peek().expect("there is one");
            if at > end {
                return false;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            let arrival = self.arrivals.remove(&sequence).expect("queued");
            self.deliver(to, arrival);
        }
        true
    }

    /// Lets time pass until `condition` holds, at most `limit`; how long it took.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        condition: impl Fn(&Sim) -> bool,
    ) -> Duration {
        let start = self.now;
        while !condition(self) {
            assert!(self.now < start + limit, "{what}: not after {limit:?}\n{}", self.describe());
            self.run(Duration::from_millis(20));
        }
        self.now - start
    }

    pub(super) fn state(&self, by: usize, of: usize) -> Option<MemberState> {
        let members = &self.nodes[by].members;
        members.list.iter().find(|member| member.id == node_id(of)).map(|member| member.state)
    }

    fn up(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].up)
    }

    /// Every node that is up holds exactly this of `of`.
    pub(super) fn all_hold(&self, of: usize, state: MemberState) -> bool {
        self.up().all(|by| by == of || self.state(by, of) == Some(state))
    }

    /// Every node that is up holds every node that is up alive.
    pub(super) fn all_know_all(&self) -> bool {
        self.up().all(|of| self.all_hold(of, MemberState::Alive))
    }

    /// Failures of nodes other than these that anybody saw.
    pub(super) fn false_failures(&self, truly: &[usize]) -> Vec<&Seen> {
        self.history
            .iter()
            .filter(|seen| seen.state == MemberState::Failed && !truly.contains(&seen.of))
            .collect()
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for by in self.up() {
            let list = &self.nodes[by].members.list;
            let states: Vec<_> =
                list.iter().map(|m| format!("{}={}", m.name, m.state.as_str())).collect();
            text += &format!("n{by}: {}\n", states.join(" "));
        }
        text
    }
}
