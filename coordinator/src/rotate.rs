//! Takes the newest mesh CA from trusted to issuing to alone, as soon as every agent follows, or at
//! the deadline. Whoever is missing then is named.

use std::sync::Arc;
use std::time::Duration;

use history::Kind;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{info, warn};

use crate::core::{Coordinator, Deployment, Phase, now};
use crate::deployment::Stage;
use crate::roster::Laggard;

/// What a stage waits for.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The stage.
    pub stage: Stage,
    /// When it ends, whoever is missing.
    pub deadline: Instant,
    /// Whether anybody has not acknowledged, as far as this Coordinator knows;
    /// [`Coordinator::laggards`] has the names.
    pub is_anybody_late: bool,
    /// Whether this Coordinator knows everybody: it does not after a restart.
    pub knows_all: bool,
}

impl Pending {
    /// When it ends by the calendar, to be shown.
    pub fn deadline_at(&self) -> OffsetDateTime {
        now() + self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Asks the other Coordinators whom they wait for.
#[tonic::async_trait]
pub trait OtherCoordinators: Send + Sync {
    /// Whom any of them waits for; `None` where one can't be asked, and its agents may be late.
    async fn waiting_for(&self, generation: u64) -> Option<Vec<String>>;
}

impl Coordinator {
    /// What the rotation waits for; `None` when there is none.
    pub fn pending(&self, deployment: &Deployment) -> Option<Pending> {
        let view = deployment.ledger.view();
        let newest = view.newest();
        let roster = self.roster();
        // Asked once and again for each agent, so that making a list of them all would take as long
        // as their number squared.
        let is_anybody_late = match view.stage() {
            Stage::Trust => roster.is_any_not_trusting(newest, Instant::now()),
            Stage::Issue => roster.is_any_not_certified(newest, Instant::now()),
            Stage::Done => return None,
        };
        let manifest = deployment.ledger.manifest();
        Some(Pending {
            stage: view.stage(),
            deadline: deployment.stage_since + manifest.rotation().deadline,
            is_anybody_late,
            knows_all: self.knows_all_instances(manifest.certificate_lifetime()),
        })
    }

    /// Who has not acknowledged the stage, as far as this Coordinator knows, by name.
    pub fn laggards(&self, deployment: &Deployment) -> Vec<Laggard> {
        let view = deployment.ledger.view();
        let newest = view.newest();
        match view.stage() {
            Stage::Trust => self.roster().not_trusting(newest, Instant::now()),
            Stage::Issue => self.roster().not_certified(newest, Instant::now()),
            Stage::Done => Vec::new(),
        }
    }

    /// Goes on for as long as the process lives.
    pub async fn rotate(self: Arc<Self>, others: Arc<dyn OtherCoordinators>) {
        let mut phases = self.watch();
        let mut named = None;
        loop {
            let phase = phases.borrow_and_update().clone();
            let changed = async {
                tokio::select! {
                    _ = phases.changed() => {}
                    () = self.acknowledged.notified() => {}
                }
            };
            let Phase::Ready(deployment) = phase else {
                changed.await;
                continue;
            };
            let Some(pending) = self.pending(&deployment) else {
                changed.await;
                continue;
            };
            let is_late = Instant::now() >= pending.deadline;
            if is_late && named.replace(pending.deadline) != Some(pending.deadline) {
                self.name_laggards(&deployment);
            }
            if is_late || self.is_over(&deployment, &pending, others.as_ref()).await {
                self.step(&deployment, pending.stage).await;
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(pending.deadline) => {}
                // The other Coordinators' agents acknowledge without our knowledge.
                () = sleep(ASK_AGAIN) => {}
            }
        }
    }

    fn name_laggards(&self, deployment: &Deployment) {
        let stage = deployment.ledger.view().stage().as_str();
        for laggard in self.laggards(deployment) {
            warn!(
                stage,
                %laggard, "the rotation goes on without it: it did not follow in time"
            );
            self.metrics.laggard();
        }
        self.set_knows_all_instances();
    }

    async fn is_over(
        &self,
        deployment: &Deployment,
        pending: &Pending,
        others: &dyn OtherCoordinators,
    ) -> bool {
        if !pending.knows_all || pending.is_anybody_late {
            return false;
        }
        let generation = deployment.ledger.view().newest();
        // One that does not answer must not hold up what the deadline decides.
        let asked = timeout_at(pending.deadline, others.waiting_for(generation)).await;
        let Some(late) = asked.ok().flatten() else {
            return false;
        };
        let roster = self.roster();
        let late = match pending.stage {
            Stage::Trust => roster.still_not_trusting(late, generation),
            Stage::Issue => roster.still_not_certified(late, generation),
            Stage::Done => late,
        };
        late.is_empty()
    }

    async fn step(&self, deployment: &Arc<Deployment>, stage: Stage) {
        let kind = match stage {
            Stage::Trust => Kind::Issue,
            Stage::Issue => Kind::Withdraw,
            Stage::Done => return,
        };
        let changing = self.changing.lock().await;
        let is_current = matches!(
            self.phase(),
            Phase::Ready(now) if now.ledger.chain().head() == deployment.ledger.chain().head()
        );
        if !is_current {
            return;
        }
        // Nothing could be issued here: whoever has the key goes on, or a fresh one takes its place.
        let newest = deployment.ledger.view().newest();
        if kind == Kind::Issue && deployment.keyring.mesh_ca(newest).is_none() {
            drop(changing);
            return sleep(RETRY).await;
        }
        let appended = self.append_step(deployment, kind).await;
        drop(changing);
        match appended {
            Ok(_) => info!(step = kind.as_str(), "the rotation goes on"),
            Err(refused) => {
                warn!(step = kind.as_str(), %refused, "the rotation can't go on yet");
                sleep(RETRY).await;
            }
        }
    }
}

const ASK_AGAIN: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);
