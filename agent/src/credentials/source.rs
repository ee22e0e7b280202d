//! Where a workload's certificates come from.

use std::sync::Arc;

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    certificates::{CertificateError, CertificateFiles, Issued, POLL_INTERVAL},
    policy::Membership,
};

/// The source of one workload's certificates.
#[derive(Debug)]
pub(crate) enum CredentialSource {
    /// Files, which are looked at again and again. They say nothing of the mesh's other members.
    Files(CertificateFiles),
    /// Whoever asks the Coordinator: each message is the whole truth, and takes the place of the one
    /// before. A failure leaves in force what was issued before, but for
    /// [`CertificateError::Withdrawn`]. A workload is shut out by a membership that does not list it.
    Coordinator(mpsc::Receiver<Result<Issued, CertificateError>>),
}

impl CredentialSource {
    /// What has come since the last call, if anything has.
    pub(crate) fn poll(&mut self) -> Option<Result<Issued, CertificateError>> {
        match self {
            Self::Files(files) => {
                let loaded = files.poll()?;
                Some(loaded.map(|tls| Issued {
                    tls: Arc::new(tls),
                    membership: Membership::unrestricted(),
                }))
            }
            Self::Coordinator(messages) => messages.try_recv().ok(),
        }
    }

    /// What comes next; `None` after [`POLL_INTERVAL`] without anything, as the clock must be looked
    /// at too.
    pub(crate) async fn next(&mut self) -> Option<Result<Issued, CertificateError>> {
        match self {
            Self::Files(_) => {
                sleep(POLL_INTERVAL).await;
                self.poll()
            }
            Self::Coordinator(messages) => {
                let message = timeout(POLL_INTERVAL, messages.recv()).await;
                if let Ok(None) = message {
                    // Nobody asks any more: what was issued is used until it expires.
                    sleep(POLL_INTERVAL).await;
                }
                message.ok().flatten()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::certificates::testing::{TestMesh, issued};

    fn failure(what: &'static str) -> CertificateError {
        CertificateError::Coordinator {
            source: what.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_message_of_the_coordinator_comes_at_once_and_in_order() {
        let (sender, receiver) = mpsc::channel(4);
        let mut source = CredentialSource::Coordinator(receiver);
        assert!(source.poll().is_none());
        let began = Instant::now();
        let web = TestMesh::new().issue("web");
        sender
            .send(Ok(issued(&web, &["web"], &["any"])))
            .await
            .unwrap();
        sender.send(Err(failure("later"))).await.unwrap();
        assert!(matches!(source.next().await, Some(Ok(_))));
        assert!(matches!(source.poll(), Some(Err(_))));
        assert_eq!(began.elapsed(), std::time::Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_is_looked_at_though_nothing_comes_any_more() {
        let (sender, receiver) = mpsc::channel(1);
        let mut source = CredentialSource::Coordinator(receiver);
        let began = Instant::now();
        assert!(source.next().await.is_none());
        assert_eq!(began.elapsed(), POLL_INTERVAL);
        drop(sender);
        assert!(source.next().await.is_none());
        assert_eq!(began.elapsed(), 2 * POLL_INTERVAL);
    }
}
