//! curl, unmodified.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testbed::{Finished, Host, HostCommand, Running};

use crate::machine;

/// A curl that will get something.
pub(crate) struct Curl(HostCommand);

impl Curl {
    /// The page, from this host, without TLS.
    pub(crate) fn http(host: &Host, to: SocketAddr) -> Result<Self> {
        Self::get(host, &format!("http://{to}/page"))
    }

    /// The film, from this host, without TLS, so slowly that there is time to do something.
    pub(crate) fn slow_film(host: &Host, to: SocketAddr) -> Result<Self> {
        let Self(command) = Self::get(host, &format!("http://{to}/film"))?;
        Ok(Self(command.args(["--limit-rate", "1M"])))
    }

    /// The page, from this host, with TLS, whoever answers.
    pub(crate) fn https(host: &Host, to: SocketAddr) -> Result<Self> {
        let Self(command) = Self::get(host, &format!("https://{to}/page"))?;
        Ok(Self(command.arg("--insecure")))
    }

    /// Shows the certificate of a `--tls-dir`.
    pub(crate) fn with_certificate(self, tls_dir: &Path) -> Self {
        let Self(command) = self;
        Self(
            command
                .arg("--cert")
                .arg(tls_dir.join("certChain.pem"))
                .arg("--key")
                .arg(tls_dir.join("key.pem")),
        )
    }

    /// Starts it.
    pub(crate) fn start(self) -> Result<Download> {
        Ok(Download {
            started: Instant::now(),
            running: self.0.spawn()?,
        })
    }

    /// Starts it and waits for its end.
    pub(crate) fn run(self) -> Result<Fetched> {
        self.start()?.wait()
    }

    fn get(host: &Host, url: &str) -> Result<Self> {
        let curl = machine::program("curl").context("curl is not installed")?;
        let command = host
            .command(curl)
            .args(["--disable", "--noproxy", "*", "--silent", "--show-error"])
            .args(["--fail", "--max-time", "5"])
            .args(["--write-out", "%{stderr}from %{local_ip} %{local_port}\n"])
            .arg(url);
        Ok(Self(command))
    }
}

/// A curl under way.
pub(crate) struct Download {
    started: Instant,
    running: Running,
}

impl Download {
    /// Waits until it has received something.
    pub(crate) fn wait_until_it_flows(&self) -> Result<()> {
        while self.running.stdout().is_empty() {
            ensure!(
                !self.running.has_ended() && self.started.elapsed() < LIMIT,
                "curl received nothing: {}",
                self.running.stderr()
            );
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> Result<Fetched> {
        let finished = self.running.wait(LIMIT)?;
        let took = self.started.elapsed();
        Ok(Fetched::new(finished, took))
    }
}

/// What a curl that has ended got, and says.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The address it says it connected from, if it did.
    pub(crate) from: Option<SocketAddr>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// From its start to its end.
    pub(crate) took: Duration,
    /// What went wrong, in its words.
    failure: Option<String>,
}

impl Fetched {
    fn new(finished: Finished, took: Duration) -> Self {
        let said = finished.stderr_text();
        let failure = (!finished.status.success()).then(|| {
            let complaint = said.lines().find(|line| line.starts_with("curl: "));
            complaint.unwrap_or("curl failed").to_owned()
        });
        Self {
            from: said.lines().find_map(origin),
            body: finished.stdout,
            took,
            failure,
        }
    }

    /// Fails unless it got exactly this page.
    pub(crate) fn expect(&self, page: &[u8]) -> Result<()> {
        if let Some(failure) = &self.failure {
            bail!("{failure}");
        }
        ensure!(
            self.body == page,
            "curl got {} bytes that are not those of the page",
            self.body.len()
        );
        Ok(())
    }

    /// The address it connected from.
    pub(crate) fn from(&self) -> Result<SocketAddr> {
        self.from.context("curl did not connect")
    }

    /// What it said when it was refused; fails if it was not.
    pub(crate) fn refusal(&self) -> Result<&str> {
        let failure = self.failure.as_deref();
        failure.with_context(|| format!("curl was served, {} bytes", self.body.len()))
    }
}

/// The address in the line that `--write-out` makes.
fn origin(line: &str) -> Option<SocketAddr> {
    let (ip, port) = line.strip_prefix("from ")?.split_once(' ')?;
    let (ip, port): (IpAddr, u16) = (ip.parse().ok()?, port.parse().ok()?);
    (port != 0).then(|| SocketAddr::new(ip, port))
}

/// More than curl gives itself.
const LIMIT: Duration = Duration::from_secs(7);
const POLL: Duration = Duration::from_millis(5);
