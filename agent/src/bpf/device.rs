//! The guard at the egress of a network device: which of its two places this kernel has.

use std::{fmt, path::Path};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, SchedClassifier, TcAttachType},
};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{
    AttachError, BpfError,
    attach::{Target, attach_loaded, load},
    clsact,
};

/// A network device, as the namespace it is in names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name, at the time it was listed.
    pub name: String,
}

/// Where the guard of a device hangs. Either way it outlives the agent and is replaced atomically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceHook {
    /// tcx, by a pinned link. Minimum kernel version: 6.6. Preferred, since nothing but the pin's
    /// removal takes the guard away.
    Tcx,
    /// A filter of the device's clsact qdisc, which whoever administers the namespace can remove.
    /// Minimum kernel version: 5.2.
    Clsact,
}

impl DeviceHook {
    /// The better one of those that the running kernel has.
    ///
    /// # Errors
    /// [`BpfError::Attach`] where the kernel answers with something else than yes or no.
    pub(super) fn of_kernel() -> Result<Self, BpfError> {
        match SchedClassifier::query_tcx("lo", TcAttachType::Egress) {
            Ok(_) => Ok(Self::Tcx),
            // What kernels say of an attach type that they don't know.
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(Errno::EINVAL as i32) =>
            {
                Ok(Self::Clsact)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Loads the guard of a workload's devices.
    pub(super) fn load(self, object: &mut Ebpf) -> Result<DeviceGuard, BpfError> {
        let program = object
            .program_mut(PROGRAM)
            .ok_or(BpfError::Missing(PROGRAM))?;
        load(program).map_err(failed)?;
        let info = program.info().map_err(failed)?;
        let program = SchedClassifier::from_program_info(info, PROGRAM.into()).map_err(failed)?;
        Ok(DeviceGuard {
            hook: self,
            program: Program::SchedClassifier(program),
        })
    }
}

/// The guard of one workload's devices. Holds nothing of the object that it is from.
#[derive(Debug)]
pub(super) struct DeviceGuard {
    hook: DeviceHook,
    program: Program,
}

impl DeviceGuard {
    /// Guards the egress of a device, if it is not guarded by this very program already.
    ///
    /// `links` is the workload's link directory. To be called on a thread in the device's namespace.
    pub(super) fn guard(&mut self, links: &Path, device: &Device) -> Result<(), BpfError> {
        match self.hook {
            DeviceHook::Tcx => {
                let pin = links.join(format!("{PROGRAM}-{}", device.index));
                let target = Target::DeviceEgress(&device.name);
                attach_loaded(&mut self.program, PROGRAM, &pin, target)
            }
            DeviceHook::Clsact => {
                let Program::SchedClassifier(program) = &mut self.program else {
                    return Err(failed(AttachError::Mismatch));
                };
                Ok(clsact::guard(program, links, device)?)
            }
        }
    }
}

impl fmt::Display for DeviceHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

const PROGRAM: &str = "guard_device";

fn failed(source: impl Into<AttachError>) -> BpfError {
    BpfError::Attach {
        program: PROGRAM,
        source: source.into(),
    }
}
