//! Whoever floods a Coordinator keeps nobody else out, and takes no more memory than there is.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::v1::user_api_client::UserApiClient;
use attestation::Digest;
use attested_tls::{AttestedTls, Demand, Offer, SessionKey};
use support::agent::{Agent, Failure};
use support::bed::Bed;
use support::process::{Address, Process};
use support::running::get;
use support::user::{expected, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_that_come_to_nothing_keep_no_agent_out() {
    let bed = Bed::new();
    let process = ready(&bed).await;
    let honest = Honest::start(&bed, &process);
    honest.wait_for(3).await;
    let before = process.resident();
    let peak = Peak::watch(&process);
    let connected = flood(&process.address, 10_000, |number| 2 + (number % 7) as u8).await;
    let ready = timeout(support::PATIENCE, get(&process.address.probes, "/ready")).await;
    assert!(ready.unwrap().contains("200 OK"));
    honest.wait_for(3).await;
    let ended = honest.stop().await;
    let more = peak.stop().await.saturating_sub(before);
    println!("{connected} connections; {ended}; {} MiB more", more >> 20);
    assert!(connected > 9_000, "{connected} of 10,000 connections");
    assert_eq!(ended.failed, 0);
    assert!(more < 128 << 20, "{} MiB more", more >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_the_same_address_as_a_flood_gets_through_when_it_tries_again() {
    let bed = Bed::new();
    let process = ready(&bed).await;
    let honest = Honest::start(&bed, &process);
    honest.wait_for(3).await;
    let before = honest.enrolled.load(Ordering::Acquire);
    flood(&process.address, 3_000, |_| 1).await;
    let meanwhile = honest.enrolled.load(Ordering::Acquire) - before;
    let ended = honest.stop().await;
    println!("{meanwhile} enrolments meanwhile; {ended}");
    assert!(meanwhile > 0, "the agent was kept out");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_of_strangers_share_what_there_is_and_small_ones_are_answered() {
    let bed = Bed::new();
    let process = ready(&bed).await;
    let user = process.user(&bed.platform);
    let honest = Honest::start(&bed, &process);
    honest.wait_for(3).await;
    let before = process.resident();
    let peak = Peak::watch(&process);

    // 24 connections with 4 requests of 15 MiB each: 1.4 GiB, were all of it taken.
    let mut strangers = Vec::new();
    for _ in 0..24 {
        let client = stranger(&bed, &process.address.user_api).await;
        for _ in 0..4 {
            let mut client = client.clone();
            strangers.push(tokio::spawn(async move {
                let large = request(vec![b' '; 15 << 20], Digest([0; 32]), &[]);
                client.set_manifest(large).await.err().unwrap()
            }));
        }
    }
    // An owner's update is small, and comes through.
    sleep(Duration::from_millis(500)).await;
    user.update(&bed.manifest().workload("web").workload("new"))
        .await
        .unwrap();
    let mut refused = 0;
    for it in strangers {
        let status = timeout(4 * support::PATIENCE, it).await.unwrap().unwrap();
        refused += usize::from(status.code() == tonic::Code::ResourceExhausted);
        let is_authorised = support::code(&status).is_empty();
        assert!(is_authorised || support::code(&status) == "not-authorised");
    }
    honest.wait_for(3).await;
    let ended = honest.stop().await;
    let more = peak.stop().await.saturating_sub(before);
    println!(
        "{refused} of 96 had no place; {ended}; {} MiB more",
        more >> 20
    );
    assert_eq!(ended.failed, 0);
    assert!(refused > 0, "all of them had a place");
    assert!(more < 512 << 20, "{} MiB more", more >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_beside_connections_that_say_nothing() {
    let bed = Bed::new();
    let process = ready(&bed).await;
    let probes = process.address.probes.clone();
    let mut silent = Vec::new();
    for _ in 0..2000 {
        silent.push(TcpStream::connect(&probes).await.unwrap());
    }
    let ready = timeout(support::PATIENCE, get(&probes, "/ready")).await;
    assert!(ready.unwrap().contains("200 OK"));
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id()));
    let descriptors = descriptors.unwrap().count();
    assert!(descriptors < 400, "{descriptors} descriptors");
}

async fn ready(bed: &Bed) -> Process {
    let store = bed.dir.path().join("history.redb");
    let arguments = ["--store", store.to_str().unwrap()];
    let process = Process::start(bed.dir.path(), &bed.platform, &Address::free(), &arguments)
        .up(&bed.platform)
        .await;
    let manifest = bed.manifest().workload("web");
    let user = process.user(&bed.platform);
    user.set_first(&manifest).await.unwrap();
    process
}

/// Opens so many connections to all that a Coordinator listens on, to the mesh API mostly; how many
/// came about.
async fn flood(address: &Address, count: u32, source: impl Fn(u32) -> u8) -> u32 {
    let at_once = Arc::new(Semaphore::new(3000));
    let mut flood = Vec::new();
    for number in 0..count {
        let place = Arc::clone(&at_once).acquire_owned().await.unwrap();
        let target = match number % 10 {
            0 => &address.user_api,
            1 => &address.probes,
            _ => &address.mesh_api,
        };
        let source = Ipv4Addr::new(127, 0, 0, source(number));
        let target = target.parse().unwrap();
        flood.push(tokio::spawn(async move {
            let _place = place;
            nuisance(source, target, number % 4).await
        }));
        if number % 100 == 0 {
            sleep(Duration::from_millis(40)).await;
        }
    }
    let mut connected = 0;
    for it in flood {
        connected += u32::from(it.await.unwrap());
    }
    connected
}

/// A connection that comes to nothing; whether there was one.
async fn nuisance(source: Ipv4Addr, target: SocketAddr, kind: u32) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let connected = timeout(support::PATIENCE, socket.connect(target)).await;
    let Ok(Ok(mut stream)) = connected else {
        return false;
    };
    match kind {
        // Says nothing.
        0 => sleep(Duration::from_secs(2)).await,
        // Says the beginning of a ClientHello, a byte at a time.
        1 => {
            for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7, 7, 7] {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(150)).await;
            }
        }
        // Says what makes no sense, as fast as it can.
        2 => {
            let _ = stream.write_all(&vec![0x5a; 64 * 1024]).await;
            let mut answer = Vec::new();
            let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
        }
        // Says that a record of 16 KiB follows, and nothing more.
        _ => {
            let _ = stream.write_all(&[0x16, 3, 3, 0x40, 0, 1]).await;
            sleep(Duration::from_secs(2)).await;
        }
    }
    true
}

/// Somebody who sends what he likes.
async fn stranger(bed: &Bed, address: &str) -> UserApiClient<tonic::transport::Channel> {
    let tls = AttestedTls::new(
        SessionKey::generate().unwrap(),
        Demand::Evidence(expected(&bed.platform)),
        support::PATIENCE,
    );
    let (channel, _) =
        attested_tls::channel(tls.unwrap().into(), address.to_owned(), Offer::default())
            .await
            .unwrap();
    UserApiClient::new(channel).max_encoding_message_size(usize::MAX)
}

/// An agent that enrols again and again, each time on a connection of its own.
struct Honest {
    task: tokio::task::JoinHandle<Ended>,
    enrolled: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

/// How an agent fared.
#[derive(Clone, Copy, Default)]
struct Ended {
    enrolled: u64,
    failed: u64,
    slowest: Duration,
}

impl Honest {
    fn start(bed: &Bed, process: &Process) -> Self {
        let (enrolled, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut agent = Agent::new(&bed.platform, "web");
        let address = process.address.mesh_api.clone();
        let task = tokio::spawn({
            let (enrolled, is_over) = (Arc::clone(&enrolled), Arc::clone(&is_over));
            async move {
                let mut ended = Ended::default();
                while !is_over.load(Ordering::Acquire) {
                    let begin = Instant::now();
                    match agent.enrol_at(&address).await {
                        Ok(_) => {
                            ended.slowest = ended.slowest.max(begin.elapsed());
                            ended.enrolled = enrolled.fetch_add(1, Ordering::AcqRel) + 1;
                        }
                        Err(Failure::Connection(_)) => ended.failed += 1,
                        Err(refused) => panic!("{refused}"),
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                ended
            }
        });
        Self {
            task,
            enrolled,
            is_over,
        }
    }

    /// Waits for so many more enrolments.
    async fn wait_for(&self, count: u64) {
        let wanted = self.enrolled.load(Ordering::Acquire) + count;
        support::until("an honest enrolment", async || {
            (self.enrolled.load(Ordering::Acquire) >= wanted).then_some(())
        })
        .await;
    }

    async fn stop(self) -> Ended {
        self.is_over.store(true, Ordering::Release);
        self.task.await.unwrap()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            enrolled,
            failed,
            slowest,
        } = self;
        write!(
            f,
            "{enrolled} enrolments, the slowest in {slowest:?}, {failed} failures"
        )
    }
}

/// The most memory that a process takes meanwhile.
struct Peak {
    task: tokio::task::JoinHandle<u64>,
    is_over: Arc<AtomicBool>,
}

impl Peak {
    fn watch(process: &Process) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let resident = process.meter();
        let task = tokio::spawn({
            let is_over = Arc::clone(&is_over);
            async move {
                let mut peak = 0;
                while !is_over.load(Ordering::Acquire) {
                    peak = peak.max(resident());
                    sleep(Duration::from_millis(50)).await;
                }
                peak
            }
        });
        Self { task, is_over }
    }

    async fn stop(self) -> u64 {
        self.is_over.store(true, Ordering::Release);
        self.task.await.unwrap()
    }
}
