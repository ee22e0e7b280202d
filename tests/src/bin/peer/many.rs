//! `peer many`: conversations with an echo server, all at once or one after the other.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, Socket, Type};
use testbed::Report;
use testbed::peer::Many;
use testbed::stream::Stream;

use crate::{errno, report};

#[derive(Args)]
pub(crate) struct ManyConnections {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// How many connections at once.
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Make new ones for so many seconds, instead of one each that stays open until all are.
    #[arg(long)]
    churn: Option<u64>,
    /// Make new ones until a line comes on standard input, instead.
    #[arg(long, conflicts_with = "churn")]
    until_told: bool,
    /// Microseconds from the beginning of one to that of the next that is made after it.
    #[arg(long, default_value_t = 0)]
    every: u64,
    /// So many of them begin each second, however long the others take, instead of each after another. One that
    /// is due while `connections` are under way is left out.
    #[arg(long, requires = "until_told", conflicts_with = "every")]
    rate: Option<NonZeroU32>,
    /// Make them one after the other, and say from which ports.
    #[arg(long, conflicts_with_all = ["churn", "until_told"])]
    in_order: bool,
    /// Only so many of them at once: each is ended before the next is made.
    #[arg(long, conflicts_with_all = ["churn", "until_told", "in_order"])]
    in_turn: Option<u64>,
    /// Only so many of them are made at once: each has had an answer before it makes room.
    #[arg(long, conflicts_with_all = ["churn", "until_told", "in_order", "in_turn"])]
    at_a_time: Option<u64>,
    /// Begin with so many messages of 64 bytes each, and wait for each to come back.
    #[arg(long, default_value_t = 0)]
    ping_pong: u64,
    /// Microseconds to wait before each of those.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// When the sockets block.
    #[arg(long, value_enum, default_value_t = Blocking::Always)]
    blocking: Blocking,
    /// Bytes to send on each.
    #[arg(long, default_value_t = 1024)]
    send: usize,
}

/// When a socket blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Blocking {
    /// From the beginning.
    Always,
    /// Once it is connected.
    Connected,
    /// After the messages that are waited for.
    Quiet,
}

