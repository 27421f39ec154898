//! Finding others: the retry-join driver, and what an address in the settings means.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use model::seam::Cluster;
use rt::{Clock, Rng};
use tokio::time::timeout;

use super::handle::{Contact, Gossip};
use crate::config::Join;

/// Addresses contacted at the same time.
const PARALLEL: usize = 3;
/// Time alone after which the join addresses are tried again: longer than a restart of the others.
const ALONE_FOR: Duration = Duration::from_secs(60);
/// Addresses that one entry may stand for (a DNS name with many records).
const ADDRESSES_PER_NAME_MAX: usize = 64;

/// Every attempt allowed has failed: the agent exits (Consul: retry_max).
#[derive(Debug, thiserror::Error)]
#[error("agent: max join LAN retry exhausted, exiting ({attempts} attempts; last: {last})")]
pub struct JoinExhausted {
    /// How many were made.
    pub attempts: u32,
    /// Why the last one failed.
    pub last: String,
}

/// What one round over all addresses gave.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Members that answered and were merged.
    pub(super) members: usize,
    /// Addresses that turned out to be ours.
    pub(super) ourselves: usize,
    /// One text for each address that failed.
    pub(super) failures: Vec<String>,
}

/// Joins: tries all addresses of the settings and the peers of the last run at 0, 1, 2, 4 ... s up
/// to the interval, with jitter, until a member answers. An address of ours is no failure, but
/// while others are named too the search goes on until one of them, or anybody else, is there.
pub async fn run(
    gossip: Arc<Gossip>,
    settings: Join,
    clock: Clock,
    rng: Rng,
) -> Result<(), JoinExhausted> {
    if search(&gossip, &settings, &clock, &rng).await? == Found::OnlyOurselves {
        tracing::info!("every join address is our own");
    }
    Ok(())
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// There is nobody to look for.
    Nothing,
    Members,
    OnlyOurselves,
}

async fn search(
    gossip: &Gossip,
    settings: &Join,
    clock: &Clock,
    rng: &Rng,
) -> Result<Found, JoinExhausted> {
    let peers = gossip.known_peers().to_vec();
    if settings.addresses.is_empty() && peers.is_empty() {
        return Ok(Found::Nothing);
    }
    let since = clock.now();
    let mut backoff = Backoff::new(settings.interval);
    let mut failed = 0_u32;
    loop {
        let attempt = attempt(gossip, &settings.addresses, &peers).await;
        let others = gossip.members().alive().count() > 1;
        // Peers of the last run may be gone for good: whoever else is here will do.
        let enough = attempt.ourselves > 0 || settings.addresses.is_empty();
        if attempt.members > 0 || (enough && others) {
            let took = clock.now().duration_since(since);
            tracing::info!(members = attempt.members, ?took, "join completed");
            return Ok(Found::Members);
        }
        let Some(last) = attempt.failures.into_iter().next() else {
            return Ok(Found::OnlyOurselves);
        };
        if attempt.ourselves == 0 && !settings.addresses.is_empty() {
            failed += 1;
            if settings.attempts_max > 0 && failed >= settings.attempts_max {
                return Err(JoinExhausted { attempts: failed, last });
            }
        }
        let pause = backoff.next(rng);
        tracing::warn!(error = %last, ?pause, "join failed, will retry");
        tokio::time::sleep(pause).await;
    }
}

/// After [`run`]: joins again whenever this node has been alone for a minute. Never ends.
pub async fn keep(gossip: Arc<Gossip>, settings: Join, clock: Clock, rng: Rng) -> Infallible {
    keep_after(ALONE_FOR, gossip, settings, clock, rng).await
}

/// See [`keep`]; `alone_for` instead of the minute.
pub(super) async fn keep_after(
    alone_for: Duration,
    gossip: Arc<Gossip>,
    settings: Join,
    clock: Clock,
    rng: Rng,
) -> Infallible {
    let settings = Join { attempts_max: 0, ..settings };
    loop {
        company(&gossip, false).await;
        if timeout(alone_for, company(&gossip, true)).await.is_ok() {
            continue;
        }
        // Others that find us end the search as well. Without an end to its attempts it cannot be
        // exhausted.
        tokio::select! {
            biased;
            () = company(&gossip, true) => {}
            _ = search(&gossip, &settings, &clock, &rng) => {}
        }
    }
}

