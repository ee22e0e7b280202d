//! The process is killed with SIGKILL at every write and sync of every change of history (a
//! manifest, each step of a rotation, a recovery), and at random moments.
//!
//! `SEALWIRE_TEST_KILLS=1000` kills so many times at random; the default is fewer, for time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use api::v1;
use attestation::{Digest, SimulatedTee};
use aws_lc_rs::rand;
use coordinator::audit::Audit;
use coordinator::change::Update;
use coordinator::core::{Coordinator, Deployment, Phase, Settings};
use coordinator::deployment::Unverified;
use coordinator::metrics::Metrics;
use coordinator::rotate::OtherCoordinators;
use coordinator::store::RedbStore;
use fail::FailScenario;
use history::{Kind, OwnerKey, update_statement};
use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};
use support::bed::Bed;
use support::manifest::{policy_document, policy_hash};
use support::owners::{share_owners, workload_owner_pem};
use support::process::{Address, Process};

const POINTS: [&str; 8] = [
    "store::redb::before_write_txn",
    "store::redb::after_objects",
    "store::redb::before_commit",
    "store::redb::after_commit",
    "store::redb::after_repeat",
    "store::redb::file_set_len",
    "store::redb::file_write",
    "store::redb::file_sync",
];

#[test]
fn a_kill_at_any_write_of_any_change_loses_and_repeats_nothing() {
    // Most of the time is that of deadlines, which all wait for together.
    let kills: usize = thread::scope(|scope| {
        POINTS
            .map(|point| scope.spawn(move || kill_at_each_hit(point)))
            .map(|it| it.join().unwrap())
            .into_iter()
            .sum()
    });
    println!("{kills} kills at {} points", POINTS.len());
    assert!(kills >= 100, "{kills} kills");
}

fn kill_at_each_hit(point: &str) -> usize {
    let mut kills = 0;
    // What all the kills before have left, and each time a history of its own.
    let mut used = CrashTest::new();
    let mut hit = 1;
    loop {
        let mut new = CrashTest::new();
        let was_killed = [&mut new, &mut used].map(|it| it.run(Some((point, hit))).finish(it));
        new.check();
        kills += was_killed.into_iter().filter(|it| *it).count();
        // A run that passes the point fewer times goes through.
        if was_killed == [false, false] {
            break;
        }
        // Most writes are alike: after the first of them, some more.
        hit += hit.div_ceil(6);
    }
    assert!(hit > 1, "{point} was never passed");
    used.check();
    kills
}

#[test]
fn a_kill_at_any_moment_loses_and_repeats_nothing() {
    let kills = env::var(KILLS).map_or(160, |it| it.parse::<u64>().unwrap());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(move || kill_at_random(kills.div_ceil(THREADS)));
        }
    });
    println!("{kills} kills");
}

fn kill_at_random(kills: u64) {
    let mut crash = CrashTest::new();
    for kill in 0..kills {
        if kill % 40 == 39 {
            crash.check();
            crash = CrashTest::new();
        }
        // Some are killed while they start and recover, the others while they change.
        let run = crash.run(None);
        let moment = Duration::from_micros(random() % 30_000);
        run.kill(&mut crash, random() % 6, moment);
    }
    crash.check();
}

#[tokio::test]
async fn a_kill_of_the_binary_at_any_moment_loses_and_repeats_nothing() {
    let kills: u64 = env::var(KILLS).map_or(8, |it| it.parse::<u64>().unwrap() / 10);
    let bed = Bed::new();
    let manifest = |number: u64| {
        bed.manifest()
            .workload(&format!("w{number}"))
            .rotation("graceful", 1)
    };
    let address = Address::free();
    let store = bed.dir.path().join("history.redb");
    let start = || {
        let arguments = ["--store", store.to_str().unwrap()];
        Process::start(bed.dir.path(), &bed.platform, &address, &arguments)
    };
    let mut process = start().up(&bed.platform).await;
    let user = process.user(&bed.platform);
    user.set_first(&manifest(0)).await.unwrap();
    let mut acknowledged = user.head().await;
    for kill in 1..=kills {
        let update = async {
            if let Ok(answer) = user.update(&manifest(kill)).await {
                let head = answer.head.unwrap();
                acknowledged.seq = head.seq;
                acknowledged.hash = Digest(head.transition.try_into().unwrap());
            }
            // The rotation goes on by itself.
            std::future::pending::<()>().await;
        };
        let moment = Duration::from_millis(random() % 150);
        assert!(tokio::time::timeout(moment, update).await.is_err());
        process.kill();
        process = start().up(&bed.platform).await;
        user.recover().await;
        let (chain, _) = user.history().await;
        chain.check_extends(&acknowledged).unwrap();
        acknowledged = chain.head();
    }
    println!("{kills} kills of the binary");
    assert_eq!(user.status().await.phase(), v1::Phase::Ready);
}

