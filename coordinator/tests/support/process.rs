//! The real binary, as a process that can be killed and cut off.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::manifest::COORDINATOR;
use super::platform::Platform;
use super::until;
use super::user::User;

/// Where a process is reached, whichever serves there.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) user_api: String,
    pub(crate) mesh_api: String,
    pub(crate) probes: String,
}

impl Address {
    /// Three ports that nobody has, nor any connection: the address is that of this process's tests
    /// alone.
    pub(crate) fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(10_000);
        // An id has 22 bits at most.
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 64 | high, middle, low);
        let [user_api, mesh_api, probes] =
            [(); 3].map(|()| format!("{own}:{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Self {
            user_api,
            mesh_api,
            probes,
        }
    }
}

/// A Coordinator. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) address: Address,
}

impl Process {
    /// Starts one with these arguments beside where it is and what it runs on.
    pub(crate) fn start(
        dir: &Path,
        platform: &Platform,
        address: &Address,
        arguments: &[&str],
    ) -> Self {
        let log = dir.join(format!("{}.log", address.mesh_api));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sealwire-coordinator"))
            .args(["--user-api", &address.user_api])
            .args(["--mesh-api", &address.mesh_api])
            .args(["--probes", &address.probes])
            .arg("--allow-simulated-tee")
            .arg("--simulated-tee")
            .arg(platform.file(dir, COORDINATOR))
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            address: address.clone(),
        }
    }

    /// Waits until it answers.
    pub(crate) async fn up(mut self, platform: &Platform) -> Self {
        let user = self.user(platform);
        until("the process answers", async || {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "the Coordinator has ended");
            user.try_status().await.ok()
        })
        .await;
        self
    }

    pub(crate) fn user(&self, platform: &Platform) -> User {
        User::new(platform, &self.address.user_api)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process ends at once, and everything in its memory with it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Cuts it off: it gets and sends nothing, and closes nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Asks it to end.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Bytes of memory that it takes now.
    pub(crate) fn resident(&self) -> u64 {
        self.meter()()
    }

    /// Tells the same whenever it is asked.
    pub(crate) fn meter(&self) -> impl Fn() -> u64 + Send + 'static {
        let path = format!("/proc/{}/status", self.id());
        move || {
            let status = std::fs::read_to_string(&path).unwrap();
            let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
            let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            kilobytes * 1024
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
