//! What is said on one connection, and what was heard.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use testbed::peer::Ends;
use testbed::stream::{Random, Stream};
use testbed::{Closed, End};

use crate::errno;

/// What to say, when, and how to listen.
#[derive(Debug, Clone, Args)]
pub(crate) struct Conversation {
    /// Bytes to send.
    #[arg(long, default_value_t = 0)]
    send: u64,
    /// The seed of the bytes to send.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The seed of the bytes expected, if it is another.
    #[arg(long)]
    expect_seed: Option<u64>,
    /// When to begin to send.
    #[arg(long, value_enum, default_value_t = SendAfter::Start)]
    send_after: SendAfter,
    /// Send back what comes instead.
    #[arg(long)]
    echo: bool,
    /// The most bytes in one write; each has a random size up to it.
    #[arg(long, default_value_t = 64 << 10)]
    chunk: usize,
    /// Begin with so many writes of at most 100 bytes, a millisecond before each.
    #[arg(long, default_value_t = 0)]
    small_first: u64,
    /// Milliseconds after which a socket that never blocks is given up on.
    #[arg(long, default_value_t = 60_000)]
    patience_in_poll: u16,
    /// Microseconds to wait before each write.
    #[arg(long, default_value_t = 0)]
    write_pause: u64,
    /// Microseconds to wait before each read.
    #[arg(long, default_value_t = 0)]
    read_pause: u64,
    /// The most bytes in one read.
    #[arg(long, default_value_t = 64 << 10)]
    read_size: usize,
    /// `SO_SNDBUF`.
    #[arg(long)]
    pub(crate) sndbuf: Option<usize>,
    /// `SO_RCVBUF`.
    #[arg(long)]
    pub(crate) rcvbuf: Option<usize>,
    /// Close at once after so many bytes have come, without waiting for the end.
    #[arg(long)]
    stop_after: Option<u64>,
    /// Do not shut down the sending side after the last byte: close both together.
    #[arg(long)]
    no_half_close: bool,
    /// End with a reset.
    #[arg(long)]
    reset: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SendAfter {
    /// At once.
    Start,
    /// When the other end has said something.
    FirstByte,
    /// When the other end has said everything.
    End,
}

impl Conversation {
    /// Holds the conversation; `accepted_from` is what `accept` said, `already_sent` how many
    /// bytes of the stream were sent before.
    pub(crate) fn hold(&self, connection: &TcpStream, ends: Ends, already_sent: u64) -> Closed {
        let started = Instant::now();
        let _ = connection.set_read_timeout(Some(SILENCE));
        let _ = connection.set_write_timeout(Some(SILENCE));
        let (heard, spoken) = if self.echo {
            self.echo(connection)
        } else {
            thread::scope(|scope| {
                let (cue, cues) = mpsc::channel();
                let speaker = scope.spawn(move || self.speak(connection, already_sent, &cues));
                let heard = self.listen(connection, &cue);
                drop(cue);
                if heard.end != End::Eof && heard.end != End::Stopped {
                    let _ = connection.shutdown(Shutdown::Both); // unblocks the speaker
                }
                (heard, speaker.join().unwrap_or_default())
            })
        };
        if self.reset {
            let _ = socket2::SockRef::from(connection).set_linger(Some(Duration::ZERO));
        }
        Closed {
            ends,
            sent: spoken.sent,
            received: heard.received,
            difference: heard.difference,
            end: heard.end,
            send_error: spoken.error.map(|error| errno(&error)),
            milliseconds: started.elapsed().as_millis() as u64,
        }
    }

    /// The first bytes of the stream to send, for data in the SYN.
    pub(crate) fn first_bytes(&self, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit.min(self.send as usize)];
        Stream::new(self.seed).fill(&mut bytes);
        bytes
    }

