//! One run: the servers find each other, clients work, faults happen; then all is healed, and
//! everything must be well again within a bounded time.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};
use std::time::Duration;

use model::LogIndex;
use model::row::NodeV1;
use model::rpc::{KvWrite, Op, Registration, Request};
use tokio::time::{sleep, timeout};

use crate::client::{Client, NODE, REGISTERS, register_key};
use crate::disk::FAST;
use crate::history::Counts;
use crate::nemesis;
use crate::restorer;
use crate::scenario::Scenario;
use crate::world::{Running, World};

/// Time in which a cluster must come about.
const FORM_MAX: Duration = Duration::from_secs(30);
/// Time in which each server must take a write again once all is healed. A removed server may be
/// added again only after a minute.
const LIVE_MAX: Duration = Duration::from_secs(120);
/// Time in which all servers must then have the same.
const EQUAL_MAX: Duration = Duration::from_secs(20);
/// Versions that the watchers must see in the calm, and how long each stays.
const CALM_WRITES: usize = 3;
const CALM_STAY: Duration = Duration::from_secs(2);
/// Time that the clients have to end what they do.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was wrong, with the end of the story.
    pub failure: Option<String>,
    /// Everything that happened.
    pub trace: Vec<u8>,
    /// How much was asked.
    pub counts: Counts,
    /// Crashes of servers.
    pub crashes: u64,
    /// Highest term.
    pub term: u64,
    /// Committed entries.
    pub entries: u64,
    /// Sessions that their TTL ended.
    pub expired: usize,
    /// Virtual time.
    pub time: Duration,
}

thread_local! {
    /// The first panic of this thread: tokio keeps those of tasks to itself.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|kept| {
                kept.get_or_insert_with(|| info.to_string());
            });
            if std::thread::current().name() != Some(SILENT) {
                before(info);
            }
        }));
    });
}

/// Panics of threads of this name are told by the report alone.
const SILENT: &str = "simulation";

/// Runs a scenario on a thread of its own.
///
/// # Panics
/// If there can be no thread.
pub fn run(scenario: Scenario) -> Report {
    keep_panics();
    let thread = std::thread::Builder::new().name(SILENT.to_owned());
    let run = move || {
        server::planted::plant(scenario.bug);
        server::sim::run(scenario.seed, play(scenario))
    };
    let joined = thread.spawn(run).expect("a thread").join();
    joined.expect("a run reports its panics")
}

async fn play(scenario: Scenario) -> Report {
    let world = World::new(scenario);
    let told = async {
        // The simulation itself may panic, or a task of a server.
        loop {
            sleep(Duration::from_millis(50)).await;
            if let Some(panic) = PANIC.with_borrow_mut(Option::take) {
                world.fail(format!("panic: {panic}"));
            }
        }
    };
    let observing = Arc::clone(&world).observe();
    tokio::select! {
        biased;
        () = world.failed.cancelled() => {}
        () = told => {}
        () = observing => {}
        () = story(&world) => {}
    }
    if let Some(panic) = PANIC.with_borrow_mut(Option::take) {
        world.fail(format!("panic: {panic}"));
    }
    let report = report(&world);
    world.tasks.stop();
    report
}

fn report(world: &World) -> Report {
    let failure = world.failure().map(|what| {
        let (seed, bug) = (world.scenario.seed, world.scenario.bug);
        format!(
            "{what}\nseed {seed}, planted {bug:?}; the end of the story:\n{}",
            world.trace.tail()
        )
    });
    let invariants = world.invariants();
    let running = world.running();
    let term = running.iter().map(|running| running.server.look().term).max().unwrap_or(0);
    Report {
        failure,
        trace: world.trace.bytes(),
        counts: world.history().counts,
        crashes: world.crashes.load(Ordering::Relaxed),
        term,
        entries: invariants.ledger.last(),
        expired: invariants.expiry.count(),
        time: Duration::from_micros(world.trace.now_us()),
    }
}

async fn story(world: &Arc<World>) {
    if let Err(what) = tell(world).await {
        world.fail(what);
    }
}

