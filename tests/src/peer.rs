//! The two ends of a test's connection: the unmodified program `peer`, and what it reports.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::program::{HostCommand, Running};
use crate::testbed::Host;

/// A line of `peer`'s standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Report {
    /// `serve` listens.
    Listening {
        /// Where.
        address: SocketAddr,
    },
    /// `serve` accepted a connection.
    Accepted(Ends),
    /// `connect --wait-after-socket` made its socket and waits for a line on standard input.
    SocketMade,
    /// `connect --permit-by` has asked for its socket.
    Asked {
        /// The error's name; `None` where the guard lets the socket pass from now on.
        errno: Option<String>,
    },
    /// `connect` is connected.
    Connected(Ends),
    /// `connect` could not connect.
    ConnectFailed {
        /// The error's name, `ECONNREFUSED` say.
        errno: String,
        /// How long it took.
        milliseconds: u64,
    },
    /// A conversation is over.
    Closed(Closed),
    /// `many` is done.
    Many(Many),
    /// `raw` sent its segments.
    Sent {
        /// How many the kernel took.
        segments: u32,
        /// Why it did not take the others.
        errors: Vec<String>,
    },
}

/// The addresses that a program sees of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// What `accept` returned.
    pub accepted_from: Option<SocketAddr>,
    /// What `getpeername` returned.
    pub peer: Option<SocketAddr>,
    /// What `getsockname` returned.
    pub local: Option<SocketAddr>,
}

/// What one end saw of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// The connection's addresses, taken at its start.
    #[serde(flatten)]
    pub ends: Ends,
    /// Bytes that the kernel took.
    pub sent: u64,
    /// Bytes that arrived.
    pub received: u64,
    /// The offset of the first byte that is not the one expected.
    pub difference: Option<u64>,
    /// How the stream that it received ended.
    pub end: End,
    /// The name of the error that ended the stream that it sent.
    pub send_error: Option<String>,
    /// From the start of the conversation to its end.
    pub milliseconds: u64,
}

impl Closed {
    /// The connection was torn down, seen by a read or by a write.
    pub fn was_reset(&self) -> bool {
        self.end == End::Reset
            || self
                .send_error
                .as_deref()
                .is_some_and(|name| ["ECONNRESET", "EPIPE"].contains(&name))
    }

    /// Exactly `sent` bytes left, exactly `received` right ones came, and then a clean end.
    #[track_caller]
    pub fn assert_exact(&self, sent: u64, received: u64) {
        let got = (
            self.sent,
            self.received,
            self.difference,
            self.end,
            self.send_error.as_deref(),
        );
        assert_eq!(got, (sent, received, None, End::Eof, None), "{self:?}");
    }
}

/// How a received stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// With a FIN.
    Eof,
    /// With a reset.
    Reset,
    /// Nothing came for a minute.
    TimedOut,
    /// With another error.
    Failed,
    /// The program stopped reading, as it was told to.
    Stopped,
}

/// What `many` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Many {
    /// Connections whose every byte came back.
    pub exact: u64,
    /// The most that were open at once.
    pub open_at_once: u64,
    /// What went wrong with the others, and how often.
    pub failures: std::collections::BTreeMap<String, u64>,
    /// How long it all took.
    pub milliseconds: u64,
    /// How long the longest took of those that did not wait for others.
    pub longest_milliseconds: u64,
    /// How many were due, with `--rate`, while too many were under way.
    pub left_out: u64,
    /// Its ends of the connections, in the order in which it made them; only with `--in-order`.
    pub ports: Vec<u16>,
}

/// `peer serve` on a host. Dropping it kills the program.
#[derive(Debug)]
pub struct Server {
    running: Running,
}

impl Server {
    /// Starts it with these options, and waits until it listens on all of `addresses`.
    pub fn start(host: &Host, addresses: &[SocketAddr], options: &str) -> Result<Self> {
        Self::spawn(command(host)?, addresses, options)
    }

    /// Starts it in the host's namespace but in no cgroup of the host.
    pub fn start_outside_the_cgroup(
        host: &Host,
        addresses: &[SocketAddr],
        options: &str,
    ) -> Result<Self> {
        Self::spawn(command(host)?.outside_the_cgroup(), addresses, options)
    }

