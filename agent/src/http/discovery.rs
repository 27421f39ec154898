//! What catalog and health reads have in common: selectors in the query, filters over rows.

use model::filter::{Filter, Schema};
use model::row::NameMap;
use model::{Name, rpc};

use super::call::Call;
use super::error::ApiError;

/// `node-meta=key:value`, all of which must match; without a colon the value is empty.
pub(crate) fn node_meta(call: &Call) -> NameMap {
    call.params
        .all("node-meta")
        .map(|pair| match pair.split_once(':') {
            Some((key, value)) => (key.into(), value.into()),
            None => (pair.as_ref().into(), "".into()),
        })
        .collect()
}

/// `tag=`, all of which must match; an empty value is a tag too.
pub(crate) fn tags(call: &Call) -> Vec<Name> {
    call.params.all("tag").map(|tag| tag.as_ref().into()).collect()
}

/// The expression of `filter=`, compiled against what it will see; `None` when there is none.
pub(crate) fn filter(call: &Call, schema: &'static Schema) -> Result<Option<Filter>, ApiError> {
    let text = call.params.text("filter");
    if text.is_empty() {
        return Ok(None);
    }
    Filter::compile(&text, schema).map(Some).map_err(|error| {
        ApiError::Internal(format!("Failed to create boolean expression evaluator: {error}"))
    })
}

/// Whether the request asks for services of a peer or a sameness group, of which there are none.
pub(crate) fn elsewhere(call: &Call) -> Result<bool, ApiError> {
    let given = |name: &str| !call.params.text(name).is_empty();
    let group = given("sg") || given("sameness-group");
    if given("peer") && group {
        return Err(ApiError::BadRequest(
            "peer-name and sameness-group are mutually exclusive".into(),
        ));
    }
    Ok(given("peer") || group)
}

/// The datacenter that rows in the answer belong to.
pub(crate) fn shown_dc<'a>(call: &'a Call, options: &'a super::Options) -> &'a str {
    if options.dc.is_empty() { &call.context.config.datacenter } else { &options.dc }
}

/// The instances of a reply.
pub(crate) fn instances(body: rpc::Body) -> Result<Vec<rpc::Instance>, ApiError> {
    match body {
        rpc::Body::Instances(list) => Ok(list),
        _ => Err(super::call::foreign_reply()),
    }
}