async fn tell(world: &Arc<World>) -> Result<(), String> {
    let scenario = &world.scenario;
    if scenario.restorers > 0 {
        world.invariants().restores.keep();
    }
    for number in 1..=scenario.voters {
        world.add(number, true)?;
        world.start(number).await;
    }
    within(FORM_MAX, "a cluster comes about", async {
        while register(world).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await?;
    let clients = world.tasks.child();
    for number in 0..scenario.clients {
        clients.spawn("client", Client::new(world, number).run(clients.token()));
    }
    for number in 100..102 {
        clients.spawn("session", Client::new(world, number).run_ttl(clients.token()));
    }
    let restorers = world.tasks.child();
    for _ in 0..scenario.restorers {
        restorers.spawn("restorer", restorer::run(Arc::clone(world), restorers.token()));
    }
    let watchers = world.tasks.child();
    for number in 0..REGISTERS {
        let watcher = Client::new(world, 200 + number as usize);
        watchers.spawn_until_stop("watcher", watcher.watch(number));
    }
    for number in scenario.voters + 1..=scenario.voters + scenario.spares {
        world.add(number, false)?;
        world.start(number).await;
    }
    let faults = world.tasks.child();
    faults.spawn_until_stop("nemesis", nemesis::run(Arc::clone(world)));
    sleep(scenario.chaos).await;
    faults.stop();
    // Each restore begins the duties of the leader anew, and with them the minute after which a
    // removed server is added again.
    restorers.stop();
    world.hush(false);
    heal(world).await?;
    for asking in [&restorers, &clients] {
        let stopped = asking.stop_and_wait(DRAIN_MAX).await;
        if !stopped.unfinished.is_empty() {
            return Err(format!("clients wait for ever: {:?}", stopped.unfinished));
        }
    }
    calm(world).await?;
    if scenario.restorers > 0 {
        restorer::calm(world).await?;
    }
    watchers.stop();
    equal(world).await?;
    let invariants = world.invariants();
    world.history().judge(&invariants)
}

async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T, String> {
    timeout(limit, future).await.map_err(|_| format!("not within {limit:?}: {what}"))
}

/// The node that sessions live on.
async fn register(world: &World) -> Result<(), ()> {
    let server = world.any().ok_or(())?;
    let node = NodeV1 {
        name: NODE.into(),
        id: None,
        address: "127.0.0.200".into(),
        tagged_addresses: None,
        meta: None,
        locality: None,
        create_index: LogIndex::ZERO,
        modify_index: LogIndex::ZERO,
    };
    let registration =
        Registration { node, skip_node_update: false, services: Vec::new(), checks: Vec::new() };
    let request = Request::new(Op::Register(Box::new(registration)));
    let asked = timeout(Duration::from_secs(5), server.backend.ask(request)).await;
    asked.map_err(drop)?.map(drop).map_err(drop)
}

/// Everything works again; each server must take a write within a bounded time.
async fn heal(world: &Arc<World>) -> Result<(), String> {
    world.trace.note(format_args!("all is healed"));
    world.net.heal_all();
    // What the nemesis left lit ends now, or the server would die in the calm.
    for running in world.running() {
        running.disk.set_pace(FAST);
        if running.disk.is_doomed() {
            world.crash(running.number, crate::disk::Death::Kill);
        }
    }
    for number in world.down() {
        world.start(number).await;
    }
    let begun = world.trace.now_us();
    live(world, LIVE_MAX).await?;
    let took_ms = (world.trace.now_us() - begun) / 1_000;
    world.trace.note(format_args!("every server takes writes again after {took_ms} ms"));
    // One that was removed is added again, and must then take them as before.
    within(LIVE_MAX, "every server votes again", async {
        while !all_vote(world) {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await?;
    live(world, FORM_MAX).await
}

/// Each server takes a write.
async fn live(world: &Arc<World>, limit: Duration) -> Result<(), String> {
    for number in world.numbers() {
        let write = async {
            while take_write(world, number).await.is_err() {
                sleep(Duration::from_millis(100)).await;
                for number in world.down() {
                    world.start(number).await;
                }
            }
        };
        within(limit, &format!("server {number} takes a write"), write).await?;
    }
    Ok(())
}

/// Whether all servers agree that all of them vote.
fn all_vote(world: &World) -> bool {
    let numbers = world.numbers();
    let all = |running: &Running| match &running.server.look().voters[..] {
        [voters] => voters.len() == numbers.len(),
        _ => false,
    };
    let running = world.running();
    running.len() == numbers.len() && running.iter().all(all)
}

async fn take_write(world: &World, number: u8) -> Result<(), ()> {
    let server = world.server(number).ok_or(())?;
    let (key, value) = ("alive".into(), number.to_string().into());
    let request = Request::new(Op::Kv(KvWrite::Set { key, value, flags: 0 }));
    let asked = timeout(Duration::from_secs(10), server.backend.ask(request)).await;
    asked.map_err(drop)?.map(drop).map_err(drop)
}

/// In the calm each version of a watched key stays for a while: no watcher may miss one.
async fn calm(world: &World) -> Result<(), String> {
    for _ in 0..CALM_WRITES {
        let mut written = Vec::new();
        for number in 0..REGISTERS {
            let (key, value) = (register_key(number), world.value());
            let server = world.any().ok_or("no server runs")?;
            let text = value.to_string().into();
            let write = KvWrite::Set { key: key.clone(), value: text, flags: 0 };
            let called = world.event();
            let answer = server.backend.ask(Request::new(Op::Kv(write))).await;
            answer.map_err(|error| format!("a write in the calm failed: {error}"))?;
            let (returned, op) = (Some(world.event()), crate::objects::RegisterOp::Set(value));
            let event = crate::linear::Event { called, returned, op };
            world.history().register(&key, event, None);
            written.push((key, value));
        }
        sleep(CALM_STAY).await;
        for (key, value) in written {
            if !world.history().all_saw(&key, value) {
                return Err(format!("a watcher of {key:?} missed version {value}, which stayed"));
            }
        }
    }
    Ok(())
}

/// All servers end with the same state.
async fn equal(world: &World) -> Result<(), String> {
    let same = async {
        loop {
            let mut ends: Vec<_> = world
                .running()
                .iter()
                .map(|running| {
                    let state = running.server.state();
                    (state.applied(), state.hash())
                })
                .collect();
            ends.dedup();
            let reference = world.invariants().reference.state().applied();
            if ends.len() == 1 && ends.first().is_some_and(|(applied, _)| *applied <= reference) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    if within(EQUAL_MAX, "", same).await.is_err() {
        let ends = world.running().into_iter().map(|running| {
            let (look, state) = (running.server.look(), running.server.state());
            format!("server {} at {}: {look:?}", running.number, state.applied())
        });
        let ends: Vec<String> = ends.collect();
        let reference = world.invariants().reference.state().applied();
        let ends = ends.join("\n");
        return Err(format!("servers differ after {EQUAL_MAX:?}; reference {reference}\n{ends}"));
    }
    let running = world.running();
    let leaks = running.iter().filter(|running| !running.server.ready()).count();
    if leaks > 0 {
        return Err(format!("{leaks} servers do not say that they have caught up"));
    }
    Ok(())
}
