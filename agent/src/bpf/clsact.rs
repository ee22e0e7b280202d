//! The device guard as a filter of the device's clsact qdisc: for kernels before 6.6, which have no
//! tcx links.
//!
//! A filter has no file descriptor. It stays on the device when the agent ends, and who it belongs
//! to is told by its program, which is pinned: `filter-<device>` in the workload's link directory.
//! The pin of the program that will replace it, `next_filter-<device>`, stands before the
//! replacement begins, so that an agent that dies in the midst of it leaves no filter behind that
//! the next one would not know. `clsact-<device>` marks a qdisc that the agent made itself.
//!
//! Minimum kernel version: 5.6 (the list names the filter's program since 4.13; `eBPF` programs with
//! socket storage came in 5.2).

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    pin::PinError,
    programs::{
        ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{
            NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError,
            TcHandle,
        },
    },
};
use nix::errno::Errno;
use thiserror::Error;

use super::{
    Device,
    rtnetlink::{Filter, Side, filters, hook_qdisc, remove_clsact},
};

/// The kernel runs the lowest first, and zero stands for none.
const PRIORITY: u16 = 1;

/// Why a device is not guarded by a filter.
#[derive(Debug, Error)]
pub enum ClsactError {
    /// Another qdisc is where clsact would go; it has no egress side.
    #[error(
        "the device has the qdisc `{0}`, which leaves no place for clsact: replace it by clsact"
    )]
    OtherQdisc(String),
    /// A filter that eBPF programs can't be put before.
    #[error(
        "the clsact filter `{kind}` (priority 1, protocol {protocol:#06x}) of somebody else takes \
         the guard's place: give it another priority (`pref`)"
    )]
    PriorityTaken {
        /// What classifies.
        kind: String,
        /// The `ETH_P_*` value.
        protocol: u16,
    },
    /// A filter of somebody else, which could let packets pass that the guard never sees.
    #[error(
        "the clsact filter `{name}` (priority 1, handle {handle:#x}) of somebody else runs before \
         the guard and could let packets pass: give it another priority (`pref`)"
    )]
    Preceded {
        /// The name that its owner gave it.
        name: String,
        /// Its handle.
        handle: u32,
    },
    /// The filter was put there, and is not.
    #[error("the filter is gone as soon as it is there: does something else remove it?")]
    Vanished,
    /// The kernel can't be asked for filters and qdiscs, or refused to remove one.
    #[error("asking rtnetlink: {0}")]
    Netlink(#[from] io::Error),
    /// The kernel refused the filter.
    #[error(transparent)]
    Program(Box<ProgramError>),
    /// The kernel refused the qdisc.
    #[error("adding a clsact qdisc (CONFIG_NET_SCH_INGRESS, module sch_ingress)")]
    Qdisc(#[source] TcError),
    /// The program could not be pinned.
    #[error("pinning the filter's program")]
    Pin(#[from] PinError),
    /// A pin could not be moved or removed.
    #[error("handling the pin {path}: {source}")]
    PinFile {
        /// The pin.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl From<ProgramError> for ClsactError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

/// Guards the device's egress by `program`, which is loaded, and makes sure that no other filter
/// runs before it. Replaces an earlier agent's filter atomically; does nothing where all is well.
///
/// `links` is the workload's link directory. To be called on a thread in the device's namespace.
pub(super) fn guard(
    program: &mut SchedClassifier,
    links: &Path,
    device: &Device,
) -> Result<(), ClsactError> {
    let pins = FilterPins::new(links, device.index);
    let id = program.info()?.id();
    let held = match hook_qdisc(device.index)?.as_deref() {
        Some("clsact") => pins.held(device.index)?,
        Some(other) => return Err(ClsactError::OtherQdisc(other.to_owned())),
        None => {
            add_qdisc(program, &pins, device)?;
            None
        }
    };
    match held {
        Some(filter) if filter.program == Some(id) => {}
        Some(filter) => pins.replacing(program, |program| {
            Ok(program.attach_to_link(filter.as_link(device)?)?)
        })?,
        None => add(program, &pins, device)?,
    }
    check_order(id, links, device.index)
}

/// Whether there may be something on a device that [`remove_filters`] and [`remove_qdiscs`] have to
/// remove for the workload with this link directory.
pub(super) fn is_used_by(links: &Path) -> Result<bool, ClsactError> {
    let pins = pin_names(links)?;
    Ok(pins
        .iter()
        .any(|pin| pin.starts_with(QDISC) || is_filter(pin)))
}

/// Removes the filters of the workload with this link directory from these devices of the namespace
/// that the calling thread is in.
pub(super) fn remove_filters(links: &Path, devices: &[Device]) -> Result<(), ClsactError> {
    let ours = programs_in(links)?;
    for device in devices {
        if !has_clsact(device.index)? {
            continue;
        }
        for filter in filters(device.index, Side::Egress)? {
            if filter.program.is_some_and(|id| ours.contains(&id)) {
                filter.as_link(device)?.detach()?;
            }
        }
    }
    Ok(())
}

/// Removes from these devices the qdiscs that an agent made for the workload and that hold no filter
/// any more.
pub(super) fn remove_qdiscs(links: &Path, devices: &[Device]) -> Result<(), ClsactError> {
    for device in devices {
        let is_ours = FilterPins::new(links, device.index).qdisc.exists();
        if is_ours
            && has_clsact(device.index)?
            && filters(device.index, Side::Egress)?.is_empty()
            && filters(device.index, Side::Ingress)?.is_empty()
        {
            remove_clsact(device.index)?;
        }
    }
    Ok(())
}

fn has_clsact(device: u32) -> io::Result<bool> {
    Ok(hook_qdisc(device)?.as_deref() == Some("clsact"))
}

/// Gives the device a clsact qdisc, and marks it as ours unless somebody was quicker.
fn add_qdisc(
    program: &mut SchedClassifier,
    pins: &FilterPins,
    device: &Device,
) -> Result<(), ClsactError> {
    if !pins.qdisc.exists() {
        program.pin(&pins.qdisc)?;
    }
    match aya::programs::tc::qdisc_add_clsact(&device.name) {
        Ok(()) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {
            remove(&pins.qdisc)
        }
        Err(error) => Err(ClsactError::Qdisc(error)),
    }
}

/// Puts a new filter before those that are there.
fn add(
    program: &mut SchedClassifier,
    pins: &FilterPins,
    device: &Device,
) -> Result<(), ClsactError> {
    let rival = filters(device.index, Side::Egress)?
        .into_iter()
        .find(|filter| filter.is_at_our_place() && !filter.is_beside_us());
    if let Some(Filter { kind, protocol, .. }) = rival {
        return Err(ClsactError::PriorityTaken { kind, protocol });
    }
    pins.replacing(program, |program| {
        let place = TcAttachOptions::Netlink(NlOptions {
            priority: PRIORITY,
            handle: TcHandle::AUTO_ASSIGN,
            classid: None,
        });
        Ok(program.attach_with_options(&device.name, TcAttachType::Egress, place)?)
    })
}

/// The kernel puts the youngest filter of one priority first, so anybody can get before ours.
fn check_order(id: u32, links: &Path, device: u32) -> Result<(), ClsactError> {
    let mut before = Vec::new();
    for filter in filters(device, Side::Egress)? {
        if filter.program == Some(id) {
            return match first_of_others(&before, links)? {
                Some(Filter {
                    kind, handle, name, ..
                }) => Err(ClsactError::Preceded {
                    name: name.unwrap_or(kind),
                    handle,
                }),
                None => Ok(()),
            };
        }
        if filter.chain == 0 {
            before.push(filter);
        }
    }
    Err(ClsactError::Vanished)
}

/// The first that is no guard of an agent. Guards never let pass what another would not.
fn first_of_others(filters: &[Filter], links: &Path) -> Result<Option<Filter>, ClsactError> {
    if filters.is_empty() {
        return Ok(None);
    }
    let guards = guards_beside(links)?;
    let is_guard = |filter: &&Filter| filter.program.is_some_and(|id| guards.contains(&id));
    Ok(filters.iter().find(|filter| !is_guard(filter)).cloned())
}

/// The programs of every filter of every workload of every instance with pins beside ours.
fn guards_beside(links: &Path) -> Result<HashSet<u32>, ClsactError> {
    let mut guards = HashSet::new();
    let instances = links.ancestors().nth(2).unwrap_or(links);
    for instance in directories(instances)? {
        for owner in directories(&instance)? {
            guards.extend(programs_in(&owner)?);
        }
    }
    Ok(guards)
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, ClsactError> {
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(pin_file(path))?;
    Ok(entries
        .iter()
        .map(fs::DirEntry::path)
        .filter(|path| path.is_dir())
        .collect())
}

/// The ids of the programs that filters of this workload have or are about to have.
fn programs_in(links: &Path) -> Result<HashSet<u32>, ClsactError> {
    let mut programs = HashSet::new();
    for pin in pin_names(links)?.iter().filter(|pin| is_filter(pin)) {
        programs.extend(pinned_program(&links.join(pin))?);
    }
    Ok(programs)
}

fn pin_names(links: &Path) -> Result<Vec<String>, ClsactError> {
    let entries = fs::read_dir(links).map_err(pin_file(links))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(pin_file(links))
}

fn is_filter(pin: &str) -> bool {
    pin.starts_with(FILTER) || pin.starts_with(NEXT_FILTER)
}

const FILTER: &str = "filter-";
const NEXT_FILTER: &str = "next_filter-";
const QDISC: &str = "clsact-";

impl Filter {
    /// Whether it has the guard's priority, as one of those that packets meet first.
    fn is_at_our_place(&self) -> bool {
        self.chain == 0 && self.priority == PRIORITY
    }

    /// It as aya knows filters: whoever drops that removes the filter.
    fn as_link(&self, device: &Device) -> io::Result<SchedClassifierLink> {
        let (egress, handle) = (TcAttachType::Egress, TcHandle::from(self.handle));
        SchedClassifierLink::attached(&device.name, egress, self.priority, handle, None)
    }

    /// Whether it is of the sort that the kernel keeps in one list with the guard.
    fn is_beside_us(&self) -> bool {
        self.kind == "bpf" && i32::from(self.protocol) == libc::ETH_P_ALL
    }
}

/// What is pinned for the filter of one device.
struct FilterPins {
    current: PathBuf,
    next: PathBuf,
    qdisc: PathBuf,
}

impl FilterPins {
    fn new(links: &Path, device: u32) -> Self {
        Self {
            current: links.join(format!("{FILTER}{device}")),
            next: links.join(format!("{NEXT_FILTER}{device}")),
            qdisc: links.join(format!("{QDISC}{device}")),
        }
    }

    /// The filter on the device whose program is pinned, from then on at `current`.
    ///
    /// Where there is none, the qdisc need not be the one that an earlier agent made.
    fn held(&self, device: u32) -> Result<Option<Filter>, ClsactError> {
        let current = pinned_program(&self.current)?;
        let next = pinned_program(&self.next)?;
        let held = filters(device, Side::Egress)?.into_iter().find(|filter| {
            filter.program.is_some() && (filter.program == current || filter.program == next)
        });
        match &held {
            // An agent died between replacing the filter and saying so.
            Some(filter) if filter.program == next => self.settle()?,
            Some(_) => {}
            None => remove(&self.qdisc)?,
        }
        Ok(held)
    }

    /// Pins `program` before `attach` makes a filter of it, which stays for good.
    fn replacing(
        &self,
        program: &mut SchedClassifier,
        attach: impl FnOnce(&mut SchedClassifier) -> Result<SchedClassifierLinkId, ClsactError>,
    ) -> Result<(), ClsactError> {
        remove(&self.next)?;
        program.pin(&self.next)?;
        let id = attach(program)?;
        // aya would remove the filter with the link.
        std::mem::forget(program.take_link(id)?);
        self.settle()
    }

    /// The program at `next` is the filter's.
    fn settle(&self) -> Result<(), ClsactError> {
        fs::rename(&self.next, &self.current).map_err(pin_file(&self.next))
    }
}

/// The id of the program pinned at `path`, if one is.
fn pinned_program(path: &Path) -> Result<Option<u32>, ClsactError> {
    match ProgramInfo::from_pin(path) {
        Ok(program) => Ok(Some(program.id())),
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn remove(pin: &Path) -> Result<(), ClsactError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(pin_file(pin)(error)),
        _ => Ok(()),
    }
}

fn pin_file(path: &Path) -> impl Fn(io::Error) -> ClsactError {
    move |source| ClsactError::PinFile {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