    /// Starts it by this command, whose arguments lead to `peer`.
    pub fn start_by(command: HostCommand, addresses: &[SocketAddr], options: &str) -> Result<Self> {
        Self::spawn(command, addresses, options)
    }

    fn spawn(command: HostCommand, addresses: &[SocketAddr], options: &str) -> Result<Self> {
        let mut command = command.arg("serve").args(options.split_whitespace());
        for address in addresses {
            command = command.arg("--listen").arg(address.to_string());
        }
        let running = command.spawn()?;
        let mut missing = addresses.len();
        running.wait_for(START, |line| {
            missing -= usize::from(matches!(parse(line), Some(Report::Listening { .. })));
            (missing == 0).then_some(())
        })?;
        Ok(Self { running })
    }

    /// Where it listens with the `nth` of its addresses, counted from 0.
    pub fn listening(&self, nth: usize) -> Result<SocketAddr> {
        nth_report(&self.running, nth, |report| match report {
            Report::Listening { address } => Some(address),
            _ => None,
        })
    }

    /// The addresses of the `nth` connection that it accepted, counted from 0.
    pub fn accepted(&self, nth: usize) -> Result<Ends> {
        nth_report(&self.running, nth, |report| match report {
            Report::Accepted(ends) => Some(ends),
            _ => None,
        })
    }

    /// How the `nth` conversation that came to its end did so, counted from 0.
    pub fn closed(&self, nth: usize) -> Result<Closed> {
        nth_report(&self.running, nth, |report| match report {
            Report::Closed(closed) => Some(closed),
            _ => None,
        })
    }

    /// How many connections it has accepted so far.
    pub fn connections(&self) -> usize {
        let stdout = self.running.stdout();
        stdout
            .lines()
            .filter(|line| matches!(parse(line), Some(Report::Accepted(_))))
            .count()
    }

    /// The program.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The program, to wait for its end.
    pub fn into_running(self) -> Running {
        self.running
    }
}

/// `peer connect` on a host. Dropping it kills the program.
#[derive(Debug)]
pub struct Client {
    running: Running,
}

impl Client {
    /// Starts it with these options.
    pub fn start(host: &Host, to: SocketAddr, options: &str) -> Result<Self> {
        Self::spawn(command(host)?, to, options)
    }

    /// Starts it in the host's namespace but in no cgroup of the host.
    pub fn start_outside_the_cgroup(host: &Host, to: SocketAddr, options: &str) -> Result<Self> {
        Self::spawn(command(host)?.outside_the_cgroup(), to, options)
    }

    /// Starts it in the cgroup of a host, but in the namespace of another.
    pub fn start_elsewhere(
        cgroup: &Host,
        netns: &Host,
        to: SocketAddr,
        options: &str,
    ) -> Result<Self> {
        Self::spawn(command(cgroup)?.in_namespace_of(netns), to, options)
    }

    /// Starts it by this command, whose arguments lead to `peer`.
    pub fn start_by(command: HostCommand, to: SocketAddr, options: &str) -> Result<Self> {
        Self::spawn(command, to, options)
    }

    /// Runs it to its end; fails if it could not connect.
    pub fn run(host: &Host, to: SocketAddr, options: &str) -> Result<Closed> {
        Self::start(host, to, options)?.closed()
    }

    /// Runs it until it fails to connect or connects; the error's name, and how long it took.
    pub fn try_connect(
        host: &Host,
        to: SocketAddr,
        options: &str,
    ) -> Result<Result<Ends, (String, Duration)>> {
        Self::start(host, to, options)?.outcome()
    }

    /// Whether it connected; else the error's name, and how long it took.
    pub fn outcome(&self) -> Result<Result<Ends, (String, Duration)>> {
        nth_report(&self.running, 0, |report| match report {
            Report::Connected(ends) => Some(Ok(ends)),
            Report::ConnectFailed {
                errno,
                milliseconds,
            } => Some(Err((errno, Duration::from_millis(milliseconds)))),
            _ => None,
        })
    }

    /// The addresses that it sees, once it is connected.
    pub fn connected(&self) -> Result<Ends> {
        match self.outcome()? {
            Ok(ends) => Ok(ends),
            Err((errno, after)) => bail!("connect failed with {errno} after {after:?}"),
        }
    }

