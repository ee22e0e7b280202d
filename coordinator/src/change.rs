//! Changes of history: each is one transition, signed, and appended by one compare-and-swap.

use std::sync::Arc;
use std::time::Duration;

use attestation::Digest;
use history::{Authorisation, Head, Kind, Transition, authorise, update_statement};
use manifest::Manifest;
use seed::{Seed, SharesDocument};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use crate::audit::Event;
use crate::core::{Coordinator, Deployment, Phase, Settings, now};
use crate::deployment::{Entry, Keyring, Ledger, Parts, PkiRecord};
use crate::pki::MeshCa;
use crate::refusal::{RefusalCode, Refused};
use crate::store::{AppendError, StoreError, StoredHead};

/// A manifest that is to be set.
#[derive(Debug)]
pub struct Update {
    /// Its bytes.
    pub manifest: Vec<u8>,
    /// Documents that its policies are the digests of.
    pub policies: Vec<Vec<u8>>,
    /// Who agrees.
    pub authorisations: Vec<Authorisation>,
    /// Where given, the transition that must be the latest.
    pub previous: Option<Digest>,
}

/// A manifest that was set.
#[derive(Debug)]
pub struct Updated {
    /// The deployment from then on.
    pub deployment: Arc<Deployment>,
    /// Whether the seed was shared out anew.
    pub new_shares: bool,
}

impl Coordinator {
    /// Sets the first manifest, or the next.
    pub async fn set_manifest(&self, update: Update) -> Result<Updated, Refused> {
        let hash = Digest::of(&update.manifest);
        let _changing = self.changing.lock().await;
        // The update may follow a transition that another Coordinator appended just now.
        self.look_at_store().await?;
        // Nothing of a manifest is read before it is known whose it is.
        match self.phase() {
            Phase::Uninitialised => {
                let Settings {
                    first_set_owners,
                    first_set_quorum,
                    ..
                } = &self.settings;
                check_previous(update.previous, NONE)?;
                let authorisations = if first_set_owners.is_empty() {
                    warn!(
                        "the first manifest is taken from whoever sets it: no owner keys are configured"
                    );
                    // History is not to say that anybody agreed whom nobody asked.
                    Vec::new()
                } else {
                    let statement = update_statement(&hash, &NONE);
                    check_authorised(
                        first_set_owners,
                        *first_set_quorum,
                        &statement,
                        &update.authorisations,
                    )?;
                    update.authorisations
                };
                let manifest = self
                    .read_manifest(update.manifest, &update.policies)
                    .await?;
                self.set_first(manifest, update.policies, authorisations)
                    .await
            }
            Phase::Recovery(_) => Err(Refused::told(
                RefusalCode::InRecovery,
                "recover the Coordinator first: `sealwire recover`",
            )),
            Phase::Ready(before) => {
                let (head, in_force) = (before.ledger.chain().head(), before.ledger.manifest());
                check_previous(update.previous, head.hash)?;
                let agreed_after = |previous: &Digest| {
                    check_authorised(
                        in_force.workload_owners(),
                        in_force.update_quorum(),
                        &update_statement(&hash, previous),
                        &update.authorisations,
                    )
                };
                agreed_after(&head.hash).map_err(|refused| {
                    let mut earlier = before.ledger.chain().iter().rev().skip(1).take(LOOK_BACK);
                    earlier
                        .find(|it| agreed_after(&it.transition.hash()).is_ok())
                        .map_or(refused, |it| signed_too_early(it.transition.seq, &head))
                })?;
                let manifest = self
                    .read_manifest(update.manifest, &update.policies)
                    .await?;
                self.set_next(&before, manifest, update.policies, update.authorisations)
                    .await
            }
        }
    }

    async fn read_manifest(
        &self,
        bytes: Vec<u8>,
        policies: &[Vec<u8>],
    ) -> Result<Arc<Manifest>, Refused> {
        let read = spawn_blocking(move || Manifest::parse(&bytes)).await;
        let manifest = read
            .map_err(internal)?
            .map_err(|errors| Refused::told(RefusalCode::ManifestInvalid, errors))?;
        self.check_simulated(&manifest)?;
        check_policies(&manifest, policies)?;
        Ok(Arc::new(manifest))
    }

    async fn set_first(
        &self,
        manifest: Arc<Manifest>,
        policies: Vec<Vec<u8>>,
        authorisations: Vec<Authorisation>,
    ) -> Result<Updated, Refused> {
        let seed = Seed::generate().map_err(internal)?;
        let shares = share_out(&seed, &manifest)?;
        let keyring = Keyring::create(seed, manifest.trust_domain(), now()).map_err(internal)?;
        let deployment = self
            .append_generation(
                None,
                keyring,
                Kind::Manifest,
                manifest,
                shares,
                policies,
                authorisations,
            )
            .await?;
        self.set_knows_all_instances();
        Ok(Updated {
            deployment,
            new_shares: true,
        })
    }

