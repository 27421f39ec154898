//! The core of a pool: events and the time in, effects out. No socket, file, clock or task.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foca::{Foca, Incarnation, Member as Update, NoCustomBroadcast, PeriodicParams, State};
use model::seam::{ClusterError, MemberState, Members};
use model::{Name, NodeId};
use rt::{Rng, StdRng};

use super::broadcast::Broadcasts;
use super::checking::Check;
use super::codec::{self, HookedCodec};
use super::config::{GossipConfig, Timing};
use super::dial::Dial;
use super::envelope::{self, Builder, Extension, Label};
use super::handle::Contact;
use super::identity::{Id, addressee};
use super::known::{Known, Shared};
use super::leaving::Leaving;
use super::peers::Peers;
use super::record::{Lamport, Record};
use super::table::{Entry, Table};
use super::timers::{Due, Timers};
use super::turn::Turn;

/// foca's share of a datagram; the rest is the envelope's and the broadcasts'.
const FOCA_PACKET: usize = 1_000;
/// A member is told at most this often that we hold it down.
pub(super) const TURN_UNDEAD_EVERY: Duration = Duration::from_secs(5);
/// A suspicion that fires this late was held up with us: answers may still be in the socket.
const LATE: Duration = Duration::from_millis(300);
/// How often the old are forgotten, and the known peers written.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
const PERSIST_EVERY: Duration = Duration::from_secs(60);

/// What the driver must do.
#[derive(Debug)]
pub(super) enum Effect {
    /// Send a datagram.
    Send { to: SocketAddr, bytes: Vec<u8> },
    /// Connect, send these two frames, read the answer's, hand them to [`Core::on_dialed`].
    Dial { token: u64, to: SocketAddr, hello: Vec<u8>, state: Vec<u8> },
    /// A contact asked for has ended.
    Joined { token: u64, result: Result<Contact, ClusterError> },
    /// The snapshot has changed.
    Publish(Arc<Members>),
    /// Write the file of known peers.
    Persist(Peers),
    /// The others had time to hear that we leave.
    Left,
}

/// See the module. `now` is the time since some fixed moment; it never goes back.
pub(super) struct Core {
    pub(super) config: GossipConfig,
    pub(super) label: Label,
    pub(super) known: Shared,
    pub(super) table: Table,
    pub(super) broadcasts: Broadcasts,
    pub(super) timers: Timers,
    pub(super) rng: Rng,
    pub(super) lamport: Lamport,
    pub(super) dial: Dial,
    pub(super) checks: BTreeMap<NodeId, Check>,
    pub(super) leaving: Option<Leaving>,
    pub(super) effects: VecDeque<Effect>,
    /// Goes with the next packet that foca sends to this node alone.
    pub(super) extra: Option<(NodeId, Extension, Vec<u8>)>,
    foca: Foca<Id, HookedCodec, StdRng, NoCustomBroadcast>,
    foca_config: foca::Config,
    pub(super) votes: BTreeMap<NodeId, Duration>,
    pub(super) refuted: Option<Duration>,
    pub(super) renewed: Option<Duration>,
    pub(super) next_persist: Duration,
    /// Members that were forgotten on request, and which run of them.
    pub(super) pruned: VecDeque<(NodeId, u64)>,
    /// What the driver was last given to write.
    pub(super) persisted: Option<Peers>,
    /// foca's gossip timers whose time came, and when, while there was nothing to send.
    resting: Vec<(Duration, foca::Timer<Id>)>,
}