    fn speak(&self, mut connection: &TcpStream, already: u64, cues: &Receiver<Cue>) -> Spoken {
        let mut spoken = Spoken {
            sent: already,
            error: None,
        };
        let awaited = match self.send_after {
            SendAfter::Start => None,
            SendAfter::FirstByte => Some(Cue::FirstByte),
            SendAfter::End => Some(Cue::End),
        };
        if awaited.is_some_and(|awaited| !cues.iter().any(|cue| cue == awaited)) {
            return spoken;
        }
        let mut stream = Stream::new(self.seed);
        stream.fill(&mut vec![0; already as usize]);
        let mut sizes = Random::new(self.seed);
        let mut buffer = vec![0; self.chunk];
        let mut small = self.small_first;
        while spoken.sent < self.send {
            pause(self.write_pause);
            let mut most = self.chunk;
            if small > 0 {
                small -= 1;
                most = most.min(SMALL);
                pause(1000);
            }
            let size = 1 + (sizes.next() % most as u64).min(self.send - spoken.sent - 1);
            let chunk = &mut buffer[..size as usize];
            stream.fill(chunk);
            if let Err(error) = self.write_all(connection, chunk, &mut spoken.sent) {
                if error.raw_os_error() == Some(libc::ETIMEDOUT) {
                    let _ = connection.shutdown(Shutdown::Both); // unblocks the listener
                }
                spoken.error = Some(error);
                return spoken;
            }
        }
        let _ = connection.flush();
        if !self.no_half_close {
            spoken.error = connection.shutdown(Shutdown::Write).err();
        }
        spoken
    }

    fn listen(&self, connection: &TcpStream, cue: &Sender<Cue>) -> Heard {
        let mut expected = Stream::new(self.expect_seed.unwrap_or(self.seed));
        let mut heard = Heard {
            received: 0,
            difference: None,
            end: End::Eof,
        };
        let mut buffer = vec![0; self.read_size];
        loop {
            pause(self.read_pause);
            match self.read(connection, &mut buffer) {
                Ok(0) => {
                    let _ = cue.send(Cue::End);
                    return heard;
                }
                Ok(length) => {
                    let _ = cue.send(Cue::FirstByte);
                    heard.received += length as u64;
                    let difference = expected.difference(&buffer[..length]);
                    heard.difference = heard.difference.or(difference);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    heard.end = end_of(&error);
                    return heard;
                }
            }
            if self.stop_after.is_some_and(|limit| heard.received >= limit) {
                heard.end = End::Stopped;
                return heard;
            }
        }
    }

    fn echo(&self, connection: &TcpStream) -> (Heard, Spoken) {
        let mut heard = Heard {
            received: 0,
            difference: None,
            end: End::Eof,
        };
        let mut spoken = Spoken::default();
        let mut buffer = vec![0; self.read_size];
        loop {
            pause(self.read_pause);
            match self.read(connection, &mut buffer) {
                Ok(0) => {
                    spoken.error = connection.shutdown(Shutdown::Write).err();
                    return (heard, spoken);
                }
                Ok(length) => {
                    heard.received += length as u64;
                    if let Err(error) =
                        self.write_all(connection, &buffer[..length], &mut spoken.sent)
                    {
                        spoken.error = Some(error);
                        return (heard, spoken);
                    }
                }
                Err(error) => {
                    heard.end = end_of(&error);
                    return (heard, spoken);
                }
            }
        }
    }

    fn write_all(
        &self,
        mut connection: &TcpStream,
        mut bytes: &[u8],
        sent: &mut u64,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                self.when_ready(connection, PollFlags::POLLOUT, || connection.write(bytes))?;
            *sent += written as u64;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn read(&self, mut connection: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        self.when_ready(connection, PollFlags::POLLIN, || connection.read(buffer))
    }

    /// Does `work` again as soon as the socket is ready, if the socket is one that never blocks. An
    /// EAGAIN of one that does is what it seems.
    fn when_ready(
        &self,
        connection: &TcpStream,
        events: PollFlags,
        mut work: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match work() {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && never_blocks(connection) =>
                {
                    let mut ready = [PollFd::new(connection.as_fd(), events)];
                    if poll(&mut ready, PollTimeout::from(self.patience_in_poll))? == 0 {
                        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
                    }
                }
                done => return done,
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Cue {
    FirstByte,
    End,
}

#[derive(Debug, Default)]
struct Spoken {
    sent: u64,
    error: Option<io::Error>,
}

struct Heard {
    received: u64,
    difference: Option<u64>,
    end: End,
}

fn never_blocks(connection: &TcpStream) -> bool {
    fcntl(connection, FcntlArg::F_GETFL)
        .is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
}

fn end_of(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset => End::Reset,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => End::TimedOut,
        _ => End::Failed,
    }
}

fn pause(microseconds: u64) {
    if microseconds > 0 {
        thread::sleep(Duration::from_micros(microseconds));
    }
}

const SILENCE: Duration = Duration::from_mins(1);
/// The most bytes of a write that `--small-first` asks for.
const SMALL: usize = 100;
