//! Follows the store: what another Coordinator appends, this one acts on; what can't have been
//! appended, it reports.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::core::{Coordinator, Deployment, Phase};
use crate::deployment::{Keyring, Ledger, Unverified};
use crate::refusal::Refused;
use crate::store::StoredHead;

impl Coordinator {
    /// Goes on for as long as the process lives.
    pub async fn follow_store(self: Arc<Self>) {
        let mut heads = self.store.watch();
        loop {
            if let Err(refused) = self.look_at_store().await {
                warn!(%refused, "the store can't be followed");
            }
            // Looks again now and then: a store can be tampered with without a word.
            match timeout(LOOK_AGAIN, heads.changed()).await {
                Ok(Err(_)) => sleep(LOOK_AGAIN).await,
                Ok(Ok(())) | Err(_) => {}
            }
        }
    }

    /// Compares the store's head with what is known, and catches up.
    async fn look_at_store(&self) -> Result<(), Refused> {
        let _changing = self.changing.lock().await;
        let head = match self.store.head().await {
            Ok(head) => head,
            Err(error) => {
                // Not there is no tampering: the Coordinator serves on from memory.
                warn!(%error, "the store gives no head");
                return Ok(());
            }
        };
        match self.phase() {
            Phase::Ready(deployment) => self.catch_up(&deployment, head).await,
            Phase::Uninitialised | Phase::Recovery(_) => self.look_unverified(head).await,
        }
        Ok(())
    }

    async fn catch_up(&self, before: &Deployment, head: Option<StoredHead>) {
        let known = before.ledger.stored_head();
        if head.as_ref() == Some(known) {
            return self.set_store_fault(None);
        }
        let key = before.keyring.signer().public_key();
        let ledger = match Ledger::read(self.store.as_ref(), &key).await {
            Ok(Some(ledger)) => ledger,
            Ok(None) => {
                return self.set_store_fault(Some("the store has lost its whole history".into()));
            }
            Err(error) => return self.set_store_fault(Some(error.to_string())),
        };
        if let Err(error) = ledger.check_extends(&before.ledger) {
            return self.set_store_fault(Some(error.to_string()));
        }
        self.set_store_fault(None);
        let keyring = self.keyring_for(&ledger, before);
        info!(
            seq = ledger.chain().head().seq,
            "another Coordinator has changed history"
        );
        self.enter(Phase::Ready(Arc::new(Deployment::new(
            ledger,
            keyring,
            Some(before),
        ))));
    }

    /// The keys that are here, with those of a change of ours whose outcome is known only now.
    fn keyring_for(&self, ledger: &Ledger, before: &Deployment) -> Keyring {
        let mut keyring = before.keyring.clone();
        let mut pending = self.pending_change();
        if let Some(ours) = &*pending {
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
        pending.take();
        keyring
    }

    async fn look_unverified(&self, head: Option<StoredHead>) {
        let Some(head) = head else { return };
        let is_known = match self.phase() {
            Phase::Recovery(waiting) => waiting.head.seq == head.seq,
            Phase::Uninitialised | Phase::Ready(_) => false,
        };
        if is_known {
            return;
        }
        match Unverified::read(self.store.as_ref(), &head).await {
            Ok(unverified) => {
                // Shares that were gathered may be of another set.
                self.gathering().take();
                self.enter(Phase::Recovery(Arc::new(unverified)));
            }
            Err(error) => self.set_store_fault(Some(error.to_string())),
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(5);
