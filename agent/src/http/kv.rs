//! `/v1/kv`: keys and locks. Order of checks and texts: spec/http-api-2.md §1.

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use model::duration::quote;
use model::rpc::{Body, KvWrite, Op};
use model::{LogIndex, api};

use super::answer::Answer;
use super::call::{Call, foreign_reply};
use super::error::ApiError;
use super::options::{Options, name, parse_u64};
use super::route::Route;

pub(crate) fn routes(value_bytes_max: usize) -> Vec<Route> {
    vec![
        Route::watch("/v1/kv/", get),
        Route::put("/v1/kv/", put).body_max(value_bytes_max),
        Route::new(Method::DELETE, "/v1/kv/", delete),
    ]
}

fn missing_key<T>() -> Result<T, ApiError> {
    Err(ApiError::BadRequest("Missing key name".into()))
}

async fn get(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    if call.params.has("keys") {
        return keys(&call, &options).await;
    }
    if call.params.has("recurse") {
        return list(&call, &options).await;
    }
    if call.rest.is_empty() {
        return missing_key();
    }
    let reply = call.ask(&options, Op::KvGet { key: call.rest.clone() }).await?;
    let Body::KvEntry(found) = reply.body else { return Err(foreign_reply()) };
    let answer = match found {
        None => Answer::missing(),
        Some(row) if call.params.has("raw") => raw(row.value.clone()),
        Some(row) => Answer::json(api::kv::entries(&[row])),
    };
    Ok(answer.meta(&reply.meta))
}

/// A value as it is. The headers keep a browser from running what someone stored.
fn raw(value: Bytes) -> Answer {
    const POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
    Answer::custom(value, "text/plain")
        .header(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .header(POLICY, HeaderValue::from_static("sandbox"))
}

async fn list(call: &Call, options: &Options) -> Result<Answer, ApiError> {
    let reply = call.ask(options, Op::KvList { prefix: call.rest.clone() }).await?;
    let Body::KvEntries(rows) = reply.body else { return Err(foreign_reply()) };
    let answer =
        if rows.is_empty() { Answer::missing() } else { Answer::json(api::kv::entries(&rows)) };
    Ok(answer.meta(&reply.meta))
}

async fn keys(call: &Call, options: &Options) -> Result<Answer, ApiError> {
    // The misspelling is Consul's, and clients send it.
    let separator = call.params.bytes("separator").filter(|given| !given.is_empty());
    let separator = separator.or_else(|| call.params.bytes("seperator")).unwrap_or(b"");
    let op = Op::KvKeys { prefix: call.rest.clone(), separator: Bytes::copy_from_slice(separator) };
    let reply = call.ask(options, op).await?;
    let Body::Keys(list) = reply.body else { return Err(foreign_reply()) };
    let answer = if list.is_empty() && !call.rest.is_empty() {
        Answer::missing()
    } else {
        Answer::json(api::kv::keys(&list))
    };
    Ok(answer.meta(&reply.meta))
}

async fn put(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    if call.rest.is_empty() {
        return missing_key();
    }
    refuse_conflict(&call, &["cas", "acquire", "release"])?;
    let flags = number(&call, "flags")?.unwrap_or(0);
    let cas = number(&call, "cas")?;
    let key = call.rest.clone();
    let value = call.bytes()?;
    let session = |param: &str| name(&call.params.text(param));
    let write = if let Some(index) = cas {
        KvWrite::Cas { key, value, flags, index: LogIndex(index) }
    } else if call.params.has("acquire") {
        KvWrite::Acquire { key, value, flags, session: session("acquire") }
    } else if call.params.has("release") {
        KvWrite::Release { key, value, flags, session: session("release") }
    } else {
        KvWrite::Set { key, value, flags }
    };
    Ok(order(&call, &options, write).await?.as_octets())
}

async fn delete(call: Call) -> Result<Answer, ApiError> {
    let options = call.options()?;
    refuse_conflict(&call, &["recurse", "cas"])?;
    let key = call.rest.clone();
    let write = if call.params.has("recurse") {
        KvWrite::DeleteTree { prefix: key }
    } else if key.is_empty() {
        return missing_key();
    } else if let Some(index) = number(&call, "cas")? {
        KvWrite::DeleteCas { key, index: LogIndex(index) }
    } else {
        KvWrite::Delete { key }
    };
    order(&call, &options, write).await
}

async fn order(call: &Call, options: &Options, write: KvWrite) -> Result<Answer, ApiError> {
    match call.order(options, Op::Kv(write)).await?.body {
        Body::Bool(held) => Ok(Answer::bool(held)),
        Body::Done => Ok(Answer::bool(true)),
        _ => Err(foreign_reply()),
    }
}

fn refuse_conflict(call: &Call, names: &[&str]) -> Result<(), ApiError> {
    if names.iter().filter(|name| call.params.has(name)).count() < 2 {
        return Ok(());
    }
    Err(ApiError::BadRequest(format!("Conflicting flags: {}\n", call.params.sorted_query())))
}

/// A number given as a parameter, with Go's words where it is none.
fn number(call: &Call, param: &str) -> Result<Option<u64>, ApiError> {
    if !call.params.has(param) {
        return Ok(None);
    }
    let text = call.params.text(param);
    if let Some(number) = parse_u64(&text) {
        return Ok(Some(number));
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let why = if digits { "value out of range" } else { "invalid syntax" };
    Err(ApiError::Internal(format!("strconv.ParseUint: parsing {}: {why}", quote(&text))))
}
