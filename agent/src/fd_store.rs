//! What the service manager keeps for the next agent, should this one crash: its listeners.
//!
//! The agent sends each with a name (`FDSTORE=1`). When it is started again it gets all of them back, so that
//! what has connected meanwhile waits in the queue of a listener that was never closed. Why so:
//! `docs/src/decisions/0036-listeners-in-the-fd-store.md`.

mod label;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::sys::stat::fstat;
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    inherited::{Inherited, Item},
    listen_fds, service_manager,
};
use label::{Label, Misfit};

/// What the service manager has of this agent, or of the one before it.
///
/// Dropped before an agent serves, it is given up: nobody is to wait for one that can't.
#[derive(Debug)]
pub struct FdStore {
    /// What was passed at the start and nobody has looked at yet.
    passed: Result<Vec<(String, OwnedFd)>, io::Error>,
    /// By name: the inode of the socket, where that is known.
    held: HashMap<String, Option<u64>>,
    serves: bool,
    room: Room,
}

impl FdStore {
    /// Takes what the service manager has passed to this process. To be called once, before anything can
    /// fail.
    pub fn open() -> Self {
        let passed = listen_fds::take();
        let names = passed.iter().flatten();
        Self {
            held: names.map(|(name, _)| (name.clone(), None)).collect(),
            passed,
            serves: false,
            room: Room::default(),
        }
    }

    /// What of it an agent with eBPF maps of this version can use. The rest is closed, and the service manager told
    /// to.
    pub(crate) fn inherit(&mut self, maps: &str) -> Inherited {
        let mut inherited = Inherited::default();
        let passed = match std::mem::replace(&mut self.passed, Ok(Vec::new())) {
            Ok(passed) => passed,
            Err(error) => {
                warn!(%error, "what the service manager has passed can't be taken");
                return inherited;
            }
        };
        let mut taken = HashSet::new();
        for (name, descriptor) in passed {
            let judged = judge(&name, &descriptor, maps).and_then(|judged| {
                let is_first = taken.insert(name.clone());
                is_first.then_some(judged).ok_or(Misfit::Twice)
            });
            match judged {
                Ok((item, inode)) => {
                    // It is gone from the store where another of its name had to go.
                    let inode = self.held.contains_key(&name).then_some(inode);
                    self.held.insert(name, inode);
                    inherited.put(item, descriptor);
                }
                Err(why) => {
                    warn!(name, %why, "a descriptor that the service manager has kept is closed");
                    self.remove(&name);
                }
            }
        }
        if !taken.is_empty() {
            let listeners = taken.len();
            info!(listeners, "taken back from the service manager");
        }
        inherited
    }

    /// What an agent before this one had in the store, if it had the same.
    pub(crate) fn assume(&mut self, inherited: &Inherited, maps: &str) {
        self.passed = Ok(Vec::new());
        for (item, descriptor) in inherited.iter() {
            if let Some(label) = Label::of(item, descriptor) {
                self.held.entry(label.name(maps)).or_insert(None);
            }
        }
    }

    /// The agent serves by these descriptors: lets the service manager have its listeners, and nothing else.
    pub(crate) fn keep(&mut self, served: &[(Item, OwnedFd)], maps: &str) {
        self.serves = true;
        self.room = Room::default();
        let mut wanted = HashMap::new();
        for (item, descriptor) in served {
            let Some(label) = Label::of(item, descriptor) else {
                continue;
            };
            let name = label.name(maps);
            if self.room.take(&name) {
                wanted.insert(name, descriptor);
            }
        }
        let stale: Vec<_> = self
            .held
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        if let Err(error) = self.exchange(&stale, &wanted) {
            warn!(
                %error,
                "the service manager does not have every listener: should the agent crash, connections \
                 are refused until it is back"
            );
        }
        if let Some(left_out) = self.room.left_out() {
            warn!(
                left_out,
                "more listeners than a service manager can pass on; connections to these are refused while \
                 the agent is started again after a crash"
            );
        }
    }

    fn exchange(
        &mut self,
        stale: &[String],
        wanted: &HashMap<String, &OwnedFd>,
    ) -> Result<(), StoreError> {
        for name in stale {
            self.remove(name);
        }
        for (name, descriptor) in wanted {
            let inode = inode(descriptor).map_err(StoreError::Socket)?;
            match self.held.get(name) {
                Some(Some(held)) if *held == inode => continue,
                Some(_) => self.remove(name),
                None => {}
            }
            let sent = service_manager::store(name, descriptor.as_fd());
            sent.map_err(StoreError::Manager)?;
            self.held.insert(name.clone(), Some(inode));
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) {
        self.held.remove(name);
        service_manager::remove(name);
    }
}

fn judge(name: &str, descriptor: &OwnedFd, maps: &str) -> Result<(Item, u64), Misfit> {
    let label = Label::parse(name, maps)?;
    label.check(descriptor)?;
    let inode = inode(descriptor).map_err(Misfit::NoListener)?;
    Ok((label.item, inode))
}

impl Drop for FdStore {
    fn drop(&mut self) {
        if !self.serves {
            for name in self.held.keys() {
                service_manager::remove(name);
            }
        }
    }
}

/// Why the service manager does not have a listener.
#[derive(Debug, Error)]
enum StoreError {
    #[error("asking a listener for its inode: {0}")]
    Socket(#[source] io::Error),
    #[error("telling the service manager: {0}")]
    Manager(#[source] io::Error),
}

/// How much can be passed on. All names together are one variable of the environment, and the kernel starts no
/// program where one is longer than 128 KiB: a longer list would keep the agent from ever starting again.
#[derive(Debug, Default)]
struct Room {
    bytes: usize,
    left_out: usize,
}

impl Room {
    fn take(&mut self, name: &str) -> bool {
        let bytes = self.bytes + name.len() + 1;
        let fits = bytes <= MOST_BYTES;
        if fits {
            self.bytes = bytes;
        } else {
            self.left_out += 1;
        }
        fits
    }

    fn left_out(&self) -> Option<usize> {
        (self.left_out > 0).then_some(self.left_out)
    }
}

/// With room for names of others.
const MOST_BYTES: usize = 120 << 10;

fn inode(descriptor: &OwnedFd) -> io::Result<u64> {
    Ok(fstat(descriptor)?.st_ino)
}

#[cfg(test)]
mod tests;
