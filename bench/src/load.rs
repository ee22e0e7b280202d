//! The harness's own clients and server, as programs on a host: `bench load`, started by the
//! harness and by nobody else.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Subcommand;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::counted::exchange;
use crate::nginx::PAGE;
use crate::statistics::quantile;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Clients that fetch a page on a new connection each time, as fast as they can
    Churn {
        address: SocketAddr,
        clients: u32,
        seconds: u64,
    },
    /// Connections one after another, timed from connect to the answer's first byte
    OneByOne { address: SocketAddr, seconds: u64 },
    /// Connections that exchange a byte and then stay open until a line comes on standard input
    Hold {
        address: SocketAddr,
        connections: usize,
    },
    /// The server of `hold`
    Accept { address: SocketAddr },
    /// The client of the counted suite: requests on one connection
    Ask {
        address: SocketAddr,
        requests: u32,
        /// Wait in poll for everything
        #[arg(long)]
        never_blocking: bool,
    },
    /// The client of the counted suite: bulk on one connection
    Send {
        address: SocketAddr,
        mebibytes: u32,
        /// Wait in poll for everything
        #[arg(long)]
        never_blocking: bool,
    },
    /// The server of `ask` and `send`
    Answer { address: SocketAddr },
}

/// What `churn` prints.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Churned {
    /// Pages that came whole.
    pub pages: u64,
    /// Attempts that failed.
    pub failures: u64,
}

/// What `one-by-one` prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    /// How many connections.
    pub connections: u64,
    /// Microseconds from connect to first byte.
    pub p50: f64,
    /// Microseconds from connect to first byte.
    pub p99: f64,
}

/// What `hold` prints once its connections are open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// How many are open.
    pub open: usize,
}

impl Load {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Churn {
                address,
                clients,
                seconds,
            } => say(&churn(address, clients, Duration::from_secs(seconds))),
            Self::OneByOne { address, seconds } => {
                say(&one_by_one(address, Duration::from_secs(seconds))?)
            }
            Self::Hold {
                address,
                connections,
            } => {
                let streams = open(address, connections)?;
                let open = streams.len();
                say(&Held { open })?;
                io::stdin().lock().read_line(&mut String::new())?;
                Ok(())
            }
            Self::Accept { address } => accept(address),
            Self::Ask {
                address,
                requests,
                never_blocking,
            } => exchange::client(address, exchange::Load::Requests(requests), never_blocking),
            Self::Send {
                address,
                mebibytes,
                never_blocking,
            } => exchange::client(
                address,
                exchange::Load::Mebibytes(mebibytes),
                never_blocking,
            ),
            Self::Answer { address } => exchange::server(address),
        }
    }
}

fn churn(address: SocketAddr, clients: u32, duration: Duration) -> Churned {
    let (pages, failures) = (AtomicU64::new(0), AtomicU64::new(0));
    let deadline = Instant::now() + duration;
    let client = || {
        loop {
            let fetched = fetch(address);
            if Instant::now() > deadline {
                return;
            }
            match fetched {
                Ok(_) => &pages,
                Err(_) => &failures,
            }
            .fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(client);
        }
    });
    Churned {
        pages: pages.into_inner(),
        failures: failures.into_inner(),
    }
}

fn one_by_one(address: SocketAddr, duration: Duration) -> Result<Timed> {
    let deadline = Instant::now() + duration;
    let mut times = Vec::new();
    while Instant::now() < deadline {
        times.push(fetch(address)?.as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let (Some(p50), Some(p99)) = (quantile(&times, 0.5), quantile(&times, 0.99)) else {
        bail!("no connection was made");
    };
    Ok(Timed {
        connections: times.len() as u64,
        p50,
        p99,
    })
}

/// Fetches the page on a connection of its own; the time from connect to the first byte.
fn fetch(address: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = [0; 4096];
    let mut length = stream.read(&mut answer)?;
    let first = start.elapsed();
    // To the end, so that the server closes first and no port of the client's waits after use.
    loop {
        match stream.read(&mut answer)? {
            0 if length > PAGE => return Ok(first),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
}

fn open(address: SocketAddr, connections: usize) -> Result<Vec<TcpStream>> {
    raise_file_limit()?;
    let exchange = || -> io::Result<TcpStream> {
        let mut stream = connect(address)?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    };
    let mut streams = Vec::with_capacity(connections);
    thread::scope(|scope| -> Result<()> {
        let openers: Vec<_> = (0..OPENERS)
            .map(|index| {
                let share = connections / OPENERS + usize::from(index < connections % OPENERS);
                scope.spawn(move || {
                    (0..share)
                        .map(|_| exchange())
                        .collect::<io::Result<Vec<_>>>()
                })
            })
            .collect();
        for opener in openers {
            match opener.join() {
                Ok(opened) => streams.extend(opened?),
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })?;
    Ok(streams)
}

fn accept(address: SocketAddr) -> Result<()> {
    raise_file_limit()?;
    let listener = TcpListener::bind(address)?;
    say("listening")?;
    let mut held = Vec::new();
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut byte = [0];
        // Where the other side gave up, the next may not.
        if stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {
            held.push(stream);
        }
    }
    Ok(())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn say(what: &(impl Serialize + ?Sized)) -> Result<()> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(10);

/// Handshakes at once: enough to be quick, too few for anyone's cap.
const OPENERS: usize = 8;
