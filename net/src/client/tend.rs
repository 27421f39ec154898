//! Keeps connections to up to three servers and asks them who leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use model::rpc::{Body, Consistency, Op, Request};
use model::seam::{BoxFuture, Link, Members};
use model::wire;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::servers::Server;
use super::{Inner, decode_answer};
use crate::{Channel, method};

/// Time that a server has to say who leads, connecting included.
const QUESTION_TIME: Duration = Duration::from_secs(3);
/// Pause between rounds while all is well: half to all of it.
const ROUND_QUIET: Duration = Duration::from_secs(30);
/// Pause between rounds while a connection or the leader is missing. Thousands of agents do this
/// at once when a server restarts.
const ROUND_TROUBLED: Duration = Duration::from_secs(2);
/// Shortest pause between rounds, whatever happens.
const ROUND_GAP: Duration = Duration::from_millis(500);
/// Time between new orders of preference, plus up to half of it (Consul: 120 s and up to 60 s).
const REBALANCE: Duration = Duration::from_secs(120);
/// Longest delay of a round that someone asked for, so that agents do not ask in step.
const ROUND_SOON: Duration = Duration::from_millis(200);

/// Runs until it is dropped.
pub(super) async fn run(client: Arc<Inner>) {
    let mut sequence = client.cluster.members().sequence;
    let mut broken = client.pool.broken();
    let mut next = client.clock.now();
    let mut earliest = next;
    let mut rebalance = next + REBALANCE + client.rng.jitter(REBALANCE / 2);
    let mut round: Option<BoxFuture<'static, bool>> = None;
    loop {
        // Earlier than planned, but not in step with other agents.
        let soon = |planned: Instant, spread| {
            planned.min(earliest.max(client.clock.now()) + client.rng.jitter(spread))
        };
        tokio::select! {
            biased;
            members = client.cluster.changed(sequence) => {
                sequence = members.sequence;
                if client.update_servers(&members) {
                    next = soon(next, ROUND_SOON);
                }
            }
            lost = broken.recv() => match lost {
                // With another connection left there is time to spread the reconnects.
                Ok(address) => {
                    let alone = !client.lost(address).connected;
                    next = soon(next, if alone { ROUND_SOON } else { ROUND_TROUBLED });
                }
                Err(RecvError::Lagged(_)) => next = soon(next, ROUND_SOON),
                Err(RecvError::Closed) => return,
            },
            well = async { round.as_mut().expect("guarded").await }, if round.is_some() => {
                round = None;
                let pause = if well { ROUND_QUIET } else { ROUND_TROUBLED };
                earliest = client.clock.now() + ROUND_GAP;
                next = client.clock.now() + pause / 2 + client.rng.jitter(pause / 2);
            }
            () = client.look.notified(), if round.is_none() => next = soon(next, ROUND_SOON),
            () = sleep_until(next), if round.is_none() => {
                if client.clock.now() >= rebalance {
                    rebalance = client.clock.now() + REBALANCE + client.rng.jitter(REBALANCE / 2);
                    client.with_servers(|servers| servers.shuffle(&client.rng));
                }
                let client = Arc::clone(&client);
                round = Some(Box::pin(async move { client.round().await }));
            }
        }
    }
}

impl Inner {
    pub(super) fn update_servers(&self, members: &Members) -> bool {
        let datacenter = &self.pool.identity().datacenter;
        let changed = self.with_servers(|servers| servers.update(members, datacenter, &self.rng));
        if changed {
            self.found.send_modify(|count| *count += 1);
            self.link_now();
        }
        changed
    }

    fn lost(&self, address: SocketAddr) -> Link {
        let lost = self.with_servers(|servers| {
            let server = servers.at(address);
            servers.failed(address);
            server
        });
        if let Some(server) = lost {
            self.cluster.probe_now(server.id);
        }
        self.link_now()
    }

    /// Asks each held server who leads; that also connects. True: all is well.
    async fn round(&self) -> bool {
        let held = self.with_servers(|servers| servers.held());
        let answers = join_all(held.iter().map(|server| self.who_leads(*server))).await;
        let named: Vec<_> = answers.iter().flatten().flatten().copied().collect();
        // One that is cut off may still name the old leader.
        let votes = |leader: &SocketAddr| named.iter().filter(|other| *other == leader).count();
        let leader = named.iter().copied().max_by_key(votes);
        self.with_servers(|servers| servers.set_leader(leader));
        self.heard(leader.is_some());
        answers.iter().all(Option::is_some) && leader.is_some()
    }

    /// `None`: no answer. `Some(None)`: it knows of no leader.
    async fn who_leads(&self, server: Server) -> Option<Option<SocketAddr>> {
        let mut request = Request::new(Op::StatusLeader);
        request.consistency = Consistency::Stale;
        request.hold_ms = 0;
        let body = wire::encode(wire::Kind::Request, &request).into();
        let asked =
            self.pool.call(server.address, Channel::Rpc, method::ASK, body, QUESTION_TIME).await;
        let reply = match asked {
            Ok(bytes) => decode_answer(&bytes),
            Err(error) => {
                self.note_failure(server.address, &error);
                return None;
            }
        };
        match reply {
            Ok(reply) => match reply.body {
                Body::Address(address) => Some(address.parse().ok()),
                _ => Some(None),
            },
            Err(_) => Some(None),
        }
    }
}
