//! Whether replicas are still equal (core): hashes of the state at agreed places of the log, and
//! what to make of the others'.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::types::RaftId;

/// A checkpoint is taken at each log index that this divides. The hash is there anyway; the number
/// only bounds how many are kept and how far a replica that went astray gets before it is noticed.
pub(crate) const CHECKPOINT_ENTRIES: u64 = 1_000;

/// Checkpoints kept: the log that they span is longer than any follower may lag without getting a
/// snapshot, which brings a checkpoint of its own.
pub(crate) const KEPT_MAX: usize = 64;

/// The running hash of the state after the log entry `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) index: u64,
    pub(crate) hash: u64,
}

/// The newest checkpoints, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints(VecDeque<Checkpoint>);

impl Checkpoints {
    /// Takes a checkpoint; its index is not below the one before.
    pub(crate) fn note(&mut self, index: u64, hash: u64) {
        if self.0.back().is_some_and(|last| last.index == index) {
            self.0.pop_back();
        }
        if self.0.len() == KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Checkpoint { index, hash });
    }

    /// Forgets all: the state came from elsewhere.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The hash at this index, if a checkpoint was taken there and is still kept.
    pub(crate) fn at(&self, index: u64) -> Option<u64> {
        hash_at(self.0.iter(), index)
    }

    /// All that are kept.
    pub(crate) fn list(&self) -> Vec<Checkpoint> {
        self.0.iter().copied().collect()
    }
}

fn hash_at<'a>(list: impl Iterator<Item = &'a Checkpoint>, index: u64) -> Option<u64> {
    list.into_iter().find(|checkpoint| checkpoint.index == index).map(|one| one.hash)
}

/// Indexes above `before` and up to `last` at which a checkpoint is taken.
pub(crate) fn due(before: u64, last: u64) -> impl Iterator<Item = u64> {
    (before / CHECKPOINT_ENTRIES + 1..=last / CHECKPOINT_ENTRIES).map(|n| n * CHECKPOINT_ENTRIES)
}

/// What a comparison has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All that have this checkpoint agree.
    Agreed {
        /// Where.
        index: u64,
        /// How many servers have it.
        servers: usize,
    },
    /// A majority of all voters agrees, and these do not.
    Odd {
        /// Where.
        index: u64,
        /// The hash of the majority.
        hash: u64,
        /// Voters that have it.
        agreeing: usize,
        /// Who differs.
        servers: Vec<RaftId>,
    },
    /// Servers differ, and no majority says who is right.
    Split {
        /// Where.
        index: u64,
        /// Who has which hash.
        groups: BTreeMap<u64, Vec<RaftId>>,
    },
}

/// Compares the answers of servers (ours among them) at the newest index which a majority of the
/// voters has; `None` when there is no such index.
pub(crate) fn judge(
    voters: &BTreeSet<RaftId>,
    answers: &BTreeMap<RaftId, Vec<Checkpoint>>,
) -> Option<Verdict> {
    let majority = voters.len() / 2 + 1;
    let mut having: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, list) in answers.iter().filter(|(id, _)| voters.contains(id)) {
        let indexes: BTreeSet<u64> = list.iter().map(|checkpoint| checkpoint.index).collect();
        for index in indexes {
            *having.entry(index).or_default() += 1;
        }
    }
    let (index, _) = having.into_iter().rev().find(|(_, count)| *count >= majority)?;
    let mut groups: BTreeMap<u64, Vec<RaftId>> = BTreeMap::new();
    for (id, list) in answers {
        if let Some(hash) = hash_at(list.iter(), index) {
            groups.entry(hash).or_default().push(*id);
        }
    }
    if groups.len() < 2 {
        let servers = groups.values().map(Vec::len).sum();
        return Some(Verdict::Agreed { index, servers });
    }
    let votes = |ids: &Vec<RaftId>| ids.iter().filter(|id| voters.contains(id)).count();
    let right = groups.iter().find(|(_, ids)| votes(ids) >= majority);
    let Some((&hash, ids)) = right else { return Some(Verdict::Split { index, groups }) };
    let agreeing = votes(ids);
    groups.remove(&hash);
    let servers = groups.into_values().flatten().collect();
    Some(Verdict::Odd { index, hash, agreeing, servers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[u64]) -> Vec<RaftId> {
        list.iter().map(|id| RaftId::from(*id)).collect()
    }

    fn judged(voters: &[u64], answers: &[(u64, &[(u64, u64)])]) -> Option<Verdict> {
        let answers = answers.iter().map(|(id, list)| {
            let list = list.iter().map(|&(index, hash)| Checkpoint { index, hash });
            (RaftId::from(*id), list.collect())
        });
        judge(&ids(voters).into_iter().collect(), &answers.collect())
    }

    #[test]
    fn the_odd_one_out_is_named_by_a_majority_of_all_voters() {
        let good: &[(u64, u64)] = &[(1_000, 1), (2_000, 2)];
        let behind: &[(u64, u64)] = &[(1_000, 1)];
        let bad: &[(u64, u64)] = &[(1_000, 9), (2_000, 8)];
        let other: &[(u64, u64)] = &[(2_000, 7)];
        let odd = |index, hash, agreeing, servers: &[u64]| {
            Some(Verdict::Odd { index, hash, agreeing, servers: ids(servers) })
        };
        let agreed = |index, servers| Some(Verdict::Agreed { index, servers });
        let three: &[u64] = &[1, 2, 3];
        assert_eq!(judged(three, &[(1, good), (2, good), (3, good)]), agreed(2_000, 3));
        assert_eq!(judged(three, &[(1, good), (2, good), (3, behind)]), agreed(2_000, 2));
        assert_eq!(judged(three, &[(1, good), (2, good), (3, bad)]), odd(2_000, 2, 2, &[3]));
        // Whoever asks may be the odd one.
        assert_eq!(judged(three, &[(1, bad), (2, good), (3, good)]), odd(2_000, 2, 2, &[1]));
        // A learner is told, but does not count.
        assert_eq!(judged(&[1], &[(1, good), (2, bad)]), odd(2_000, 2, 1, &[2]));
        assert_eq!(judged(three, &[(1, good), (4, good), (5, good)]), None);
        // Nobody is right without a majority of all voters, those that do not answer included.
        for answers in [
            vec![(1, good), (2, bad)],
            vec![(1, good), (2, bad), (3, behind)],
            vec![(1, good), (2, bad), (3, other)],
            vec![(1, good), (2, bad), (4, good), (5, good)],
        ] {
            assert!(matches!(judged(three, &answers), Some(Verdict::Split { index: 2_000, .. })));
        }
        let two = judged(&[1, 2], &[(1, good), (2, bad)]);
        assert!(matches!(two, Some(Verdict::Split { .. })));
        assert_eq!(judged(three, &[(1, good)]), None);
        assert_eq!(judged(&[1], &[(1, good)]), agreed(2_000, 1));
    }

    #[test]
    fn checkpoints_are_taken_at_the_same_places_and_bounded() {
        assert_eq!(due(0, 999).count(), 0);
        assert_eq!(due(999, 1_000).collect::<Vec<_>>(), [1_000]);
        assert_eq!(due(1_000, 3_500).collect::<Vec<_>>(), [2_000, 3_000]);
        let mut kept = Checkpoints::default();
        for index in 1..=100 {
            kept.note(index, index);
        }
        kept.note(100, 7);
        assert_eq!((kept.list().len(), kept.at(100), kept.at(1)), (KEPT_MAX, Some(7), None));
        kept.clear();
        assert_eq!(kept.at(100), None);
    }
}
