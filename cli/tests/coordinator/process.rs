//! The Coordinator's process.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A Coordinator that answers. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts one in `dir`, with its user API at the port that is given back.
    pub(crate) fn start(dir: &Path, flags: &str) -> (Self, u16) {
        let mut attempts = (0..5).map(|_| free_port());
        let started = attempts.find_map(|port| Some((Self::start_at(dir, port, flags)?, port)));
        started.unwrap_or_else(|| unreachable!("five ports were taken the moment they were free"))
    }

    /// Starts one with its user API at `port`, unless that is taken.
    pub(crate) fn start_at(dir: &Path, port: u16, flags: &str) -> Option<Self> {
        let log_path = dir.join("coordinator.log");
        let child = Command::new(&*BINARY)
            .args(["--store", "history.redb", "--audit-log", "audit.jsonl"])
            .args(["--mesh-api", "127.0.0.1:0", "--probes", "127.0.0.1:0"])
            .args(["--user-api", &format!("127.0.0.1:{port}")])
            .args([
                "--allow-simulated-tee",
                "--simulated-tee",
                "coordinator-tee.json",
            ])
            .args(flags.split_whitespace())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log_path).unwrap())
            .spawn()
            .unwrap();
        let mut process = Self { child };
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let ended = process.child.try_wait().unwrap();
            let log = std::fs::read_to_string(&log_path).unwrap();
            if log.contains("the Coordinator serves") {
                return Some(process);
            }
            if log.contains("can't listen") {
                return None;
            }
            let may_come = ended.is_none() && Instant::now() < give_up;
            assert!(may_come, "the Coordinator does not serve: {ended:?}\n{log}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback that nobody has. None that the kernel may give to a connection before it is
/// listened on (`ip_local_port_range`).
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() * 32 % 20_000).unwrap();
    loop {
        let port = 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// In the directory that `SEALWIRE_BIN_DIR` names, or beside `sealwire`, where it is built if it is
/// not there.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let beside = Path::new(env!("CARGO_BIN_EXE_sealwire")).parent().unwrap();
    let dir = env::var_os("SEALWIRE_BIN_DIR").map_or_else(|| beside.to_owned(), PathBuf::from);
    let binary = dir.join("sealwire-coordinator");
    if !binary.exists() && dir == beside {
        build(beside);
    }
    assert!(binary.exists(), "{} does not exist", binary.display());
    binary
});

fn build(dir: &Path) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "--package",
            "coordinator",
            "--target-dir",
        ])
        .arg(dir.parent().unwrap());
    if dir.ends_with("release") {
        command.arg("--release");
    }
    assert!(command.status().unwrap().success());
}
