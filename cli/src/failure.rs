use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked, by who has to act.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The machine or a file is not as needed.
    Failed(anyhow::Error),
    /// The command line asks for something impossible.
    Usage(anyhow::Error),
    /// The answer is no; here it is, for standard output.
    Refused(String),
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
                print!("{answer}");
                return ExitCode::from(FAILED);
            }
        };
        eprintln!("error: {error:#}");
        ExitCode::from(code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

const FAILED: u8 = 1;

/// The code that clap exits with, too.
const USAGE: u8 = 2;
