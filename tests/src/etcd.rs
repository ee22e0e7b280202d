//! One etcd, which can be killed, started again where it was, and frozen.

use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::agent::free_port;
use crate::program::{HostCommand, Running, tail};
use crate::testbed::Testbed;

/// An etcd of the root namespace, on the loopback. Dropping it kills it.
#[derive(Debug)]
pub struct Etcd {
    directory: PathBuf,
    port: u16,
    peer_port: u16,
    running: Option<Running>,
}

impl Etcd {
    /// Starts one without contents, and waits until it answers.
    pub fn start(bed: &Testbed) -> Result<Self> {
        let mut etcd = Self {
            directory: bed.directory().join("etcd"),
            port: free_port()?,
            peer_port: free_port()?,
            running: None,
        };
        etcd.restart()?;
        Ok(etcd)
    }

    /// As `--etcd` names it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.running.take().map(drop).context("etcd does not run")
    }

    /// Starts it where it was.
    pub fn restart(&mut self) -> Result<()> {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let netns = "/proc/self/ns/net".into();
        let running = HostCommand::new("etcd", netns, None)
            .arg("--data-dir")
            .arg(&self.directory)
            .args(["--name", "one", "--log-level", "error", "--logger", "zap"])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .spawn()?;
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(
                !running.has_ended() && Instant::now() < deadline,
                "etcd does not serve:\n{}",
                tail(&running.stderr())
            );
            thread::sleep(Duration::from_millis(20));
        }
        self.running = Some(running);
        Ok(())
    }

    /// It answers nobody, and closes nothing, until [`Self::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let running = self.running.as_ref();
        running.context("etcd does not run")?.signal(signal)
    }
}

const LIMIT: Duration = Duration::from_secs(30);
