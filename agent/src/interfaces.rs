//! Follows the interfaces of a workload's namespace: tells the hooks its addresses, guards its
//! devices.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use thiserror::Error;
use tokio::time::sleep;
use tracing::{error, info};

use crate::{
    causes::with_causes,
    loader::{ControlMaps, LoaderError, WorkloadPrograms},
    netns::Interfaces,
    readable::readable,
    workload::{Telling, Workload},
};

/// One workload's interfaces.
#[derive(Debug)]
pub(crate) struct InterfaceWatch {
    workload: Arc<Workload>,
    changes: OwnedFd,
    programs: Option<WorkloadPrograms>,
    known: Option<Interfaces>,
}

/// Why the interfaces could not be followed.
#[derive(Debug, Error)]
pub enum InterfaceError {
    /// The namespace could not be read.
    #[error("reading the interfaces of workload {workload}: {source}")]
    Read {
        /// The workload.
        workload: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel side could not be told.
    #[error(transparent)]
    Kernel(#[from] LoaderError),
}

/// Changes come in swarms; this lets one pass before the interfaces are read.
const SETTLE: Duration = Duration::from_millis(20);

/// A device that could not be guarded is tried again, whether or not anything changes.
const RETRY: Duration = Duration::from_secs(1);

/// `RTMGRP_LINK`, `RTMGRP_TC`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`,
/// `RTMGRP_IPV6_ROUTE` of rtnetlink(7).
const CHANGES: u32 = 0x1 | 0x8 | 0x10 | 0x40 | 0x100 | 0x400;

impl InterfaceWatch {
    /// Begins to listen for changes and tells the hooks, which need not be attached yet, the
    /// addresses.
    pub(crate) fn new(
        workload: Arc<Workload>,
        maps: &mut ControlMaps,
    ) -> Result<Self, InterfaceError> {
        let changes = workload
            .netns
            .run(listen)
            .map_err(|source| InterfaceError::Read {
                workload: workload.name.to_string(),
                source,
            })?;
        let mut watch = Self {
            workload,
            changes,
            programs: None,
            known: None,
        };
        watch.update(maps)?;
        Ok(watch)
    }

    /// Guards the devices, from now on also those that come.
    pub(crate) fn guard(
        &mut self,
        programs: WorkloadPrograms,
        maps: &mut ControlMaps,
    ) -> Result<(), InterfaceError> {
        self.programs = Some(programs);
        self.known = None;
        self.update(maps)
    }

    /// Reads the interfaces and tells the kernel side what has changed.
    fn update(&mut self, maps: &mut ControlMaps) -> Result<(), InterfaceError> {
        let failed = |source| InterfaceError::Read {
            workload: self.workload.name.to_string(),
            source,
        };
        let current = self.workload.netns.run(Interfaces::list).map_err(failed)?;
        // The guard first: no other failure may leave a device without it. And always: the change
        // may be that somebody took the guard away, or put something before it.
        if let Some(programs) = &self.programs {
            let guarded = programs.guard_devices(&self.workload.netns, &current.devices);
            let unguarded = guarded.as_ref().err().map(|error| with_causes(error));
            self.workload.unguarded.send_if_modified(|known| {
                let is_news = *known != unguarded;
                *known = unguarded;
                is_news
            });
            guarded?;
        }
        if self.known.as_ref() == Some(&current) {
            return Ok(());
        }
        maps.set_addresses(self.workload.id, &current.addresses)?;
        self.known = Some(current);
        Ok(())
    }

    /// Follows changes until the agent ends.
    pub(crate) async fn follow(mut self, maps: Rc<RefCell<ControlMaps>>) {
        let changes = self.changes.as_fd().try_clone_to_owned().and_then(readable);
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                error!(%error, "changes of interfaces can't be followed");
                return;
            }
        };
        let mut telling = self.workload.telling.subscribe();
        loop {
            tokio::select! {
                ready = changes.readable() => {
                    let Ok(mut ready) = ready else {
                        return;
                    };
                    sleep(SETTLE).await;
                    drain(&changes);
                    ready.clear_ready();
                }
                Ok(()) = telling.changed() => self.known = None,
            }
            if *telling.borrow() == Telling::Others {
                continue;
            }
            let mut told = None;
            loop {
                let updated = self.update(&mut maps.borrow_mut());
                let Err(error) = updated else {
                    break;
                };
                let error = Some(with_causes(&error));
                if told != error {
                    told = error;
                    error!(
                        workload = %self.workload.name,
                        error = told,
                        "the interfaces can't be served; it is tried again"
                    );
                }
                sleep(RETRY).await;
            }
            if told.is_some() {
                info!(workload = %self.workload.name, "the interfaces are served again");
            }
        }
    }
}

fn listen() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, CHANGES))?;
    Ok(socket)
}

/// Throws the notifications away: that there was one is all that counts, also where some were lost.
fn drain(socket: &impl AsRawFd) {
    let mut buffer = [0; 8192];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
