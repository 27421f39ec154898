//! Requests on a server: reads, blocking reads, writes, hold and retry.

mod blocking;
mod hold;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::command::{Command, KvCommandV1, KvPutV1, RetryV1};
use model::rpc::{Answer, Body, Consistency, Op, Reply, Request, RpcError};
use model::{LogIndex, NodeId};
use tokio::task::JoinHandle;

use super::fake::{FakeConsensus, FakePeers, Stage};
use super::*;
use crate::consensus::Proposal;

fn proposal(command: Command) -> Proposal {
    Proposal {
        namespace: "default".into(),
        retry: None,
        actor: "".into(),
        reason: "".into(),
        command,
    }
}

/// Applies a key behind the endpoint's back; its index.
fn put(consensus: &FakeConsensus, key: &'static str) -> LogIndex {
    // Another value each time: what is written again unchanged is no change.
    let value = consensus.state().applied().to_string().into();
    let set = KvPutV1 { key: Bytes::from_static(key.as_bytes()), value, flags: 0 };
    consensus.apply(proposal(Command::KvV1(KvCommandV1::Set(set)))).0
}

fn get(key: &'static str) -> Request {
    Request::new(Op::KvGet { key: Bytes::from_static(key.as_bytes()) })
}

fn blocking(mut request: Request, index: u64, wait_ms: u64) -> Request {
    request.min_index = LogIndex(index);
    request.wait_ms = wait_ms;
    request
}

/// Asks in a task of its own.
fn spawn(stage: &Stage, request: Request, caller: Caller) -> JoinHandle<Answer> {
    let endpoint = Arc::clone(&stage.endpoint);
    #[expect(clippy::disallowed_methods, reason = "a test's own task, which it awaits")]
    tokio::spawn(async move { endpoint.ask(request, caller, || None).await })
}

async fn ask(stage: &Stage, request: Request) -> Answer {
    stage.endpoint.ask(request, Caller::Agent, || None).await
}

/// Lets all tasks run that can, in no time.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn found(answer: &Answer) -> bool {
    matches!(answer, Ok(Reply { body: Body::KvEntry(Some(_)), .. }))
}
