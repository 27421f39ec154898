//! Servers that are killed, paused and cut off while clients read and write: every answer must fit
//! one order, nothing acknowledged may be lost, no term has two leaders, and in the end everything
//! works again.
//!
//! `MUSTER_FAULT_SECONDS` sets how long each test makes trouble, `MUSTER_FAULT_SEED` which trouble.

mod clients;
mod nemesis;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::register::{self, Action, Operation};
use crate::support::ground::Ground;
use crate::support::http::request;
use crate::support::process::Cluster;
use crate::support::{Network, now, thread, within};

use self::clients::{Witness, mode};
use self::nemesis::Nemesis;

/// Trouble in one test, when nothing else is asked for.
const SECONDS: u64 = 20;

/// How long a server may take for any answer: longer than it holds a request.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Clients that read and write registers.
const CLIENTS: u64 = 5;

/// Clients that each write a row of keys of their own.
const WRITERS: u64 = 2;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[expect(clippy::disallowed_methods, reason = "how long and which trouble is asked for outside")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[expect(clippy::print_stderr, reason = "the seed, and figures of a run")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[test]
fn three_servers_keep_their_promises_under_faults() {
    run(3);
}

#[test]
fn five_servers_keep_their_promises_under_faults() {
    run(5);
}

fn run(size: u8) {
    let seed = number("MUSTER_FAULT_SEED").unwrap_or_else(|| {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_secs() ^ u64::from(std::process::id()) << 32
    });
    let seconds = number("MUSTER_FAULT_SECONDS").unwrap_or(SECONDS);
    // A thread of its own: it moves into another network.
    let test = thread(move || scenario(size, seed, Duration::from_secs(seconds)));
    if let Err(panic) = test.join() {
        say(&format!("the trouble was: MUSTER_FAULT_SEED={seed} with {size} servers"));
        std::panic::resume_unwind(panic);
    }
}

fn scenario(size: u8, seed: u64, time: Duration) {
    let ground = Ground::new(size)
        .inspect(Ground::enter)
        .inspect_err(|why| say(&format!("links are not cut: no namespaces here: {why}")))
        .ok();
    let network = if ground.is_some() { Network::apart() } else { Network::new() };
    let cluster = Cluster::start_as(size, network, |n, server| match &ground {
        Some(ground) => server.wrapped(ground.wrap(n)),
        None => server,
    });
    let addresses = cluster.servers.iter().map(|server| server.address()).collect();
    let witness = Arc::new(Witness::new(addresses));
    let mut threads = Vec::new();
    for i in 0..u64::from(size) {
        let witness = Arc::clone(&witness);
        threads.push(thread(move || witness.watch_leader(i as usize)));
    }
    for n in 0..CLIENTS {
        let (witness, dice) = (Arc::clone(&witness), Dice(seed ^ n << 8));
        threads.push(thread(move || witness.use_registers(n, dice)));
    }
    for n in 0..WRITERS {
        let witness = Arc::clone(&witness);
        threads.push(thread(move || witness.write_row(n)));
    }

    let mut nemesis = Nemesis::new(cluster, ground, Arc::clone(&witness), Dice(seed));
    let began = now();
    let mut faults = 0;
    while began.elapsed() < time {
        nemesis.strike_and_heal();
        faults += 1;
    }
    let recovery = now();
    for server in &nemesis.cluster.servers {
        let what = format!("server {} works again", server.ip);
        within(Duration::from_secs(30), &what, || {
            let ask = |path: &str| request(&server.address(), "GET", path, &[], b"", ANSWER_MAX);
            let answer = ask("/v1/kv/none?consistent");
            match answer {
                Ok(answer) if answer.status == 404 => Ok(()),
                // What it says otherwise, to see what is wrong.
                seen => {
                    let others = ["/v1/kv/none", "/v1/kv/none?stale", "/v1/agent/self"].map(ask);
                    Err(format!("{seen:?}, {others:?}"))
                }
            }
        });
    }
    let recovery = recovery.elapsed();
    witness.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no panic");
    }
    judge_rows(&nemesis.cluster, &witness);
    let (operations, unknown) = judge_registers(&witness);
    let doubled = witness.doubled.lock().expect("no panic").clone();
    assert!(doubled.is_empty(), "terms with two leaders: {doubled:?}");
    let terms = witness.leaders.lock().expect("no panic").len();
    say(&format!(
        "{size} servers, seed {seed}: {faults} faults, {operations} operations, {unknown} of \
         unknown outcome, {terms} terms, working again after {recovery:?}"
    ));
    // Hundreds on an idle machine.
    assert!(operations > 50, "only {operations} operations in {time:?}");
}

/// Every acknowledged write of the rows is there, on each server.
fn judge_rows(cluster: &Cluster, witness: &Witness) {
    let acknowledged = witness.acknowledged.lock().expect("no panic").clone();
    assert!(!acknowledged.is_empty(), "no write was acknowledged");
    for server in &cluster.servers {
        let kept = server.json("/v1/kv/row/?keys&consistent");
        let kept: BTreeSet<&str> =
            kept.as_array().into_iter().flatten().filter_map(|key| key.as_str()).collect();
        for key in &acknowledged {
            assert!(kept.contains(key.as_str()), "{key} was acknowledged; {} lost it", server.ip);
        }
    }
}

/// All registers are linearizable, their last values included; operations, and those without answer.
fn judge_registers(witness: &Witness) -> (usize, usize) {
    let mut history = witness.history.lock().expect("no panic").clone();
    let (mut operations, mut unknown) = (0, 0);
    for (n, (key, list)) in history.iter_mut().enumerate() {
        let address = &witness.addresses[n % witness.addresses.len()];
        let call = witness.time();
        let (value, _) = clients::read(address, key, mode::CONSISTENT).expect("all works again");
        let end = Some(witness.time());
        list.push(Operation { action: Action::Read(value), call, end });
        operations += list.len();
        unknown += list.iter().filter(|one| one.end.is_none()).count();
        if let Err(why) = register::check(list) {
            let list: Vec<String> = list.iter().map(|one| format!("  {one:?}")).collect();
            panic!("{key}: {why}\n{}", list.join("\n"));
        }
    }
    (operations, unknown)
}
