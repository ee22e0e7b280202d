//! The Coordinator without its network: what phase it is in, and the parts that requests need.
//!
//! All that a request acts on is one immutable [`Deployment`], which is replaced as a whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use attestation::{Digest, SimulatedTee, Verifier};
use history::Head;
use seed::Gathering;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::audit::Audit;
use crate::deployment::{Founders, Keyring, Ledger, LedgerError, Unverified};
use crate::metrics::Metrics;
use crate::refusal::{RefusalCode, Refused};
use crate::roster::Roster;
use crate::store::{Store, StoreError};

/// What the operator decided, in the Coordinator's measured configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Whose signatures the first manifest needs; nobody's where it is empty.
    pub first_set_owners: Vec<Digest>,
    /// How many of them.
    pub first_set_quorum: usize,
    /// Whether evidence of the simulated TEE counts.
    pub simulated: SimulatedTee,
}

impl Settings {
    /// Whose history is served.
    pub fn founders(&self) -> Founders<'_> {
        Founders {
            owners: &self.first_set_owners,
            quorum: self.first_set_quorum,
        }
    }
}

/// What the Coordinator can do now.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Nothing but take its first manifest.
    Uninitialised,
    /// Nothing but gather the seed.
    Recovery(Arc<Unverified>),
    /// Everything.
    Ready(Arc<Deployment>),
}

/// A deployment at one moment: its history and its secrets.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// What history says.
    pub ledger: Ledger,
    /// The secrets. May lack the keys of mesh CAs that another Coordinator has made.
    pub keyring: Keyring,
    /// When this process came to know the stage of the rotation: deadlines count from then, by a
    /// clock that nobody sets.
    pub stage_since: Instant,
}

/// The Coordinator.
#[derive(Debug)]
pub struct Coordinator {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) settings: Settings,
    pub(crate) verifier: Verifier,
    pub(crate) audit: Audit,
    pub(crate) metrics: Metrics,
    /// Held while history is being changed by this process.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Something was acknowledged.
    pub(crate) acknowledged: Notify,
    phase: watch::Sender<Phase>,
    is_stopping: watch::Sender<bool>,
    gathering: Mutex<Option<Gathered>>,
    roster: Mutex<Roster>,
    /// What is wrong with the store, while it is.
    store_fault: watch::Sender<Option<String>>,
    /// Why the store does not answer, while it does not.
    store_trouble: watch::Sender<Option<StoreTrouble>>,
    /// Whether an instance that is silent is one that does not exist.
    knows_all_instances: AtomicBool,
    /// When the seed came.
    ready_since: OnceLock<Instant>,
    /// Changes whose outcome the store did not tell: the keys of each, should it have happened.
    pending_changes: Mutex<Vec<Keyring>>,
    /// What an agent remembers, signed, and the store does not have.
    witnessed: Mutex<Option<Head>>,
}

/// The store does not answer.
#[derive(Clone, Debug)]
pub struct StoreTrouble {
    /// What it said last, if anything.
    pub why: String,
    /// When it was first found not to answer.
    pub since: Instant,
}

/// The shares that were given since the start, and what their owners know of history.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) shares: Gathering,
    pub(crate) known: Vec<Head>,
}

