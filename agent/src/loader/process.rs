//! The loader as a process: one request after the other, until the agent is gone.

use std::{env, ffi::OsStr, io, os::fd::AsFd as _, process::ExitCode, time::Duration};

use nix::sys::{prctl, signal::Signal};
use thiserror::Error;
use tracing::error;

use super::{NAME, channel::Channel, kernel::Kernel};
use crate::{
    access_log::{self, InitError},
    causes::with_causes,
    config::{LogFormat, LogLevel},
    confine::{ConfineError, Part, confine, forbid_core_dumps},
};

/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs this process as the loader, where it was started as that; `None` where it was not.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = env::args_os();
    if arguments.next()? != NAME {
        return None;
    }
    let [format, level] = [arguments.next(), arguments.next()];
    Some(match run(format.as_deref(), level.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    })
}

/// Why there can be no loader.
#[derive(Debug, Error)]
enum ProcessError {
    #[error("it is started by sealwire-agent, by nobody else")]
    NotAsked,
    #[error("tying its life to the agent's")]
    Tie(#[source] nix::Error),
    #[error(transparent)]
    Log(#[from] InitError),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("listening to the agent")]
    Channel(#[from] io::Error),
}

fn run(format: Option<&OsStr>, level: Option<&OsStr>) -> Result<(), ProcessError> {
    let format = word(format, &LogFormat::ALL, LogFormat::as_str)?;
    let level = word(level, &LogLevel::ALL, LogLevel::as_str)?;
    prctl::set_name(c"sealwire-loader").map_err(ProcessError::Tie)?;
    // Not to finish anything for an agent that is dead: another may be at work already.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(ProcessError::Tie)?;
    forbid_core_dumps().map_err(ProcessError::Tie)?;
    confine(Part::Loader)?;
    let log = access_log::init(format, level)?;
    let channel = Channel::from(io::stdin().as_fd().try_clone_to_owned()?);
    let served = serve(&channel);
    if let Err(error) = &served {
        error!(%error, "the agent can't be understood");
    }
    log.flush(LAST_LINES);
    Ok(served?)
}

/// One of these words.
fn word<T: Copy>(
    asked: Option<&OsStr>,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Result<T, ProcessError> {
    let found = all.iter().find(|it| asked == Some(as_str(**it).as_ref()));
    found.copied().ok_or(ProcessError::NotAsked)
}

fn serve(channel: &Channel) -> io::Result<()> {
    let mut kernel = Kernel::default();
    while let Some((message, descriptors)) = channel.receive()? {
        let (outcome, beside) = kernel.answer(message, descriptors);
        let beside: Vec<_> = beside.iter().map(|it| it.as_fd()).collect();
        channel.send(&outcome, &beside)?;
    }
    Ok(())
}
