//! The process is killed with SIGKILL, a thousand times: at every write, sync and step of an
//! append, of making the file and of opening it after a kill, and at random moments.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use coordinator::store::{RedbStore, Store, StoredHead};
use fail::FailScenario;
use nix::sys::signal::{Signal, raise};
use store::transition::{Step, Transition, noise, operations, operations_since, random};

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

#[tokio::test]
async fn a_kill_at_any_step_loses_and_repeats_nothing() {
    let mut kills = 0;
    for point in POINTS {
        // Once from no file, once from what all the kills before have left.
        let mut used = CrashTest::new();
        let mut hit = 1;
        loop {
            let mut new = CrashTest::new();
            let was_killed = [
                new.run(Some((point, hit))).finish(),
                used.run(Some((point, hit))).finish(),
            ];
            new.check().await;
            used.check().await;
            kills += was_killed.into_iter().filter(|it| *it).count();
            // A run that passes the point fewer times goes through.
            if was_killed == [false, false] {
                break;
            }
            hit += 1;
        }
        assert!(hit > 1, "{point} was never passed");
        used.check_all().await;
    }
    println!("{kills} kills at {} points", POINTS.len());
    assert!(kills >= 150, "{kills} kills");
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_and_repeats_nothing() {
    let mut state = 20_261_121;
    let mut appends = 0;
    for _ in 0..34 {
        let mut crash = CrashTest::new();
        for _ in 0..25 {
            let run = crash.run(None);
            // A third is killed while the file is opened, or made; the others while they append.
            let appends = random(&mut state) % 3;
            let micros = random(&mut state) % if appends == 0 { 20_000 } else { 2_000 };
            run.kill(appends, Duration::from_micros(micros));
            crash.check().await;
        }
        crash.check_all().await;
        appends += crash.acknowledged();
    }
    println!("850 kills in {appends} appends");
    assert!(appends > 850, "{appends} appends");
}

/// One store, and what its processes said.
struct CrashTest {
    dir: tempfile::TempDir,
    known: Option<StoredHead>,
    acknowledged: AtomicU64,
}

impl CrashTest {
    fn new() -> Self {
        Self {
            dir: memory_dir(),
            known: None,
            acknowledged: AtomicU64::new(0),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("history")
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn run(&self, kill_at: Option<(&str, u64)>) -> Run<'_> {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "--nocapture", "appender"])
            .env(STORE, self.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some((point, hit)) = kill_at {
            command.env(KILL_AT, format!("{point} {hit}"));
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Run {
            child,
            lines,
            acknowledged: &self.acknowledged,
        }
    }

    /// Everything acknowledged is there, in order, once; at most one more than that.
    async fn check(&mut self) {
        if !self.path().exists() {
            assert_eq!(self.acknowledged(), 0, "the file is gone");
            return;
        }
        let store = RedbStore::open(self.path()).await.unwrap();
        let head = store.head().await.unwrap();
        let seq = head.map_or(0, |it| it.seq);
        let acknowledged = self.acknowledged();
        assert!(
            seq == acknowledged || seq == acknowledged + 1,
            "{acknowledged} appends were acknowledged, but {seq} are there"
        );
        let new = operations_since(&store, head, self.known).await;
        let expected = (self.known.map_or(0, |it| it.seq) + 1..=seq).rev();
        assert_eq!(new, expected.map(|it| it.to_string()).collect::<Vec<_>>());
        self.known = head;
        self.acknowledged.store(seq, Ordering::Relaxed);
    }

    async fn check_all(&self) {
        if !self.path().exists() {
            return;
        }
        let store = RedbStore::open(self.path()).await.unwrap();
        let all = operations(&store, self.known).await;
        let expected = (1..=self.acknowledged()).map(|it| it.to_string());
        assert_eq!(all, expected.collect::<Vec<_>>());
    }
}

/// A directory in memory, if there is one: a kill takes nothing from the page cache, so syncing
/// to a disk would but cost time.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// A process that appends, and says so line by line.
struct Run<'a> {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    acknowledged: &'a AtomicU64,
}

impl Run<'_> {
    /// Kills the process so long after so many acknowledgements.
    fn kill(mut self, appends: u64, after: Duration) {
        for _ in 0..appends {
            assert!(self.hear(), "the process ended by itself");
        }
        let end = Instant::now() + after;
        // To the microsecond, which no sleep is.
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        self.child.kill().unwrap();
        assert!(self.finish(), "the process ended by itself");
    }

    /// Hears the process out; whether it was killed.
    fn finish(mut self) -> bool {
        while self.hear() {}
        let status = self.child.wait().unwrap();
        assert!(
            status.success() || status.code().is_none(),
            "the process failed: {status}"
        );
        status.code().is_none()
    }

    /// Takes note of the next acknowledgement; `false` when there are no more.
    fn hear(&mut self) -> bool {
        for line in &mut self.lines {
            let line = line.unwrap();
            if let Some(operation) = line.strip_prefix(ACKNOWLEDGED) {
                self.acknowledged
                    .store(operation.parse().unwrap(), Ordering::Relaxed);
                return true;
            }
        }
        false
    }
}

/// Not a test, but the process that the tests kill: it goes on from where the history ends.
#[tokio::test]
#[ignore = "the process that the tests kill"]
async fn appender() {
    let Some(path) = env::var_os(STORE) else {
        return;
    };
    let limit = if env::var_os(KILL_AT).is_some() {
        APPENDS_OF_A_RUN
    } else {
        u64::MAX
    };
    let _scenario = FailScenario::setup();
    if let Ok(kill_at) = env::var(KILL_AT) {
        let (point, hit) = kill_at.split_once(' ').unwrap();
        kill_at_hit(point, hit.parse().unwrap());
    }
    let store = RedbStore::open(Path::new(&path)).await.unwrap();
    let mut head = store.head().await.unwrap();
    let mut operation = match head {
        Some(head) => {
            let bytes = store.get(&head.transition).await.unwrap().unwrap();
            Transition::decode(&bytes).operation.parse().unwrap()
        }
        None => 0,
    };
    for _ in 0..limit {
        operation += 1;
        let length = usize::try_from(operation * 7919 % 5_000).unwrap();
        let step = Step::after(head, &operation.to_string(), noise(operation, length));
        step.append(&store).await.unwrap();
        head = Some(step.head);
        // In one write, as what is said before a kill must not be half a line.
        let line = format!("\n{ACKNOWLEDGED}{operation}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
    }
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

#[test]
fn what_a_kill_leaves_beside_the_file_is_no_store() {
    let crash = CrashTest::new();
    assert!(crash.run(Some(("store::redb::file_sync", 1))).finish());
    assert!(!crash.path().exists());
    let left: Vec<_> = fs::read_dir(crash.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        left.iter().all(|name| name.starts_with(".sealwire-")),
        "{left:?}"
    );
    assert!(
        !crash
            .run(Some(("store::redb::file_sync", u64::MAX)))
            .finish()
    );
    assert_eq!(crash.acknowledged(), APPENDS_OF_A_RUN);
}

/// How many appends a process makes that is to be killed at a certain point.
const APPENDS_OF_A_RUN: u64 = 3;
const ACKNOWLEDGED: &str = "acknowledged ";
const STORE: &str = "SEALWIRE_TEST_STORE";
const KILL_AT: &str = "SEALWIRE_TEST_KILL_AT";
