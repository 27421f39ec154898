//! `/v1/snapshot`: the whole state as an archive, out and in (spec/http-api-1.md §15).

use std::time::Duration;

use futures_util::stream;
use model::rpc::{Consistency, Op};

use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::options::Options;
use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![Route::get("/v1/snapshot", save), Route::upload("/v1/snapshot", restore)]
}

fn options(call: &Call) -> Result<Options, ApiError> {
    let mut options = call.write_options()?;
    if call.params.has("stale") {
        options.consistency = Consistency::Stale;
    }
    Ok(options)
}

async fn save(call: Call) -> Result<Answer, ApiError> {
    let options = options(&call)?;
    let request = options.request(Op::SnapshotSave, Duration::ZERO, call.trace_id);
    let (reply, archive) = call.context.backend.stream(request, Box::pin(stream::empty())).await?;
    Ok(Answer::stream(archive, "application/x-gzip").meta(&reply.meta))
}

async fn restore(call: Call) -> Result<Answer, ApiError> {
    let options = options(&call)?;
    let request = options.request(Op::SnapshotRestore, Duration::ZERO, call.trace_id);
    // Nothing follows the reply.
    let (_, _rest) = call.context.backend.stream(request, call.upload()).await?;
    Ok(Answer::empty())
}