impl ManyConnections {
    pub(crate) fn run(&self) -> Result<()> {
        if self.in_order {
            return self.run_in_order();
        }
        let started = Instant::now();
        let tally = Tally::with_room(self.at_a_time.unwrap_or(self.connections));
        let is_told = AtomicBool::new(false);
        thread::scope(|scope| {
            let (tally, is_told) = (&tally, &is_told);
            if let Some(rate) = self.rate {
                scope.spawn(move || self.at_a_rate(rate, scope, tally, is_told));
            }
            let threads = match self.rate {
                Some(_) => 0,
                None => self.in_turn.unwrap_or(self.connections),
            };
            for number in 0..threads {
                let work = move || match (self.churn, self.in_turn) {
                    (Some(seconds), _) => {
                        let end = started + Duration::from_secs(seconds);
                        self.one_by_one(number, tally, || Instant::now() >= end);
                    }
                    (None, _) if self.until_told => {
                        self.one_by_one(number, tally, || is_told.load(Ordering::Relaxed));
                    }
                    (None, Some(threads)) => (number..self.connections)
                        .step_by(threads.max(1) as usize)
                        .for_each(|seed| tally.count(self.one(seed, |_| Ok(())))),
                    (None, None) => self.together(number, tally),
                };
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, work)?;
            }
            if self.until_told {
                io::stdin().read_line(&mut String::new())?;
                is_told.store(true, Ordering::Relaxed);
            }
            io::Result::Ok(())
        })?;
        let Tally {
            exact,
            open,
            failures,
            longest,
            left_out,
            ..
        } = tally;
        report(&Report::Many(Many {
            exact: exact.into_inner(),
            open_at_once: open
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .most,
            failures: failures
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
            milliseconds: started.elapsed().as_millis() as u64,
            longest_milliseconds: longest.into_inner(),
            left_out: left_out.into_inner(),
            ports: Vec::new(),
        }))
    }

    fn run_in_order(&self) -> Result<()> {
        let started = Instant::now();
        let connections = (0..self.connections)
            .map(|_| TcpStream::connect(self.to))
            .collect::<io::Result<Vec<_>>>()?;
        let ports = connections
            .iter()
            .map(|connection| Ok(connection.local_addr()?.port()))
            .collect::<io::Result<Vec<_>>>()?;
        let tally = Tally::default();
        for (seed, connection) in (0..).zip(connections) {
            tally.count(self.talk(connection, seed));
        }
        report(&Report::Many(Many {
            exact: tally.exact.into_inner(),
            open_at_once: self.connections,
            failures: tally
                .failures
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
            milliseconds: started.elapsed().as_millis() as u64,
            longest_milliseconds: tally.longest.into_inner(),
            left_out: 0,
            ports,
        }))
    }

    /// A thread for each, as many as there is room for.
    fn at_a_rate<'scope>(
        &'scope self,
        rate: NonZeroU32,
        scope: &'scope thread::Scope<'scope, '_>,
        tally: &'scope Tally,
        is_over: &AtomicBool,
    ) {
        let started = Instant::now();
        for nth in 0.. {
            let due = started + Duration::from_secs(1) * nth / rate.get();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            if !tally.enter_at_once() {
                tally.left_out.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let work = move || {
                self.timed(nth.into(), tally);
                tally.leave();
            };
            let thread = thread::Builder::new().stack_size(STACK);
            if let Err(error) = thread.spawn_scoped(scope, work) {
                tally.count(Err(named("thread")(error)));
                tally.leave();
            }
        }
    }

    fn one_by_one(&self, number: u64, tally: &Tally, is_over: impl Fn() -> bool) {
        let mut seed = number << 32;
        while !is_over() {
            let took = self.timed(seed, tally);
            thread::sleep(Duration::from_micros(self.every).saturating_sub(took));
            seed += 1;
        }
    }

    /// One conversation; how long it took.
    fn timed(&self, seed: u64, tally: &Tally) -> Duration {
        let began = Instant::now();
        tally.count(self.one(seed, |_| Ok(())));
        let took = began.elapsed();
        tally
            .longest
            .fetch_max(took.as_millis() as u64, Ordering::Relaxed);
        took
    }

    /// One conversation that waits until all others are connected, or have failed to be.
    fn together(&self, number: u64, tally: &Tally) {
        tally.enter();
        let mut arrived = false;
        let outcome = self.one(number, |connection| {
            let answered = match self.at_a_time {
                Some(_) => self.exchange(connection, 0),
                None => Ok(()),
            };
            arrived = true;
            tally.arrive(true);
            tally.wait_for_all(self.connections);
            answered.map_err(named("first answer"))
        });
        if !arrived {
            tally.arrive(false);
        }
        tally.count(outcome);
    }

    /// Connects, sends, and reads all of it back.
    fn one(
        &self,
        seed: u64,
        connected: impl FnOnce(&TcpStream) -> Result<(), String>,
    ) -> Result<(), String> {
        let connection = self.connect().map_err(named("connect"))?;
        connected(&connection)?;
        self.ping_pong(&connection).map_err(named("ping-pong"))?;
        connection
            .set_nonblocking(false)
            .map_err(named("blocking"))?;
        self.talk(connection, seed)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        if self.blocking == Blocking::Always {
            return TcpStream::connect(self.to);
        }
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                wait_for(&socket, PollFlags::POLLOUT)?;
                socket.take_error()?.map_or(Ok(()), Err)?;
            }
            done => done?,
        }
        socket.set_nonblocking(self.blocking == Blocking::Quiet)?;
        Ok(socket.into())
    }

    fn ping_pong(&self, connection: &TcpStream) -> io::Result<()> {
        connection.set_read_timeout(Some(SILENCE))?;
        (0..self.ping_pong).try_for_each(|number| {
            thread::sleep(Duration::from_micros(self.pause));
            self.exchange(connection, number as u8)
        })
    }

    /// Sends a message and waits for it to come back.
    fn exchange(&self, mut connection: &TcpStream, filling: u8) -> io::Result<()> {
        let mut back = [0; 64];
        let message = [filling; 64];
        connection.write_all(&message)?;
        let mut received = 0;
        while received < back.len() {
            match connection.read(&mut back[received..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => received += length,
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && self.blocking == Blocking::Quiet =>
                {
                    wait_for(connection, PollFlags::POLLIN)?;
                }
                Err(error) => return Err(error),
            }
        }
        if back == message {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn talk(&self, mut connection: TcpStream, seed: u64) -> Result<(), String> {
        connection
            .set_read_timeout(Some(SILENCE))
            .map_err(named("timeout"))?;
        let mut sent = vec![0; self.send];
        Stream::new(seed).fill(&mut sent);
        connection.write_all(&sent).map_err(named("write"))?;
        connection
            .shutdown(Shutdown::Write)
            .map_err(named("shutdown"))?;
        let mut received = Vec::with_capacity(self.send);
        connection
            .read_to_end(&mut received)
            .map_err(named("read"))?;
        if received == sent {
            Ok(())
        } else {
            Err(format!(
                "{} of {} bytes came back, or others",
                received.len(),
                sent.len()
            ))
        }
    }
}

fn wait_for(socket: &impl AsFd, events: PollFlags) -> io::Result<()> {
    let mut ready = [PollFd::new(socket.as_fd(), events)];
    match poll(&mut ready, SILENCE_IN_POLL)? {
        0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        _ => Ok(()),
    }
}

fn named(step: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{step}: {}", errno(&error))
}

#[derive(Default)]
struct Tally {
    exact: AtomicU64,
    /// Milliseconds of the longest of those that did not wait for others.
    longest: AtomicU64,
    /// How many were due while there was no room.
    left_out: AtomicU64,
    open: Mutex<Open>,
    changed: Condvar,
    failures: Mutex<BTreeMap<String, u64>>,
}

#[derive(Default)]
struct Open {
    /// How many more may be on their way.
    room: u64,
    arrived: u64,
    most: u64,
}

impl Tally {
    fn with_room(room: u64) -> Self {
        let open = Open {
            room,
            ..Open::default()
        };
        Self {
            open: Mutex::new(open),
            ..Self::default()
        }
    }

    /// Waits for room to be on one's way.
    fn enter(&self) {
        let state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(state, SILENCE, |state| state.room == 0);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.room = state.room.saturating_sub(1);
    }

    /// Whether there was room.
    fn enter_at_once(&self) -> bool {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_room = state.room > 0;
        state.room = state.room.saturating_sub(1);
        is_room
    }

    fn leave(&self) {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        state.room += 1;
    }

    fn count(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.exact.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                *failures.entry(failure).or_default() += 1;
            }
        }
    }

    fn arrive(&self, open: bool) {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        state.room += 1;
        state.arrived += 1;
        state.most += u64::from(open);
        self.changed.notify_all();
    }

    fn wait_for_all(&self, all: u64) {
        let state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(state, SILENCE, |state| state.arrived < all);
        drop(waited);
    }
}

const STACK: usize = 64 << 10;
const SILENCE: Duration = Duration::from_secs(30);
const SILENCE_IN_POLL: u16 = 30_000;
