//! Says in the log who came and went.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::NodeId;
use model::seam::{Cluster, Member, MemberState, Members};

/// What became of a member between two looks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Turn {
    Joined,
    Failed,
    Left,
    Leaving,
    Reaped,
}

/// Logs each change of the membership; never ends.
pub(crate) async fn run(cluster: Arc<dyn Cluster>) {
    let mut before = cluster.members();
    loop {
        let after = cluster.changed(before.sequence).await;
        for (turn, member) in turns(&before, &after) {
            let (name, address) = (&member.name, member.address);
            match turn {
                Turn::Joined => tracing::info!(%name, %address, "member joined"),
                Turn::Failed => {
                    metrics::counter!("serf.member.failed").increment(1);
                    tracing::warn!(%name, %address, "member failed: it no longer answers");
                }
                Turn::Left => tracing::info!(%name, %address, "member left"),
                Turn::Leaving => tracing::info!(%name, %address, "member is leaving"),
                Turn::Reaped => tracing::info!(%name, %address, "member forgotten"),
            }
        }
        before = after;
    }
}

/// The differences between two snapshots, in the order of names.
fn turns(before: &Members, after: &Members) -> Vec<(Turn, Arc<Member>)> {
    let mut old: BTreeMap<NodeId, &Arc<Member>> =
        before.list.iter().map(|member| (member.id, member)).collect();
    let mut turns = Vec::new();
    for member in &after.list {
        let was = old.remove(&member.id).map(|member| member.state);
        if was == Some(member.state) {
            continue;
        }
        let turn = match member.state {
            MemberState::Alive => Turn::Joined,
            MemberState::Failed => Turn::Failed,
            MemberState::Left => Turn::Left,
            MemberState::Leaving => Turn::Leaving,
        };
        turns.push((turn, Arc::clone(member)));
    }
    turns.extend(old.into_values().map(|member| (Turn::Reaped, Arc::clone(member))));
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u8, state: MemberState) -> Arc<Member> {
        Arc::new(Member {
            id: NodeId([n; 16]),
            name: format!("m{n}").into(),
            address: ([127, 0, 0, n], 8301).into(),
            tags: BTreeMap::new(),
            state,
        })
    }

    #[test]
    fn each_change_is_told_once() {
        use MemberState::{Alive, Failed, Left};
        let members = |list: &[(u8, MemberState)]| Members {
            sequence: 0,
            list: list.iter().map(|(n, state)| member(*n, *state)).collect(),
        };
        let before = members(&[(1, Alive), (2, Alive), (3, Failed), (4, Left), (5, Failed)]);
        let after = members(&[(1, Alive), (2, Failed), (3, Alive), (4, Left), (6, Alive)]);
        let told: Vec<(Turn, u8)> = turns(&before, &after)
            .into_iter()
            .map(|(turn, member)| (turn, member.id.0[0]))
            .collect();
        assert_eq!(
            told,
            [(Turn::Failed, 2), (Turn::Joined, 3), (Turn::Joined, 6), (Turn::Reaped, 5)]
        );
    }
}
