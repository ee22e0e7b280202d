use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use attestation::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::*;
use crate::appraisal::Demand;
use crate::counters::Counts;
use crate::tests::{Machine, key, refused_by_peer, tls, tls_with};

const FLOOD: usize = 2000;
const NEVER: Duration = Duration::from_hours(1);

impl Incoming {
    async fn next(&mut self) -> AttestedStream<TcpStream> {
        self.attested.recv().await.unwrap()
    }
}

struct Served {
    address: SocketAddr,
    counters: Arc<Counters>,
    incoming: Incoming,
    failures: Arc<Mutex<Vec<(SocketAddr, String)>>>,
}

async fn serve(demand: Demand, limits: Limits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&failures);
    // No test depends on how fast this machine is.
    let tls = AttestedTls::new(key(), demand, NEVER).unwrap();
    let acceptor = Acceptor::new(listener, Arc::new(tls), Offer::default, limits)
        .on_failure(move |remote, error| seen.lock().unwrap().push((remote, error.to_string())));
    Served {
        address,
        counters: acceptor.counters(),
        incoming: acceptor.incoming(),
        failures,
    }
}

async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn honest_client(source: [u8; 4], to: SocketAddr) -> AttestedStream<TcpStream> {
    let stream = connect_from(source, to).await;
    tls(Demand::Nothing)
        .connect(stream, Offer::default())
        .await
        .unwrap()
}

/// Both ends of each half-open connection are of this process.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard > 2 * FLOOD as u64 + 500, "needs more file descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Connections that say nothing, and that each end when the server ends them.
async fn flood(source: [u8; 4], to: SocketAddr) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..FLOOD {
        connections.push(connect_from(source, to).await);
    }
    connections
}

