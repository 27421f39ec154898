//! Real sockets on the loopback, over a view of a fake backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use model::id::LogIndex;
use model::row::Status;
use model::rpc::{Answer as RpcAnswer, Consistency, Op, Reply, Request, RpcError};
use model::seam::{Backend, BoxFuture, ByteStream, Link};
use rt::{Clock, Rng, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore, watch};

use crate::config::DnsSettings;
use crate::dns::{Listeners, Sources, start};
use crate::view::{Question, View};

use super::{Catalog, lines, question, zone};

/// Longest wait for anything in these tests.
const LIMIT: Duration = Duration::from_secs(20);

/// Servers that hold a catalog; blocking reads wake when it is replaced.
struct Servers {
    catalog: Mutex<(u64, Catalog)>,
    changed: Arc<Notify>,
    asked: AtomicUsize,
    connected: bool,
    /// Age of the copy that stale reads get.
    last_contact_ms: u64,
    /// Reads that wanted more than a copy.
    fresh: AtomicUsize,
    /// Whole catalogs wait for a permit here; how many do, and the most that ever did at once.
    whole: Semaphore,
    waiting: watch::Sender<(usize, usize)>,
}

impl Servers {
    fn new(catalog: Catalog) -> Self {
        let catalog = Mutex::new((1, catalog));
        Self {
            catalog,
            changed: Arc::default(),
            asked: AtomicUsize::new(0),
            connected: true,
            last_contact_ms: 0,
            fresh: AtomicUsize::new(0),
            whole: Semaphore::new(0),
            waiting: watch::Sender::default(),
        }
    }

    fn put(&self, catalog: Catalog) {
        let mut held = self.catalog.lock().expect("not poisoned");
        *held = (held.0 + 1, catalog);
        self.changed.notify_waiters();
    }
}

/// So that a future can hold the servers.
struct Shared(Arc<Servers>);

impl Backend for Shared {
    fn ask(&self, request: Request) -> BoxFuture<'static, RpcAnswer> {
        let servers = Arc::clone(&self.0);
        servers.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if matches!(request.op, Op::AllInstances { .. }) {
                servers.waiting.send_modify(|(now, most)| {
                    *now += 1;
                    *most = (*most).max(*now);
                });
                servers.whole.acquire().await.expect("never closed").forget();
                servers.waiting.send_modify(|(now, _)| *now -= 1);
            }
            let asked = Question {
                dc: request.dc.clone(),
                consistency: Consistency::Stale,
                ..Question::new(request.op.clone())
            };
            loop {
                let changed = Arc::clone(&servers.changed);
                let changed = changed.notified();
                let (index, reply) = {
                    let held = servers.catalog.lock().expect("not poisoned");
                    (held.0, held.1.answer(&asked))
                };
                if request.min_index != LogIndex(index) {
                    return reply.map(|mut reply| {
                        reply.meta.index = LogIndex(index);
                        if request.consistency == Consistency::Stale {
                            reply.meta.last_contact_ms = servers.last_contact_ms;
                        } else {
                            servers.fresh.fetch_add(1, Ordering::SeqCst);
                        }
                        reply
                    });
                }
                changed.await;
            }
        })
    }

    fn stream(
        &self,
        _: Request,
        _: ByteStream,
    ) -> BoxFuture<'static, Result<(Reply, ByteStream), RpcError>> {
        Box::pin(async { Err(RpcError::NoServers) })
    }

    fn link(&self) -> Link {
        Link { connected: self.0.connected, leader_known: self.0.connected, since_ms: 60_000 }
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), RpcError>> {
        Box::pin(async { Ok(()) })
    }

    fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        BTreeMap::new()
    }
}

struct House {
    servers: Arc<Servers>,
    settings: watch::Sender<Arc<DnsSettings>>,
    address: SocketAddr,
    tasks: Tasks,
}

fn house(servers: Servers) -> House {
    let (servers, tasks) = (Arc::new(servers), Tasks::new());
    let backend: Arc<dyn Backend> = Arc::new(Shared(Arc::clone(&servers)));
    let (clock, rng) = (Clock::system(), Rng::from_seed(1));
    let view = View::new(backend, clock.clone(), rng.clone(), &tasks);
    let settings = watch::Sender::new(Arc::new(DnsSettings::default()));
    let listeners = Listeners::bind(&[([127, 0, 0, 1], 0).into()]).expect("a free port");
    let address = listeners.addresses()[0];
    let sources = Sources { zone: zone(), settings: settings.subscribe(), view, clock, rng };
    start(listeners, sources, &tasks).expect("good domains");
    House { servers, settings, address, tasks }
}