impl Core {
    /// A pool of one member: this node, in its `generation`-th run.
    pub(super) fn new(config: GossipConfig, generation: u64, rng: Rng, now: Duration) -> Self {
        let own = Id::new(config.node_id, config.advertise, generation);
        let known: Shared = Rc::new(RefCell::new(Known::new(own)));
        let foca_config = foca_config(&config.timing);
        let codec = HookedCodec::new(Rc::clone(&known));
        let mut table = Table::default();
        table.insert(Entry::new(own, MemberState::Alive, true, now));
        table.set_record(Record {
            node: own.node,
            version: generation,
            name: Name::from(config.node_name.as_str()),
            tags: config.tags.clone(),
        });
        let mut timers = Timers::default();
        timers.push(now + SWEEP_EVERY, Due::Sweep);
        timers.push(now + PERSIST_EVERY, Due::Persist);
        let mut core = Self {
            label: Label::new(&config.label, &config.datacenter),
            foca: Foca::new(own, foca_config.clone(), rng.fork(), codec),
            foca_config,
            known,
            table,
            timers,
            config,
            rng,
            broadcasts: Broadcasts::default(),
            lamport: Lamport::default(),
            dial: Dial::default(),
            checks: BTreeMap::new(),
            leaving: None,
            effects: VecDeque::new(),
            extra: None,
            votes: BTreeMap::new(),
            refuted: None,
            renewed: None,
            next_persist: now + PERSIST_EVERY,
            pruned: VecDeque::new(),
            persisted: None,
            resting: Vec::new(),
        };
        core.schedule_reconnect(now + Duration::from_secs(1));
        core.publish();
        core
    }

