//! Follows the store: what another Coordinator appends, this one acts on; what can't have been
//! appended, it reports.

use std::sync::Arc;
use std::time::Duration;

use history::Head;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::core::{Coordinator, Deployment, Phase};
use crate::deployment::{Keyring, Ledger, LedgerError, Unverified};
use crate::refusal::{RefusalCode, Refused};
use crate::store::StoredHead;

impl Coordinator {
    /// Goes on for as long as the process lives.
    pub async fn follow_store(self: Arc<Self>) {
        let mut heads = self.store.watch();
        loop {
            let changing = self.changing.lock().await;
            // Not there is no tampering: the Coordinator serves on from memory. What is wrong is
            // told where it is found.
            let _ = self.look_at_store().await;
            drop(changing);
            // Looks again now and then: a store can be tampered with without a word.
            if let Ok(Err(_)) = timeout(LOOK_AGAIN, heads.changed()).await {
                sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// The deployment after what the caller knows to have been appended. That it is not in the store
    /// proves that the store was rolled back, if the caller's knowledge is signed.
    pub(crate) async fn caught_up_to(&self, known: &Head) -> Result<Arc<Deployment>, Refused> {
        let _changing = self.changing.lock().await;
        let deployment = self.deployment()?;
        if deployment.ledger.check_contains(known).is_ok() {
            return Ok(deployment);
        }
        // Another Coordinator may have appended it, and the news not have come yet.
        self.look_at_store().await?;
        let deployment = self.deployment()?;
        match deployment.ledger.check_contains(known) {
            Ok(()) => Ok(deployment),
            Err(error) => {
                self.witnessed().replace(*known);
                self.set_store_fault(Some(error.to_string()));
                Err(Refused::new(RefusalCode::Store, error))
            }
        }
    }

    /// Compares the store's head with what is known, and catches up. The caller holds `changing`.
    /// Refuses where the store does not answer, or can't be trusted.
    pub(crate) async fn look_at_store(&self) -> Result<(), Refused> {
        let head = self.store.head().await.map_err(LedgerError::from);
        let looked = match (head, self.phase()) {
            (Err(error), _) => Err(error),
            (Ok(head), Phase::Ready(deployment)) => self.catch_up(&deployment, head).await,
            (Ok(Some(head)), Phase::Recovery(waiting)) => {
                self.look_unverified(Some(&waiting), &head).await
            }
            (Ok(Some(head)), Phase::Uninitialised) => self.look_unverified(None, &head).await,
            (Ok(None), Phase::Recovery(waiting)) => Err(LedgerError::Lost {
                seq: waiting.head.seq,
            }),
            (Ok(None), Phase::Uninitialised) => Ok(()),
        };
        let Err(error) = looked else {
            self.set_store_fault(None);
            self.set_store_trouble(None);
            return Ok(());
        };
        if error.is_of_the_store() {
            // What was wrong with it when it answered is not known to be right now.
            self.set_store_trouble(Some(error.to_string()));
        } else {
            self.set_store_trouble(None);
            self.set_store_fault(Some(error.to_string()));
        }
        Err(Refused::new(error.code(), error))
    }

    async fn catch_up(
        &self,
        before: &Deployment,
        head: Option<StoredHead>,
    ) -> Result<(), LedgerError> {
        let known = before.ledger.stored_head();
        let head = head.ok_or(LedgerError::Lost { seq: known.seq })?;
        let ledger = if head == *known {
            before.ledger.clone()
        } else {
            before.ledger.follow(self.store.as_ref(), &head).await?
        };
        let witnessed = *self.witnessed();
        if let Some(witnessed) = witnessed {
            ledger.check_contains(&witnessed)?;
            self.witnessed().take();
        }
        if head != *known {
            let keyring = self.keyring_for(&ledger, before.keyring.clone());
            let seq = ledger.chain().head().seq;
            info!(seq, "another Coordinator has changed history");
            let deployment = Deployment::new(ledger, keyring, Some(before));
            self.enter(Phase::Ready(Arc::new(deployment)));
        }
        Ok(())
    }

    /// The keys that are here, with those of changes of ours whose outcome is known only now.
    fn keyring_for(&self, ledger: &Ledger, mut keyring: Keyring) -> Keyring {
        for ours in self.pending_changes().drain(..) {
            for (generation, mesh_ca) in ours.mesh_cas() {
                let is_in_history = ledger
                    .pki()
                    .get(&generation)
                    .is_some_and(|it| it.mesh_ca == *mesh_ca.certificate());
                if is_in_history {
                    keyring.add(generation, Arc::clone(mesh_ca));
                }
            }
        }
        keyring
    }

    async fn look_unverified(
        &self,
        before: Option<&Unverified>,
        head: &StoredHead,
    ) -> Result<(), LedgerError> {
        if before.is_some_and(|it| it.stored_head == *head) {
            return Ok(());
        }
        if before.is_none() && self.is_first_of_ours().await? {
            return Ok(());
        }
        let unverified = Unverified::read(self.store.as_ref(), head).await?;
        if before.is_none_or(|it| it.shares.hash() != unverified.shares.hash()) {
            // Shares that were gathered are of another set.
            self.gathering().take();
        }
        self.enter(Phase::Recovery(Arc::new(unverified)));
        Ok(())
    }

    /// Whether history begins with a manifest that was set here, without the store saying so: then
    /// its seed is here too.
    async fn is_first_of_ours(&self) -> Result<bool, LedgerError> {
        let ours = self.pending_changes().clone();
        for keyring in ours {
            let key = keyring.signer().public_key().clone();
            let read = Ledger::read(self.store.as_ref(), &key, self.settings.founders()).await;
            match read {
                Ok(Some(ledger)) => {
                    self.set_knows_all_instances();
                    let keyring = self.keyring_for(&ledger, keyring);
                    let deployment = Deployment::new(ledger, keyring, None);
                    self.enter(Phase::Ready(Arc::new(deployment)));
                    return Ok(true);
                }
                // Signed with another seed: set by another Coordinator.
                Ok(None) | Err(LedgerError::Chain(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(5);
