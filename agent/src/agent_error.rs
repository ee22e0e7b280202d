//! Why an agent can't start, or go on.

use std::{io, net::SocketAddrV4, path::PathBuf};

use thiserror::Error;

use crate::{
    admin::AdminError, certificates::CertificateError, confine::ConfineError,
    enrolment::SetupError, interfaces::InterfaceError, loader::LoaderError, policy::WorkloadName,
    spans::SpansError, take_over::TakeOverError, workload::WorkloadError,
};

/// Why the agent could not start.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Something of the machine or the kernel is missing, or the loader is.
    #[error(transparent)]
    Kernel(#[from] LoaderError),
    /// What reads what peers send can't be kept from what it has no use for.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// A workload can't be served.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// A workload's interfaces can't be followed.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Another agent serves the instance.
    #[error(
        "another agent serves instance {instance} (it holds {path}); stop it, or give this \
             one another --instance"
    )]
    Running {
        /// The instance.
        instance: String,
        /// The lock.
        path: PathBuf,
    },
    /// The agent that runs does not hand over.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// The process has too few rights.
    #[error("the agent must run as root: it loads eBPF programs and enters network namespaces")]
    NotRoot,
    /// The certificate files that are there can't serve.
    #[error("workload {workload}: {source}")]
    Certificate {
        /// The workload.
        workload: WorkloadName,
        /// What is wrong with which file.
        source: CertificateError,
    },
    /// The Coordinator can't even be asked.
    #[error(transparent)]
    Coordinator(#[from] SetupError),
    /// Something else listens where a listener of the configuration should.
    #[error(
        "workload {workload}: listener {listen} is taken: another program listens there; stop it, or \
         choose another address of 127.0.0.0/8"
    )]
    ListenerTaken {
        /// The workload.
        workload: WorkloadName,
        /// The address.
        listen: SocketAddrV4,
    },
    /// The admin interface can't be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The environment asks for spans that can't be sent.
    #[error(transparent)]
    Spans(#[from] SpansError),
    /// Another call to the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl AgentError {
    /// The exit code: 2 where the operator must change what was asked for, 3 where the machine
    /// can't do it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Workload(_)
            | Self::Certificate { .. }
            | Self::Running { .. }
            | Self::ListenerTaken { .. }
            | Self::TakeOver(TakeOverError::Refused(_))
            | Self::Admin(_)
            | Self::Spans(_) => 2,
            Self::Coordinator(error) => error.exit_code(),
            Self::Kernel(error) | Self::Interface(InterfaceError::Kernel(error)) => {
                if error.is_of_machine() { 3 } else { 1 }
            }
            Self::NotRoot | Self::Confine(_) => 3,
            Self::Interface(_) | Self::TakeOver(_) | Self::System { .. } => 1,
        }
    }
}

/// What a call to the system was for.
pub(crate) fn failed(what: &'static str) -> impl Fn(io::Error) -> AgentError {
    move |source| AgentError::System { what, source }
}
