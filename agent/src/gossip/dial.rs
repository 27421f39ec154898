//! Stream exchanges: whom we contact and why, what we answer to those who contact us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use model::seam::{ClusterError, MemberState};
use model::{Name, NodeId};

use super::core::{Core, Effect, dropped};
use super::exchange::{FullState, Hello, HelloError, Refusal, RefusalKind, frame};
use super::handle::Contact;
use super::known::MEMBERS_MAX;
use super::wire::{Malformed, Reader};

/// Exchanges that we have open at the same time.
const DIALS_MAX: usize = 64;
/// A difference is settled by stream at most this often.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// Why we contact somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody asked us to; they are told how it went.
    Join,
    /// Our live sets differ.
    Sync,
    /// It is gone, perhaps.
    Reconnect,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    purpose: Purpose,
    node: Option<NodeId>,
}

/// Exchanges of ours.
#[derive(Debug, Default)]
pub(super) struct Dial {
    pending: BTreeMap<u64, Pending>,
    last_token: u64,
    last_sync: Option<Duration>,
    mismatches: u8,
    /// Members come back: more of the gone are tried until then.
    pub(super) heal_until: Option<Duration>,
    /// When failed members are tried next.
    pub(super) next_round: Duration,
}

impl Dial {
    /// Whether this node is being contacted.
    pub(super) fn busy_with(&self, node: &NodeId) -> bool {
        self.pending.values().any(|pending| pending.node.as_ref() == Some(node))
    }
}

impl Core {
    /// Contacts this address; ends with [`Effect::Joined`] of the token returned.
    pub(super) fn join(&mut self, now: Duration, to: SocketAddr) -> u64 {
        if self.leaving.is_some() || self.dial.pending.len() >= DIALS_MAX {
            self.dial.last_token += 1;
            let token = self.dial.last_token;
            let why = "this node is leaving, or contacts too many others".to_owned();
            let result = Err(ClusterError::Join(why));
            self.effects.push_back(Effect::Joined { token, result });
            return token;
        }
        self.open_dial(now, to, Purpose::Join, None)
    }

    /// Contacts a member.
    pub(super) fn contact(&mut self, now: Duration, node: &NodeId, purpose: Purpose) {
        let Some(to) = self.table.get(node).map(|entry| entry.id.addr) else {
            return;
        };
        let free = self.dial.pending.len() < DIALS_MAX && !self.dial.busy_with(node);
        if free && self.leaving.is_none() {
            self.open_dial(now, to, purpose, Some(*node));
        }
    }

    fn open_dial(
        &mut self,
        now: Duration,
        to: SocketAddr,
        purpose: Purpose,
        node: Option<NodeId>,
    ) -> u64 {
        self.dial.last_token += 1;
        let token = self.dial.last_token;
        self.dial.pending.insert(token, Pending { purpose, node });
        let hello = self.hello().encode(frame::HELLO);
        let state = self.full_state(now).encode();
        self.effects.push_back(Effect::Dial { token, to, hello, state });
        token
    }

    fn hello(&self) -> Hello {
        Hello {
            label: self.config.label.clone(),
            datacenter: self.config.datacenter.clone(),
            id: self.own(),
            name: self.config.node_name.clone(),
        }
    }

    /// The digest of a member that answered our probe.
    pub(super) fn on_digest(
        &mut self,
        now: Duration,
        from: &NodeId,
        body: &[u8],
    ) -> Result<(), Malformed> {
        let mut reader = Reader(body);
        let (live, hash) = (reader.u32()?, reader.u64()?);
        let own = self.table.digest();
        if (own.live, own.hash) == (live, hash) {
            self.dial.mismatches = 0;
            return Ok(());
        }
        self.dial.mismatches = self.dial.mismatches.saturating_add(1);
        metrics::counter!("memberlist.digest.mismatch").increment(1);
        if self.dial.mismatches >= 2 || self.backlog() == 0 {
            self.sync_with(now, from, Purpose::Sync);
        }
        Ok(())
    }

    fn sync_with(&mut self, now: Duration, node: &NodeId, purpose: Purpose) {
        if self.dial.last_sync.is_none_or(|last| now >= last + SYNC_EVERY) {
            self.dial.last_sync = Some(now);
            self.dial.mismatches = 0;
            self.contact(now, node, purpose);
        }
    }

    /// A member that we hold as gone speaks: settle it, and expect that others come back too.
    pub(super) fn heard_from_gone(&mut self, now: Duration, node: &NodeId) {
        if self.table.get(node).is_some_and(|entry| entry.state == MemberState::Failed) {
            self.start_heal(now);
            self.sync_with(now, node, Purpose::Reconnect);
        }
    }