/// One store, and what its processes said.
struct CrashTest {
    dir: tempfile::TempDir,
    /// Every transition that a process has acknowledged: number one first.
    acknowledged: Vec<String>,
}

impl CrashTest {
    fn new() -> Self {
        // A kill takes nothing from the page cache, so syncing to a disk would but cost time.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let bed = Bed::new();
        let manifest = bed.manifest().workload("web").rotation("graceful", 1);
        fs::write(dir.path().join(MANIFEST), manifest.bytes()).unwrap();
        for (number, owner) in share_owners(3).into_iter().enumerate() {
            fs::write(dir.path().join(format!("share-{number}")), &owner.pem).unwrap();
        }
        fs::write(dir.path().join(OWNER), workload_owner_pem(0)).unwrap();
        Self {
            dir,
            acknowledged: Vec::new(),
        }
    }

    fn run(&self, kill_at: Option<(&str, u64)>) -> Run {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "--nocapture", "changing_process"])
            .env(DIR, self.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((point, hit)) = kill_at {
            command.env(KILL_AT, format!("{point} {hit}"));
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Run { child, lines }
    }

    /// A process that nobody kills recovers, verifies all of it, and goes on.
    fn check(&mut self) {
        let run = self.run(None);
        let changes = if self.acknowledged.is_empty() { 1 } else { 2 };
        run.kill(self, changes, Duration::ZERO);
    }

    /// Takes note of what a process found in the store, or of what it appended.
    fn hear(&mut self, line: &str) -> Heard {
        let Some((kind, line)) = line.strip_prefix(SAID).and_then(|it| it.split_once(' ')) else {
            return Heard::Nothing;
        };
        match kind {
            "found" => {
                let found: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
                let known = self.acknowledged.len();
                // A manifest and the two steps of its rotation, which nobody was told of any more.
                assert!(
                    (known..=known + 3).contains(&found.len()),
                    "{known} transitions were acknowledged, but {} are there",
                    found.len()
                );
                assert_eq!(found[..known], self.acknowledged, "another history");
                self.acknowledged = found;
                Heard::Nothing
            }
            "appended" => {
                let (seq, hash) = line.split_once(' ').unwrap();
                let seq: usize = seq.parse().unwrap();
                // One that is acknowledged again was there when the process looked.
                if seq > self.acknowledged.len() {
                    assert_eq!(seq, self.acknowledged.len() + 1, "a gap");
                    self.acknowledged.push(hash.to_owned());
                }
                assert_eq!(self.acknowledged[seq - 1], hash);
                Heard::Change
            }
            other => panic!("{other}"),
        }
    }
}

#[derive(PartialEq)]
enum Heard {
    Change,
    Nothing,
}

/// A process that changes history, and says so line by line.
struct Run {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Run {
    /// Kills the process so long after so many changes.
    fn kill(mut self, crash: &mut CrashTest, changes: u64, after: Duration) {
        let mut heard = 0;
        while heard < changes {
            let Some(line) = self.lines.next() else {
                self.fail("the process ended by itself");
            };
            heard += u64::from(crash.hear(&line.unwrap()) == Heard::Change);
        }
        let end = Instant::now() + after;
        // To the microsecond, which no sleep is.
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        self.child.kill().unwrap();
        self.finish(crash);
    }

    /// Hears the process out; whether it was killed.
    fn finish(mut self, crash: &mut CrashTest) -> bool {
        for line in &mut self.lines {
            crash.hear(&line.unwrap());
        }
        let status = self.child.wait().unwrap();
        if !status.success() && status.code().is_some() {
            self.fail(&status.to_string());
        }
        status.code().is_none()
    }