fn web(count: u16) -> Catalog {
    (0..count).fold(Catalog::default().node("foo", "10.1.2.3"), |catalog, i| {
        catalog.service("web", i).at(&format!("10.0.0.{i}")).check(Status::Passing)
    })
}

async fn udp(to: SocketAddr, asked: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(to).await.expect("connected");
    socket.send(&asked.to_vec().expect("a question")).await.expect("sent");
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(LIMIT, socket.recv(&mut buffer)).await;
    let length = length.expect("in time").expect("received");
    Message::from_vec(&buffer[..length]).expect("readable")
}

async fn framed(stream: &mut TcpStream, asked: &Message) -> std::io::Result<Message> {
    let packet = asked.to_vec().expect("a question");
    stream.write_u16(packet.len() as u16).await?;
    stream.write_all(&packet).await?;
    let length = tokio::time::timeout(LIMIT, stream.read_u16()).await.expect("in time")?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(Message::from_vec(&answer).expect("readable"))
}

/// Asks until the answers are as many.
async fn until_answers(to: SocketAddr, asked: &Message, wanted: usize) {
    let asking = async {
        while udp(to, asked).await.answers.len() != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.expect("the answers never came");
}

#[tokio::test]
async fn both_transports_answer_and_follow_changes() {
    let House { servers, address, tasks, .. } = house(Servers::new(web(2)));
    let asked = question("web.service.consul", RecordType::A);
    for _ in 0..50 {
        assert_eq!(udp(address, &asked).await.answers.len(), 2);
    }
    let mut stream = TcpStream::connect(address).await.expect("connected");
    assert_eq!(framed(&mut stream, &asked).await.expect("answered").answers.len(), 2);
    // The question, and the read that waits for a change.
    assert!(servers.asked.load(Ordering::SeqCst) <= 2);
    servers.put(web(1));
    until_answers(address, &asked, 1).await;
    servers.put(web(0));
    until_answers(address, &asked, 0).await;
    let gone = udp(address, &asked).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    assert!(tasks.stop_and_wait(LIMIT).await.unfinished.is_empty());
}

/// Each may take many megabytes, and anybody can ask for unknown addresses.
#[tokio::test]
async fn few_whole_catalogs_are_fetched_at_once() {
    const ASKERS: u8 = 12;
    let House { servers, address, .. } = house(Servers::new(web(1)));
    let mut askers = tokio::task::JoinSet::new();
    for i in 0..ASKERS {
        let asked = question(&format!("{i}.9.9.9.in-addr.arpa"), RecordType::PTR);
        askers.spawn(async move { udp(address, &asked).await });
    }
    let mut waiting = servers.waiting.subscribe();
    let full = waiting.wait_for(|(now, _)| *now == 2);
    tokio::time::timeout(LIMIT, full).await.expect("in time").expect("kept");
    // Other questions are answered meanwhile.
    until_answers(address, &question("web.service.consul", RecordType::A), 1).await;
    servers.whole.add_permits(usize::from(ASKERS));
    while let Some(answer) = askers.join_next().await {
        let answer = answer.expect("answered");
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(*servers.waiting.borrow(), (0, 2));
}

#[tokio::test]
async fn every_order_comes() {
    let House { address, .. } = house(Servers::new(web(3)));
    let asked = question("web.service.consul", RecordType::A);
    let mut orders = std::collections::BTreeSet::new();
    let all = async {
        while orders.len() < 6 {
            orders.insert(lines(&udp(address, &asked).await.answers));
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("an order never came");
}

#[tokio::test]
async fn a_reload_changes_the_next_answer() {
    let House { settings, address, .. } = house(Servers::new(web(3)));
    let asked = question("web.service.consul", RecordType::A);
    until_answers(address, &asked, 3).await;
    let changed = DnsSettings { a_record_limit: 1, ..DnsSettings::default() };
    settings.send_replace(Arc::new(changed));
    until_answers(address, &asked, 1).await;
}

#[tokio::test]
async fn without_servers_a_new_question_fails_at_once() {
    let catalog = Catalog { down: Some(RpcError::NoServers), ..web(1) };
    let servers = Servers { connected: false, ..Servers::new(catalog) };
    let House { servers, address, .. } = house(servers);
    let asked = question("web.service.consul", RecordType::A);
    let answer = udp(address, &asked).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let answer = framed(&mut stream, &asked).await.expect("answered");
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(servers.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_was_answered_before_survives_the_servers() {
    let House { servers, address, .. } = house(Servers::new(web(2)));
    let asked = question("web.service.consul", RecordType::SRV);
    until_answers(address, &asked, 2).await;
    servers.put(Catalog { down: Some(RpcError::NoServers), ..web(2) });
    let other = question("db.service.consul", RecordType::A);
    let code = udp(address, &other).await.metadata.response_code;
    assert_eq!(code, ResponseCode::ServFail);
    for name in ["web.service.consul", "WEB.service.consul"] {
        for kind in [RecordType::SRV, RecordType::A] {
            assert_eq!(udp(address, &question(name, kind)).await.answers.len(), 2);
        }
    }
}

#[tokio::test]
async fn a_copy_that_is_too_old_is_asked_for_again_at_the_leader() {
    let old = Servers { last_contact_ms: 60_000, ..Servers::new(web(2)) };
    let House { servers, settings, address, .. } = house(old);
    let asked = question("web.service.consul", RecordType::A);
    assert_eq!(udp(address, &asked).await.answers.len(), 2);
    assert_eq!(servers.fresh.load(Ordering::SeqCst), 0);
    let max_stale = Duration::from_secs(59);
    settings.send_replace(Arc::new(DnsSettings { max_stale, ..DnsSettings::default() }));
    let asking = async {
        while servers.fresh.load(Ordering::SeqCst) < 2 {
            assert_eq!(udp(address, &asked).await.answers.len(), 2);
        }
    };
    tokio::time::timeout(LIMIT, asking).await.expect("the leader was never asked");
    // Without stale reads each answer comes from the leader.
    settings.send_replace(Arc::new(DnsSettings { allow_stale: false, ..DnsSettings::default() }));
    let before = servers.fresh.load(Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(udp(address, &asked).await.answers.len(), 2);
    }
    assert!(servers.fresh.load(Ordering::SeqCst) >= before + 5);
}

#[tokio::test]
async fn a_flood_of_new_questions_is_bounded_and_answered() {
    let House { servers, address, .. } = house(Servers::new(web(1)));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(address).await.expect("connected");
    let mut answered = 0;
    for round in 0..50 {
        for i in 0..40 {
            let asked = question(&format!("s{round}-{i}.service.consul"), RecordType::A);
            socket.send(&asked.to_vec().expect("a question")).await.expect("sent");
        }
        let mut buffer = vec![0; 65_535];
        for _ in 0..40 {
            let length = tokio::time::timeout(LIMIT, socket.recv(&mut buffer)).await;
            let length = length.expect("in time").expect("received");
            let answer = Message::from_vec(&buffer[..length]).expect("readable");
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
            answered += 1;
        }
    }
    assert_eq!(answered, 2_000);
    // One question each and at most one read that waits for a change.
    assert!(servers.asked.load(Ordering::SeqCst) <= 2 * answered);
}

#[tokio::test]
async fn a_connection_ends_after_its_questions() {
    let House { address, .. } = house(Servers::new(web(1)));
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let asked = question("web.service.consul", RecordType::A);
    for _ in 0..128 {
        framed(&mut stream, &asked).await.expect("answered");
    }
    assert!(framed(&mut stream, &asked).await.is_err());
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let House { address, .. } = house(Servers::new(web(1)));
    let mut stream = TcpStream::connect(address).await.expect("connected");
    // Half a length.
    stream.write_all(&[0]).await.expect("sent");
    let closed = tokio::time::timeout(LIMIT, stream.read(&mut [0; 8])).await.expect("closed");
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = Listeners::bind(&[([127, 0, 0, 1], 0).into()]).expect("a free port");
    let address = first.addresses()[0];
    let error = Listeners::bind(&[address]).err().expect("the port is in use").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(error.contains("-dns-port") && error.contains("-client"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    // UDP alone in the way.
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = udp.local_addr().expect("bound");
    let error = Listeners::bind(&[address]).err().expect("the port is in use");
    assert_eq!((error.address, error.transport), (address, "UDP"));
}
