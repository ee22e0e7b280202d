//! Attaching programs by links that are pinned, or putting new programs behind pinned links.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, LinkOrder, Program, ProgramError, TcAttachType,
        links::{FdLink, LinkError},
        tc::TcAttachOptions,
    },
};
use nix::errno::Errno;
use thiserror::Error;

use super::{
    BpfError,
    sys::{self, CgroupHook},
};

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A cgroup's directory; what its sockets send, where that matters.
    Cgroup(BorrowedFd<'a>),
    /// A cgroup's directory; what its sockets receive.
    CgroupIngress(BorrowedFd<'a>),
    /// A cgroup's directory; options that are got of its sockets.
    CgroupGetOption(BorrowedFd<'a>),
    /// A cgroup's directory; options that are set on its sockets.
    CgroupSetOption(BorrowedFd<'a>),
    /// A network namespace.
    Netns(BorrowedFd<'a>),
    /// The egress of a device, named as in the namespace of the calling thread.
    DeviceEgress(&'a str),
}

/// Attaches the program `name` to `target`, by the link that is or will be pinned at `pin`.
///
/// A link that is there gets the new program atomically.
pub(super) fn attach(
    object: &mut Ebpf,
    name: &'static str,
    pin: &Path,
    target: Target<'_>,
) -> Result<(), BpfError> {
    let program = object.program_mut(name).ok_or(BpfError::Missing(name))?;
    load(program).map_err(|error| BpfError::Attach {
        program: name,
        source: error.into(),
    })?;
    attach_loaded(program, name, pin, target)
}

/// The same to a cgroup, but for as long as the link lives that is returned.
pub(super) fn attach_unpinned(
    object: &mut Ebpf,
    name: &'static str,
    cgroup: BorrowedFd<'_>,
    hook: CgroupHook,
) -> Result<OwnedFd, BpfError> {
    let program = object.program_mut(name).ok_or(BpfError::Missing(name))?;
    let linked = load(program).and_then(|()| program.fd()).map(|program| {
        // By hand: aya 0.14 lets nobody have the descriptor of such a link.
        sys::link_cgroup(program.as_fd(), cgroup, hook)
    });
    let linked = linked.map_err(AttachError::from);
    linked
        .and_then(|link| Ok(link?))
        .map_err(|source| BpfError::Attach {
            program: name,
            source,
        })
}

/// The same as [`attach`] for a program that is loaded.
pub(super) fn attach_loaded(
    program: &mut Program,
    name: &'static str,
    pin: &Path,
    target: Target<'_>,
) -> Result<(), BpfError> {
    let failed = |source| BpfError::Attach {
        program: name,
        source,
    };
    let descriptor = program.fd().map_err(|error| failed(error.into()))?;
    if adopt(pin, descriptor.as_fd())? {
        return Ok(());
    }
    // By hand: of all links to a cgroup, aya 0.14 can't pin these.
    let sockopt = match target {
        Target::CgroupGetOption(cgroup) => Some((cgroup, CgroupHook::GetOption)),
        Target::CgroupSetOption(cgroup) => Some((cgroup, CgroupHook::SetOption)),
        _ => None,
    };
    if let Some((cgroup, hook)) = sockopt {
        let linked = sys::link_cgroup(descriptor.as_fd(), cgroup, hook)
            .and_then(|link| sys::object_pin(link.as_fd(), pin));
        return linked.map_err(|error| failed(error.into()));
    }
    let link = link(program, target).map_err(failed)?;
    link.pin(pin).map(drop).map_err(|error| BpfError::Pin {
        path: pin.to_owned(),
        source: io::Error::other(error),
    })
}

/// Why a program could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel refused the program or its place.
    #[error(transparent)]
    Program(Box<ProgramError>),
    /// The kernel refused a link for it, or the link's pin.
    #[error("making a link and its pin: {0}")]
    System(#[from] io::Error),
    /// The kernel attached it, but not by a link that outlives the agent.
    #[error("not by a link that can be pinned: {0}")]
    Link(#[from] LinkError),
    /// The object's program is of another kind than its place.
    #[error("the program is of a kind that does not go there")]
    Mismatch,
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

pub(super) fn load(program: &mut Program) -> Result<(), ProgramError> {
    let loaded = match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Ok(()),
    };
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

/// Puts `program` behind the link pinned at `pin`; false where there is none that still holds.
fn adopt(pin: &Path, program: BorrowedFd<'_>) -> Result<bool, BpfError> {
    let failed = |source| BpfError::Pin {
        path: pin.to_owned(),
        source,
    };
    let link: OwnedFd = match sys::object_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // What it was attached to is gone, and with it everything it could have guarded.
        Err(error) if error.raw_os_error() == Some(Errno::ENOLINK as i32) => {
            fs::remove_file(pin).map_err(failed)?;
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}

fn link(program: &mut Program, target: Target<'_>) -> Result<FdLink, AttachError> {
    Ok(match (program, target) {
        (Program::CgroupSkb(program), Target::Cgroup(cgroup)) => {
            let id = program.attach(cgroup, CgroupSkbAttachType::Egress, LINK_MODE)?;
            program.take_link(id)?.try_into()?
        }
        (Program::CgroupSkb(program), Target::CgroupIngress(cgroup)) => {
            let id = program.attach(cgroup, CgroupSkbAttachType::Ingress, LINK_MODE)?;
            program.take_link(id)?.try_into()?
        }
        (Program::CgroupSockAddr(program), Target::Cgroup(cgroup)) => {
            let id = program.attach(cgroup, LINK_MODE)?;
            program.take_link(id)?.try_into()?
        }
        (Program::SockOps(program), Target::Cgroup(cgroup)) => {
            let id = program.attach(cgroup, LINK_MODE)?;
            program.take_link(id)?.try_into()?
        }
        (Program::SkLookup(program), Target::Netns(netns)) => {
            let id = program.attach(netns)?;
            program.take_link(id)?.into()
        }
        (Program::SchedClassifier(program), Target::DeviceEgress(device)) => {
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(device, TcAttachType::Egress, first)?;
            program.take_link(id)?.try_into()?
        }
        _ => return Err(AttachError::Mismatch),
    })
}

/// A link always lets others attach beside it, and the kernel wants no flag that says so.
const LINK_MODE: CgroupAttachMode = CgroupAttachMode::Single;
