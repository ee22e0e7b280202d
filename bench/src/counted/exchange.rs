//! The two programs of the counted suite: one thread each, blocking sockets unless it is said otherwise,
//! so that nothing but the route between them decides what a request costs.

use std::io::{self, BufRead as _, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// What the client does on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many requests of 1 KiB, each answered with 1 KiB before the next.
    Requests(u32),
    /// So many MiB sent, acknowledged once all have arrived.
    Mebibytes(u32),
}

/// What the client prints; its connection stays open until a line comes on standard input.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Exchanged {
    /// Nanoseconds of the guest's clock for a request, or for a MiB.
    pub nanoseconds: f64,
}

/// Runs the client: warms up, measures, says so, waits to be told to go.
pub(crate) fn client(address: SocketAddr, load: Load, never_blocking: bool) -> Result<()> {
    let stream = TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true)?;
    let said = if never_blocking {
        stream.set_nonblocking(true)?;
        measure(&mut NeverBlocking(&stream), load)
    } else {
        measure(&mut &stream, load)
    };
    println!("{}", serde_json::to_string(&said?)?);
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn measure(stream: &mut (impl Read + Write), load: Load) -> Result<Exchanged> {
    let count = match load {
        Load::Requests(count) => {
            ask(stream, WARM_UP_REQUESTS)?;
            count
        }
        Load::Mebibytes(count) => {
            send(stream, WARM_UP_MEBIBYTES)?;
            count
        }
    };
    ensure!(count > 0, "nothing to measure");
    let started = Instant::now();
    match load {
        Load::Requests(count) => ask(stream, count)?,
        Load::Mebibytes(count) => send(stream, count)?,
    }
    Ok(Exchanged {
        nanoseconds: started.elapsed().as_secs_f64() * 1e9 / f64::from(count),
    })
}

/// A socket that does not block, waited for in `poll`.
struct NeverBlocking<'a>(&'a TcpStream);

impl NeverBlocking<'_> {
    /// Tries until it is not in vain, and waits in between.
    fn until_ready<T>(
        &self,
        events: PollFlags,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt(self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut ready = [PollFd::new(self.0.as_fd(), events)];
                    poll(&mut ready, PollTimeout::NONE)?;
                }
                done => return done,
            }
        }
    }
}

impl Read for NeverBlocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.until_ready(PollFlags::POLLIN, |mut stream| stream.read(buffer))
    }
}

impl Write for NeverBlocking<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.until_ready(PollFlags::POLLOUT, |mut stream| stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs the server, for one connection after another.
pub(crate) fn server(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("listening");
    let mut buffer = vec![0; BULK_WRITE];
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        match answer(&mut stream, &mut buffer) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                eprintln!("a connection ended early: {error}");
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A header says what comes: so many requests, or so many MiB.
fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let [kind, count @ ..] = header;
        let count = u32::from_be_bytes(count);
        if kind == REQUESTS {
            for _ in 0..count {
                stream.read_exact(&mut buffer[..MESSAGE])?;
                stream.write_all(&buffer[..MESSAGE])?;
            }
        } else {
            let mut rest = u64::from(count) << 20;
            while rest > 0 {
                let room = buffer
                    .len()
                    .min(usize::try_from(rest).unwrap_or(usize::MAX));
                let read = stream.read(&mut buffer[..room])?;
                if read == 0 {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                rest -= read as u64;
            }
            stream.write_all(&[kind])?;
        }
    }
}

fn ask(stream: &mut (impl Read + Write), count: u32) -> Result<()> {
    stream.write_all(&header(REQUESTS, count))?;
    let request: [u8; MESSAGE] = std::array::from_fn(|index| index as u8);
    let mut response = [0; MESSAGE];
    for _ in 0..count {
        stream.write_all(&request)?;
        stream.read_exact(&mut response)?;
    }
    ensure!(response == request, "the last answer is not the request");
    Ok(())
}

fn send(stream: &mut (impl Read + Write), mebibytes: u32) -> Result<()> {
    stream.write_all(&header(BULK, mebibytes))?;
    let piece = vec![0x5a; BULK_WRITE];
    for _ in 0..u64::from(mebibytes) << 20 >> BULK_WRITE.trailing_zeros() {
        stream.write_all(&piece)?;
    }
    stream.read_exact(&mut [0])?;
    Ok(())
}

fn header(kind: u8, count: u32) -> [u8; HEADER] {
    let [a, b, c, d] = count.to_be_bytes();
    [kind, a, b, c, d]
}

const HEADER: usize = 5;
const REQUESTS: u8 = b'R';
const BULK: u8 = b'B';

/// Of a request and of its answer.
const MESSAGE: usize = 1024;

/// A power of two, so that MiB are whole numbers of it.
const BULK_WRITE: usize = 64 * 1024;

const WARM_UP_REQUESTS: u32 = 50;

/// Enough for an agent to see that the connection is bulk, and to have switched.
const WARM_UP_MEBIBYTES: u32 = 4;
