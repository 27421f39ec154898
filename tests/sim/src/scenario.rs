//! What a run is like: how many servers, how long, which faults.

use std::time::Duration;

#[cfg(doc)]
use crate::run;

/// One run; equal scenarios have equal traces. See [`run()`].
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Servers that make the first configuration.
    pub voters: u8,
    /// Servers that join later.
    pub spares: u8,
    /// How long there are faults.
    pub chaos: Duration,
    /// Clients that read and write.
    pub clients: usize,
    /// Clients that save archives and restore them; with any, one is restored in the calm too.
    pub restorers: usize,
    /// Bounds of a client's pause, in milliseconds.
    pub think_ms: (u64, u64),
    /// Entries after which a snapshot is taken.
    pub snapshot_every: u64,
    /// Bounds of the pause between faults, in milliseconds.
    pub pause_ms: (u64, u64),
    /// How likely each fault is.
    pub faults: Faults,
    /// A bug that the run is to find.
    pub bug: Option<server::planted::Bug>,
}

/// How likely each fault is, relative to the others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A server is cut off from all others, in both directions.
    pub isolate: u64,
    /// One way is cut.
    pub one_way: u64,
    /// The servers are split in two.
    pub split: u64,
    /// All ways are healed, and the weather is fair.
    pub heal: u64,
    /// Messages are lost, late, or come twice.
    pub weather: u64,
    /// All connections of a pair break.
    pub breaks: u64,
    /// A server crashes, and starts again later.
    pub crash: u64,
    /// A server crashes and is back within milliseconds.
    pub bounce: u64,
    /// A server crashes in the middle of a commit.
    pub fuse: u64,
    /// A sync fails.
    pub sync: u64,
    /// A disk is slow for a while.
    pub slow: u64,
    /// All crash at once.
    pub blackout: u64,
    /// Leadership is handed over.
    pub transfer: u64,
    /// A server takes a snapshot and purges its log.
    pub snapshot: u64,
    /// A server is removed from the configuration; gossip brings it back.
    pub remove: u64,
    /// Gossip takes a living server for dead.
    pub suspect: u64,
    /// The leader is cut off from one follower, and the others bounce: a restarted server must not
    /// vote before the lease that it granted is over. Nobody writes meanwhile.
    pub usurp: u64,
}

impl Faults {
    /// Of everything.
    pub const ALL: Faults = Faults {
        isolate: 8,
        one_way: 8,
        split: 5,
        heal: 14,
        weather: 8,
        breaks: 6,
        crash: 12,
        bounce: 5,
        fuse: 6,
        sync: 3,
        slow: 5,
        blackout: 1,
        transfer: 6,
        snapshot: 8,
        remove: 2,
        suspect: 2,
        usurp: 3,
    };

    /// Of nothing: for scenarios that name the few they want.
    pub const NONE: Faults = Faults {
        isolate: 0,
        one_way: 0,
        split: 0,
        heal: 0,
        weather: 0,
        breaks: 0,
        crash: 0,
        bounce: 0,
        fuse: 0,
        sync: 0,
        slow: 0,
        blackout: 0,
        transfer: 0,
        snapshot: 0,
        remove: 0,
        suspect: 0,
        usurp: 0,
    };
}

impl Scenario {
    /// Three or five servers, with all faults.
    pub fn new(seed: u64) -> Self {
        let (voters, spares) = match seed % 4 {
            0 => (5, 0),
            1 => (3, 2),
            _ => (3, 0),
        };
        Self {
            seed,
            voters,
            spares,
            chaos: Duration::from_secs(40),
            clients: 5,
            restorers: 0,
            think_ms: (0, 120),
            snapshot_every: 20 + seed % 7 * 40,
            pause_ms: (50, 1_500),
            faults: Faults::ALL,
            bug: None,
        }
    }

    /// All faults, and archives that are saved and restored meanwhile.
    pub fn restores(seed: u64) -> Self {
        Self { restorers: 2, ..Self::new(seed) }
    }

    /// Three servers of which one reaches for the leadership of another, and many clients that read.
    pub fn usurpers(seed: u64) -> Self {
        Self {
            voters: 3,
            spares: 0,
            clients: 12,
            think_ms: (0, 8),
            pause_ms: (10, 200),
            faults: Faults { usurp: 1, ..Faults::NONE },
            ..Self::new(seed)
        }
    }
}
