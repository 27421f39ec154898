//! Raft's times, and everything else that openraft is told about itself.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::fault::StartError;

/// Highest multiplier, as Consul's.
const MULTIPLIER_MAX: u32 = 10;

/// Entries that stay in the log behind a snapshot, for followers that lag.
pub(crate) const KEPT_ENTRIES: u64 = 20_000;

/// Times of a local network, all scaled by one multiplier. Measured with multiplier 1: failover
/// median 0.61 s, worst 0.70; disk stalls of 1 s cause no election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    multiplier: u64,
}

impl Timing {
    pub(crate) fn new(multiplier: u32) -> Result<Self, StartError> {
        if !(1..=MULTIPLIER_MAX).contains(&multiplier) {
            let text = format!("raft_multiplier {multiplier} is not within 1 and {MULTIPLIER_MAX}");
            return Err(StartError::Settings(text));
        }
        Ok(Self { multiplier: multiplier.into() })
    }

    fn scaled(self, ms: u64) -> u64 {
        ms * self.multiplier
    }

    /// How long a leader may be silent at most before a server campaigns.
    pub(crate) fn election_max(self) -> Duration {
        Duration::from_millis(self.scaled(350))
    }

    /// Age of a quorum's contact up to which default reads are answered. Below the shortest
    /// election timeout, which a restarted server waits at least: no clock can bridge the gap.
    pub(crate) fn lease(self) -> Duration {
        self.election_max() / 2
    }

    /// Silence after which a leader is no longer reported: an election should long be over.
    pub(crate) fn leader_lost(self) -> Duration {
        self.election_max() * 3
    }

    /// How long a read waits for a quorum's word, and for the state to follow.
    pub(crate) fn read_timeout(self) -> Duration {
        Duration::from_millis(self.scaled(1_000))
    }

    /// What openraft is configured with.
    pub(crate) fn config(self) -> Result<Config, StartError> {
        let config = Config {
            cluster_name: "muster".to_owned(),
            heartbeat_interval: self.scaled(70),
            election_timeout_min: self.scaled(200),
            election_timeout_max: self.scaled(350),
            enable_pre_vote: Some(true),
            // A restored leader would serve a state that may be older than what it had committed.
            enable_leader_restore: Some(false),
            // A server whose directory raft was moved away comes back with an empty log under its
            // identity. Refused, it would never be sent what it lacks.
            allow_log_reversion: Some(true),
            // Frees five servers whose leader reaches too few of them; far above any disk stall,
            // which must not depose a leader.
            quorum_loss_probe_interval: Some(self.scaled(5_000)),
            backoff: "50ms 100ms 200ms ...500ms".to_owned(),
            max_payload_entries: 1_024,
            max_append_entries: Some(4_096),
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: KEPT_ENTRIES,
            purge_batch_size: 5_000,
            replication_lag_threshold: 1_000,
            install_snapshot_timeout: 60_000,
            ..Config::default()
        };
        config.validate().map_err(|cause| StartError::Settings(cause.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_multiplier_gives_a_valid_configuration_and_a_lease_below_any_election() {
        for multiplier in 1..=MULTIPLIER_MAX {
            let timing = Timing::new(multiplier).expect("within range");
            let config = timing.config().expect("valid");
            assert!(timing.lease().as_millis() < u128::from(config.election_timeout_min));
        }
        assert!(Timing::new(0).is_err());
        assert!(Timing::new(11).is_err());
    }
}