/// Why the Coordinator can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The store gives nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store gives something that can't be history.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Coordinator {
    /// Looks at the store, and is then uninitialised or in recovery.
    pub async fn start(
        store: Arc<dyn Store>,
        settings: Settings,
        audit: Audit,
        metrics: Metrics,
    ) -> Result<Arc<Self>, StartError> {
        let phase = match store.head().await? {
            None => Phase::Uninitialised,
            Some(head) => Phase::Recovery(Arc::new(Unverified::read(store.as_ref(), &head).await?)),
        };
        let metrics = metrics.with_audit_lines_lost(audit.lines_lost());
        info!(phase = phase.as_str(), "the Coordinator starts");
        metrics.phase(&phase);
        Ok(Arc::new(Self {
            verifier: Verifier::new(settings.simulated),
            store,
            settings,
            audit,
            metrics,
            changing: tokio::sync::Mutex::default(),
            acknowledged: Notify::new(),
            phase: watch::Sender::new(phase),
            is_stopping: watch::Sender::new(false),
            gathering: Mutex::default(),
            roster: Mutex::default(),
            store_fault: watch::Sender::new(None),
            store_trouble: watch::Sender::new(None),
            knows_all_instances: AtomicBool::new(false),
            ready_since: OnceLock::new(),
            pending_changes: Mutex::default(),
            witnessed: Mutex::default(),
        }))
    }

    /// What the Coordinator can do now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Follows the phase, and within [`Phase::Ready`] each change of the deployment.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The deployment, where there is one that can be acted on.
    pub fn deployment(&self) -> Result<Arc<Deployment>, Refused> {
        match &*self.phase.borrow() {
            Phase::Ready(deployment) => Ok(Arc::clone(deployment)),
            Phase::Uninitialised => Err(Refused::told(
                RefusalCode::NoManifest,
                "no manifest was set yet: `sealwire set`",
            )),
            Phase::Recovery(_) => Err(Refused::told(
                RefusalCode::InRecovery,
                "the Coordinator has restarted and waits for the seed: `sealwire recover`",
            )),
        }
    }

    /// What is wrong with the store, if anything.
    pub fn store_fault(&self) -> Option<String> {
        self.store_fault.borrow().clone()
    }

    /// Why the store does not answer, if it does not.
    pub fn store_trouble(&self) -> Option<StoreTrouble> {
        self.store_trouble.borrow().clone()
    }

    /// Why the audit log can't be written, while it can't.
    pub fn audit_trouble(&self) -> Option<String> {
        self.audit.trouble()
    }

    /// The metrics, which the probes serve.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn set_store_fault(&self, fault: Option<String>) {
        self.store_fault.send_if_modified(|now| {
            if *now == fault {
                return false;
            }
            if let Some(fault) = &fault {
                error!(
                    fault,
                    "the store can't be trusted; nothing is changed until it can"
                );
            }
            self.metrics.store_fault(fault.is_some());
            *now = fault;
            true
        });
    }

    pub(crate) fn set_store_trouble(&self, why: Option<String>) {
        self.store_trouble.send_if_modified(|now| {
            let is_news = now.is_some() != why.is_some();
            match &why {
                Some(why) if is_news => warn!(
                    why,
                    "the store does not answer; nothing is changed until it does, certificates are \
                     issued as ever"
                ),
                None if is_news => info!("the store answers again"),
                _ => {}
            }
            self.metrics.store_unavailable(why.is_some());
            let since = now.take().map_or_else(Instant::now, |before| before.since);
            *now = why.map(|why| StoreTrouble { why, since });
            is_news
        });
    }

    /// Whether an instance that has not called by now has no certificate that is still valid, where
    /// they are valid for `lifetime`.
    pub(crate) fn knows_all_instances(&self, lifetime: Duration) -> bool {
        let has_had_time = || {
            let since = self.ready_since.get();
            since.is_some_and(|since| since.elapsed() >= lifetime)
        };
        self.knows_all_instances.load(Ordering::Relaxed) || has_had_time()
    }

    /// Every instance that exists has been heard of, or was given time to.
    pub(crate) fn set_knows_all_instances(&self) {
        self.knows_all_instances.store(true, Ordering::Relaxed);
    }

    /// Ends what would go on for as long as the process lives.
    pub(crate) fn stop(&self) {
        self.is_stopping.send_replace(true);
    }

    /// Ends when [`stop`](Self::stop) is called.
    pub(crate) async fn stopping(&self) {
        let mut is_stopping = self.is_stopping.subscribe();
        // It fails when there is no Coordinator any more.
        let _ = is_stopping.wait_for(|it| *it).await;
    }

    pub(crate) fn pending_changes(&self) -> MutexGuard<'_, Vec<Keyring>> {
        locked(&self.pending_changes)
    }

    pub(crate) fn witnessed(&self) -> MutexGuard<'_, Option<Head>> {
        locked(&self.witnessed)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.metrics.phase(&phase);
        if let Phase::Ready(deployment) = &phase {
            self.ready_since.get_or_init(Instant::now);
            let manifest = deployment.ledger.manifest();
            self.roster()
                .retain_policies(|policy| manifest.policy(policy).is_some());
        }
        info!(phase = phase.as_str(), "the Coordinator goes on");
        self.phase.send_replace(phase);
    }

    pub(crate) fn gathering(&self) -> MutexGuard<'_, Option<Gathered>> {
        locked(&self.gathering)
    }

    pub(crate) fn roster(&self) -> MutexGuard<'_, Roster> {
        locked(&self.roster)
    }
}

/// What a panic left behind is as good as before: no change of it is in two steps.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Phase {
    /// The name in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Uninitialised => "uninitialised",
            Self::Recovery(_) => "recovery",
            Self::Ready(_) => "ready",
        }
    }
}

impl Deployment {
    /// The same secrets with a later history; secrets that are of no use any more are forgotten.
    pub(crate) fn new(ledger: Ledger, mut keyring: Keyring, before: Option<&Self>) -> Self {
        keyring.retain(ledger.view().trusted());
        let stage_since = before
            .filter(|it| it.ledger.view() == ledger.view())
            .map_or_else(Instant::now, |it| it.stage_since);
        Self {
            ledger,
            keyring,
            stage_since,
        }
    }
}

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
