//! Status, the Raft configuration, and orders of an operator.

use std::collections::BTreeSet;

use model::rpc::{Answer, Body, Op, RpcError};
use model::seam::MemberState;
use model::{LogIndex, Name, NodeId};

use super::{Endpoint, rejected};

impl Endpoint {
    /// What is answered at once from what this server knows.
    pub(super) fn status(&self, op: &Op) -> Answer {
        let consensus = &self.parts.consensus;
        let body = match op {
            Op::StatusLeader => {
                let leader = consensus.leadership().borrow().leader;
                Body::Address(leader.map_or("".into(), |(_, at)| at.to_string().into()))
            }
            Op::StatusPeers => {
                let (_, servers) = consensus.configuration();
                Body::Names(servers.into_iter().map(|server| server.address).collect())
            }
            Op::Datacenters => Body::Names(self.datacenters()),
            Op::RaftConfiguration => {
                let (index, mut servers) = consensus.configuration();
                let members = self.parts.cluster.members();
                for server in &mut servers {
                    let member = members.list.iter().find(|member| member.id == server.id);
                    // Consul's word for a server that gossip does not know.
                    server.node = member.map_or("(unknown)".into(), |member| member.name.clone());
                }
                Body::RaftServers { index, servers }
            }
            _ => return Err(rejected("this operation is no status")),
        };
        self.reply(LogIndex::ZERO, body)
    }

    /// Ours first, the others by name: until distances are measured.
    pub(super) fn datacenters(&self) -> Vec<Name> {
        let ours: Name = self.parts.config.datacenter.as_str().into();
        let wan = self.parts.cluster.wan_members();
        let others: BTreeSet<Name> = wan
            .list
            .iter()
            .filter(|member| member.is_server() && member.state != MemberState::Left)
            .filter_map(|member| member.tags.get("dc").cloned())
            .filter(|dc| *dc != ours)
            .collect();
        std::iter::once(ours).chain(others).collect()
    }

    pub(super) async fn transfer(&self, to: Option<NodeId>) -> Result<(LogIndex, Body), RpcError> {
        let done = self.parts.consensus.transfer(to).await;
        match done {
            Ok(()) => Ok((LogIndex::ZERO, Body::Done)),
            // Said so that nobody takes it for a reason to ask the next leader for the same.
            Err(RpcError::Broken(text)) => Err(rejected(text)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn remove_peer(&self, id: NodeId) -> Result<(LogIndex, Body), RpcError> {
        let consensus = &self.parts.consensus;
        let (_, servers) = consensus.configuration();
        if servers.iter().all(|server| server.id != id) {
            let text = format!("id \"{id}\" was not found in the Raft configuration");
            return Err(rejected(text));
        }
        // It may still be alive: the reconcile must not add it again at once.
        self.parts.duties.shunned.shun(id, self.now());
        match consensus.remove_server(id).await {
            Ok(()) => Ok((LogIndex::ZERO, Body::Done)),
            Err(RpcError::Broken(text)) => Err(rejected(text)),
            Err(error) => Err(error),
        }
    }
}