    fn fail(mut self, why: &str) -> ! {
        let _ = self.child.kill();
        let output = self.child.wait_with_output().unwrap();
        panic!("{why}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Not a test, but the process that the tests kill: recovers where there is something to recover,
/// then sets manifests, whose rotations go on meanwhile.
#[tokio::test]
#[ignore = "the process that the tests kill"]
async fn changing_process() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let _scenario = FailScenario::setup();
    if let Ok(kill_at) = env::var(KILL_AT) {
        let (point, hit) = kill_at.split_once(' ').unwrap();
        kill_at_hit(point, hit.parse().unwrap());
    }
    let store = RedbStore::open(dir.join("history.redb")).await.unwrap();
    let settings = Settings {
        simulated: SimulatedTee::Allowed,
        ..Settings::default()
    };
    let audit = Audit::open(None).unwrap();
    let coordinator = Coordinator::start(Arc::new(store), settings, audit, Metrics::default())
        .await
        .unwrap();
    if let Phase::Recovery(waiting) = coordinator.phase() {
        recover(&coordinator, &waiting, &dir).await;
    } else {
        say("found", "");
        set(&coordinator, &dir, Digest([0; 32])).await;
    }
    tokio::spawn(Arc::clone(&coordinator).rotate(Arc::new(Alone)));
    let limit = if env::var_os(KILL_AT).is_some() {
        2
    } else {
        u64::MAX
    };
    for _ in 0..limit {
        let deployment = done(&coordinator).await;
        let head = deployment.ledger.chain().head();
        set(&coordinator, &dir, head.hash).await;
    }
    done(&coordinator).await;
}

struct Alone;

#[tonic::async_trait]
impl OtherCoordinators for Alone {
    async fn waiting_for(&self, _: u64) -> Option<Vec<String>> {
        Some(vec![])
    }
}

async fn recover(coordinator: &Coordinator, waiting: &Unverified, dir: &Path) {
    let need = usize::from(waiting.shares.threshold());
    for number in 0..need {
        let key = fs::read_to_string(dir.join(format!("share-{number}"))).unwrap();
        let share = waiting.shares.decrypt(&key).unwrap();
        let progress = coordinator.recover(share, None).await.unwrap();
        assert_eq!(progress.recovered, number + 1 == need);
    }
    let deployment = coordinator.deployment().unwrap();
    let chain = deployment.ledger.chain();
    let manifests: Vec<_> = chain
        .iter()
        .filter(|it| it.transition.kind == Kind::Manifest)
        .map(|it| it.transition.manifest)
        .collect();
    let distinct: BTreeSet<_> = manifests.iter().collect();
    assert_eq!(
        distinct.len(),
        manifests.len(),
        "a manifest was applied twice"
    );
    let (last, before) = chain.iter().as_slice().split_last().unwrap();
    let found: Vec<_> = before
        .iter()
        .map(|it| it.transition.hash().to_string())
        .collect();
    // Before what the recovery itself has appended.
    say("found", &found.join(" "));
    appended(&last.transition.head());
}

/// Waits for the end of the rotation, step by step.
async fn done(coordinator: &Coordinator) -> Arc<Deployment> {
    let mut phases = coordinator.watch();
    loop {
        if let Phase::Ready(deployment) = phases.borrow_and_update().clone() {
            let chain = deployment.ledger.chain();
            let (count, seq) = (chain.iter().len(), chain.head().seq);
            assert_eq!(count as u64, seq);
            // The watch may have left some out.
            for it in chain.iter().skip(count.saturating_sub(4)) {
                appended(&it.transition.head());
            }
            if coordinator.pending(&deployment).is_none() {
                return deployment;
            }
        }
        phases.changed().await.unwrap();
    }
}

/// A manifest that differs from all before, with the shares of which one or two recover.
async fn set(coordinator: &Coordinator, dir: &Path, previous: Digest) {
    let number = random();
    let text = fs::read(dir.join(MANIFEST)).unwrap();
    let mut manifest: Value = serde_json::from_slice(&text).unwrap();
    manifest["Policies"][policy_hash("web").to_string()]["SANs"] = json!([format!("w{number}")]);
    manifest["SeedshareQuorum"] = json!(1 + number % 2);
    let manifest = manifest.to_string().into_bytes();
    let statement = update_statement(&Digest::of(&manifest), &previous);
    let update = Update {
        manifest,
        policies: vec![policy_document("web")],
        authorisations: vec![owner(dir).sign(&statement).unwrap()],
        previous: Some(previous),
    };
    let updated = coordinator.set_manifest(update).await.unwrap();
    appended(&updated.deployment.ledger.chain().head());
}

fn owner(dir: &Path) -> OwnerKey {
    OwnerKey::from_pem(&fs::read_to_string(dir.join(OWNER)).unwrap()).unwrap()
}

fn appended(head: &history::Head) {
    say("appended", &format!("{} {}", head.seq, head.hash));
}

/// In one write, as what is said before a kill must not be half a line.
fn say(kind: &str, what: &str) {
    let line = format!("\n{SAID}{kind} {what}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

fn kill_at_hit(point: &str, hit: u64) {
    let passed = AtomicU64::new(0);
    fail::cfg_callback(point, move || {
        if passed.fetch_add(1, Ordering::Relaxed) + 1 == hit {
            raise(Signal::SIGKILL).unwrap();
        }
    })
    .unwrap();
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).unwrap();
    u64::from_be_bytes(bytes)
}

const THREADS: u64 = 4;
const MANIFEST: &str = "manifest.json";
const OWNER: &str = "owner.pem";
const SAID: &str = "crash test: ";
const DIR: &str = "SEALWIRE_TEST_DIR";
const KILL_AT: &str = "SEALWIRE_TEST_KILL_AT";
const KILLS: &str = "SEALWIRE_TEST_KILLS";
