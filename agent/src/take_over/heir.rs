//! The agent that takes over.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;
use tracing::warn;

use super::{
    Terms,
    channel::{Channel, Message},
};
use crate::inherited::{Inherited, Item};

/// How long the holder may take for one step.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who takes over. If it is dropped before [`Self::serving`], the holder goes on.
#[derive(Debug)]
pub(crate) struct Heir {
    channel: Channel,
    /// The process that is taken over from.
    holder: OwnedFd,
}

/// Why it can't.
#[derive(Debug, Error)]
pub enum TakeOverError {
    /// The agent that runs says no.
    #[error("the agent that runs can't be taken over from: {0}")]
    Refused(String),
    /// It does not keep to the protocol: it is of another version, or has ended.
    #[error(
        "the agent that runs did not hand over ({0}); it goes on, or start this one without --take-over"
    )]
    Protocol(&'static str),
    /// The call to it failed.
    #[error("asking the agent that runs: {0}")]
    Io(#[from] io::Error),
}

impl Heir {
    /// Asks the agent that serves the instance for what it listens on; `None` where none does, or dies
    /// before it has given everything.
    pub(crate) fn ask(
        instance: &str,
        terms: Terms,
    ) -> Result<Option<(Self, OwnedFd, Inherited)>, TakeOverError> {
        let Some(channel) = Channel::connect(instance)? else {
            return Ok(None);
        };
        let holder = channel.peer()?;
        channel.set_patience(PATIENCE)?;
        channel.send(&Message::TakeOver(terms))?;
        let mut inherited = Inherited::default();
        loop {
            match channel.receive()? {
                Some((Message::Item(item), Some(descriptor))) => inherited.put(item, descriptor),
                Some((Message::Yielded, _)) => break,
                Some((Message::Refused(why), _)) => return Err(TakeOverError::Refused(why)),
                Some(_) => return Err(TakeOverError::Protocol("it answers something else")),
                None if has_ended(&holder)? => return Ok(None),
                None => return Err(TakeOverError::Protocol("it hung up")),
            }
        }
        let lock = inherited.take(&Item::Lock).pop();
        let lock = lock.ok_or(TakeOverError::Protocol("it kept its lock"))?;
        Ok(Some((Self { channel, holder }, lock, inherited)))
    }

    /// This agent serves now; the holder may go on with its connections for this long. Returns when
    /// it accepts nothing more, or can't be told: then it is dead, or will hear of it.
    ///
    /// # Errors
    /// Where the holder lives and goes on serving, as this agent took too long.
    pub(crate) fn serving(self, drain: Duration) -> Result<Predecessor, TakeOverError> {
        let Self { channel, holder } = self;
        let drain = drain.as_secs();
        let told = channel.send(&Message::Serving { drain });
        match told.and_then(|()| channel.receive()) {
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                warn!("the agent before does not answer; it goes when it does");
            }
            Ok(None) | Err(_) if has_ended(&holder)? => {
                warn!("the agent before has died meanwhile");
            }
            Ok(None) | Err(_) => return Err(TakeOverError::Protocol("it had given up waiting")),
        }
        Ok(Predecessor { channel })
    }
}

/// Whether the process has ended, or does within a moment.
fn has_ended(process: &OwnedFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    let moment = Timespec {
        tv_sec: 2,
        tv_nsec: 0,
    };
    Ok(poll(&mut polled, Some(&moment))? > 0)
}

/// The agent that was there before, while it drains.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
}

impl Predecessor {
    /// The service manager knows this agent as the main process: the one before may end.
    pub(crate) fn announced(&self) {
        if let Err(error) = self.channel.send(&Message::Announced) {
            warn!(%error, "the agent before can't be told that it may end; it does so by itself");
        }
    }

    /// Waits until it is gone.
    pub(crate) fn wait(self) {
        let _ = self.channel.be_patient();
        while let Ok(Some(_)) = self.channel.receive() {}
    }
}
