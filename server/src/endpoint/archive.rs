//! Operations with bodies: archives of the whole state, out and in (spec/http-api-1.md §15).
//!
//! A body can be read once, so nothing here is tried again after it was begun. Until then the
//! request is held while there is no leader, as others are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use model::rpc::{ARCHIVE_TIME_MAX, Body, Consistency, Op, Reply, Request, RpcError};
use model::seam::ByteStream;
use tokio::time::Instant;

use super::admission::Entered;
use super::route::{Caller, Route, Time, may_retry, route};
use super::table::{Again, Place, Rule, rule};
use super::{ANSWER_GRACE, Endpoint, rejected};

/// An answer with a body.
pub(crate) type Exchange = Result<(Reply, ByteStream), RpcError>;

impl Endpoint {
    /// Answers a request that has a body or is answered with one.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        request: Request,
        caller: Caller,
        body: ByteStream,
    ) -> Exchange {
        let rule = rule(&request.op);
        if rule.place != Place::Archive {
            return Err(rejected("this operation has no body"));
        }
        if !rule.callers.admit(caller) {
            return Err(RpcError::PermissionDenied("this operation is not for you".to_owned()));
        }
        self.check_address(&request)?;
        if request.op == Op::SnapshotRestore && request.consistency == Consistency::Stale {
            return Err(rejected("stale not allowed for restore"));
        }
        let _entered: Entered = self.admission.enter(rule.class)?;
        let deadline = Time::new(0, request.hold_ms, self.now());
        match self.way(&rule, &request, caller, deadline).await? {
            Route::Forward(leader) => self.pass_on(leader, request, body).await,
            Route::Here(_) => {
                // Before a byte of the body is read.
                self.parts.authorizer.authorize(&request.token, &rule.need)?;
                match request.op {
                    Op::SnapshotRestore => self.restore(body).await,
                    _ => self.save(request.consistency).await,
                }
            }
        }
    }

    /// Where it goes, once there is a leader.
    async fn way(
        &self,
        rule: &Rule,
        request: &Request,
        caller: Caller,
        mut time: Time,
    ) -> Result<Route, RpcError> {
        let mut leadership = self.parts.consensus.leadership();
        let mut tries = 0_u32;
        loop {
            let began: Instant = self.now();
            leadership.mark_unchanged();
            let error = match route(rule, request.consistency, caller, &self.standing()) {
                Ok(way) => return Ok(way),
                Err(error) => error,
            };
            let again = caller == Caller::Agent
                && !self.parts.stop.is_cancelled()
                && may_retry(&error, Again::Never, false);
            let (true, Some(end)) = (again, time.failed(began, self.now())) else {
                return Err(error);
            };
            self.pause(tries, end, &mut leadership).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn pass_on(&self, leader: SocketAddr, request: Request, body: ByteStream) -> Exchange {
        let limit = match request.op {
            Op::SnapshotRestore => ARCHIVE_TIME_MAX,
            _ => Duration::from_millis(request.hold_ms) + ANSWER_GRACE,
        };
        self.parts.peers.exchange(leader, request, body, limit).await
    }

    async fn save(&self, consistency: Consistency) -> Exchange {
        if consistency != Consistency::Stale {
            // Whatever was acknowledged before is in it.
            self.parts.consensus.read_index().await?;
        }
        let (index, archive) = self.parts.consensus.archive()?;
        Ok((Reply { meta: self.meta(index, consistency), body: Body::Done }, archive))
    }

    async fn restore(&self, archive: ByteStream) -> Exchange {
        let index = self.parts.consensus.restore(archive).await?;
        let meta = self.meta(index, Consistency::Default);
        Ok((Reply { meta, body: Body::Done }, Box::pin(stream::empty())))
    }
}