    async fn set_next(
        &self,
        before: &Arc<Deployment>,
        manifest: Arc<Manifest>,
        policies: Vec<Vec<u8>>,
        authorisations: Vec<Authorisation>,
    ) -> Result<Updated, Refused> {
        let old = before.ledger.manifest();
        if manifest.trust_domain() != old.trust_domain() {
            return Err(Refused::told(
                RefusalCode::ManifestInvalid,
                format_args!(
                    "TrustDomain: got {}, want {}: the root certificate names it",
                    manifest.trust_domain(),
                    old.trust_domain()
                ),
            ));
        }
        let same_owners = manifest.seedshare_owners() == old.seedshare_owners()
            && manifest.seedshare_quorum() == old.seedshare_quorum();
        let shares = if same_owners {
            Arc::clone(before.ledger.shares())
        } else {
            share_out(before.keyring.seed(), &manifest)?
        };
        let deployment = self
            .append_generation(
                Some(before),
                before.keyring.clone(),
                Kind::Manifest,
                manifest,
                shares,
                policies,
                authorisations,
            )
            .await?;
        Ok(Updated {
            deployment,
            new_shares: !same_owners,
        })
    }

    /// Appends a transition that begins a generation with a fresh mesh CA.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of the transition"
    )]
    pub(crate) async fn append_generation(
        &self,
        before: Option<&Arc<Deployment>>,
        mut keyring: Keyring,
        kind: Kind,
        manifest: Arc<Manifest>,
        shares: Arc<SharesDocument>,
        policies: Vec<Vec<u8>>,
        authorisations: Vec<Authorisation>,
    ) -> Result<Arc<Deployment>, Refused> {
        let mesh_ca: Arc<MeshCa> = Arc::new(keyring.new_mesh_ca(now()).map_err(internal)?);
        let record = PkiRecord {
            root: keyring.root().certificate().clone(),
            mesh_ca: mesh_ca.certificate().clone(),
            intermediate: mesh_ca.intermediate().clone(),
        };
        let seq = before.map_or(1, |it| it.ledger.chain().head().seq + 1);
        keyring.add(seq, mesh_ca);
        let objects = [
            vec![
                manifest.bytes().to_vec(),
                record.encode(),
                shares.to_json().into_bytes(),
            ],
            policies,
        ]
        .concat();
        let parts = Parts {
            manifest,
            pki: Arc::new(record),
            shares,
        };
        self.append(before, keyring, kind, parts, objects, authorisations)
            .await
    }

    /// Appends a transition that takes the newest generation one step further.
    pub(crate) async fn append_step(
        &self,
        before: &Arc<Deployment>,
        kind: Kind,
    ) -> Result<Arc<Deployment>, Refused> {
        let ledger = &before.ledger;
        let pki = ledger
            .pki()
            .get(&ledger.view().newest())
            .ok_or_else(|| Refused::new(RefusalCode::Internal, "no record of the newest CA"))?;
        let parts = Parts {
            manifest: Arc::clone(ledger.manifest()),
            pki: Arc::clone(pki),
            shares: Arc::clone(ledger.shares()),
        };
        let keyring = before.keyring.clone();
        self.append(Some(before), keyring, kind, parts, vec![], vec![])
            .await
    }

    async fn append(
        &self,
        before: Option<&Arc<Deployment>>,
        keyring: Keyring,
        kind: Kind,
        parts: Parts,
        mut objects: Vec<Vec<u8>>,
        authorisations: Vec<Authorisation>,
    ) -> Result<Arc<Deployment>, Refused> {
        if let Some(fault) = self.store_fault() {
            return Err(Refused::new(RefusalCode::Store, fault));
        }
        let previous = before.map(|it| it.ledger.chain().head());
        let seq = previous.as_ref().map_or(1, |it| it.seq + 1);
        let authorised_by = authorisations
            .iter()
            .map(|it| Digest::of(&it.key).to_string())
            .collect();
        let transition = keyring
            .signer()
            .sign(Transition {
                seq,
                previous: previous.as_ref().map_or(NONE, |it| it.hash),
                kind,
                manifest: parts.manifest.hash(),
                pki: Digest::of(&parts.pki.encode()),
                seed_shares: parts.shares.hash(),
                time: now().unix_timestamp().unsigned_abs(),
                authorisations,
            })
            .map_err(internal)?;
        let entry = Entry {
            transition: transition.clone(),
            previous: before.map(|it| it.ledger.stored_head().transition),
            objects: objects.iter().map(|it| Digest::of(it)).collect(),
        }
        .encode();
        let head = StoredHead {
            seq,
            transition: Digest::of(&entry),
        };
        objects.push(entry);
        let expected = before.map(|it| it.ledger.stored_head());
        // Should the outcome stay unknown, the new key is not lost.
        let has_new_key = keyring.mesh_ca(seq).is_some();
        if has_new_key {
            self.keep_pending(&keyring);
        }
        match self.append_for_sure(expected, &objects, &head).await {
            Ok(()) => self.pending_changes().clear(),
            Err(error) => {
                let is_over = matches!(error, AppendError::Conflict(_) | AppendError::Refused(_));
                if is_over && has_new_key {
                    self.pending_changes().pop();
                }
                return Err(refused_append(error));
            }
        }

        let key = keyring.signer().public_key().clone();
        let manifest = parts.manifest.hash();
        let ledger = match before {
            None => Ledger::first(transition, &key, head, parts),
            Some(before) => before.ledger.after(transition, head, parts),
        }
        .map_err(internal)?;
        self.audit.write(&Event::Transition {
            seq,
            kind: kind.as_str(),
            transition: ledger.chain().head().hash.to_string(),
            manifest: manifest.to_string(),
            authorised_by,
        });
        let deployment = Arc::new(Deployment::new(ledger, keyring, before.map(AsRef::as_ref)));
        self.enter(Phase::Ready(Arc::clone(&deployment)));
        Ok(deployment)
    }

    fn keep_pending(&self, keyring: &Keyring) {
        let mut pending = self.pending_changes();
        if pending.len() >= MAX_PENDING {
            pending.remove(0);
        }
        pending.push(keyring.clone());
    }

    /// An append whose outcome is unknown is asked for again: the store knows it by its head.
    async fn append_for_sure(
        &self,
        expected: Option<&StoredHead>,
        objects: &[Vec<u8>],
        head: &StoredHead,
    ) -> Result<(), AppendError> {
        let mut attempt = 1;
        loop {
            match self.store.append_cas(expected, objects, head).await {
                Err(AppendError::Store(error)) if attempt < ATTEMPTS && !is_too_large(&error) => {
                    warn!(%error, attempt, "the store's answer is unknown; asking again");
                    sleep(AGAIN * attempt).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn check_simulated(&self, manifest: &Manifest) -> Result<(), Refused> {
        let lists_simulated = !manifest.reference_values().simulated.is_empty();
        if lists_simulated && self.settings.simulated == attestation::SimulatedTee::Refused {
            return Err(Refused::told(
                RefusalCode::ManifestInvalid,
                "ReferenceValues.simulated: this Coordinator was started without \
                 --allow-simulated-tee",
            ));
        }
        Ok(())
    }
}

fn check_previous(previous: Option<Digest>, head: Digest) -> Result<(), Refused> {
    if previous.is_some_and(|previous| previous != head) {
        return Err(Refused::told(
            RefusalCode::Conflict,
            format_args!("the latest transition is {head}, not the one that the update is for"),
        ));
    }
    Ok(())
}

fn check_authorised(
    owners: &[Digest],
    quorum: usize,
    statement: &str,
    authorisations: &[Authorisation],
) -> Result<(), Refused> {
    authorise(owners, quorum, statement, authorisations)
        .map_err(|error| Refused::new(RefusalCode::NotAuthorised, error))
}

fn signed_too_early(seq: u64, head: &Head) -> Refused {
    Refused::told(
        RefusalCode::Conflict,
        format_args!(
            "the signatures are for what follows transition {seq}, but the latest is {head}; look at \
             it, then sign again"
        ),
    )
}

fn check_policies(manifest: &Manifest, policies: &[Vec<u8>]) -> Result<(), Refused> {
    for policy in policies {
        let digest = Digest::of(policy);
        if manifest.policy(&digest).is_none() {
            return Err(Refused::told(
                RefusalCode::ManifestInvalid,
                format_args!("policy document {digest} is not one of the manifest's Policies"),
            ));
        }
    }
    Ok(())
}

fn share_out(seed: &Seed, manifest: &Manifest) -> Result<Arc<SharesDocument>, Refused> {
    seed::split(
        seed,
        manifest.seedshare_owners(),
        manifest.seedshare_quorum(),
    )
    .map(Arc::new)
    .map_err(|error| Refused::told(RefusalCode::ManifestInvalid, error))
}

fn refused_append(error: AppendError) -> Refused {
    match error {
        AppendError::Conflict(_) => Refused::told(
            RefusalCode::Conflict,
            "another update came first; look at it, then set again",
        ),
        AppendError::Store(error) if is_too_large(&error) => {
            Refused::told(RefusalCode::ManifestInvalid, error)
        }
        AppendError::Full { .. } => Refused::new(RefusalCode::StoreFull, error),
        AppendError::Store(ref cause) => Refused::new(RefusalCode::of_store(cause), error),
        AppendError::Refused(_) => internal(error),
    }
}

/// What is appended, and not the store, is what is wrong.
fn is_too_large(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::TooLarge { .. } | StoreError::RequestTooLarge { .. }
    )
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Refused {
    Refused::new(RefusalCode::Internal, error)
}

/// How many transitions before the latest one a signature is told from a wrong one.
const LOOK_BACK: usize = 8;

/// Outcomes that are unknown at a time; the keys of one more are not worth the memory.
const MAX_PENDING: usize = 8;

const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_millis(200);

/// What the first transition names as the one before.
pub(crate) const NONE: Digest = Digest([0; 32]);

/// The latest place in history.
pub(crate) fn head(deployment: &Deployment) -> Head {
    deployment.ledger.chain().head()
}
