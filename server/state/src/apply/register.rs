//! Registration: a node, its services and its checks, in this order, all or nothing.
//!
//! What is registered again unchanged moves no index and wakes nobody: agents, operators and
//! synchronisers repeat themselves all day.

use model::Name;
use model::command::{Outcome, RegisterV1, Rejection};
use model::row::{CheckV1, NameMap, NodeV1, ServiceV1, Status};

use super::Work;
use crate::fold::{fold, same};

/// The check that gossip feeds: while it is not critical, its node's name is taken.
const SERF_HEALTH: &str = "serfHealth";

/// What a registration does to the node's record.
struct NodePlan {
    /// The row to store; `None`: the record stays as it is.
    row: Option<NodeV1>,
    /// The node is known by its id under this name, which goes with all that hangs on it.
    renamed_from: Option<Name>,
    /// Name of the node afterwards, as services and checks will carry it.
    name: Name,
}

impl Work<'_> {
    pub(super) fn register(&mut self, request: &RegisterV1) -> Result<Outcome, Rejection> {
        if request.node.name.is_empty() {
            return Err(Rejection::Other("Must provide node".into()));
        }
        let plan = self.plan_node(request)?;
        self.check_services_of_checks(request)?;
        // Nothing was written so far, and nothing is refused from here on.
        if let Some(old) = &plan.renamed_from {
            self.remove_node(old);
        }
        if let Some(row) = plan.row {
            self.put_node(row);
        }
        for service in &request.services {
            self.register_service(&plan.name, service);
        }
        for check in &request.checks {
            self.register_check(&plan.name, check);
        }
        Ok(Outcome::Done)
    }

    /// Names are unique without regard to case, ids are unique; a node with an id may move to
    /// another name, and may take a name whose holder is dead or has no id.
    fn plan_node(&self, request: &RegisterV1) -> Result<NodePlan, Rejection> {
        let wanted = &request.node;
        let key = fold(&wanted.name);
        let named = self.space.nodes.get(&key);
        if let (Some(named), true) = (named, request.skip_node_update) {
            let name = Name::clone(&named.name);
            return Ok(NodePlan { row: None, renamed_from: None, name });
        }
        let known = wanted.id.and_then(|id| self.space.nodes.by_id(&id));
        let renamed_from = known.map(|known| fold(&known.name)).filter(|old| *old != key);
        if let (Some(id), Some(holder)) = (wanted.id, named)
            && holder.id != Some(id)
            && (holder.id.is_some() || renamed_from.is_some())
            && self.alive(&key)
        {
            // Consul's texts: only the one for a node that moves tells its address.
            let moving = match &renamed_from {
                Some(_) => format!(" ({})", wanted.address),
                None => String::new(),
            };
            return Err(Rejection::Node(format!(
                "Error while renaming Node ID: \"{id}\"{moving}: Node name {} is reserved by node \
                 {} with name {} ({})",
                wanted.name,
                holder.id.map_or(String::new(), |id| id.to_string()),
                holder.name,
                holder.address,
            )));
        }

        let base = known.or(named);
        let mut row = wanted.clone();
        // A registration without id does not take away the one that the node has.
        row.id = row.id.or_else(|| base.and_then(|base| base.id));
        row.create_index = base.map_or(self.index, |base| base.create_index);
        row.modify_index = self.index;
        let name = Name::clone(&row.name);
        if renamed_from.is_none()
            && let Some(base) = base
            && same_node(&row, base)
        {
            let name = Name::clone(&base.name);
            return Ok(NodePlan { row: None, renamed_from: None, name });
        }
        Ok(NodePlan { row: Some(row), renamed_from, name })
    }

    /// Whether gossip says that the node lives.
    fn alive(&self, node: &Name) -> bool {
        let check = self.space.checks.get(node, &fold(&SERF_HEALTH.into()));
        check.is_some_and(|check| check.status != Status::Critical)
    }

    /// Each check of a service needs that service, in the request or on the node already.
    fn check_services_of_checks(&self, request: &RegisterV1) -> Result<(), Rejection> {
        let node = fold(&request.node.name);
        let known = |id: &Name| {
            request.services.iter().any(|service| same(&service.id, id))
                || self.space.services.get(&node, &fold(id)).is_some()
        };
        let mut bound = request.checks.iter().filter(|check| !check.service_id.is_empty());
        if bound.all(|check| known(&check.service_id)) {
            return Ok(());
        }
        Err(Rejection::CheckService { node: request.node.name.to_string() })
    }

    pub(super) fn register_service(&mut self, node: &Name, wanted: &ServiceV1) {
        let mut row = wanted.clone();
        row.node = Name::clone(node);
        row.create_index = self.index;
        row.modify_index = self.index;
        if let Some(old) = self.space.services.get(&fold(node), &fold(&row.id)) {
            row.create_index = old.create_index;
            if same_service(&row, old) {
                return;
            }
        }
        self.names.service(&mut row);
        self.put_service(row);
    }

    pub(super) fn register_check(&mut self, node: &Name, wanted: &CheckV1) {
        let node_key = fold(node);
        let id = fold(&wanted.id);
        let mut row = wanted.clone();
        row.node = Name::clone(node);
        row.create_index = self.index;
        row.modify_index = self.index;
        match self.space.services.get(&node_key, &fold(&row.service_id)) {
            Some(service) if !row.service_id.is_empty() => {
                row.service_name = Name::clone(&service.name);
                row.service_tags = service.tags.clone();
            }
            _ => {
                row.service_name = Name::default();
                row.service_tags = Vec::new();
            }
        }
        let old = self.space.checks.get(&node_key, &id);
        row.create_index = old.map_or(self.index, |old| old.create_index);
        if !old.is_some_and(|old| same_check(&row, old)) {
            self.names.check(&mut row);
            self.put_check(row);
        }
        // Consul: every write of a critical check ends its sessions, also an unchanged one.
        if wanted.status == Status::Critical {
            self.end_sessions_of_check(&node_key, &id);
        }
    }
}

