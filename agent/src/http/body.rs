//! Reading request bodies within their limits.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use model::rpc::RpcError;
use model::seam::ByteStream;

use super::error::ApiError;

/// Longest pause between two parts of a body.
const STALL: Duration = Duration::from_secs(10);

/// Time for a whole body: 8 MiB at 140 KiB/s.
const WHOLE: Duration = Duration::from_secs(60);

/// Bytes read and thrown away after a refusal, so that the client gets to see it instead of a
/// reset connection.
const DRAIN_MAX: u64 = 16 << 20;

/// The body, at most `limit` bytes. What is announced or found to be larger is refused.
pub(crate) async fn read(
    mut body: Body,
    headers: &HeaderMap,
    limit: usize,
) -> Result<Bytes, ApiError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let limit = limit as u64;
    let announced = body.size_hint().exact().unwrap_or(0);
    if announced > limit {
        // A client that waits for leave to send its body gets the refusal instead.
        if !headers.contains_key(http::header::EXPECT) {
            drain(body, announced).await;
        }
        return Err(ApiError::TooLarge { found: announced, limit });
    }
    match tokio::time::timeout(WHOLE, collect(&mut body, limit)).await {
        Err(_) => Err(ApiError::SlowBody),
        Ok(Err(ApiError::TooLarge { found, limit })) => {
            drain(body, 0).await;
            Err(ApiError::TooLarge { found, limit })
        }
        Ok(read) => read,
    }
}

/// The body as it comes. Who sends nothing for too long is given up.
pub(crate) fn stream(body: Body) -> ByteStream {
    Box::pin(futures_util::stream::unfold(Some(body), |body| async {
        let mut body = body?;
        match next(&mut body).await {
            Ok(Some(part)) => Some((Ok(part), Some(body))),
            Ok(None) => None,
            Err(error) => Some((Err(RpcError::Broken(error.to_string())), None)),
        }
    }))
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        match tokio::time::timeout(STALL, body.frame()).await {
            Err(_) => return Err(ApiError::SlowBody),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(ApiError::BrokenBody("unexpected EOF".into())),
            // Trailers mean nothing here.
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn collect(body: &mut Body, limit: u64) -> Result<Bytes, ApiError> {
    let Some(first) = next(body).await? else { return Ok(Bytes::new()) };
    let fits = |bytes: usize| {
        let found = bytes as u64;
        if found > limit { Err(ApiError::TooLarge { found, limit }) } else { Ok(()) }
    };
    fits(first.len())?;
    // The common case: one part, no copy.
    let Some(second) = next(body).await? else { return Ok(first) };
    fits(first.len() + second.len())?;
    let rest = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let mut all = BytesMut::with_capacity(first.len() + second.len() + rest);
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(part) = next(body).await? {
        fits(all.len() + part.len())?;
        all.extend_from_slice(&part);
    }
    Ok(all.freeze())
}

async fn drain(mut body: Body, announced: u64) {
    if announced > DRAIN_MAX {
        return;
    }
    let mut read = 0_u64;
    let work = async {
        while read <= DRAIN_MAX {
            match next(&mut body).await {
                Ok(Some(part)) => read += part.len() as u64,
                _ => break,
            }
        }
    };
    let _ = tokio::time::timeout(WHOLE, work).await;
}
