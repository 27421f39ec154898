//! The way in from the network.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use model::NodeId;
use model::rpc::{Answer, Request, RpcError};
use model::seam::{BoxFuture, ByteStream};
use model::wire::{self, Kind};
use net::{Channel, Handler, Limits, NetError, Peer, Role, method};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::peers::{message, read_message};
use super::{Caller, Endpoint, Info, InfoQuestion};
use crate::config::Bootstrap;

/// How long a server's word holds that it helps only one other to make the first configuration.
pub(crate) const PLEDGE_TIME: Duration = Duration::from_secs(5);

/// Answers calls of other servers and of agents; Raft's channels go to Raft.
pub(crate) struct RpcHandler {
    shared: Arc<Shared>,
    raft: Arc<dyn Handler>,
}

struct Shared {
    endpoint: Arc<Endpoint>,
    pledge: Mutex<Option<(NodeId, Instant)>>,
}

impl RpcHandler {
    pub(crate) fn new(endpoint: Arc<Endpoint>, raft: Arc<dyn Handler>) -> Self {
        Self { shared: Arc::new(Shared { endpoint, pledge: Mutex::default() }), raft }
    }
}

impl Shared {
    async fn ask(&self, caller: Caller, body: Bytes) -> Result<Bytes, NetError> {
        let limit = Limits::default().frame_bytes_max;
        let answer: Answer = match wire::decode::<Request>(Kind::Request, &body, limit) {
            Err(error) => Err(RpcError::Protocol(error.to_string())),
            Ok(_) if self.endpoint.is_leaving() => Err(RpcError::Leaving),
            Ok(request) => self.endpoint.ask(request, caller, || None).await,
        };
        Ok(wire::encode(Kind::Answer, &answer).into())
    }

    /// An answer and its body, as messages.
    async fn exchange(
        self: Arc<Self>,
        caller: Caller,
        first: Bytes,
        body: ByteStream,
    ) -> ByteStream {
        let limit = Limits::default().frame_bytes_max;
        let exchanged = match wire::decode::<Request>(Kind::Request, &first, limit) {
            Err(error) => Err(RpcError::Protocol(error.to_string())),
            Ok(_) if self.endpoint.is_leaving() => Err(RpcError::Leaving),
            Ok(request) => self.endpoint.exchange(request, caller, body).await,
        };
        let (answer, rest): (Answer, ByteStream) = match exchanged {
            Ok((reply, rest)) => (Ok(reply), rest),
            Err(error) => (Err(error), Box::pin(stream::empty())),
        };
        let answer = wire::encode(Kind::Answer, &answer).into();
        Box::pin(stream::once(std::future::ready(Ok(answer))).chain(rest))
    }

    /// A read index for a follower.
    async fn read_index(&self) -> Result<Bytes, NetError> {
        let index = self.endpoint.parts.consensus.read_index().await?;
        Ok(message(&index))
    }

    fn info(&self, asker: &Peer, body: &[u8]) -> Result<Bytes, NetError> {
        let question: InfoQuestion = read_message(body)?;
        let parts = &self.endpoint.parts;
        let pristine = parts.consensus.pristine();
        Ok(message(&Info {
            id: parts.config.node_id,
            expect: match parts.config.bootstrap {
                Bootstrap::Expect(number) => number,
                Bootstrap::Alone | Bootstrap::Wait => 0,
            },
            pristine,
            pledged: question.pledge
                && pristine
                && asker.role == Role::Server
                && self.pledge(asker.node_id),
            leader: parts.consensus.leadership().borrow().leader.map(|(_, at)| at),
            ready: parts.consensus.ready(),
        }))
    }

    /// Two servers with different views of who is there must not both make a configuration with
    /// us in it: the word is given to one at a time.
    fn pledge(&self, asker: NodeId) -> bool {
        let now = self.endpoint.now();
        let mut pledge = self.pledge.lock().unwrap_or_else(PoisonError::into_inner);
        let free = pledge.is_none_or(|(to, at)| to == asker || now - at >= PLEDGE_TIME);
        if free {
            *pledge = Some((asker, now));
        }
        free
    }
}

fn caller(role: Role) -> Caller {
    match role {
        Role::Server => Caller::Server,
        Role::Client => Caller::Agent,
    }
}

impl Handler for RpcHandler {
    fn threads(&self, channel: Channel) -> Option<Handle> {
        (channel != Channel::Rpc).then(|| self.raft.threads(channel)).flatten()
    }

    fn call(
        &self,
        peer: &Peer,
        channel: Channel,
        method: u16,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, NetError>> {
        if channel != Channel::Rpc {
            return self.raft.call(peer, channel, method, body);
        }
        let shared = Arc::clone(&self.shared);
        match (method, peer.role) {
            (method::ASK, role) => {
                let caller = caller(role);
                Box::pin(async move { shared.ask(caller, body).await })
            }
            (method::READ_INDEX, Role::Server) => {
                Box::pin(async move { shared.read_index().await })
            }
            (method::SERVER_INFO, _) => Box::pin(std::future::ready(shared.info(peer, &body))),
            _ => {
                let unknown = NetError::unknown_method(channel, method);
                Box::pin(std::future::ready(Err(unknown)))
            }
        }
    }

    fn stream(
        &self,
        peer: &Peer,
        channel: Channel,
        method: u16,
        first: Bytes,
        incoming: ByteStream,
    ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
        if channel != Channel::Rpc {
            return self.raft.stream(peer, channel, method, first, incoming);
        }
        if method != method::STREAM {
            let unknown = NetError::unknown_method(channel, method);
            return Box::pin(std::future::ready(Err(unknown)));
        }
        let caller = caller(peer.role);
        let exchange = Arc::clone(&self.shared).exchange(caller, first, incoming);
        // Accepted at once; the answer is the first message, however long it takes.
        let messages: ByteStream = Box::pin(stream::once(exchange).flatten());
        Box::pin(std::future::ready(Ok(messages)))
    }
}

#[cfg(test)]
mod tests {
    use model::rpc::{Body, Op};

