//! The process becomes two: the loader, which calls bpf(2), and the agent, which can't.

use ::kernel_tls::Capabilities;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    agent_error::{AgentError, failed},
    config::Config,
    confine::{Part, confine, forbid_core_dumps},
    loader::Loader,
};

/// The agent's process after the loader has become one of its own: no thread of it can call bpf(2), nor
/// much else that serving connections takes no use of.
#[derive(Debug)]
pub struct Divided {
    pub(crate) loader: Loader,
    pub(crate) kernel_tls: Capabilities,
}

/// Divides the process. To be called while it has one thread.
///
/// # Errors
/// Where it has too few rights, or either half can't be what it should.
pub fn divide(config: &Config) -> Result<Divided, AgentError> {
    protect_memory()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    let loader = Loader::start(config.log_format, config.log_level)?;
    // Asks the kernel by bpf(2) as well, so that this is the last moment for it.
    let kernel_tls = Capabilities::probe();
    confine(Part::Agent)?;
    Ok(Divided { loader, kernel_tls })
}

/// Many connections need many descriptors; for the rest see [`forbid_core_dumps`].
fn protect_memory() -> Result<(), AgentError> {
    let limits = || -> nix::Result<()> {
        forbid_core_dumps()?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    };
    limits().map_err(|errno| failed("setting the process's limits")(errno.into()))
}
