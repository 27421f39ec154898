//! Clients that save archives of everything and put them back, and a restore in the calm that must
//! wake whoever waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::LogIndex;
use model::rpc::{Body, Consistency, KvWrite, Op, Request, RpcError};
use model::seam::ByteStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::register_key;
use crate::history::{Restore, RestoreEnd};
use crate::linear::Event;
use crate::objects::RegisterOp;
use crate::world::{Running, World};

/// How long a client waits for an archive, and for a restore.
const SAVE_MAX: Duration = Duration::from_secs(4);
const RESTORE_MAX: Duration = Duration::from_secs(15);
/// Bytes in one message of an archive.
const MESSAGE_BYTES: usize = 300;
/// How long who waits in the calm would wait, and within what time a restore must wake it.
const PARKED_MS: u64 = 60_000;
const WAKE_MAX: Duration = Duration::from_secs(2);

/// An archive.
#[derive(Clone)]
struct Archive {
    index: LogIndex,
    bytes: Vec<u8>,
}

fn nothing() -> ByteStream {
    Box::pin(stream::empty())
}

/// In messages; `broken`: the stream ends with an error before its last one.
fn messages(bytes: &[u8], broken: bool) -> ByteStream {
    let mut parts: Vec<Result<Bytes, RpcError>> =
        bytes.chunks(MESSAGE_BYTES).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    if broken {
        parts.pop();
        parts.push(Err(RpcError::Broken("the client is gone".to_owned())));
    }
    Box::pin(stream::iter(parts))
}

/// Saves and restores until it is to stop.
pub(crate) async fn run(world: Arc<World>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        sleep(Duration::from_millis(200 + world.rng.below(2_000))).await;
        let consistency = match world.rng.below(4) {
            0 => Consistency::Stale,
            _ => Consistency::Default,
        };
        let Some(server) = world.any() else { continue };
        let Some(archive) = save(&world, &server, consistency).await else { continue };
        sleep(Duration::from_millis(world.rng.below(4_000))).await;
        let Some(server) = world.any() else { continue };
        match world.rng.below(6) {
            0 => restore_damaged(&world, &server, archive).await,
            _ => drop(restore(&world, &server, &archive).await),
        }
    }
}

/// Saves an archive, in time and whole or not at all.
async fn save(world: &World, server: &Running, consistency: Consistency) -> Option<Archive> {
    let mut request = Request::new(Op::SnapshotSave);
    (request.consistency, request.hold_ms) = (consistency, 1_500);
    let called = world.event();
    let all = async {
        let (reply, mut parts) = server.backend.stream(request, nothing()).await.ok()?;
        let mut bytes = Vec::new();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part.ok()?);
        }
        Some(Archive { index: reply.meta.index, bytes })
    };
    let archive = tokio::select! {
        biased;
        () = server.up.cancelled() => None,
        archive = timeout(SAVE_MAX, all) => archive.ok().flatten(),
    }?;
    let (index, size) = (archive.index, archive.bytes.len());
    world.trace.note(format_args!("archive of {index} from {}: {size} bytes", server.number));
    let mut history = world.history();
    history.counts.archives += 1;
    if consistency != Consistency::Stale {
        history.save(called, world.event(), index);
    }
    Some(archive)
}

async fn send(server: &Running, body: ByteStream) -> Option<Result<LogIndex, RpcError>> {
    let mut request = Request::new(Op::SnapshotRestore);
    request.hold_ms = 1_500;
    tokio::select! {
        biased;
        () = server.up.cancelled() => None,
        answer = timeout(RESTORE_MAX, server.backend.stream(request, body)) => {
            Some(answer.ok()?.map(|(reply, _)| reply.meta.index))
        }
    }
}

/// Restores an archive once: nobody may try again what may have happened.
async fn restore(world: &World, server: &Running, archive: &Archive) -> Option<LogIndex> {
    let called = world.event();
    let answer = send(server, messages(&archive.bytes, false)).await;
    let (number, of) = (server.number, archive.index);
    world.trace.note(format_args!("restore of {of} at {number}: {answer:?}"));
    let end = match &answer {
        Some(Ok(index)) => RestoreEnd::Done { returned: world.event(), index: *index },
        Some(Err(RpcError::Rejected(model::command::Rejection::OutcomeUnknown))) | None => {
            RestoreEnd::Lost
        }
        Some(Err(RpcError::Rejected(_) | RpcError::Busy | RpcError::NoLeader)) => {
            RestoreEnd::Refused
        }
        Some(Err(_)) => RestoreEnd::Lost,
    };
    world.history().restore(Restore { called, end, archive: of });
    answer?.ok()
}

/// An archive with a wrong byte, or one that breaks off: it must be refused, and nobody may find it
/// in a log (it is in no list of those who asked).
async fn restore_damaged(world: &World, server: &Running, archive: Archive) {
    let Archive { index, mut bytes } = archive;
    let broken = world.rng.below(2) == 0;
    if !broken {
        let at = world.rng.below(bytes.len() as u64) as usize;
        // Behind gzip's header, of which some bytes mean nothing.
        let at = at.max(10.min(bytes.len() - 1));
        bytes[at] ^= 1 << world.rng.below(8);
    }
    let answer = send(server, messages(&bytes, broken)).await;
    world.trace.note(format_args!("damaged archive of {index} at {}: {answer:?}", server.number));
    if let Some(Ok(at)) = answer {
        world.fail(format!("a damaged archive of {index} was restored in entry {at}"));
    }
}

