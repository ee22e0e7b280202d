//! etcd processes on loopback, killed when the test ends.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use coordinator::store::{EtcdOptions, EtcdStore};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const PROGRAM: &str = "/usr/bin/etcd";

/// Longer than etcd takes to start, or to elect, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One etcd process; by itself, or a member of a cluster.
#[derive(Debug)]
pub(crate) struct Etcd {
    dir: PathBuf,
    name: String,
    client_port: u16,
    peer_port: u16,
    scheme: &'static str,
    extra: Vec<String>,
    process: Option<Child>,
    temporary: Option<tempfile::TempDir>,
}

impl Etcd {
    /// A cluster of one, started.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for etcd.
    pub(crate) fn start_with(extra: &[String]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut etcd = Self::new(temporary.path(), "one");
        etcd.extra = vec![format!("--initial-cluster={}", etcd.peer())];
        etcd.extra.extend_from_slice(extra);
        etcd.temporary = Some(temporary);
        if extra.iter().any(|it| it.starts_with("--cert-file")) {
            etcd.scheme = "https";
        }
        etcd.run();
        etcd
    }

    /// A member that is not started yet.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        Self {
            dir: dir.join(name),
            name: name.to_owned(),
            client_port: new_port(),
            peer_port: new_port(),
            scheme: "http",
            extra: Vec::new(),
            process: None,
            temporary: None,
        }
    }

    /// As `--initial-cluster` lists it.
    pub(crate) fn peer(&self) -> String {
        format!("{}=http://{}:{}", self.name, address(), self.peer_port)
    }

    /// Replaces the arguments that [`run`](Self::run) adds to its own.
    pub(crate) fn set_arguments(&mut self, extra: Vec<String>) {
        self.extra = extra;
    }

    pub(crate) fn arguments(&self) -> &[String] {
        &self.extra
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://{}:{}", self.scheme, address(), self.client_port)
    }

    /// Options for this member alone.
    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions {
            endpoints: vec![self.endpoint()],
            prefix: "/sealwire".to_owned(),
            ca_pem: None,
            client: None,
            login: None,
            timeout: PATIENCE,
        }
    }

    /// A store in this member alone, once it is up.
    pub(crate) async fn store(&self) -> EtcdStore {
        match EtcdStore::connect(self.options()).await {
            Ok(store) => store,
            Err(error) => {
                let log = fs::read_to_string(self.dir.join("log")).unwrap();
                panic!("{error:?}; etcd says:\n{log}");
            }
        }
    }

    /// Starts the process, again if it was killed.
    pub(crate) fn run(&mut self) {
        fs::create_dir_all(&self.dir).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let peer = format!("http://{}:{}", address(), self.peer_port);
        let client = self.endpoint();
        let process = Command::new(PROGRAM)
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.dir.join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .args(["--heartbeat-interval=100", "--election-timeout=1000"])
            .args(["--logger=zap", "--log-level=error"])
            .args(&self.extra)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Cuts the process off from everything: it gets and sends nothing, and closes nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Ends [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().unwrap().id();
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A loopback address that no other test process has: so no other takes its ports.
pub(crate) fn address() -> Ipv4Addr {
    // An id has 22 bits at most.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high, middle, low)
}

fn new_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(2379);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
