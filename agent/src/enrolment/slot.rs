//! How certificates get from here to the workers: one slot a workload.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use userspace_tls::MeshTls;

use super::standing::Use;
use crate::certificates::{CertificateError, Credential, Issued};

/// The way to one workload.
#[derive(Debug)]
pub(crate) struct Slot {
    sender: mpsc::Sender<Result<Issued, CertificateError>>,
    credential: watch::Receiver<Credential>,
    given: RefCell<Option<Use>>,
    /// What handshakes may still be under way with.
    replaced: RefCell<Vec<Weak<MeshTls>>>,
}

impl Slot {
    /// `sender` leads to the workload's keeper, who makes what it brings the `credential`.
    pub(crate) fn new(
        sender: mpsc::Sender<Result<Issued, CertificateError>>,
        credential: watch::Receiver<Credential>,
    ) -> Self {
        Self {
            sender,
            credential,
            given: RefCell::new(None),
            replaced: RefCell::default(),
        }
    }

    /// Gives the workload something else to use; returns when every new connection uses it.
    pub(crate) async fn give(&self, new: Use) {
        let given = self.given.borrow().clone();
        if given.as_ref().is_some_and(|given| given.is_same(&new)) {
            return;
        }
        if let Some(Use::Certificate(old)) = &given {
            self.replaced.borrow_mut().push(Arc::downgrade(&old.tls));
        }
        drop(given);
        self.given.replace(Some(new.clone()));
        let message = match &new {
            Use::Certificate(issued) => Ok(issued.clone()),
            Use::Nothing(why) => Err(CertificateError::Withdrawn {
                source: Box::new(Arc::clone(why)),
            }),
        };
        // Neither fails but when the agent ends.
        if self.sender.send(message).await.is_ok() {
            let mut credential = self.credential.clone();
            let _ = credential.wait_for(|now| is_in_force(now, &new)).await;
        }
    }

    /// Tells why there is no new certificate; that of before, if there is one, stays in use.
    pub(crate) async fn fail(&self, why: Box<dyn std::error::Error + Send + Sync>) {
        let error = CertificateError::Coordinator { source: why };
        let _ = self.sender.send(Err(error)).await;
    }

    /// Returns when no handshake is under way with what was replaced, or can't be any more.
    pub(crate) async fn drained(&self) {
        let deadline = Instant::now() + LONGEST_HANDSHAKE;
        loop {
            if self.is_drained() {
                return;
            }
            if Instant::now() >= deadline {
                self.replaced.borrow_mut().clear();
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn is_drained(&self) -> bool {
        let mut replaced = self.replaced.borrow_mut();
        replaced.retain(|tls| tls.strong_count() > 0);
        replaced.is_empty()
    }
}

fn is_in_force(credential: &Credential, new: &Use) -> bool {
    match (credential, new) {
        (Credential::Loaded(now), Use::Certificate(new)) => {
            Arc::ptr_eq(&now.tls, &new.tls) && now.membership == new.membership
        }
        (Credential::Missing(_), Use::Nothing(_)) => true,
        _ => false,
    }
}

/// The deadline of a handshake.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::{self, testing::TestMesh, testing::issued};

    fn certificate(tls: &Arc<MeshTls>) -> Use {
        Use::Certificate(issued(tls, &["web"], &["any"]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_drained_when_nobody_uses_what_was_replaced_or_could() {
        let (credential, receiver) = certificates::channel();
        let (sender, mut messages) = mpsc::channel(1);
        let slot = Slot::new(sender, receiver);
        let keep = async {
            while let Some(Ok(issued)) = messages.recv().await {
                credential.send_replace(Credential::Loaded(issued));
            }
        };
        let mesh = TestMesh::new();
        let give = async {
            let first = mesh.issue("web");
            slot.give(certificate(&first)).await;
            slot.drained().await;
            slot.give(certificate(&mesh.issue("web"))).await;

            // As by a handshake under way.
            let began = Instant::now();
            slot.drained().await;
            assert_eq!(began.elapsed(), LONGEST_HANDSHAKE);

            slot.give(certificate(&first)).await;
            let began = Instant::now();
            slot.drained().await;
            assert_eq!(began.elapsed(), Duration::ZERO);
        };
        tokio::select! {
            () = keep => {}
            () = give => {}
        }
    }
}