    /// How the conversation ended.
    pub fn closed(&self) -> Result<Closed> {
        self.connected()?;
        nth_report(&self.running, 0, |report| match report {
            Report::Closed(closed) => Some(closed),
            _ => None,
        })
    }

    /// What the kernel said to `--permit-by`: an error's name, or nothing where it did as asked.
    pub fn asked(&self) -> Result<Option<String>> {
        nth_report(&self.running, 0, |report| match report {
            Report::Asked { errno } => Some(errno),
            _ => None,
        })
    }

    /// Waits until it has made its socket, for `--wait-after-socket`.
    pub fn socket_made(&self) -> Result<()> {
        let is_made = |report| matches!(report, Report::SocketMade).then_some(());
        nth_report(&self.running, 0, is_made)
    }

    /// Lets it go on after `--wait-after-socket`.
    pub fn go_on(&mut self) -> Result<()> {
        self.running.write_line("")
    }

    /// The program.
    pub fn running(&self) -> &Running {
        &self.running
    }

    fn spawn(command: HostCommand, to: SocketAddr, options: &str) -> Result<Self> {
        let running = command
            .args(["connect", "--to", &to.to_string()])
            .args(options.split_whitespace())
            .with_stdin()
            .spawn()?;
        Ok(Self { running })
    }
}

/// Runs `peer many` on a host to its end.
pub fn many(host: &Host, to: SocketAddr, options: &str) -> Result<Many> {
    start_many(host, to, options)?.finish()
}

/// Starts `peer many` on a host.
pub fn start_many(host: &Host, to: SocketAddr, options: &str) -> Result<RunningMany> {
    let running = command(host)?
        .args(["many", "--to", &to.to_string()])
        .args(options.split_whitespace())
        .with_stdin()
        .spawn()?;
    Ok(RunningMany { running })
}

/// `peer many` while it runs. Dropping it kills the program.
#[derive(Debug)]
pub struct RunningMany {
    running: Running,
}

impl RunningMany {
    /// Ends it, with `--until-told`; waits for what is under way.
    pub fn stop(mut self) -> Result<Many> {
        self.running.write_line("")?;
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<Many> {
        nth_report(&self.running, 0, |report| match report {
            Report::Many(many) => Some(many),
            _ => None,
        })
    }
}

/// Runs `peer raw` on a host: segments with the marker from a raw socket.
pub fn raw(host: &Host, from: SocketAddr, to: SocketAddr) -> Result<(u32, Vec<String>)> {
    raw_by(command(host)?, from, to)
}

/// The same in no cgroup of the host.
pub fn raw_outside_the_cgroup(
    host: &Host,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<(u32, Vec<String>)> {
    raw_by(command(host)?.outside_the_cgroup(), from, to)
}

fn raw_by(command: HostCommand, from: SocketAddr, to: SocketAddr) -> Result<(u32, Vec<String>)> {
    let running = command
        .args(["raw", "--from", &from.to_string(), "--to", &to.to_string()])
        .spawn()?;
    nth_report(&running, 0, |report| match report {
        Report::Sent { segments, errors } => Some((segments, errors)),
        _ => None,
    })
}

/// `peer` on a host, with no arguments yet.
pub fn command(host: &Host) -> Result<HostCommand> {
    Ok(host.command(binary()?))
}

/// Where Cargo put `peer`: beside the tests, or a directory above.
pub fn binary() -> Result<PathBuf> {
    let test = env::current_exe()?;
    test.ancestors()
        .skip(1)
        .take(3)
        .map(|directory| directory.join("peer"))
        .find(|path| path.is_file())
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .context("the program peer is not built: cargo build -p testbed --bins")
}

fn nth_report<T>(
    running: &Running,
    nth: usize,
    mut matches: impl FnMut(Report) -> Option<T>,
) -> Result<T> {
    let mut left = nth;
    running.wait_for(REPORT, |line| {
        let found = parse(line).and_then(&mut matches)?;
        if left == 0 {
            return Some(found);
        }
        left -= 1;
        None
    })
}

fn parse(line: &str) -> Option<Report> {
    serde_json::from_str(line).ok()
}

/// An agent may start before.
const START: Duration = Duration::from_secs(20);
/// The longest conversation of the suite is the churn of a minute.
const REPORT: Duration = Duration::from_secs(100);