    /// The hello of somebody who contacts us: whether to read on. The error is the answer.
    pub(super) fn on_hello(&mut self, now: Duration, bytes: &[u8]) -> Result<(), Vec<u8>> {
        let hello = Hello::decode(frame::HELLO, bytes).map_err(|error| {
            let text = match error {
                HelloError::Version(found) => {
                    format!("gossip version {found} is not spoken here")
                }
                HelloError::Malformed(_) => "not a gossip hello".to_owned(),
            };
            dropped("hello");
            Refusal::new(RefusalKind::Version, text).encode()
        })?;
        self.check_hello(&hello).map_err(|refusal| {
            if refusal.kind != RefusalKind::Yourself {
                tracing::warn!(from = %hello.name, address = %hello.id.addr, why = %refusal.text,
                    "refused a node that wanted to join");
            }
            if matches!(refusal.kind, RefusalKind::NameTaken | RefusalKind::ConflictingId) {
                // The holder may be gone without anybody having noticed: find out now, and the
                // next attempt succeeds.
                let by_name = self.table.by_name(&hello.name).map(|entry| entry.id.node);
                for holder in by_name.into_iter().chain([hello.id.node]) {
                    self.probe_now(now, &holder);
                }
            }
            refusal.encode()
        })
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), Refusal> {
        let refuse = |kind, text: String| Err(Refusal::new(kind, text));
        let own = self.own();
        if hello.id.same_run(&own) {
            return refuse(RefusalKind::Yourself, String::new());
        }
        if hello.label != self.config.label {
            return refuse(RefusalKind::Label, "part of another cluster".to_owned());
        }
        if hello.datacenter != self.config.datacenter {
            // Consul's text for a LAN merge.
            return refuse(
                RefusalKind::Datacenter,
                format!("Member '{}' part of wrong datacenter '{}'", hello.name, hello.datacenter),
            );
        }
        if self.leaving.is_some() {
            return refuse(RefusalKind::Busy, "this node is leaving".to_owned());
        }
        let conflicting = |name: &str| {
            Refusal::new(
                RefusalKind::ConflictingId,
                format!(
                    "Member '{name}' has conflicting node ID '{}' with this agent's ID",
                    hello.id.node
                ),
            )
        };
        if hello.id.node == own.node {
            return Err(conflicting(&self.config.node_name));
        }
        match self.table.get(&hello.id.node) {
            Some(entry) if entry.live => {
                let known = entry.record().map(|record| record.name.as_ref());
                let same_name = known.is_none_or(|name| name.eq_ignore_ascii_case(&hello.name));
                if !same_name || entry.id.addr != hello.id.addr {
                    return Err(conflicting(known.unwrap_or("?")));
                }
            }
            Some(_) => {}
            None if self.known.borrow().len() >= MEMBERS_MAX => {
                return refuse(RefusalKind::Busy, "the pool has too many members".to_owned());
            }
            None => {}
        }
        let holder = self.table.by_name(&hello.name);
        if let Some(holder) = holder.filter(|entry| entry.live && entry.id.node != hello.id.node) {
            return refuse(
                RefusalKind::NameTaken,
                format!(
                    "node name '{}' is taken by the live node {} at {}",
                    hello.name, holder.id.node, holder.id.addr
                ),
            );
        }
        Ok(())
    }

    /// The state of somebody whose hello was accepted: merges it and answers with ours.
    pub(super) fn on_state(
        &mut self,
        now: Duration,
        bytes: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let state = FullState::decode(bytes)?;
        metrics::counter!("memberlist.tcp.accept").increment(1);
        self.merge(now, state);
        Ok((self.hello().encode(frame::WELCOME), self.full_state(now).encode()))
    }

    /// An exchange of ours has ended: the two frames of the answer (the second is absent after a
    /// refusal), or why there is none.
    pub(super) fn on_dialed(
        &mut self,
        now: Duration,
        token: u64,
        answer: Result<(Vec<u8>, Option<Vec<u8>>), String>,
    ) {
        let Some(pending) = self.dial.pending.remove(&token) else {
            return;
        };
        let result = answer
            .map_err(ClusterError::Join)
            .and_then(|(welcome, state)| self.on_answer(now, &welcome, state.as_deref()));
        match pending.purpose {
            Purpose::Join => self.effects.push_back(Effect::Joined { token, result }),
            Purpose::Sync | Purpose::Reconnect => {
                if let Err(error) = &result {
                    tracing::debug!(node = ?pending.node, %error, "exchange failed");
                }
                if pending.purpose == Purpose::Reconnect && result.is_ok() {
                    self.start_heal(now);
                }
            }
        }
    }

    fn on_answer(
        &mut self,
        now: Duration,
        welcome: &[u8],
        state: Option<&[u8]>,
    ) -> Result<Contact, ClusterError> {
        if welcome.first() == Some(&frame::REFUSAL) {
            let refusal = Refusal::decode(welcome).map_err(|_| not_gossip())?;
            return match refusal.kind {
                RefusalKind::Yourself => Ok(Contact::Ourselves),
                _ => Err(ClusterError::Join(refusal.text)),
            };
        }
        let hello = Hello::decode(frame::WELCOME, welcome).map_err(|_| not_gossip())?;
        let state = state.ok_or_else(not_gossip)?;
        let state = FullState::decode(state).map_err(|_| not_gossip())?;
        self.check_hello(&hello).map_err(|refusal| ClusterError::Join(refusal.text))?;
        self.merge(now, state);
        Ok(Contact::Member(Name::from(hello.name)))
    }
}

fn not_gossip() -> ClusterError {
    ClusterError::Join("the other side does not speak our gossip".to_owned())
}
