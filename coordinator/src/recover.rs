//! Back from a restart: the seed comes from its owners' shares, or with the keys of the mesh CAs
//! from another Coordinator.

use std::fmt;
use std::sync::Arc;

use history::{Head, Kind, check_not_older};
use seed::{Gathering, Seed, Share, ShareError};
use tracing::info;
use zeroize::Zeroizing;

use crate::audit::Event;
use crate::change::internal;
use crate::core::{Coordinator, Deployment, Gathered, Phase};
use crate::deployment::{Generation, Keyring, Ledger, LedgerError, Unverified};
use crate::refusal::{RefusalCode, Refused};

/// How far the gathering of shares is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Shares that are here.
    pub have: usize,
    /// Shares that it takes.
    pub need: usize,
    /// Whether the seed is known again.
    pub recovered: bool,
}

/// What one Coordinator gives another.
pub struct PeerSecrets {
    /// The seed.
    pub seed: Seed,
    /// PKCS #8 PEM of each mesh CA.
    pub mesh_ca_keys: Vec<(Generation, Zeroizing<String>)>,
}

impl fmt::Debug for PeerSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerSecrets(..)")
    }
}

impl Coordinator {
    /// Takes one share. With the last one the Coordinator is ready, under a fresh mesh CA: the
    /// keys of the old ones were in the memory of the process before.
    pub async fn recover(&self, share: Share, known: Option<Head>) -> Result<Progress, Refused> {
        let _changing = self.changing.lock().await;
        let waiting = match self.phase() {
            Phase::Recovery(waiting) => waiting,
            Phase::Ready(_) => {
                return Err(Refused::told(
                    RefusalCode::NotInRecovery,
                    "the Coordinator has its seed",
                ));
            }
            Phase::Uninitialised => {
                return Err(Refused::told(
                    RefusalCode::NotInRecovery,
                    "no manifest was set yet, there is nothing to recover",
                ));
            }
        };
        check_known(&waiting, known.as_ref())?;
        let (have, need) = self.gather(&waiting, share, known)?;
        self.audit.write(&Event::Share { have, need });
        if have < need {
            return Ok(Progress {
                have,
                need,
                recovered: false,
            });
        }
        let gathered = self
            .gathering()
            .as_ref()
            .map(|it| (it.shares.finish(), it.known.clone()));
        let (seed, known) = match gathered {
            None => return Err(internal("the shares are gone")),
            Some((Ok(seed), known)) => (seed, known),
            Some((Err(error), _)) => {
                return Err(Refused::told(RefusalCode::ShareRefused, error));
            }
        };
        let (ledger, keyring) = self.unlock(seed).await?;
        // What the owners before this one know was not to be told from history until now.
        for known in &known {
            ledger
                .check_contains(known)
                .map_err(|error| Refused::told(RefusalCode::Store, error))?;
        }
        let before = Arc::new(Deployment::new(ledger, keyring, None));
        self.begin_recovered_generation(&before).await?;
        // Only now: should the store not have worked, the last owner can try again.
        self.gathering().take();
        self.audit.write(&Event::Recovered {
            from: "shares".to_owned(),
        });
        Ok(Progress {
            have,
            need,
            recovered: true,
        })
    }

    /// How many shares are here, and how many it takes.
    pub fn recovery_progress(&self) -> Option<(usize, usize)> {
        let Phase::Recovery(waiting) = self.phase() else {
            return None;
        };
        let need = usize::from(waiting.shares.threshold());
        let have = self
            .gathering()
            .as_ref()
            .map_or(0, |it| it.shares.progress().have);
        Some((have, need))
    }

