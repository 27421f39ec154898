//! Who makes the first configuration, and of whom (core; design: Membership).

use std::net::SocketAddr;

use model::rpc::RpcError;
use model::seam::{MemberState, Members};
use model::{Name, NodeId};

use crate::endpoint::Info;

/// A server that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: NodeId,
    pub(super) name: Name,
    pub(super) address: SocketAddr,
}

/// What gossip tells about the servers that are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum View {
    /// Not complete yet: this many are known.
    Known(usize),
    /// A server's setting contradicts ours.
    Contradiction { server: Name, theirs: String },
    /// Complete, and the one with the lowest id is to ask the others.
    WaitFor(Name),
    /// Complete, and it is for us to ask the others.
    Ask(Vec<Candidate>),
}

/// What to do after gossip's membership changed.
pub(super) fn view(us: NodeId, datacenter: &str, expect: u32, members: &Members) -> View {
    let servers = members
        .list
        .iter()
        .filter(|member| member.is_server() && member.tag("dc") == datacenter)
        .filter(|member| member.state == MemberState::Alive);
    let mut candidates = Vec::new();
    for member in servers {
        if member.tags.contains_key("nonvoter") {
            continue;
        }
        let theirs = member.tag("expect");
        if member.tags.contains_key("bootstrap") {
            return View::Contradiction { server: member.name.clone(), theirs: "bootstrap".into() };
        }
        // Without the tag it is no voter of the first hour: it waits to be added.
        if theirs.is_empty() {
            continue;
        }
        if theirs.parse() != Ok(expect) {
            return View::Contradiction { server: member.name.clone(), theirs: theirs.into() };
        }
        if let Some(address) = member.rpc_address() {
            candidates.push(Candidate { id: member.id, name: member.name.clone(), address });
        }
    }
    let needed = usize::try_from(expect).unwrap_or(usize::MAX);
    if candidates.len() < needed {
        return View::Known(candidates.len());
    }
    // Of more than are needed the lowest ids: so that most views agree. The pledges see to it that
    // views which differ do no harm.
    candidates.sort_by_key(|candidate| candidate.id);
    candidates.truncate(needed);
    match candidates.first() {
        Some(first) if first.id == us => View::Ask(candidates),
        Some(first) => View::WaitFor(first.name.clone()),
        None => View::Known(0),
    }
}

/// What the answers of all candidates (ourselves included) amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Make the configuration.
    Initialize,
    /// There is a cluster already: wait to be added to it.
    Joined(Name),
    /// Ask again later.
    Later(String),
}

