use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Why a command did not do what it was asked, by who has to act.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The machine, a file or the other side is not as needed.
    Failed(anyhow::Error),
    /// The command line, or a file that it names, asks for something impossible.
    Usage(anyhow::Error),
    /// The answer is no; here it is, for standard output.
    Refused(String),
    /// The same, of a configuration.
    Invalid(String),
    /// Somebody has seen enough.
    Stopped(Stopped),
    /// A program was run and has ended with this code; what there was to say, it has said.
    Ended(u8),
    /// A program was not run; with the code that says so.
    NotRun { error: anyhow::Error, code: u8 },
}

/// Which signal ended a command that goes on until one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

impl Stopped {
    /// What a shell makes of a program that such a signal has killed.
    fn code(self) -> u8 {
        match self {
            Self::Interrupted => 128 + 2,
            Self::Terminated => 128 + 15,
        }
    }
}

impl Failure {
    pub(crate) fn usage(message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self::Usage(anyhow::Error::msg(message))
    }

    /// Tells the operator, in one message with its causes, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (error, code) = match self {
            Self::Failed(error) => (error, FAILED),
            Self::Usage(error) => (error, USAGE),
            Self::Refused(answer) => {
                // The exit code says it, too.
                let _ = print(answer);
                return ExitCode::from(FAILED);
            }
            Self::Invalid(answer) => {
                let _ = print(answer);
                return ExitCode::from(USAGE);
            }
            Self::Stopped(stopped) => return ExitCode::from(stopped.code()),
            Self::Ended(code) => return ExitCode::from(*code),
            Self::NotRun { error, code } => (error, *code),
        };
        // Where nobody listens, the exit code has to do.
        let _ = writeln!(io::stderr(), "error: {error:#}");
        ExitCode::from(code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Writes an answer to standard output. A reader that has seen enough is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

const FAILED: u8 = 1;

/// The code that clap exits with, too.
const USAGE: u8 = 2;