    /// Takes everything from another Coordinator, mesh CA keys included.
    pub async fn adopt(&self, secrets: PeerSecrets, peer: &str) -> Result<(), Refused> {
        let PeerSecrets { seed, mesh_ca_keys } = secrets;
        let _changing = self.changing.lock().await;
        if !matches!(self.phase(), Phase::Recovery(_)) {
            return Ok(());
        }
        let (ledger, mut keyring) = self.unlock(seed).await?;
        for (generation, key) in mesh_ca_keys {
            if let Some(record) = ledger.pki().get(&generation) {
                keyring
                    .add_key(generation, record, &key)
                    .map_err(internal)?;
            }
        }
        self.gathering().take();
        self.audit.write(&Event::Recovered {
            from: peer.to_owned(),
        });
        self.enter(Phase::Ready(Arc::new(Deployment::new(
            ledger, keyring, None,
        ))));
        Ok(())
    }

    /// Takes the keys of mesh CAs that another Coordinator has made since.
    pub async fn adopt_keys(&self, secrets: &PeerSecrets) -> Result<(), Refused> {
        let _changing = self.changing.lock().await;
        let before = self.deployment()?;
        let mut keyring = before.keyring.clone();
        for (generation, key) in &secrets.mesh_ca_keys {
            if let Some(record) = before.ledger.pki().get(generation) {
                keyring
                    .add_key(*generation, record, key)
                    .map_err(internal)?;
            }
        }
        let after = Deployment::new(before.ledger.clone(), keyring, Some(&before));
        self.enter(Phase::Ready(Arc::new(after)));
        Ok(())
    }

    /// A fresh mesh CA under the manifest in force, which signs at once.
    pub(crate) async fn begin_recovered_generation(
        &self,
        before: &Arc<Deployment>,
    ) -> Result<Arc<Deployment>, Refused> {
        let manifest = Arc::clone(before.ledger.manifest());
        let shares = Arc::clone(before.ledger.shares());
        let keyring = before.keyring.clone();
        self.append_generation(
            Some(before),
            keyring,
            Kind::Recovery,
            manifest,
            shares,
            vec![],
            vec![],
        )
        .await
    }

    fn gather(
        &self,
        waiting: &Unverified,
        share: Share,
        known: Option<Head>,
    ) -> Result<(usize, usize), Refused> {
        let mut gathering = self.gathering();
        let gathered = gathering.get_or_insert_with(|| Gathered {
            shares: Gathering::new(waiting.shares.as_ref().clone()),
            known: Vec::new(),
        });
        let progress = match gathered.shares.add(share) {
            // The shares were enough before, and what came after them failed.
            Err(ShareError::Duplicate { .. }) if gathered.shares.progress().is_enough() => {
                gathered.shares.progress()
            }
            added => {
                let progress =
                    added.map_err(|error| Refused::told(RefusalCode::ShareRefused, error))?;
                gathered.known.extend(known);
                progress
            }
        };
        Ok((progress.have, progress.need))
    }

    /// Verifies history with the key that the seed gives.
    async fn unlock(&self, seed: Seed) -> Result<(Ledger, Keyring), Refused> {
        let key = Keyring::transition_key(&seed).map_err(internal)?;
        let founders = self.settings.founders();
        let ledger = Ledger::read(self.store.as_ref(), &key, founders).await;
        let ledger = ledger.map_err(refused_ledger)?;
        let ledger = ledger.ok_or_else(|| {
            Refused::new(RefusalCode::Store, "the store has lost its whole history")
        })?;
        let record = ledger
            .pki()
            .values()
            .next_back()
            .ok_or_else(|| internal("history names no root certificate"))?;
        let keyring = Keyring::recover(seed, record.root.clone()).map_err(internal)?;
        info!(
            seq = ledger.chain().head().seq,
            "history is verified with the recovered seed"
        );
        Ok((ledger, keyring))
    }
}

fn check_known(waiting: &Unverified, known: Option<&Head>) -> Result<(), Refused> {
    match known {
        Some(known) if known.seq >= waiting.head.seq => check_not_older(known, &waiting.head)
            .map_err(|error| Refused::told(RefusalCode::Store, LedgerError::from(error))),
        _ => Ok(()),
    }
}

pub(crate) fn refused_ledger(error: LedgerError) -> Refused {
    match error {
        LedgerError::NotAuthorised { .. } => Refused::told(RefusalCode::NotAuthorised, error),
        other => Refused::new(other.code(), other),
    }
}
