//! Local acceleration: what a program sends to the agent passes the loopback's TCP by, where the
//! `eBPF` programs find that sound (`sk_msg`).
//!
//! No socket that may ever get the kernel's TLS enters a map here: some kernels would then put
//! plaintext on the wire. Of the agent's sockets only those enter that [`LocalHops::accelerate`] has
//! checked, and what the wire's type owns can't be offered to it; of a program's sockets only the
//! other end of such a one, which the `eBPF` program finds by both addresses and by the name that the
//! connect hook gave it when it turned it to the loopback.

use std::{
    fmt, fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, SockHash},
    programs::{ProgramError, ProgramFd},
};
use ebpf_abi::{HopId, HopState, JoinRequest, SocketLayout};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use thiserror::Error;

use super::{BpfError, LayoutError, Pins, attach, maps::open, sys};
use crate::netns;

/// Why the kernel can't accelerate any connection.
#[derive(Debug, Error)]
pub enum LocalHopError {
    /// Nobody knows where it keeps what has to be known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It refuses the program, or a map.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// It refuses to attach the program to the map.
    #[error("attaching sk_msg to its socket map: {0}")]
    Attach(#[from] io::Error),
}

/// Why a connection's local hop is not accelerated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WhyTcp {
    /// The operator does not ask for it.
    Off,
    /// This kernel can't.
    Kernel,
    /// The agent has connected to the program, whose socket may not be accepted yet: nobody can tell
    /// whether it will block.
    Ingress,
    /// Nobody seals it.
    Plaintext,
    /// The program has not sent enough small messages yet.
    FewMessages,
    /// Reads of the program may block, and would see errors that belong to sockets that don't.
    ProgramBlocks,
    /// The program waits for the kernel's word on each buffer that it sends.
    ZeroCopy,
    /// The program's socket has an upper layer of its own.
    UpperLayer,
    /// The kernel did not take one of the two sockets.
    NotTaken,
    /// The socket is none of the local hop. A mistake of the agent's, found before it does harm.
    NotLocal,
}

impl WhyTcp {
    /// The code in `/connections`, metrics and the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Kernel => "kernel",
            Self::Ingress => "ingress",
            Self::Plaintext => "plaintext",
            Self::FewMessages => "few-messages",
            Self::ProgramBlocks => "program-blocks",
            Self::ZeroCopy => "zero-copy",
            Self::UpperLayer => "upper-layer",
            Self::NotTaken => "not-taken",
            Self::NotLocal => "not-local",
        }
    }
}

/// What was found and made when the agent started.
#[derive(Debug)]
pub(crate) struct Acceleration {
    pub(super) layout: &'static SocketLayout,
    join: ProgramFd,
}

impl Acceleration {
    /// Attaches `sk_msg` to the map of the programs' ends, where it stays as long as the map does,
    /// and loads the program that puts sockets there.
    pub(super) fn prepare(
        object: &mut Ebpf,
        layout: &'static SocketLayout,
    ) -> Result<Self, LocalHopError> {
        const MAP: &str = "PROGRAM_ENDS";
        let send = load(object, "local_hop")?;
        let join = load(object, JOIN)?;
        let map = object.map(MAP).ok_or(BpfError::Missing(MAP))?;
        let map: SockHash<_, HopId> = map
            .try_into()
            .map_err(|source| BpfError::Map { name: MAP, source })?;
        sys::attach_sk_msg(&send, map.fd())?;
        Ok(Self { layout, join })
    }
}

/// What putting connections there takes.
pub(crate) struct LocalHops {
    agent_ends: SockHash<MapData, HopId>,
    program_ends: SockHash<MapData, HopId>,
    join: ProgramFd,
}

impl LocalHops {
    pub(crate) fn open(pins: &Pins, acceleration: &Acceleration) -> Result<Self, BpfError> {
        let join = acceleration.join.try_clone();
        Ok(Self {
            agent_ends: open(pins, "AGENT_ENDS")?,
            program_ends: open(pins, "PROGRAM_ENDS")?,
            join: join.map_err(|error| attach_error(JOIN, error.into()))?,
        })
    }

    /// From now on the kernel may hand what the program at the other end of `socket` sends straight
    /// to it. Both ends leave the maps when they are closed. To be called on a thread that may stay in
    /// their namespace.
    ///
    /// `id` is what the kernel has noted on the socket itself when it accepted it.
    pub(crate) fn accelerate(&mut self, socket: &OwnedFd, id: HopId) -> Result<(), WhyTcp> {
        let address = |of: &io::Result<socket2::SockAddr>| of.as_ref().ok()?.as_socket();
        let asked = SockRef::from(socket);
        let request = JoinRequest {
            header: [0; 2],
            id,
            program: address(&asked.peer_addr()).ok_or(WhyTcp::NotLocal)?.into(),
            agent: address(&asked.local_addr()).ok_or(WhyTcp::NotLocal)?.into(),
        };
        if !request.program.is_loopback()
            || !request.agent.is_loopback()
            || sys::has_upper_layer(socket).unwrap_or(true)
        {
            return Err(WhyTcp::NotLocal);
        }
        // The program finds the other end in the namespace in which it runs.
        let state = sys::netns_of(socket)
            .and_then(|netns| netns::enter(&netns))
            .and_then(|()| sys::run_on_packet(&self.join, &request))
            .map_err(|_| WhyTcp::NotTaken)?;
        if let Some(why) = why_not(state) {
            return Err(why);
        }
        self.agent_ends
            .insert(id, socket.as_raw_fd(), 0)
            .map_err(|_| {
                let _ = self.program_ends.remove(&id);
                WhyTcp::NotTaken
            })
    }
}

impl fmt::Debug for LocalHops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHops").finish_non_exhaustive()
    }
}

/// Takes away what an earlier agent has left: the sockets in the maps read as any other again.
pub(super) fn remove(pins: &Pins) -> Result<(), BpfError> {
    for name in MAPS {
        let path = pins.map(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(BpfError::Pin { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

const JOIN: &str = "join_local_hop";

/// The maps that exist for this alone.
pub(super) const MAPS: [&str; 3] = ["AGENT_ENDS", "LOCAL_HOPS", "PROGRAM_ENDS"];

fn load(object: &mut Ebpf, name: &'static str) -> Result<ProgramFd, BpfError> {
    let failed = |error| attach_error(name, error);
    let program = object.program_mut(name).ok_or(BpfError::Missing(name))?;
    attach::load(program).map_err(failed)?;
    let program = program.fd().map_err(failed)?;
    program.try_clone().map_err(|error| failed(error.into()))
}

fn attach_error(program: &'static str, error: ProgramError) -> BpfError {
    BpfError::Attach {
        program,
        source: error.into(),
    }
}

fn why_not(state: u32) -> Option<WhyTcp> {
    let state = HopState::ALL
        .into_iter()
        .find(|known| *known as u32 == state);
    match state {
        Some(HopState::Open) => None,
        Some(HopState::ProgramBlocks) => Some(WhyTcp::ProgramBlocks),
        Some(HopState::ZeroCopy) => Some(WhyTcp::ZeroCopy),
        Some(HopState::UpperLayer) => Some(WhyTcp::UpperLayer),
        Some(HopState::NotTaken) | None => Some(WhyTcp::NotTaken),
    }
}