    /// The next thing to do. After the last one nothing is left to do until an event.
    pub(super) fn effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.publish();
            self.wake_gossip();
        }
        self.effects.pop_front()
    }

    /// Takes up the gossip timer again, at the pace that it had, once there is something to send:
    /// a quiet pool sleeps through nine of ten wake-ups.
    fn wake_gossip(&mut self) {
        if self.resting.is_empty() || self.backlog() == 0 {
            return;
        }
        let (now, period) = (self.known.borrow().now, self.config.timing.gossip_period);
        for (since, timer) in std::mem::take(&mut self.resting) {
            let past = now.saturating_sub(since).as_nanos() % period.as_nanos().max(1);
            let left = period.saturating_sub(Duration::from_nanos(past as u64));
            self.timers.push(now + left, Due::Foca(timer));
        }
    }

    fn publish(&mut self) {
        if let Some(members) = self.table.publish() {
            self.effects.push_back(Effect::Publish(members));
        }
    }

    /// When [`Core::on_time`] must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Our identity now.
    pub(super) fn own(&self) -> Id {
        self.known.borrow().own
    }

    /// A datagram came in.
    pub(super) fn on_datagram(&mut self, now: Duration, bytes: &[u8]) {
        metrics::counter!("memberlist.udp.received").increment(bytes.len() as u64);
        let label = self.label;
        let Ok(opened) = envelope::open(bytes, label) else {
            return dropped("envelope");
        };
        let Ok(peek) = codec::peek(opened.payload) else {
            return dropped("header");
        };
        let own = self.own();
        if !opened.sent_by(&peek.src.node) || peek.src.node == own.node {
            return dropped("sender");
        }
        if peek.dst != addressee(&own) {
            return dropped("addressee");
        }
        // Only a stream, or a member's word, makes a stranger known: answers to forged senders
        // would hit whoever has the address.
        if self.known.borrow().get(&peek.src.node).is_none() {
            return dropped("stranger");
        }
        if peek.turn_undead {
            return self.on_turn_undead(now, &peek.src, peek.incarnation);
        }
        {
            let mut known = self.known.borrow_mut();
            known.begin_packet(now);
            known.note_heard(&peek.src.node, now);
        }
        if self.with_foca(now, |foca, turn| foca.handle_data(opened.payload, turn)).is_err() {
            dropped("foca");
        }
        let node = peek.src.node;
        let Some(live) = self.table.get(&node).map(|entry| entry.live) else {
            return; // over a limit
        };
        self.on_extensions(now, &node, &opened.extensions, peek.ack && live);
        if !live {
            self.heard_from_gone(now, &node);
        }
    }

    fn on_extensions(
        &mut self,
        now: Duration,
        from: &NodeId,
        extensions: &[(Extension, &[u8])],
        compare: bool,
    ) {
        for (extension, body) in extensions {
            let understood = match extension {
                Extension::Digest if compare => self.on_digest(now, from, body),
                Extension::Digest => Ok(()),
                Extension::Record => self.on_record(body),
                Extension::Intent => self.on_intent(now, body),
                Extension::Check => self.on_check(now, from, body),
                Extension::Checked => self.on_checked(from, body),
            };
            if understood.is_err() {
                dropped("extension");
            }
        }
    }

    /// Time has passed: everything due is done, in order.
    pub(super) fn on_time(&mut self, now: Duration) {
        while let Some((at, due)) = self.timers.pop(now) {
            match due {
                Due::Foca(timer) => self.on_foca_timer(now, at, timer),
                Due::Verdict(id, incarnation) => self.on_verdict(now, at, id, incarnation),
                Due::Check(node) => self.on_check_due(now, &node),
                Due::Reconnect => self.on_reconnect_due(now),
                Due::Sweep => self.on_sweep(now),
                Due::Persist => self.on_persist_due(now),
                Due::Leave => self.on_leave_due(now),
            }
        }
    }

    fn on_foca_timer(&mut self, now: Duration, at: Duration, timer: foca::Timer<Id>) {
        if let foca::Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
            if !self.still_suspect(member_id, *incarnation) {
                // foca 2.0.0 would send TurnUndead to a member that has refuted, which would then
                // give up its identity for nothing.
                return;
            }
            if now > at + LATE {
                return self.timers.push(again(now, at), Due::Foca(timer));
            }
        }
        let gossip = matches!(timer, foca::Timer::PeriodicGossip(_));
        if gossip && self.backlog() == 0 {
            return self.resting.push((at, timer));
        }
        let probe = matches!(timer, foca::Timer::ProbeRandomMember(_));
        let _ = self.with_foca(now, |foca, turn| foca.handle_timer(timer, turn));
        // foca sees only its own updates; our broadcasts want to leave too.
        if gossip && !self.broadcasts.is_empty() && self.foca.updates_backlog() == 0 {
            self.gossip(now);
        }
        if probe {
            self.check_silent(now);
        }
    }

    /// Sends what is queued to a few members.
    pub(super) fn gossip(&mut self, now: Duration) {
        let _ = self.with_foca(now, |foca, turn| foca.gossip(turn));
    }

    /// Declares us down; from then on foca answers nobody.
    pub(super) fn leave_foca(&mut self, now: Duration) {
        self.known.borrow_mut().leaving = true;
        let _ = self.with_foca(now, |foca, turn| foca.leave_cluster(turn));
    }

    /// Whether foca holds exactly this as suspect, so that its time to refute has run out.
    fn still_suspect(&self, id: &Id, incarnation: Incarnation) -> bool {
        self.foca.iter_membership_state().any(|member| {
            member.id() == id
                && member.incarnation() == incarnation
                && member.state() == State::Suspect
        })
    }

    fn on_verdict(&mut self, now: Duration, at: Duration, id: Id, incarnation: Incarnation) {
        if !self.still_suspect(&id, incarnation) {
            return;
        }
        if now > at + LATE {
            self.timers.push(again(now, at), Due::Verdict(id, incarnation));
        } else {
            self.apply(now, vec![Update::new(id, incarnation, State::Down)], true);
        }
    }

    /// Hands updates to foca that did not come in a packet.
    pub(super) fn apply(&mut self, now: Duration, updates: Vec<Update<Id>>, broadcast: bool) {
        let _ =
            self.with_foca(now, |foca, turn| foca.apply_many(updates.into_iter(), broadcast, turn));
    }

    /// Calls foca and acts on what it asked for.
    pub(super) fn with_foca(
        &mut self,
        now: Duration,
        call: impl FnOnce(
            &mut Foca<Id, HookedCodec, StdRng, NoCustomBroadcast>,
            &mut Turn,
        ) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        self.known.borrow_mut().now = now;
        let mut turn = Turn::default();
        let result = call(&mut self.foca, &mut turn);
        for note in &turn.notes {
            self.on_note(now, *note);
        }
        for (timer, after) in turn.timers {
            if let foca::Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
                self.check_suspect(now, *member_id, *incarnation);
            }
            self.timers.push(now + after, Due::Foca(timer));
        }
        for (to, payload) in turn.packets {
            self.send(now, &to, &payload);
        }
        let superseded_by = self.known.borrow_mut().superseded_by.take();
        if let Some(generation) = superseded_by {
            self.renew(now, generation);
        }
        result
    }

    /// Wraps foca's bytes and sends them to the address that we hold of the node: never to one
    /// that a packet names for somebody whom we do not know.
    fn send(&mut self, now: Duration, to: &Id, payload: &[u8]) {
        let turn_undead = codec::is_turn_undead(payload);
        let addr = {
            let mut known = self.known.borrow_mut();
            let Some(seen) = known.get_mut(&to.node) else {
                return dropped("unknown addressee");
            };
            if turn_undead {
                if seen.told_down.is_some_and(|told| now < told + TURN_UNDEAD_EVERY) {
                    return;
                }
                seen.told_down = Some(now);
            }
            seen.id.addr
        };
        let mut builder = Builder::new(self.label, &self.config.node_id, payload.len());
        if codec::is_ack(payload) {
            let digest = self.table.digest();
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&digest.live.to_be_bytes());
            bytes[4..].copy_from_slice(&digest.hash.to_be_bytes());
            builder.put(Extension::Digest, &bytes);
        }
        if self.extra.as_ref().is_some_and(|(node, ..)| *node == to.node)
            && let Some((_, extension, bytes)) = self.extra.take()
        {
            builder.put(extension, &bytes);
        } else if !turn_undead {
            self.broadcasts.fill(&mut builder);
        }
        let bytes = builder.finish(payload);
        metrics::counter!("memberlist.udp.sent").increment(bytes.len() as u64);
        self.effects.push_back(Effect::Send { to: addr, bytes });
    }

    /// Sends a sign of life to one member, with something beside it.
    pub(super) fn send_extra(
        &mut self,
        now: Duration,
        to: Id,
        extension: Extension,
        body: Vec<u8>,
    ) {
        self.extra = Some((to.node, extension, body));
        let _ = self.with_foca(now, |foca, turn| foca.announce(to, turn));
        self.extra = None;
    }

    /// Our incarnation. foca tells it only in the headers that it writes.
    pub(super) fn own_incarnation(&mut self) -> Incarnation {
        let own = self.own();
        let _ = self.foca.announce(own, Turn::default());
        self.known.borrow().own_incarnation
    }

    /// Packets that each update is sent in: 4 * ceil(log10(N + 1)), memberlist's rule.
    pub(super) fn sendings(&self) -> u32 {
        let digits = (self.foca.num_members() + 1).to_string().len();
        4 * u32::try_from(digits).unwrap_or(8).min(8)
    }

    pub(super) fn resize(&mut self) {
        let sendings = u8::try_from(self.sendings()).unwrap_or(u8::MAX);
        let sendings = NonZeroU8::new(sendings).unwrap_or(NonZeroU8::MIN);
        if self.foca_config.max_transmissions != sendings {
            self.foca_config.max_transmissions = sendings;
            let _ = self.foca.set_config(self.foca_config.clone());
        }
    }

    /// Other members that foca holds active.
    pub(super) fn others(&self) -> usize {
        self.foca.num_members()
    }

    /// Updates and broadcasts that still go out.
    pub(super) fn backlog(&self) -> usize {
        self.foca.updates_backlog() + self.broadcasts.len()
    }

    /// Replaces our tags; the others hear of it.
    pub(super) fn set_tags(&mut self, tags: BTreeMap<Name, Name>) {
        let own = self.own();
        let Some(current) = self.table.get(&own.node).and_then(Entry::record).cloned() else {
            return;
        };
        if current.tags == tags {
            return;
        }
        self.set_own_record(Record { version: current.version + 1, tags, ..(*current).clone() });
    }

    /// Replaces our record.
    pub(super) fn set_own_record(&mut self, record: Record) {
        if let Some(found) = record.too_large() {
            tracing::error!(
                found,
                limit = super::record::RECORD_MAX,
                "gossip tags are too large and stay as they were"
            );
            return;
        }
        self.table.set_record(record.clone());
        self.spread_record(&record);
    }

    pub(super) fn spread_record(&mut self, record: &Record) {
        let sendings = self.sendings();
        self.broadcasts.add(Extension::Record, record.node, record.encode(), sendings);
    }

    /// Forgets a member.
    pub(super) fn forget(&mut self, now: Duration, id: &Id) {
        let removed = *id;
        // foca forgets only what it holds down.
        let _ = self
            .with_foca(now, |foca, turn| foca.handle_timer(foca::Timer::RemoveDown(removed), turn));
        self.table.remove(&id.node);
        self.known.borrow_mut().forget(&id.node);
        self.checks.remove(&id.node);
    }

    fn on_persist_due(&mut self, now: Duration) {
        if now >= self.next_persist {
            self.persist(false);
            self.next_persist = now + PERSIST_EVERY;
            self.timers.push(self.next_persist, Due::Persist);
        }
    }

    fn on_sweep(&mut self, now: Duration) {
        let (failed, left) = (self.config.reconnect_timeout, self.config.tombstone_timeout);
        for id in self.table.expired(now, failed, left) {
            metrics::counter!("serf.member.reap").increment(1);
            self.forget(now, &id);
        }
        // Runs that packets named but foca did not take.
        let own = self.config.node_id;
        let table = &self.table;
        self.known.borrow_mut().retain(|node| *node != own && table.get(node).is_some());
        metrics::gauge!("serf.queue.backlog").set(self.backlog() as f64);
        metrics::gauge!("memberlist.node.instances").set(self.table.len() as f64);
        self.timers.push(now + SWEEP_EVERY, Due::Sweep);
    }

    /// Facts for people: the keys are those of Consul's `serf_lan`.
    pub(super) fn stats(&self) -> BTreeMap<String, String> {
        let count = |state| self.table.count(state).to_string();
        [
            ("encrypted", "false".to_owned()),
            ("event_queue", "0".to_owned()),
            ("event_time", "1".to_owned()),
            ("failed", count(MemberState::Failed)),
            ("health_score", "0".to_owned()),
            ("intent_queue", self.backlog().to_string()),
            ("left", count(MemberState::Left)),
            ("member_time", self.lamport.now().to_string()),
            ("members", self.table.len().to_string()),
            ("query_queue", "0".to_owned()),
            ("query_time", "1".to_owned()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

/// When to look again at a suspicion that was held up with us.
fn again(now: Duration, at: Duration) -> Duration {
    metrics::counter!("memberlist.suspicion.late").increment(1);
    now + Duration::from_secs(1).min(now - at)
}

/// Counts a message that is ignored.
pub(super) fn dropped(why: &'static str) {
    metrics::counter!("memberlist.msg.dropped", "reason" => why).increment(1);
}

fn foca_config(timing: &Timing) -> foca::Config {
    let fanout = NonZeroUsize::new(timing.gossip_fanout).unwrap_or(NonZeroUsize::MIN);
    foca::Config {
        probe_period: timing.probe_period,
        probe_rtt: timing.probe_timeout,
        num_indirect_probes: fanout,
        max_transmissions: NonZeroU8::MIN.saturating_add(3),
        suspect_to_down_after: timing.suspicion,
        // Our own sweep forgets, and our own streams join and reconnect.
        remove_down_after: None,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        max_packet_size: NonZeroUsize::new(FOCA_PACKET).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_gossip: Some(PeriodicParams {
            frequency: timing.gossip_period,
            num_members: fanout,
        }),
    }
}