/// Everything that somebody may wait for: what is there, what is not, what comes and goes.
fn waits() -> Vec<Op> {
    let mut waits: Vec<Op> = ["restore/kept", "restore/newer", "restore/never"]
        .into_iter()
        .map(|key| Op::KvGet { key: key.into() })
        .collect();
    for prefix in ["", "restore/", "restore/ne", "nothing/"] {
        waits.push(Op::KvList { prefix: prefix.into() });
        waits.push(Op::KvKeys { prefix: prefix.into(), separator: "/".into() });
    }
    waits.push(Op::SessionList);
    waits.push(Op::Nodes { meta: Default::default() });
    waits.push(Op::Services { meta: Default::default() });
    waits.push(Op::NodeServices { node: crate::client::NODE.into() });
    waits
}

async fn ask(server: &Running, op: Op) -> Result<(LogIndex, Body), String> {
    let answer = server.backend.ask(Request::new(op.clone())).await;
    let reply = answer.map_err(|error| format!("{op:?} in the calm failed: {error}"))?;
    Ok((reply.meta.index, reply.body))
}

/// Who waits on some server for some operation, above the index that it now has.
async fn park(
    world: &Arc<World>,
    server: &Running,
    op: &Op,
) -> Result<oneshot::Receiver<Result<(), String>>, String> {
    // Default reads wait at the leader, stale ones at the server that was asked.
    let consistency = match world.rng.below(2) {
        0 => Consistency::Default,
        _ => Consistency::Stale,
    };
    let mut request = Request { consistency, ..Request::new(op.clone()) };
    let first = server.backend.ask(request.clone()).await;
    let seen = first.map_err(|error| format!("{op:?} in the calm failed: {error}"))?.meta.index;
    (request.min_index, request.wait_ms) = (seen, PARKED_MS);
    let (woken, wakes) = oneshot::channel();
    let (server, op) = (server.clone(), op.clone());
    world.tasks.spawn_until_stop("parked", async move {
        let answer = server.backend.ask(request).await;
        let result = match answer {
            Ok(reply) if reply.meta.index > seen => Ok(()),
            Ok(reply) => Err(format!(
                "{op:?} ({consistency:?}) at server {} was woken by a restore with index {}, and had \
                 seen {seen}",
                server.number, reply.meta.index
            )),
            Err(error) => Err(format!("{op:?} ({consistency:?}) lost its wait: {error}")),
        };
        let _ = woken.send(result);
    });
    Ok(wakes)
}

async fn put(world: &World, key: &'static str, value: &str) -> Result<(), String> {
    let server = world.any().ok_or("no server runs")?;
    let write = KvWrite::Set { key: key.into(), value: value.to_owned().into(), flags: 0 };
    ask(&server, Op::Kv(write)).await.map(drop)
}

/// One restore in the calm: nothing of what came after the archive is there, all that was before it
/// is, and all who wait are woken at once with an index above what they had seen.
pub(crate) async fn calm(world: &Arc<World>) -> Result<(), String> {
    put(world, "restore/kept", "old").await?;
    let server = world.any().ok_or("no server runs")?;
    let archive = save(world, &server, Consistency::Default).await;
    let archive = archive.ok_or("no archive in the calm")?;
    put(world, "restore/kept", "new").await?;
    put(world, "restore/newer", "new").await?;
    for number in 0..crate::client::REGISTERS {
        let (value, called) = (world.value(), world.event());
        let key = register_key(number);
        let text = value.to_string().into();
        ask(&server, Op::Kv(KvWrite::Set { key: key.clone(), value: text, flags: 0 })).await?;
        let (returned, op) = (Some(world.event()), RegisterOp::Set(value));
        world.history().register(&key, Event { called, returned, op }, None);
    }
    let mut parked = Vec::new();
    for number in world.numbers() {
        let server = world.server(number).ok_or("a server is down in the calm")?;
        for op in waits() {
            parked.push((number, op.clone(), park(world, &server, &op).await?));
        }
    }
    sleep(Duration::from_millis(50)).await;
    let server = world.any().ok_or("no server runs")?;
    let done = restore(world, &server, &archive).await;
    done.ok_or("a restore in the calm failed")?;
    for (number, op, wakes) in parked {
        match timeout(WAKE_MAX, wakes).await {
            Ok(Ok(judged)) => judged?,
            _ => return Err(format!("a restore woke nobody who waits at {number} for {op:?}")),
        }
    }
    for (key, wanted) in [("restore/kept", Some("old")), ("restore/newer", None)] {
        for number in world.numbers() {
            let server = world.server(number).ok_or("a server is down in the calm")?;
            let (_, body) = ask(&server, Op::KvGet { key: key.into() }).await?;
            let Body::KvEntry(row) = body else { return Err(format!("{key} is {body:?}")) };
            if row.as_ref().map(|row| &row.value[..]) != wanted.map(str::as_bytes) {
                return Err(format!("after a restore server {number} has {row:?} at {key}"));
            }
        }
    }
    Ok(())
}
