//! The HTTP door: Consul's API under `/v1`.
//!
//! Connections are ours (`server`, `guard`); each serves one axum router whose fallback is the
//! [`door`](self). There a request walks through raw path, route table, method, permission, body
//! within its limit, handler, answer. A handler turns a [`Call`] into an operation for the servers
//! and the reply into an [`Answer`]; statuses of errors are made by [`ApiError`] alone.
//!
//! | family | file |
//! |---|---|
//! | `/v1/kv`, `/v1/session`, `/v1/txn` | `kv`, `session`, `txn` |
//! | `/v1/catalog`, `/v1/health` | `catalog`, `health`, what both share: `discovery` |
//! | `/v1/status`, `/v1/operator`, `/v1/acl` | `status`, `operator`, `autopilot`, `acl` |
//! | `/v1/snapshot` | `snapshot` |
//!
//! Other rooms add endpoints by handing their [`Route`]s to [`start`]: a handler is a closure
//! `Fn(Call) -> Future<Output = Result<Answer, ApiError>>` and may hold whatever it needs.

mod acl;
pub mod agent;
mod answer;
mod autopilot;
mod body;
mod call;
mod catalog;
mod context;
mod discovery;
mod door;
mod error;
mod finish;
mod guard;
mod health;
mod kv;
mod operator;
mod options;
mod params;
mod path;
mod route;
mod server;
mod session;
mod snapshot;
mod status;
mod txn;

use std::sync::Arc;

use rt::Tasks;

pub use answer::Answer;
pub use call::Call;
pub use context::{AllowAll, Authorizer, Context, Control, Permission};
pub use error::ApiError;
pub use options::Options;
pub use params::Params;
pub use route::Route;
pub use server::{BindError, Listener};

/// Opens the door on these listeners: our own routes and `more`. Returns at once; the tasks end
/// when they are stopped.
pub fn start(context: Context, more: Vec<Route>, listeners: Vec<Listener>, tasks: &Tasks) {
    let mut routes = routes(&context);
    routes.extend(more);
    let limits = server::Limits::of(&context.config);
    let router = door::router(Arc::new(context), routes, tasks.token());
    for listener in listeners {
        let accept = server::accept(listener, router.clone(), limits, tasks.clone());
        tasks.spawn("http.accept", accept);
    }
}

/// Every route of this room.
fn routes(context: &Context) -> Vec<Route> {
    [
        acl::routes(),
        autopilot::routes(),
        catalog::routes(),
        health::routes(),
        kv::routes(context.config.kv_value_bytes_max),
        operator::routes(),
        session::routes(),
        snapshot::routes(),
        status::routes(),
        txn::routes(context.config.kv_value_bytes_max),
    ]
    .concat()
}

#[cfg(test)]
mod tests;
