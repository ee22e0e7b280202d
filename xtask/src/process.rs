//! Starting other programs, and the errors that decide an exit code.

use std::{
    error::Error,
    ffi::OsStr,
    fmt,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};

/// Says on standard error what happens now; standard output belongs to the commands' results.
pub(crate) fn step(what: impl fmt::Display) {
    eprintln!("==> {what}");
}

/// A command whose standard output goes to our standard error, so that it can't spoil a result.
pub(crate) fn quiet_stdout(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    command
}

/// Runs a command to its end; anything but exit 0 is an error that names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", line(command)))?;
    if status.success() {
        return Ok(());
    }
    Err(Failed {
        line: line(command),
        status,
    }
    .into())
}

/// The trimmed standard output of a command that must succeed.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", line(command)))?;
    if !output.status.success() {
        return Err(Failed {
            line: line(command),
            status: output.status,
        }
        .into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A program that ended with something else than exit 0.
#[derive(Debug)]
pub(crate) struct Failed {
    line: String,
    status: ExitStatus,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {}", self.line, self.status)
    }
}

impl Error for Failed {}

/// The machine or its kernel lacks something; exit code 3.
#[derive(Debug)]
pub(crate) struct PlatformLacks(pub(crate) String);

impl fmt::Display for PlatformLacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for PlatformLacks {}

/// What was asked for does not exist; exit code 2.
#[derive(Debug)]
pub(crate) struct WrongUsage(pub(crate) String);

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for WrongUsage {}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
