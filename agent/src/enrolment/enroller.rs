//! Gets certificates from the Coordinator, renews them, and follows what it says of the mesh, for as
//! long as the agent lives.

mod certificates;
mod watching;

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime};

use api::v1;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use super::backoff::{Backoff, pause_for_manifest};
use super::coordinators::{Coordinators, Next, Turns};
use super::error::Why;
use super::health::{Alarm, Health, Trouble};
use super::prepared::Prepared;
use super::random;
use super::renewal::Now;
use super::slot::Slot;
use super::standing::Standing;
use crate::metrics::CoordinatorMetrics;
use crate::readiness::ReadinessBoard;

/// One agent's client of the Coordinator.
#[derive(Debug)]
pub(crate) struct Enroller {
    coordinators: Coordinators,
    instance: [u8; 16],
    standing: RefCell<Standing>,
    slots: Vec<Slot>,
    applying: Mutex<()>,
    /// What is in use, and may be acknowledged.
    acknowledgement: Cell<Option<(u64, u64)>>,
    enrolling: RefCell<Health>,
    watching: RefCell<Health>,
    was_reached: Cell<bool>,
    /// Why the disk does not have what is remembered of the deployment.
    unsaved: RefCell<Option<String>>,
    metrics: CoordinatorMetrics,
    board: ReadinessBoard,
    /// The Coordinator said something new.
    news: Notify,
    /// There is something else to acknowledge.
    to_acknowledge: Notify,
    /// The Coordinator answers again.
    is_back: Notify,
}

impl Enroller {
    /// Asks for the workloads of `slots`, which are as many as identities were wanted, and in the
    /// same order.
    pub(crate) fn new(
        prepared: Prepared,
        slots: Vec<Slot>,
        metrics: CoordinatorMetrics,
        board: ReadinessBoard,
    ) -> Self {
        let Prepared {
            coordinators,
            standing,
            instance,
        } = prepared;
        Self {
            coordinators,
            instance,
            standing: RefCell::new(standing),
            slots,
            applying: Mutex::new(()),
            acknowledgement: Cell::new(None),
            enrolling: RefCell::default(),
            watching: RefCell::default(),
            was_reached: Cell::new(false),
            unsaved: RefCell::default(),
            metrics,
            board,
            news: Notify::new(),
            to_acknowledge: Notify::new(),
            is_back: Notify::new(),
        }
    }

    /// Goes on until the returned future is dropped.
    pub(crate) async fn run(self) {
        tokio::join!(
            self.keep_certificates(),
            self.keep_watching(),
            self.keep_telling()
        );
    }

    fn learn(&self, state: Option<v1::MeshState>) -> Result<(), Why> {
        let mut standing = self.standing.borrow_mut();
        standing.learn(state, Now::read(), random::fraction())?;
        drop(standing);
        self.save();
        Ok(())
    }

    /// Writes what is remembered of the deployment to the disk. Where that fails, what was learned
    /// is acted on all the same: to go by the older history would be worse.
    fn save(&self) {
        let why = self.standing.borrow_mut().save().err();
        let why = why.map(|error| error.to_string());
        let before = self.unsaved.replace(why.clone());
        match (&before, &why) {
            (None, Some(error)) => error!(
                error,
                "what is known of the deployment does not outlive this agent"
            ),
            (Some(_), None) => info!("what is known of the deployment is on the disk again"),
            _ => {}
        }
        self.metrics.set_unsaved(why.is_some());
        self.board.set_unsaved(why);
    }

    /// Gives every workload what it may use now.
    async fn apply(&self) {
        let _one_after_the_other = self.applying.lock().await;
        let acknowledgement = self.standing.borrow().acknowledgement();
        for (workload, slot) in self.slots.iter().enumerate() {
            let new = self.standing.borrow().use_of(workload);
            if let Some(new) = new {
                slot.give(new).await;
            }
        }
        if self.acknowledgement.replace(acknowledgement) != acknowledgement {
            self.to_acknowledge.notify_one();
        }
    }

    fn pause(&self, turns: &mut Turns, backoff: &mut Backoff, why: &Why) -> Duration {
        let next = turns.failed();
        if why.is_not_allowed() {
            return pause_for_manifest(random::fraction());
        }
        match next {
            Next::AtOnce => Duration::ZERO,
            Next::AfterPause => {
                let left = self.standing.borrow().earliest().map(|renewal| {
                    let end = renewal.end();
                    end.saturating_duration_since(Instant::now())
                });
                backoff.pause(left, random::fraction())
            }
        }
    }

    /// Tells people and machines how it stands.
    async fn keep_telling(&self) {
        let mut alarm = Alarm::new();
        let started = Instant::now();
        loop {
            let trouble = self.trouble();
            let now = Now::read();
            let unreachable_for = match &trouble {
                Some(trouble) if trouble.is_unreachable() => Some(trouble.age(now.instant)),
                None if !self.was_reached.get() => Some(now.instant - started),
                _ => None,
            };
            self.metrics.set_unreachable(unreachable_for);
            if let Some(trouble) = &trouble {
                let left = self.standing.borrow().earliest().map(|it| it.left(now));
                if left.is_some_and(|left| alarm.is_due(left)) {
                    let expires = self.expires().unwrap_or_default();
                    error!(
                        reason = trouble.why,
                        "{trouble}, certificate expires at {expires}; connections are refused from \
                         then on"
                    );
                }
            } else {
                alarm = Alarm::new();
            }
            self.board.set_coordinator(trouble);
            if !self.standing.borrow().is_saved() {
                self.save();
            }
            sleep(TELL_AGAIN).await;
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        let (watching, enrolling) = (self.watching.borrow(), self.enrolling.borrow());
        watching.trouble().or(enrolling.trouble()).cloned()
    }

    fn expires(&self) -> Option<String> {
        let expires: SystemTime = self.standing.borrow().expires()?;
        OffsetDateTime::from(expires).format(&Rfc3339).ok()
    }
}

const TELL_AGAIN: Duration = Duration::from_secs(1);
