//! Makes faults, one after the other.

use std::sync::Arc;
use std::time::Duration;

use model::rpc::{Op, Request};
use model::seam::MemberState;
use tokio::time::{sleep, timeout};

use crate::disk::{Death, FAST, SLOW};
use crate::net::{Weather, node_id};
use crate::world::{Running, World};

/// Restarts of the others in which a usurper may be elected.
const USURP_TRIES: usize = 15;

/// Makes faults until it is stopped.
pub(crate) async fn run(world: Arc<World>) {
    let (least, most) = world.scenario.pause_ms;
    loop {
        sleep(Duration::from_millis(least + world.rng.below(most - least + 1))).await;
        one(&world).await;
    }
}

async fn one(world: &Arc<World>) {
    let faults = world.scenario.faults;
    let table: [(u64, &str); 17] = [
        (faults.isolate, "isolate"),
        (faults.one_way, "one way"),
        (faults.split, "split"),
        (faults.heal, "heal"),
        (faults.weather, "weather"),
        (faults.breaks, "break"),
        (faults.crash, "crash"),
        (faults.bounce, "bounce"),
        (faults.fuse, "fuse"),
        (faults.sync, "sync fails"),
        (faults.slow, "slow"),
        (faults.blackout, "blackout"),
        (faults.transfer, "transfer"),
        (faults.snapshot, "snapshot"),
        (faults.remove, "remove"),
        (faults.suspect, "suspect"),
        (faults.usurp, "usurp"),
    ];
    let total = table.iter().map(|(weight, _)| weight).sum();
    let mut drawn = world.rng.below(total);
    let mut chosen = "";
    for (weight, name) in table {
        if drawn < weight {
            chosen = name;
            break;
        }
        drawn -= weight;
    }
    let Some(victim) = world.any() else { return };
    world.trace.note(format_args!("fault: {chosen} {}", victim.number));
    strike(world, chosen, victim).await;
}

async fn strike(world: &Arc<World>, fault: &str, victim: Running) {
    let rng = &world.rng;
    let numbers = world.numbers();
    let number = victim.number;
    let other = numbers[rng.below(numbers.len() as u64) as usize];
    match fault {
        "isolate" => cut(world, &[number], &numbers, true),
        "one way" => world.net.cut(number, other),
        "split" => {
            let mut shuffled = numbers.clone();
            rng.shuffle(&mut shuffled);
            let (left, right) = shuffled.split_at(shuffled.len() / 2);
            cut(world, left, right, rng.below(4) > 0);
        }
        "heal" => world.net.heal_all(),
        "weather" => world.net.set_weather(Weather {
            lost: rng.below(200),
            twice: rng.below(200),
            delay_us: (100, 2_000 + rng.below(40_000)),
        }),
        "break" => world.net.break_pair(number, other),
        "crash" => crash(world, number, 50 + rng.below(6_000)),
        "bounce" => crash(world, number, rng.below(15)),
        "fuse" => {
            victim.disk.light_fuse(rng.below(60));
            restart_later(world, number, 500 + rng.below(3_000));
        }
        "sync fails" => {
            victim.disk.fail_next_sync();
            restart_later(world, number, 500 + rng.below(3_000));
        }
        "slow" => {
            victim.disk.set_pace(SLOW);
            let world = Arc::clone(world);
            let pause = Duration::from_millis(rng.below(5_000));
            world.clone().tasks.spawn_until_stop("disk recovers", async move {
                sleep(pause).await;
                victim.disk.set_pace(FAST);
                drop(world);
            });
        }
        "blackout" => {
            let how = death(world);
            for number in numbers {
                world.crash(number, how);
                restart_later(world, number, rng.below(2_000));
            }
        }
        "transfer" => order(world, &victim, Op::TransferLeader { to: None }),
        "snapshot" => {
            victim.server.snapshot().await;
            sleep(Duration::from_millis(20)).await;
            victim.server.purge().await;
        }
        "remove" => {
            let voters = victim.server.look().voters.iter().map(Vec::len).min().unwrap_or(0);
            // Of two the other one must not be lost for good: a minute without a second voter.
            if voters > 2 && world.running().len() == numbers.len() {
                order(world, &victim, Op::RemovePeer { id: node_id(other) });
            }
        }
        "suspect" => {
            let expect = (other <= world.scenario.voters).then_some(world.scenario.voters.into());
            world.gossip.set(other, MemberState::Failed, expect);
            let world = Arc::clone(world);
            let pause = Duration::from_millis(rng.below(5_000));
            world.clone().tasks.spawn_until_stop("gossip recovers", async move {
                sleep(pause).await;
                world.gossip.set(other, MemberState::Alive, expect);
            });
        }
        "usurp" => usurp(world).await,
        _ => {}
    }
}