/// Judges the answers.
pub(super) fn judge(expect: u32, answers: &[(Candidate, Result<Info, RpcError>)]) -> Verdict {
    // Whoever has a log or a configuration ends it for all: looked for first, and among all.
    let settled = answers.iter().find(|(_, answer)| {
        answer.as_ref().is_ok_and(|info| !info.pristine || info.leader.is_some())
    });
    if let Some((candidate, _)) = settled {
        return Verdict::Joined(candidate.name.clone());
    }
    for (candidate, answer) in answers {
        let name = &candidate.name;
        match answer {
            Err(error) => return Verdict::Later(format!("{name} does not answer: {error}")),
            Ok(info) if info.id != candidate.id => {
                return Verdict::Later(format!(
                    "{name} at {} is {}, not {}",
                    candidate.address, info.id, candidate.id
                ));
            }
            Ok(info) if info.expect != expect => {
                return Verdict::Later(format!(
                    "{name} expects {} servers, not {expect}",
                    info.expect
                ));
            }
            Ok(info) if !info.pledged => {
                return Verdict::Later(format!("{name} is pledged to another server"));
            }
            Ok(_) => {}
        }
    }
    Verdict::Initialize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::fake::member;

    type Row = (u8, MemberState, &'static [(&'static str, &'static str)]);

    const EXPECT: &[(&str, &str)] = &[("expect", "3")];

    fn seen(us: u8, list: &[Row]) -> View {
        let list = list.iter().map(|(n, state, tags)| member(*n, *state, true, tags)).collect();
        view(NodeId([us; 16]), "dc1", 3, &Members { sequence: 1, list })
    }

    #[test]
    fn the_lowest_of_a_complete_set_asks() {
        use MemberState::{Alive, Failed};
        let three: Vec<Row> = vec![(3, Alive, EXPECT), (1, Alive, EXPECT), (2, Alive, EXPECT)];
        let ids = |view: View| match view {
            View::Ask(all) => all.into_iter().map(|c| c.id.0[0]).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(ids(seen(1, &three)), [1, 2, 3]);
        assert_eq!(seen(2, &three), View::WaitFor("n1".into()));
        assert_eq!(seen(1, &three[1..]), View::Known(2));
        // The lowest is gone before it did: the lowest of the next complete three does.
        let mut four = three.clone();
        four.push((4, Alive, EXPECT));
        assert_eq!(ids(seen(1, &four)), [1, 2, 3]);
        assert_eq!(seen(4, &four), View::WaitFor("n1".into()));
        four[1].1 = Failed;
        assert_eq!(ids(seen(2, &four)), [2, 3, 4]);
        // A server that waits to be added, or of another datacenter, does not count.
        let mut other = three.clone();
        other[0].2 = &[];
        assert_eq!(seen(1, &other), View::Known(2));
        other[0].2 = &[("expect", "3"), ("dc", "dc2")];
        assert_eq!(seen(1, &other), View::Known(2));
        other[0].2 = &[("expect", "3"), ("nonvoter", "1")];
        assert_eq!(seen(1, &other), View::Known(2));
    }

    #[test]
    fn settings_that_contradict_stop_it() {
        use MemberState::Alive;
        let row =
            |tags| -> Vec<Row> { vec![(1, Alive, EXPECT), (2, Alive, EXPECT), (3, Alive, tags)] };
        let contradiction =
            |theirs: &str| View::Contradiction { server: "n3".into(), theirs: theirs.into() };
        assert_eq!(seen(1, &row(&[("expect", "5")])), contradiction("5"));
        assert_eq!(seen(1, &row(&[("bootstrap", "1")])), contradiction("bootstrap"));
    }

    fn answer(n: u8, change: fn(&mut Info)) -> (Candidate, Result<Info, RpcError>) {
        let id = NodeId([n; 16]);
        let candidate = Candidate {
            id,
            name: format!("n{n}").into(),
            address: SocketAddr::from(([127, 0, 0, n], 8300)),
        };
        let mut info =
            Info { id, expect: 3, pristine: true, pledged: true, leader: None, ready: false };
        change(&mut info);
        (candidate, Ok(info))
    }

    #[test]
    fn only_three_empty_pledged_servers_become_a_cluster() {
        let verdict = |third| judge(3, &[answer(1, |_| {}), answer(2, |_| {}), third]);
        assert_eq!(verdict(answer(3, |_| {})), Verdict::Initialize);
        assert_eq!(verdict(answer(3, |i| i.pristine = false)), Verdict::Joined("n3".into()));
        let led = |i: &mut Info| i.leader = "127.0.0.8:8300".parse().ok();
        assert_eq!(verdict(answer(3, led)), Verdict::Joined("n3".into()));
        for third in [
            answer(3, |i| i.expect = 5),
            answer(3, |i| i.pledged = false),
            answer(3, |i| i.id = NodeId([7; 16])),
            (answer(3, |_| {}).0, Err(RpcError::NoLeader)),
        ] {
            assert!(matches!(verdict(third), Verdict::Later(_)));
        }
        // One that does not answer must not hide one that belongs to a cluster.
        let silent = (answer(1, |_| {}).0, Err(RpcError::NoLeader));
        let old = answer(3, |i| i.pristine = false);
        assert_eq!(judge(3, &[silent, answer(2, |_| {}), old]), Verdict::Joined("n3".into()));
    }
}
