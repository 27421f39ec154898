//! One leader per term.

use std::collections::BTreeMap;

use model::NodeId;

use super::Sight;
use crate::net::node_id;

#[derive(Default)]
pub(super) struct Leaders(BTreeMap<u64, NodeId>);

impl Leaders {
    pub(super) fn see(&mut self, sight: &Sight) -> Result<(), String> {
        let look = &sight.look;
        if look.leads {
            self.leads(look.term, node_id(sight.server))?;
        }
        if let Some((term, leader, true)) = look.vote {
            self.leads(term, leader)?;
        }
        Ok(())
    }

    fn leads(&mut self, term: u64, leader: NodeId) -> Result<(), String> {
        let known = *self.0.entry(term).or_insert(leader);
        if known == leader {
            return Ok(());
        }
        Err(format!("term {term} has two leaders: {} and {}", known.0[0], leader.0[0]))
    }
}
