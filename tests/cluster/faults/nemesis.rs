//! Who makes the trouble.

use std::sync::Arc;
use std::time::Duration;

use crate::support::ground::Ground;
use crate::support::process::Cluster;

use super::clients::Witness;
use super::{Dice, say};

/// One fault after another, each healed before the next.
pub(super) struct Nemesis {
    pub(super) cluster: Cluster,
    /// Without it no link is cut.
    ground: Option<Ground>,
    witness: Arc<Witness>,
    dice: Dice,
}

impl Nemesis {
    pub(super) fn new(
        cluster: Cluster,
        ground: Option<Ground>,
        witness: Arc<Witness>,
        dice: Dice,
    ) -> Self {
        Self { cluster, ground, witness, dice }
    }

    fn size(&self) -> usize {
        self.cluster.servers.len()
    }

    /// The leader as often as not.
    fn victim(&mut self) -> usize {
        if self.dice.below(2) == 0 {
            return self.witness.leader();
        }
        self.dice.below(self.size() as u64) as usize
    }

    fn wait(&mut self, least: u64, most: u64) {
        std::thread::sleep(Duration::from_millis(least + self.dice.below(most - least)));
    }

    pub(super) fn strike_and_heal(&mut self) {
        let victim = self.victim();
        let kinds = if self.ground.is_some() { 10 } else { 5 };
        match self.dice.below(kinds) {
            0 => self.kill(&[victim]),
            1 => {
                // As many as may die, or all.
                let number = if self.dice.below(3) == 0 { self.size() } else { self.size() / 2 };
                let victims: Vec<usize> = (0..number).map(|k| (victim + k) % self.size()).collect();
                self.kill(&victims);
            }
            2..4 => self.pause(victim),
            4 => self.restart(victim),
            5 => self.partition("a server alone", |a, b| (a == victim) != (b == victim)),
            6 => self.partition("a server that is not heard", |a, _| a == victim),
            7 => self.partition("a server that does not hear", |_, b| b == victim),
            8 => {
                let half = self.dice.below(1 << self.size());
                let side = |server: usize| half >> server & 1;
                self.partition("two sides", |a, b| side(a) != side(b));
            }
            _ => {
                let other = (victim + 1) % self.size();
                let pair = [victim, other];
                self.partition("two strangers", |a, b| pair.contains(&a) && pair.contains(&b));
            }
        }
        self.wait(300, 1_500);
    }

    fn kill(&mut self, victims: &[usize]) {
        say(&format!("kill {victims:?}"));
        for victim in victims {
            self.cluster.servers[*victim].kill();
        }
        self.wait(200, 2_000);
        for victim in victims {
            self.cluster.servers[*victim].start();
        }
    }

    fn pause(&mut self, victim: usize) {
        say(&format!("pause {victim}"));
        self.cluster.servers[victim].signal(libc::SIGSTOP);
        self.wait(200, 2_500);
        self.cluster.servers[victim].signal(libc::SIGCONT);
    }

    fn restart(&mut self, victim: usize) {
        say(&format!("restart {victim}"));
        let server = &mut self.cluster.servers[victim];
        server.signal(libc::SIGTERM);
        server.wait(Duration::from_secs(20));
        server.start();
    }

    /// Drops all that goes from one server to another where `cut` says so.
    fn partition(&mut self, what: &str, cut: impl Fn(usize, usize) -> bool) {
        let size = self.size();
        let Some(ground) = &self.ground else { return };
        let links = (0..size).flat_map(|a| (0..size).map(move |b| (a, b)));
        let links: Vec<(usize, usize)> = links.filter(|(a, b)| a != b && cut(*a, *b)).collect();
        say(&format!("cut {links:?}: {what}"));
        let number = |server: usize| u8::try_from(server + 1).expect("few servers");
        for (from, to) in &links {
            ground.cut(number(*from), number(*to));
        }
        self.wait(500, 3_000);
        if let Some(ground) = &self.ground {
            ground.mend();
        }
    }
}