async fn until(counters: &Counters, holds: impl Fn(Counts) -> bool) -> Counts {
    loop {
        let counts = counters.now();
        if holds(counts) {
            return counts;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn two_thousand_half_open_connections_leave_a_client_from_elsewhere_served() {
    allow_many_files();
    let limits = Limits {
        patience: NEVER,
        ..Limits::default()
    };
    let mut served = serve(Demand::Nothing, limits).await;
    let _flood = flood([127, 0, 0, 1], served.address).await;
    let counts = until(&served.counters, |it| it.accepted == FLOOD as u64).await;
    let handshakes = limits.handshakes_per_source as u64;
    let waiting = limits.waiting as u64;
    assert_eq!((counts.handshakes, counts.waiting), (handshakes, waiting));
    assert_eq!(counts.dropped, FLOOD as u64 - handshakes - waiting);
    let (_client, far) = tokio::join!(
        honest_client([127, 0, 0, 2], served.address),
        served.incoming.next()
    );
    assert_eq!(far.peer().remote.unwrap().ip().to_string(), "127.0.0.2");
}

#[tokio::test]
async fn two_thousand_half_open_connections_leave_a_client_of_the_same_source_served() {
    allow_many_files();
    let limits = Limits {
        patience: Duration::from_secs(1),
        ..Limits::default()
    };
    let mut served = serve(Demand::Nothing, limits).await;
    let _flood = flood([127, 0, 0, 1], served.address).await;
    let (_client, _server) = tokio::join!(
        honest_client([127, 0, 0, 1], served.address),
        served.incoming.next()
    );
    let counts = served.counters.now();
    assert_eq!(counts.attested, 1);
    assert!(counts.handshakes <= limits.handshakes_per_source as u64);
    assert!(counts.waiting <= limits.waiting as u64);
}

#[tokio::test]
async fn a_failing_and_a_silent_handshake_are_in_nobodys_way() {
    let mut served = serve(Demand::Nothing, Limits::default()).await;
    let _silent = connect_from([127, 0, 0, 1], served.address).await;
    let mut wrong = connect_from([127, 0, 0, 1], served.address).await;
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (_client, _server) = tokio::join!(
        honest_client([127, 0, 0, 1], served.address),
        served.incoming.next()
    );
    wrong.read_to_end(&mut Vec::new()).await.unwrap();
    let counts = until(&served.counters, |it| it.failed == 1).await;
    assert_eq!((counts.attested, counts.handshakes), (1, 1));
    let failures = served.failures.lock().unwrap();
    let [(remote, error)] = &failures[..] else {
        panic!("{failures:?}");
    };
    assert_eq!(*remote, wrong.local_addr().unwrap());
    assert!(error.starts_with("TLS"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_counted_and_told_with_its_reason() {
    let (wanted, other) = (Machine::running(1), Machine::running(1));
    let served = serve(wanted.demanded(), Limits::default()).await;
    let stream = connect_from([127, 0, 0, 1], served.address).await;
    let client = tls_with(key(), Demand::Nothing);
    let (code, id) = refused_by_peer(client.connect(stream, other.offer()).await);
    assert_eq!(code, "attestation-refused");
    until(&served.counters, |it| it.refused == 1).await;
    let failures = served.failures.lock().unwrap();
    let (_, error) = &failures[0];
    assert!(error.contains(&id.to_string()), "{error}");
    assert!(error.contains(Code::Platform.as_str()), "{error}");
}

#[tokio::test]
async fn a_handshake_that_makes_way_is_told_of() {
    let limits = Limits {
        handshakes: 1,
        patience: Duration::from_millis(20),
        ..Limits::default()
    };
    let mut served = serve(Demand::Nothing, limits).await;
    let mut silent = connect_from([127, 0, 0, 1], served.address).await;
    until(&served.counters, |it| it.handshakes == 1).await;
    let (_client, _server) = tokio::join!(
        honest_client([127, 0, 0, 1], served.address),
        served.incoming.next()
    );
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    let counts = served.counters.now();
    assert_eq!((counts.evicted, counts.attested), (1, 1));
    assert_eq!(
        served.failures.lock().unwrap()[0].0,
        silent.local_addr().unwrap()
    );
}

#[tokio::test]
async fn an_open_connection_keeps_its_place_until_it_is_dropped() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let mut served = serve(Demand::Nothing, limits).await;
    let (_client, first) = tokio::join!(
        honest_client([127, 0, 0, 1], served.address),
        served.incoming.next()
    );
    let second = tokio::spawn(honest_client([127, 0, 0, 2], served.address));
    let counts = until(&served.counters, |it| it.waiting == 1).await;
    assert_eq!((counts.connections, counts.handshakes), (1, 0));
    drop(first);
    served.incoming.next().await;
    second.await.unwrap();
}

#[tokio::test]
async fn nothing_is_accepted_any_more_when_nobody_serves() {
    let served = serve(Demand::Nothing, Limits::default()).await;
    let mut waiting = connect_from([127, 0, 0, 1], served.address).await;
    until(&served.counters, |it| it.handshakes == 1).await;
    drop(served.incoming);
    let end = waiting.read(&mut [0]).await;
    assert!(matches!(end, Ok(0) | Err(_)));
    TcpStream::connect(served.address).await.unwrap_err();
}

/// Fails as accept(2) does when file descriptors have run out.
struct OutOfFiles {
    calls: Arc<AtomicUsize>,
    failures: usize,
    listener: TcpListener,
}

impl Listener for OutOfFiles {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        const EMFILE: i32 = 24;
        if self.calls.fetch_add(1, Ordering::SeqCst) < self.failures {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.listener.accept().await
    }
}

async fn out_of_files(failures: usize) -> (Arc<AtomicUsize>, SocketAddr, Incoming) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let listener = OutOfFiles {
        calls: Arc::clone(&calls),
        failures,
        listener,
    };
    let settings = Settings {
        tls: Arc::new(tls(Demand::Nothing)),
        offer: Box::new(Offer::default),
        on_failure: Arc::new(|_, _| {}),
        limits: Limits::default(),
        counters: Arc::default(),
    };
    (calls, address, Incoming::from_listener(listener, settings))
}

#[tokio::test(start_paused = true)]
async fn without_file_descriptors_it_pauses_and_does_not_spin() {
    let (calls, _, _incoming) = out_of_files(usize::MAX).await;
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let calls = calls.load(Ordering::SeqCst);
    assert!((2..=11).contains(&calls), "{calls}");
}

#[tokio::test]
async fn when_there_are_file_descriptors_again_it_goes_on() {
    let (_, address, mut incoming) = out_of_files(1).await;
    tokio::join!(honest_client([127, 0, 0, 1], address), incoming.next());
}
