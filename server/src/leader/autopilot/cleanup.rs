//! Which dead servers to remove (core; spec: agent §31).

use std::collections::BTreeMap;

use model::row::AutopilotV1;
use model::rpc::RaftServer;
use model::seam::{Member, MemberState, Members};
use model::{Name, NodeId};

use crate::consensus::Census;

/// A server to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) id: NodeId,
    /// Its name, if gossip still remembers it: as failed.
    pub(super) failed: Option<Name>,
    /// It stands in the Raft configuration.
    pub(super) in_raft: bool,
}

/// Voters that may go in one round: fewer than half, so that a lost majority is never "healed" by
/// counting it out.
pub(in crate::leader) fn removals_max(voters: usize) -> usize {
    voters.saturating_sub(1) / 2
}

/// What is known of the servers.
pub(super) struct Facts<'a> {
    pub(super) us: NodeId,
    pub(super) datacenter: &'a str,
    pub(super) servers: &'a [RaftServer],
    pub(super) members: &'a Members,
    pub(super) census: &'a Census,
    pub(super) settings: &'a AutopilotV1,
}

/// Failed non-voters, non-voters that gossip does not know, voters that it does not know, failed
/// voters, in this order. A server that answers is none of them, whatever gossip holds it for: a
/// leader that was just restarted knows few members, and they are there all the same.
pub(super) fn plan(facts: &Facts<'_>) -> Vec<Dead> {
    if !facts.settings.cleanup_dead_servers {
        return Vec::new();
    }
    let members: BTreeMap<NodeId, &Member> = facts
        .members
        .list
        .iter()
        .filter(|member| member.is_server() && member.tag("dc") == facts.datacenter)
        .map(|member| (member.id, &**member))
        .collect();
    let answers = |id: &NodeId| facts.census.reports.get(id).is_some_and(|report| report.fresh);
    let dead = |id: NodeId, in_raft: bool| {
        if id == facts.us || answers(&id) {
            return None;
        }
        match members.get(&id) {
            None => Some(Dead { id, failed: None, in_raft }),
            Some(member) if member.state == MemberState::Failed => {
                Some(Dead { id, failed: Some(member.name.clone()), in_raft })
            }
            Some(_) => None,
        }
    };
    let in_raft = |voter: bool| {
        let servers = facts.servers.iter().filter(move |server| server.voter == voter);
        servers.filter_map(|server| dead(server.id, true)).collect::<Vec<Dead>>()
    };
    let outside = members
        .keys()
        .filter(|id| facts.servers.iter().all(|server| server.id != **id))
        .filter_map(|id| dead(*id, false));
    let (failed, stale): (Vec<_>, Vec<_>) =
        in_raft(false).into_iter().partition(|dead| dead.failed.is_some());
    let (failed_voters, stale_voters): (Vec<_>, Vec<_>) =
        in_raft(true).into_iter().partition(|dead| dead.failed.is_some());

    let voters = facts.servers.iter().filter(|server| server.voter).count();
    let spare = usize::try_from(facts.settings.min_quorum)
        .map_or(0, |min_quorum| voters.saturating_sub(min_quorum));
    let voters_gone = stale_voters.into_iter().chain(failed_voters);
    let voters_gone = voters_gone.take(removals_max(voters).min(spare));
    outside.chain(failed).chain(stale).chain(voters_gone).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{census, member, raft_server};
    use super::*;

    const VOTERS: fn(u8) -> Vec<RaftServer> =
        |count| (1..=count).map(|n| raft_server(n, true)).collect();

    fn planned(
        servers: &[RaftServer],
        members: &[(u8, MemberState)],
        answering: &[u8],
        settings: &AutopilotV1,
    ) -> Vec<(u8, bool)> {
        let list = members.iter().map(|(n, state)| member(*n, *state, true, &[])).collect();
        let plan = plan(&Facts {
            us: NodeId([1; 16]),
            datacenter: "dc1",
            servers,
            members: &Members { sequence: 1, list },
            census: &census(answering, &[]),
            settings,
        });
        plan.iter().map(|dead| (dead.id.0[0], dead.failed.is_some())).collect()
    }

    #[test]
    fn fewer_than_half_of_the_voters_go_in_one_round() {
        use MemberState::{Alive, Failed};
        let settings = AutopilotV1::default();
        // Voters, those of them that failed, those that go.
        for (count, failed, wanted) in [
            (1, vec![], vec![]),
            (2, vec![2], vec![]),
            (3, vec![3], vec![3]),
            (3, vec![2, 3], vec![2]),
            (4, vec![3, 4], vec![3]),
            (5, vec![4, 5], vec![4, 5]),
            (5, vec![3, 4, 5], vec![3, 4]),
            (7, vec![2, 3, 4, 5, 6, 7], vec![2, 3, 4]),
        ] {
            let members: Vec<_> = (1..=count)
                .map(|n| (n, if failed.contains(&n) { Failed } else { Alive }))
                .collect();
            let wanted: Vec<_> = wanted.into_iter().map(|n| (n, true)).collect();
            assert_eq!(planned(&VOTERS(count), &members, &[1], &settings), wanted, "{failed:?}");
        }
    }

    #[test]
    fn non_voters_go_first_and_without_limit_then_those_that_gossip_does_not_know() {
        use MemberState::{Alive, Failed, Left};
        let mut servers = VOTERS(5);
        servers.extend((6..=8).map(|n| raft_server(n, false)));
        // 4 is unknown, 5 failed; of the learners 6 failed, 7 is unknown, 8 lives; 9 failed and is
        // not even in Raft, 10 has left.
        let members = [
            (1, Alive),
            (2, Alive),
            (3, Alive),
            (5, Failed),
            (6, Failed),
            (8, Alive),
            (9, Failed),
            (10, Left),
        ];
        let all = [(9, true), (6, true), (7, false), (4, false), (5, true)];
        let go = |settings: &AutopilotV1| planned(&servers, &members, &[1], settings);
        assert_eq!(go(&AutopilotV1::default()), all);
        for (min_quorum, voters) in [(3, 2), (4, 1), (5, 0), (9, 0)] {
            let settings = AutopilotV1 { min_quorum, ..AutopilotV1::default() };
            assert_eq!(go(&settings), all[..3 + voters], "{min_quorum}");
        }
        let off = AutopilotV1 { cleanup_dead_servers: false, ..AutopilotV1::default() };
        assert_eq!(go(&off), []);
    }

    #[test]
    fn a_server_that_answers_stays_whatever_gossip_says() {
        use MemberState::{Alive, Failed};
        let settings = AutopilotV1::default();
        assert_eq!(planned(&VOTERS(3), &[(1, Alive)], &[1, 2, 3], &settings), []);
        let failed = [(1, Alive), (2, Failed), (3, Alive)];
        assert_eq!(planned(&VOTERS(3), &failed, &[1, 2, 3], &settings), []);
        assert_eq!(planned(&VOTERS(3), &failed, &[1, 3], &settings), [(2, true)]);
    }
}
