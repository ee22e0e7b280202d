//! The signals that come while a program is run: none of them ends `sealwire` by itself.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// They wait here until they are asked for.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

/// A signal that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) signal: Signal,
    /// Whether a program sent it. Else it is the terminal's, which gave it to the program that is run as
    /// well.
    pub(super) is_sent: bool,
}

impl Signals {
    /// Keeps them back from now on. What is started inherits that; see [`release`].
    pub(super) fn block() -> anyhow::Result<Self> {
        let set = held();
        set.thread_block().context("blocking signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&set, flags).context("listening for signals")?;
        Ok(Self(descriptor))
    }

    /// The next one that is for the program, if one has come.
    pub(super) fn next(&self) -> anyhow::Result<Option<Heard>> {
        while let Some(info) = self.0.read_signal().context("reading a signal")? {
            let signal = Signal::try_from(info.ssi_signo.cast_signed())?;
            if signal != Signal::SIGCHLD {
                return Ok(Some(Heard {
                    signal,
                    is_sent: info.ssi_code != SI_KERNEL,
                }));
            }
        }
        Ok(None)
    }

    /// Whether one has come that is to end things.
    pub(super) fn wants_end(&self) -> anyhow::Result<Option<Signal>> {
        while let Some(Heard { signal, .. }) = self.next()? {
            if matches!(
                signal,
                Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT | Signal::SIGHUP
            ) {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    /// Waits until one comes, also that a child has ended, or something is there to be read from
    /// `other`, or at most for so long.
    pub(super) fn wait(
        &self,
        other: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> anyhow::Result<()> {
        // Rounded up, so that it is not asked again and again in the last millisecond.
        let limit = limit.map_or(PollTimeout::NONE, |limit| {
            let milliseconds = limit.as_millis().saturating_add(1);
            PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
        });
        let descriptors = [Some(self.0.as_fd()), other];
        let mut polled: Vec<_> = descriptors
            .into_iter()
            .flatten()
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        match poll(&mut polled, limit) {
            // It stood still meanwhile.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context("waiting"),
        }
    }
}

/// Keeps none of them back, so that a program that this process becomes gets them.
pub(super) fn release() -> anyhow::Result<()> {
    held().thread_unblock().context("unblocking signals")
}

fn held() -> SigSet {
    PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// Stops this process as the program is stopped, so that the shell sees a job that stands still.
pub(super) fn stand_still() -> anyhow::Result<()> {
    raise(Signal::SIGSTOP).context("stopping")
}

const PASSED_ON: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// `si_code` of what the kernel sends, a terminal's Ctrl-C among it; see sigaction(2).
const SI_KERNEL: i32 = 0x80;
