//! Term and vote never go back, not even over a crash; commit and applied never while a server
//! runs (they need not be on disk), and applied is never undone.

use std::collections::BTreeMap;

use model::NodeId;
use server::sim::At;

use super::{Sight, index};

/// Term, last entry committed, last entry applied.
type Reached = (u64, Option<At>, Option<At>);

#[derive(Default)]
pub(super) struct Monotone {
    votes: BTreeMap<u8, (u64, NodeId, bool)>,
    reached: BTreeMap<(u8, u64), Reached>,
}

impl Monotone {
    pub(super) fn see(&mut self, sight: &Sight) -> Result<(), String> {
        let (server, look) = (sight.server, &sight.look);
        let before = self.votes.get(&server).copied();
        match (before, look.vote) {
            (Some((term, ..)), None) => {
                return Err(format!("server {server} forgot its vote in term {term}"));
            }
            (Some((term, for_whom, won)), Some((now, whom, wins))) => {
                // Of another candidate a server only accepts that it won.
                let other = whom != for_whom && (won || !wins);
                if now < term || (now == term && (other || (won && !wins))) {
                    return Err(format!(
                        "the vote of server {server} went back: {} in term {term}, then {} in {now}",
                        for_whom.0[0], whom.0[0]
                    ));
                }
            }
            (None, _) => {}
        }
        if let Some(vote) = look.vote {
            self.votes.insert(server, vote);
        }
        let now = (look.term, look.committed, look.applied);
        let key = (server, sight.start);
        if let Some((term, committed, applied)) = self.reached.get(&key)
            && (now.0 < *term || now.1 < *committed || now.2 < *applied)
        {
            return Err(format!(
                "server {server} went back: term {term}, committed {}, applied {}, then {now:?}",
                index(*committed),
                index(*applied)
            ));
        }
        self.reached.insert(key, now);
        Ok(())
    }
}