fn cut(world: &World, left: &[u8], right: &[u8], both: bool) {
    for a in left {
        for b in right.iter().filter(|b| *b != a) {
            world.net.cut(*a, *b);
            if both {
                world.net.cut(*b, *a);
            }
        }
    }
}

fn death(world: &World) -> Death {
    [Death::Kill, Death::LoseAll, Death::Tear][world.rng.below(3) as usize]
}

fn crash(world: &Arc<World>, number: u8, down_ms: u64) {
    world.crash(number, death(world));
    restart_later(world, number, down_ms);
}

fn restart_later(world: &Arc<World>, number: u8, after_ms: u64) {
    let world = Arc::clone(world);
    world.clone().tasks.spawn_until_stop("restart", async move {
        sleep(Duration::from_millis(after_ms)).await;
        world.start(number).await;
    });
}

fn order(world: &Arc<World>, at: &Running, op: Op) {
    let (world, at) = (Arc::clone(world), at.clone());
    world.clone().tasks.spawn_until_stop("order", async move {
        let mut request = Request::new(op);
        request.hold_ms = 2_000;
        let answer = timeout(Duration::from_secs(5), at.backend.ask(request)).await;
        let text = answer.map(|answer| answer.map(|_| ()).map_err(|error| error.to_string()));
        world.trace.note(format_args!("order at {}: {text:?}", at.number));
    });
}

/// A server that hears the leader no more, and has all that the others have, asks for votes again
/// and again while the others restart: none may vote before the lease is over that it granted.
async fn usurp(world: &Arc<World>) {
    world.net.heal_all();
    world.hush(true);
    sleep(Duration::from_millis(300 + world.rng.below(700))).await;
    let running = world.running();
    let leader = running.iter().find(|running| running.server.look().leads);
    let Some(leader) = leader.map(|leader| leader.number) else { return world.hush(false) };
    let mut others: Vec<u8> =
        world.numbers().into_iter().filter(|number| *number != leader).collect();
    world.rng.shuffle(&mut others);
    let Some((usurper, rest)) = others.split_first() else { return world.hush(false) };
    cut(world, &[leader], &[*usurper], true);
    sleep(Duration::from_millis(600)).await;
    for _ in 0..USURP_TRIES {
        // The leader has just heard from them, and does not learn that they have turned away.
        cut(world, &[leader], rest, true);
        for number in rest {
            world.crash(*number, Death::Kill);
            restart_later(world, *number, world.rng.below(3));
        }
        for _ in 0..50 {
            sleep(Duration::from_millis(3)).await;
            if leads(world, *usurper) {
                break;
            }
        }
        if leads(world, *usurper) {
            break;
        }
        for number in rest {
            world.net.heal(leader, *number);
            world.net.heal(*number, leader);
        }
        sleep(Duration::from_millis(250 + world.rng.below(150))).await;
    }
    world.trace.note(format_args!("usurper {usurper} leads: {}", leads(world, *usurper)));
    world.hush(false);
    sleep(Duration::from_millis(400)).await;
    world.net.heal_all();
}

fn leads(world: &World, number: u8) -> bool {
    world.server(number).is_some_and(|running| running.server.look().leads)
}
