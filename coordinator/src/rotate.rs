//! Takes the newest mesh CA from trusted to issuing to alone, as soon as every agent follows, or at
//! the deadline. Whoever is missing then is named.

use std::sync::Arc;
use std::time::Duration;

use history::Kind;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::core::{Coordinator, Deployment, Phase, now};
use crate::deployment::Stage;

/// What a stage waits for.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The stage.
    pub stage: Stage,
    /// When it ends, whoever is missing.
    pub deadline: Instant,
    /// Who has not acknowledged, as far as this Coordinator knows.
    pub waiting_for: Vec<String>,
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
        let waiting_for = match view.stage() {
            Stage::Trust => roster.not_trusting(newest, now()),
            Stage::Issue => roster.not_certified(newest, now()),
            Stage::Done => return None,
        };
        Some(Pending {
            stage: view.stage(),
            deadline: deployment.stage_since + deployment.ledger.manifest().rotation().deadline,
            waiting_for,
            knows_all: self.knows_all_instances(),
        })
    }

    /// Goes on for as long as the process lives.
    pub async fn rotate(self: Arc<Self>, others: Arc<dyn OtherCoordinators>) {
        let mut phases = self.watch();
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
            if !self.is_over(&deployment, &pending, others.as_ref()).await {
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(pending.deadline) => {}
                    // The other Coordinators' agents acknowledge without our knowledge.
                    () = sleep(ASK_AGAIN) => {}
                }
                continue;
            }
            self.step(&deployment, pending.stage).await;
        }
    }

    async fn is_over(
        &self,
        deployment: &Deployment,
        pending: &Pending,
        others: &dyn OtherCoordinators,
    ) -> bool {
        let stage = pending.stage.as_str();
        if Instant::now() >= pending.deadline {
            for laggard in &pending.waiting_for {
                warn!(
                    stage,
                    laggard, "the rotation goes on without it: it did not follow in time"
                );
                self.metrics.laggard();
            }
            self.set_knows_all_instances();
            return true;
        }
        if !pending.knows_all || !pending.waiting_for.is_empty() {
            return false;
        }
        let generation = deployment.ledger.view().newest();
        others
            .waiting_for(generation)
            .await
            .is_some_and(|late| late.is_empty())
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
