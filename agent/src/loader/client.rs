//! The agent's end: starts the loader and asks it.

use std::{
    cell::Cell,
    env, io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tracing::error;

use super::{
    NAME,
    channel::Channel,
    protocol::{Failure, Message, Outcome, Request},
};
use crate::{
    config::{LogFormat, LogLevel},
    readable::readable,
};

/// How long the loader may take for one request, on a machine under load.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// The loader, for the control thread. It ends with the last of these.
#[derive(Clone, Debug)]
pub(crate) struct Loader(Rc<Process>);

#[derive(Debug)]
struct Process {
    channel: Channel,
    child: OwnedFd,
    _reaped: Reaped,
    is_lost: Cell<bool>,
}

/// Leaves no zombie.
#[derive(Debug)]
struct Reaped(Child);

/// Why the loader has not done something.
#[derive(Debug, Error)]
pub enum LoaderError {
    /// It could not be done.
    #[error("{what}")]
    Failed {
        /// What went wrong, with every cause.
        what: String,
        /// What the system said, if that was it.
        errno: Option<Errno>,
    },
    /// There is no loader any more, or none that answers.
    #[error("the loader has ended, or does not answer: {0}")]
    Gone(io::Error),
    /// It could not be started.
    #[error("starting the loader, this program once more: {0}")]
    Start(io::Error),
    /// The workload's cgroup can't be opened.
    #[error("opening the cgroup {path}: {source}")]
    Cgroup {
        /// Its directory.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it gave can't be used.
    #[error("mapping a ring buffer: {0}")]
    Ring(io::Error),
}

impl LoaderError {
    /// Whether the machine can't do it, or refuses to.
    pub fn is_of_machine(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Whether it is for want of a descriptor.
    pub fn lacks_files(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                errno: Some(Errno::EMFILE),
                ..
            }
        )
    }
}

impl From<Failure> for LoaderError {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            what: failure.what,
            errno: failure.errno.map(Errno::from_raw),
        }
    }
}

impl Loader {
    /// Starts it: this program once more, which logs as this one does.
    ///
    /// # Errors
    /// [`LoaderError::Start`].
    pub(crate) fn start(format: LogFormat, level: LogLevel) -> Result<Self, LoaderError> {
        Self::spawn(format, level).map_err(LoaderError::Start)
    }

    fn spawn(format: LogFormat, level: LogLevel) -> io::Result<Self> {
        let (channel, far) = Channel::pair()?;
        channel.set_patience(PATIENCE)?;
        let colour = env::var_os("NO_COLOR").map(|value| ("NO_COLOR", value));
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .args([format.as_str(), level.as_str()])
            .env_clear()
            .envs(colour)
            .stdin(OwnedFd::from(far))
            .stdout(Stdio::null())
            // A terminal's Ctrl-C is for the agent, which still needs it.
            .process_group(0)
            .spawn()?;
        let child = Reaped(child);
        Ok(Self(Rc::new(Process {
            channel,
            child: pidfd_open(Pid::from_child(&child.0), PidfdFlags::empty())?,
            _reaped: child,
            is_lost: Cell::new(false),
        })))
    }

    /// Returns when the loader has ended, or can't be watched any more.
    pub(crate) async fn ended(&self) {
        let watched = self.0.child.try_clone().and_then(readable);
        match watched {
            Ok(watched) => drop(watched.readable().await),
            Err(error) => error!(%error, "the loader can't be watched"),
        }
    }

    pub(super) fn call<R: Request>(&self, request: R) -> Result<R::Answer, LoaderError> {
        self.call_with(request, &[]).map(|(answer, _)| answer)
    }

    /// The same, with what goes beside it, and what comes beside the answer.
    pub(super) fn call_with<R: Request>(
        &self,
        request: R,
        beside: &[BorrowedFd<'_>],
    ) -> Result<(R::Answer, Vec<OwnedFd>), LoaderError> {
        if self.0.is_lost.get() {
            return Err(LoaderError::Gone(io::ErrorKind::BrokenPipe.into()));
        }
        let asked = ask(&self.0.channel, request, beside);
        if let Err(LoaderError::Gone(_)) = &asked {
            // Nobody knows which answer would come next.
            self.0.is_lost.set(true);
            let _ = pidfd_send_signal(&self.0.child, Signal::KILL);
        }
        asked
    }
}

/// Asks whoever is at the other end.
pub(super) fn ask<R: Request>(
    channel: &Channel,
    request: R,
    beside: &[BorrowedFd<'_>],
) -> Result<(R::Answer, Vec<OwnedFd>), LoaderError> {
    let message: Message = request.into();
    let answered = exchange::<Outcome<R::Answer>>(channel, &message, beside);
    let (outcome, beside) = answered.map_err(LoaderError::Gone)?;
    Ok((outcome?, beside))
}

fn exchange<T: DeserializeOwned>(
    channel: &Channel,
    message: &impl Serialize,
    beside: &[BorrowedFd<'_>],
) -> io::Result<(T, Vec<OwnedFd>)> {
    channel.send(message, beside)?;
    channel
        .receive()?
        .ok_or(io::ErrorKind::UnexpectedEof.into())
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // It is asked for nothing more, and has nothing to finish.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
