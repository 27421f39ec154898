//! `/v1/txn`: several operations, all or none (spec/http-api-2.md §4).

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use model::api;
use model::api::input::{self, InputError};
use model::rpc::{Body, Op, TxnOp};
use model::txn::{OPERATIONS_MAX, TxnOpV1};

use super::answer::Answer;
use super::call::{Call, foreign_reply};
use super::error::ApiError;
use super::route::Route;

/// Bytes of a body where values may not be larger.
const BODY_MAX: usize = 512 << 10;

const LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");

pub(crate) fn routes(value_bytes_max: usize) -> Vec<Route> {
    vec![Route::put("/v1/txn", txn).body_max(BODY_MAX.max(value_bytes_max))]
}

async fn txn(call: Call) -> Result<Answer, ApiError> {
    let failed = |error: InputError| ApiError::BadRequest(format!("Failed to parse body: {error}"));
    let body = input::first_value(&call.bytes()?).map_err(failed)?;
    let ops = api::txn::operations(&body).map_err(failed)?;
    check_sizes(&ops, call.context.config.kv_value_bytes_max)?;
    let write = ops.iter().any(TxnOp::is_write);
    let (options, reply) = if write {
        let options = call.write_options()?;
        let reply = call.order(&options, Op::Txn(ops)).await?;
        (options, reply)
    } else {
        let options = call.options()?;
        let reply = call.ask(&options, Op::Txn(ops)).await?;
        (options, reply)
    };
    let Body::Txn(outcome) = reply.body else { return Err(foreign_reply()) };
    let status = if outcome.is_ok() { StatusCode::OK } else { StatusCode::CONFLICT };
    let dc = super::discovery::shown_dc(&call, &options);
    let answer = Answer::json(api::txn::answer(&outcome, dc)).status(status);
    if write {
        return Ok(answer);
    }
    // A read without an index: there is nothing to wait for.
    let known = if reply.meta.known_leader { "true" } else { "false" };
    Ok(answer
        .header(LEADER, HeaderValue::from_static(known))
        .header(CONTACT, HeaderValue::from(reply.meta.last_contact_ms)))
}

fn check_sizes(ops: &[TxnOp], value_bytes_max: usize) -> Result<(), ApiError> {
    if ops.len() > OPERATIONS_MAX {
        return Err(ApiError::TooMuch(format!(
            "Transaction contains too many operations ({} > {OPERATIONS_MAX})",
            ops.len()
        )));
    }
    for op in ops {
        if let TxnOp::Do(TxnOpV1::Kv(op)) = op
            && op.value.len() > value_bytes_max
        {
            let key = model::duration::quote(&String::from_utf8_lossy(&op.key));
            return Err(ApiError::TooMuch(format!(
                "Value for key {key} is too large ({} > {value_bytes_max} bytes)",
                op.value.len()
            )));
        }
    }
    Ok(())
}
