//! The agent that is taken over from.

use std::{io, os::fd::AsFd as _, os::fd::OwnedFd, thread, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{
    Terms,
    channel::{Channel, Door, Message},
};
use crate::inherited::Item;

/// How long one message to the heir may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the heir may take to start.
const START: Duration = Duration::from_mins(2);

/// Hears of heirs, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Holder {
    requests: mpsc::Receiver<Request>,
}

/// An heir asks.
#[derive(Debug)]
pub(crate) struct Request {
    /// With these terms.
    pub terms: Terms,
    /// What it gets, or why nothing.
    pub answer: oneshot::Sender<Result<Vec<(Item, OwnedFd)>, String>>,
    /// What became of it.
    pub outcome: oneshot::Receiver<Outcome>,
}

/// What became of an heir.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It serves.
    Serving {
        /// How long connections may go on here.
        drain: Duration,
        /// To be told when nothing is accepted here any more.
        left: oneshot::Sender<()>,
        /// Ends when this process may.
        announced: oneshot::Receiver<()>,
    },
    /// It does not, and why.
    Failed(String),
}

impl Holder {
    /// Listens for heirs of the instance, whose lock the caller has.
    pub(crate) fn listen(instance: &str) -> io::Result<Self> {
        let door = Door::open(instance)?;
        let (sender, requests) = mpsc::channel(1);
        thread::Builder::new()
            .name("hand-over".into())
            .spawn(move || answer_all(&door, &sender))?;
        Ok(Self { requests })
    }

    /// The next heir.
    pub(crate) async fn next(&mut self) -> Option<Request> {
        self.requests.recv().await
    }
}

fn answer_all(door: &Door, requests: &mpsc::Sender<Request>) {
    loop {
        let answered = door.next().and_then(|heir| answer(heir, requests));
        match answered {
            // Open until the process ends: by that the heir knows it.
            Ok(Some(heir)) => {
                let _held = heir;
                loop {
                    thread::park();
                }
            }
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "another agent could not be answered");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// One heir; itself, if everything is its own now.
fn answer(heir: Channel, requests: &mpsc::Sender<Request>) -> io::Result<Option<Channel>> {
    heir.set_patience(PATIENCE)?;
    let Some((Message::TakeOver(terms), _)) = heir.receive()? else {
        return Ok(None);
    };
    let (answer, answered) = oneshot::channel();
    let (outcome, told) = oneshot::channel();
    let request = Request {
        terms,
        answer,
        outcome: told,
    };
    if requests.blocking_send(request).is_err() {
        return Ok(None);
    }
    let gifts = match answered.blocking_recv() {
        Ok(Ok(gifts)) => gifts,
        Ok(Err(why)) => return heir.send(&Message::Refused(why)).map(|()| None),
        Err(_) => return Ok(None),
    };
    match hand_over(&heir, gifts) {
        Ok(drain) => {
            let (left, has_left) = oneshot::channel();
            let (announce, announced) = oneshot::channel();
            let serving = Outcome::Serving {
                drain,
                left,
                announced,
            };
            if outcome.send(serving).is_err() || has_left.blocking_recv().is_err() {
                return Ok(None);
            }
            // Whether or not it hears this, it serves.
            let _ = heir.send(&Message::Left);
            // Nor does this one stay for ever where it says nothing.
            let _ = heir.set_patience(PATIENCE).and_then(|()| heir.receive());
            let _ = announce.send(());
            Ok(Some(heir))
        }
        Err(error) => {
            let _ = outcome.send(Outcome::Failed(error.to_string()));
            Ok(None)
        }
    }
}

/// Gives everything away and waits until the heir serves; for how long this agent may drain.
fn hand_over(heir: &Channel, gifts: Vec<(Item, OwnedFd)>) -> io::Result<Duration> {
    for (item, descriptor) in gifts {
        heir.send_item(item, descriptor.as_fd())?;
    }
    heir.send(&Message::Yielded)?;
    heir.set_patience(START)?;
    match heir.receive()? {
        Some((Message::Serving { drain }, _)) => Ok(Duration::from_secs(drain)),
        Some(_) => Err(io::Error::other(
            "it said something else than that it serves",
        )),
        None => Err(io::Error::other("it ended before it served")),
    }
}
