//! What systemd is told, and what it makes of the unit.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testbed::agent::{Agent, AgentConfig, WorkloadConfig};
use testbed::pki::Mesh;
use testbed::{Testbed, require};

#[test]
fn the_service_manager_hears_that_the_agent_serves_lives_and_ends() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let told = Told::open(&bed)?;
    let mut agent = start(&bed, &told, "600000")?;
    let ready = told.wait_for("READY=1")?;
    assert!(ready.contains("MAINPID="), "{ready}");
    // A third of 600 ms each.
    for _ in 0..3 {
        told.wait_for("WATCHDOG=1")?;
    }
    agent.stop()?;
    told.wait_for("STOPPING=1").map(|_| ())
}

#[test]
fn an_heir_says_that_it_is_the_main_process_now() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let told = Told::open(&bed)?;
    let mut agent = start(&bed, &told, "60000000")?;
    let before = told.wait_for("READY=1")?;
    let _old = agent.take_over(Duration::from_mins(1))?;
    let now = told.wait_for("READY=1")?;
    assert!(now.contains("MAINPID=") && now != before, "{before} {now}");
    Ok(())
}

#[test]
fn an_agent_that_stands_still_is_not_said_to_live() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let told = Told::open(&bed)?;
    let agent = start(&bed, &told, "600000")?;
    told.wait_for("WATCHDOG=1")?;
    agent.signal(nix::sys::signal::Signal::SIGSTOP)?;
    told.drain()?;
    assert!(
        told.next(Duration::from_secs(1)).is_err(),
        "a dead man speaks"
    );
    agent.signal(nix::sys::signal::Signal::SIGCONT)?;
    told.wait_for("WATCHDOG=1").map(|_| ())
}

#[test]
fn the_unit_is_one_that_systemd_takes() -> Result<()> {
    require!("systemd-analyze");
    let bed = Testbed::new(&["client"])?;
    // With programs that are there.
    let unit =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/sealwire-agent.service");
    let text = std::fs::read_to_string(unit)?.replace("/usr/bin/sealwire-agent", "/bin/true");
    let copy = bed.directory().join("sealwire-agent.service");
    std::fs::write(&copy, text)?;
    let judged = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&copy)
        .output()?;
    let said = String::from_utf8_lossy(&judged.stderr);
    let of_unit: Vec<_> = said
        .lines()
        .filter(|line| line.contains("sealwire-agent.service"))
        .collect();
    assert!(of_unit.is_empty(), "{of_unit:#?}");
    Ok(())
}

fn start(bed: &Testbed, told: &Told, watchdog_usec: &str) -> Result<Agent> {
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let workload = WorkloadConfig::of(bed.host("client"), &mesh.issue("client")?);
    let config = AgentConfig::new(vec![workload])?
        .with_variable("NOTIFY_SOCKET", &told.path)
        .with_variable("WATCHDOG_USEC", watchdog_usec);
    Agent::start_with(bed, config)
}

/// What the service manager would hear.
struct Told {
    socket: UnixDatagram,
    path: String,
}

impl Told {
    fn open(bed: &Testbed) -> Result<Self> {
        let path = bed.directory().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        let path = path.to_str().context("a path in UTF-8")?.to_owned();
        Ok(Self { socket, path })
    }

    fn next(&self, limit: Duration) -> Result<String> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut message = [0; 1024];
        let len = self.socket.recv(&mut message)?;
        Ok(String::from_utf8_lossy(&message[..len]).into_owned())
    }

    fn wait_for(&self, part: &str) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            let message = self.next(Duration::from_secs(10));
            let message = message.with_context(|| format!("waiting for {part}"))?;
            if message.contains(part) {
                return Ok(message);
            }
        }
        anyhow::bail!("no {part}")
    }

    /// Forgets what waits.
    fn drain(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [0; 1024]).is_ok() {}
        self.socket.set_nonblocking(false)?;
        Ok(())
    }
}