    use super::super::fake::Stage;
    use super::*;

    /// Raft's part, which these tests do not reach.
    struct NoRaft;

    impl Handler for NoRaft {
        fn call(
            &self,
            _peer: &Peer,
            channel: Channel,
            method: u16,
            _body: Bytes,
        ) -> BoxFuture<'static, Result<Bytes, NetError>> {
            Box::pin(std::future::ready(Err(NetError::unknown_method(channel, method))))
        }

        fn stream(
            &self,
            _peer: &Peer,
            channel: Channel,
            method: u16,
            _first: Bytes,
            _incoming: ByteStream,
        ) -> BoxFuture<'static, Result<ByteStream, NetError>> {
            Box::pin(std::future::ready(Err(NetError::unknown_method(channel, method))))
        }
    }

    fn peer(n: u8, role: Role) -> Peer {
        let address = super::super::fake::address(n);
        Peer { address, node_id: NodeId([n; 16]), role, state_version: 1 }
    }

    async fn call(
        handler: &RpcHandler,
        peer: &Peer,
        method: u16,
        body: Bytes,
    ) -> Result<Bytes, NetError> {
        handler.call(peer, Channel::Rpc, method, body).await
    }

    async fn asked(handler: &RpcHandler, body: Bytes) -> Answer {
        let bytes =
            call(handler, &peer(9, Role::Client), method::ASK, body).await.expect("an answer");
        wire::decode(Kind::Answer, &bytes, 1 << 20).expect("well-formed")
    }

    #[tokio::test(start_paused = true)]
    async fn the_word_is_given_to_one_at_a_time_and_only_while_empty() {
        let stage = Stage::leading();
        let handler = RpcHandler::new(Arc::clone(&stage.endpoint), Arc::new(NoRaft));
        let pledged = async |n: u8, pledge: bool| {
            let body = message(&InfoQuestion { pledge });
            let bytes = call(&handler, &peer(n, Role::Server), method::SERVER_INFO, body).await;
            read_message::<Info>(&bytes.expect("an answer")).expect("well-formed").pledged
        };
        assert!(!pledged(2, false).await);
        assert!(pledged(3, true).await);
        assert!(!pledged(2, true).await);
        assert!(pledged(3, true).await);
        // An agent makes no configuration, and must not keep servers from making one.
        tokio::time::sleep(PLEDGE_TIME).await;
        let body = message(&InfoQuestion { pledge: true });
        let bytes = call(&handler, &peer(9, Role::Client), method::SERVER_INFO, body).await;
        assert!(!read_message::<Info>(&bytes.expect("an answer")).expect("well-formed").pledged);
        assert!(pledged(3, true).await);
        tokio::time::sleep(PLEDGE_TIME).await;
        assert!(pledged(2, true).await);
        // It belongs to a cluster now.
        stage.consensus.apply(crate::consensus::Proposal {
            namespace: "default".into(),
            retry: None,
            actor: "".into(),
            reason: "".into(),
            command: model::command::Command::TickV1,
        });
        assert!(!pledged(2, true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_and_strangers_are_refused() {
        let stage = Stage::leading();
        let handler = RpcHandler::new(Arc::clone(&stage.endpoint), Arc::new(NoRaft));
        for garbage in [&b""[..], b"\x02", b"\x02\x01garbage", b"GET / HTTP/1.1\r\n\r\n"] {
            let answer = asked(&handler, Bytes::from_static(garbage)).await;
            assert!(matches!(answer, Err(RpcError::Protocol(_))), "{answer:?}");
        }
        let (client, server) = (peer(9, Role::Client), peer(2, Role::Server));
        assert!(call(&handler, &client, method::READ_INDEX, Bytes::new()).await.is_err());
        assert!(call(&handler, &server, method::READ_INDEX, Bytes::new()).await.is_ok());
        assert!(call(&handler, &server, method::SERVER_INFO, Bytes::new()).await.is_err());
        assert!(call(&handler, &server, 15, Bytes::new()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaving_server_sends_others_elsewhere() {
        let stage = Stage::leading();
        let handler = RpcHandler::new(Arc::clone(&stage.endpoint), Arc::new(NoRaft));
        let request = || wire::encode(Kind::Request, &Request::new(Op::Datacenters)).into();
        let body = asked(&handler, request()).await.map(|reply| reply.body);
        assert_eq!(body, Ok(Body::Names(vec!["dc1".into()])));
        stage.endpoint.begin_leaving();
        assert_eq!(asked(&handler, request()).await, Err(RpcError::Leaving));
    }
}
