//! As much of systemd as the agent's unit has to do with: hears what the agent says, keeps the descriptors
//! that it sends, and passes them on to the next process.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::testbed::Testbed;

/// A service manager with one unit. Cloning shares it.
#[derive(Debug, Clone)]
pub struct ServiceManager(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What nobody has waited for yet.
    heard: VecDeque<String>,
    store: Vec<(String, OwnedFd)>,
}

impl ServiceManager {
    /// One that listens until the test process ends; `name` is unique in the testbed.
    pub fn start(bed: &Testbed, name: &str) -> Result<Self> {
        let path = bed.directory().join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path)?;
        let manager = Self(Arc::new(Inner {
            path,
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        let listening = manager.clone();
        thread::spawn(move || listening.listen(&socket));
        Ok(manager)
    }

    /// What `NOTIFY_SOCKET` is to say.
    pub fn notify_socket(&self) -> Result<&str> {
        self.0.path.to_str().context("a path in UTF-8")
    }

    /// The next message that was not waited for, if one comes in time.
    pub fn next(&self, limit: Duration) -> Option<String> {
        let state = self.lock();
        let waited = self
            .0
            .changed
            .wait_timeout_while(state, limit, |state| state.heard.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.heard.pop_front()
    }

    /// Waits for a message with this in it; drops those before it.
    pub fn wait_for(&self, part: &str) -> Result<String> {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = self.next(left);
            let message = message.with_context(|| format!("it was not told {part}"))?;
            if message.contains(part) {
                return Ok(message);
            }
        }
    }

    /// Forgets what it has heard and nobody has waited for.
    pub fn forget(&self) {
        self.lock().heard.clear();
    }

    /// The names in the store, with the inode of each descriptor.
    pub fn stored(&self) -> BTreeMap<String, u64> {
        let state = self.lock();
        let inode = |descriptor: &OwnedFd| fstat(descriptor).map_or(0, |file| file.st_ino);
        let store = state.store.iter();
        store
            .map(|(name, descriptor)| (name.clone(), inode(descriptor)))
            .collect()
    }

    /// Waits until the store is as it should be.
    pub fn wait_until_stored(&self, holds: impl Fn(&BTreeMap<String, u64>) -> bool) -> Result<()> {
        let until = Instant::now() + LIMIT;
        loop {
            let stored = self.stored();
            if holds(&stored) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "in the store: {stored:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Puts something into the store, as if the agent had sent it.
    pub fn put(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        let stored = (name.to_owned(), descriptor.into());
        self.lock().store.push(stored);
    }

    /// What the unit's next process gets, in the order in which it came.
    pub(crate) fn pass_on(&self) -> Result<Vec<(String, OwnedFd)>> {
        let mut state = self.lock();
        state
            .store
            .retain(|(_, descriptor)| !has_hung_up(descriptor));
        let store = state.store.iter();
        store
            .map(|(name, descriptor)| Ok((name.clone(), descriptor.try_clone()?)))
            .collect()
    }

    fn listen(&self, socket: &UnixDatagram) {
        // Ends with the process.
        while let Ok((message, descriptors)) = receive(socket) {
            let mut state = self.lock();
            let name = message
                .lines()
                .find_map(|line| line.strip_prefix("FDNAME="));
            let name = name.unwrap_or("stored");
            if message.lines().any(|line| line == "FDSTORE=1") {
                for descriptor in descriptors {
                    let is_new = !state.store.iter().any(|(_, it)| is_same(it, &descriptor));
                    if is_new {
                        state.store.push((name.to_owned(), descriptor));
                    }
                }
            }
            if message.lines().any(|line| line == "FDSTOREREMOVE=1") {
                state.store.retain(|(of, _)| of != name);
            }
            state.heard.push_back(message);
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn receive(socket: &UnixDatagram) -> Result<(String, Vec<OwnedFd>)> {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket.as_fd(), &mut parts, &mut beside, flags)?;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    let mut message = String::new();
    text.get(..received.bytes)
        .unwrap_or_default()
        .read_to_string(&mut message)?;
    Ok((message, descriptors))
}

/// As `same_fd` of systemd, which asks the kernel; for sockets the inode tells as well.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// systemd closes such descriptors by itself (`FDPOLL=1`).
fn has_hung_up(descriptor: &OwnedFd) -> bool {
    let ends = PollFlags::POLLHUP | PollFlags::POLLERR;
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|it| it.intersects(ends))
}

const LIMIT: Duration = Duration::from_secs(10);