/// Returns once this node has others beside it, or (`wanted`: false) has none.
async fn company(gossip: &Gossip, wanted: bool) {
    let mut members = gossip.members();
    while (members.alive().count() > 1) != wanted {
        members = gossip.changed(members.sequence).await;
    }
}

/// Pauses between attempts: 1, 2, 4 ... s up to a limit, each shortened by up to a quarter.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    limit: Duration,
}

impl Backoff {
    fn new(limit: Duration) -> Self {
        Self { next: Duration::from_secs(1).min(limit), limit }
    }

    fn next(&mut self, rng: &Rng) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.limit);
        pause - rng.jitter(pause / 4)
    }
}

/// One round over all addresses, each resolved anew.
pub(super) async fn attempt(gossip: &Gossip, texts: &[String], peers: &[SocketAddr]) -> Attempt {
    let mut attempt = Attempt::default();
    let mut addresses = peers.to_vec();
    for text in texts {
        match resolve(text, gossip.local_addr().port()).await {
            Ok(found) => addresses.extend(found),
            Err(failure) => attempt.failures.push(failure),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    gossip.rng.shuffle(&mut addresses);
    let mut answers = stream::iter(addresses)
        .map(|address| async move { (address, gossip.contact(address).await) })
        .buffer_unordered(PARALLEL);
    while let Some((address, answer)) = answers.next().await {
        match answer {
            Ok(Contact::Member(_)) => attempt.members += 1,
            Ok(Contact::Ourselves) => attempt.ourselves += 1,
            Err(error) => attempt.failures.push(format!("cannot join {address}: {error}")),
        }
    }
    attempt
}

/// Addresses that an entry of `retry_join` stands for: IP, IP:port, `[v6]:port`, host, host:port,
/// each optionally led by `name/`.
async fn resolve(text: &str, default_port: u16) -> Result<Vec<SocketAddr>, String> {
    match parse(text, default_port)? {
        Target::Address(address) => Ok(vec![address]),
        Target::Host(host, port) => {
            let found = tokio::net::lookup_host((host.as_str(), port))
                .await
                .map_err(|cause| format!("cannot resolve {host}: {cause}"))?;
            let found: Vec<_> = found.take(ADDRESSES_PER_NAME_MAX).collect();
            if found.is_empty() {
                return Err(format!("cannot resolve {host}: no addresses"));
            }
            Ok(found)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Address(SocketAddr),
    Host(String, u16),
}

fn parse(text: &str, default_port: u16) -> Result<Target, String> {
    let text = text.trim();
    if text.starts_with("provider=") {
        return Err(format!("cannot join {text}: this release knows no discovery providers"));
    }
    let text = text.rsplit_once('/').map_or(text, |(_, address)| address);
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(Target::Address(SocketAddr::new(ip, default_port)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Target::Address(address));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (host, port),
            _ => return Err(format!("cannot join {text}: bad port {port:?}")),
        },
        None => (text, default_port),
    };
    if host.is_empty() || host.contains([':', '[', ']', ' ']) {
        return Err(format!("cannot join {text:?}: neither an address nor a host name"));
    }
    Ok(Target::Host(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_as_consul_does() {
        let address = |text: &str| Ok(Target::Address(text.parse().expect("an address")));
        let host = |name: &str, port| Ok(Target::Host(name.to_owned(), port));
        for (text, wanted) in [
            ("10.0.0.1", address("10.0.0.1:8301")),
            ("10.0.0.1:99", address("10.0.0.1:99")),
            ("::1", address("[::1]:8301")),
            ("[::1]", address("[::1]:8301")),
            ("[::1]:99", address("[::1]:99")),
            ("s1/10.0.0.1:99", address("10.0.0.1:99")),
            (" consul.example ", host("consul.example", 8301)),
            ("consul.example:99", host("consul.example", 99)),
        ] {
            assert_eq!(parse(text, 8301), wanted, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", ":99", "host:0", "host:x", "host:99999", "[::1", "provider=aws a=b"] {
            let error = parse(text, 8301).expect_err(text);
            assert!(error.contains(text.trim()), "{error}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_interval() {
        let rng = Rng::from_seed(1);
        let mut backoff = Backoff::new(Duration::from_secs(5));
        for wanted in [1, 2, 4, 5, 5] {
            let pause = backoff.next(&rng).as_secs_f64();
            assert!(pause <= f64::from(wanted) && pause > 0.7 * f64::from(wanted), "{pause}");
        }
    }
}