/// Absent and empty are alike.
fn same_map(a: &Option<NameMap>, b: &Option<NameMap>) -> bool {
    let (a, b) = (a.as_ref(), b.as_ref());
    a.filter(|map| !map.is_empty()) == b.filter(|map| !map.is_empty())
}

fn same_node(new: &NodeV1, old: &NodeV1) -> bool {
    same(&new.name, &old.name)
        && new.id == old.id
        && new.address == old.address
        && same_map(&new.tagged_addresses, &old.tagged_addresses)
        && same_map(&new.meta, &old.meta)
        && new.locality == old.locality
}

fn same_service(new: &ServiceV1, old: &ServiceV1) -> bool {
    // Destructured, so that a further field cannot be forgotten here.
    let ServiceV1 {
        node,
        id,
        name,
        kind,
        tags,
        address,
        port,
        socket_path,
        tagged_addresses,
        meta,
        weights,
        enable_tag_override,
        proxy_json,
        connect_native,
        locality,
        create_index: _,
        modify_index: _,
    } = new;
    same(node, &old.node)
        && *id == old.id
        && *name == old.name
        && *kind == old.kind
        && *tags == old.tags
        && *address == old.address
        && *port == old.port
        && *socket_path == old.socket_path
        && *tagged_addresses == old.tagged_addresses
        && same_map(meta, &old.meta)
        && *weights == old.weights
        && *enable_tag_override == old.enable_tag_override
        && *proxy_json == old.proxy_json
        && *connect_native == old.connect_native
        && *locality == old.locality
}

fn same_check(new: &CheckV1, old: &CheckV1) -> bool {
    let CheckV1 {
        node,
        id,
        name,
        status,
        notes,
        output,
        service_id,
        service_name,
        service_tags,
        kind,
        interval,
        timeout,
        exposed_port,
        definition_json,
        create_index: _,
        modify_index: _,
    } = new;
    same(node, &old.node)
        && *id == old.id
        && *name == old.name
        && *status == old.status
        && *notes == old.notes
        && *output == old.output
        && *service_id == old.service_id
        && *service_name == old.service_name
        && *service_tags == old.service_tags
        && *kind == old.kind
        && *interval == old.interval
        && *timeout == old.timeout
        && *exposed_port == old.exposed_port
        && *definition_json == old.definition_json
}
