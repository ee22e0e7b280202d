//! Gets certificates from the Coordinator, renews them, and follows what it says of the mesh, for as
//! long as the agent lives.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::time::{Duration, SystemTime};

use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{error, info, warn};
use zeroize::Zeroize as _;

use super::backoff::{Backoff, pause_for_manifest};
use super::call::{self, LONGEST_CALL};
use super::coordinators::{Coordinators, Next, Turns};
use super::error::{Failure, Why};
use super::health::{Alarm, Health, Trouble};
use super::prepared::Prepared;
use super::random;
use super::renewal::{Now, Renewal};
use super::slot::Slot;
use super::standing::{Asked, Decision, Reason, Standing};
use crate::config::CoordinatorAddress;
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
    metrics: CoordinatorMetrics,
    board: ReadinessBoard,
    /// The Coordinator said something new.
    news: Notify,
    /// New certificates are in use.
    issued: Notify,
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
            metrics,
            board,
            news: Notify::new(),
            issued: Notify::new(),
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

    async fn keep_certificates(&self) {
        let mut turns = self.coordinators.turns();
        let mut backoff = Backoff::new();
        loop {
            let reason = self.until_due().await;
            let address = turns.current();
            match self.enrol(&address).await {
                Ok(()) => {
                    let reason = reason.as_str();
                    info!(coordinator = %address, reason, "certificates issued");
                    turns.succeeded();
                    backoff.reset();
                    self.metrics.enrolled();
                    self.enrolling.borrow_mut().is_well();
                    self.was_reached.set(true);
                    self.issued.notify_one();
                }
                Err(why) => {
                    let pause = self.pause(&mut turns, &mut backoff, &why);
                    self.metrics.enrolment_failed();
                    self.enrolling.borrow_mut().failed(&why, Instant::now());
                    let retry_in_ms = pause.as_millis();
                    let failure = Failure { address, why };
                    if failure.why.is_not_allowed() {
                        error!(%failure, retry_in_ms, "the Coordinator issues no certificate: the \
                               manifest has no place for this agent");
                    } else {
                        warn!(%failure, retry_in_ms, "no certificate from the Coordinator");
                    }
                    self.tell_failure(&failure.to_string()).await;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.is_back.notified() => {}
                    }
                }
            }
        }
    }

    /// Returns when certificates are to be asked for.
    async fn until_due(&self) -> Reason {
        loop {
            let decision = self.standing.borrow().decide(Now::read());
            match decision {
                Decision::Enrol(reason) => return reason,
                Decision::Wait(wait) => tokio::select! {
                    () = sleep(wait) => {}
                    () = self.news.notified() => {}
                },
            }
        }
    }

    /// Fresh keys and fresh evidence for every workload, on one connection.
    async fn enrol(&self, address: &CoordinatorAddress) -> Result<(), Why> {
        let asked = self.standing.borrow().ask()?;
        let digests = asked.iter().map(Asked::digest).collect();
        let mut client = self.coordinators.connect(address, digests).await?;
        match self.request(&mut client, &asked).await {
            Ok(answer) => self.take(asked, answer)?,
            // One of them may be the reason: the others are not to suffer for it.
            Err(why) if why.is_not_allowed() && asked.len() > 1 => {
                self.enrol_one_by_one(&mut client, asked, why).await?;
            }
            Err(why) => return Err(why),
        }
        self.apply().await;
        Ok(())
    }

    async fn enrol_one_by_one(
        &self,
        client: &mut MeshApiClient<Channel>,
        asked: Vec<Asked>,
        mut refused: Why,
    ) -> Result<(), Why> {
        let mut left = Vec::new();
        for one in asked {
            let asked = vec![one];
            match self.request(client, &asked).await {
                Ok(answer) => self.take(asked, answer)?,
                Err(why) if why.is_not_allowed() => {
                    refused = why;
                    left.extend(asked);
                }
                Err(why) => return Err(why),
            }
        }
        // By what came along with the others, these are none of this agent's.
        let standing = self.standing.borrow();
        if left.iter().any(|asked| standing.may_have(asked)) {
            return Err(refused);
        }
        Ok(())
    }

    async fn request(
        &self,
        client: &mut MeshApiClient<Channel>,
        asked: &[Asked],
    ) -> Result<v1::EnrolResponse, Why> {
        let known = self.standing.borrow().latest();
        call::enrol(client, asked, self.instance, known).await
    }

    fn take(&self, asked: Vec<Asked>, answer: v1::EnrolResponse) -> Result<(), Why> {
        let v1::EnrolResponse {
            mut certificates,
            state,
        } = answer;
        // It is for programs that do TLS themselves: `init` gives it to them.
        for certificate in &mut certificates {
            certificate.workload_secret.zeroize();
        }
        self.learn(state)?;
        let now = Now::read();
        let mut standing = self.standing.borrow_mut();
        standing.obtain(asked, certificates, now, random::fraction())?;
        let agrees = standing.earliest().is_none_or(Renewal::calendar_agrees);
        if !agrees {
            warn!(
                "the clock of this machine and that of the Coordinator differ by hours; one of \
                   them is wrong, and certificates may be refused"
            );
        }
        Ok(())
    }

    fn learn(&self, state: Option<v1::MeshState>) -> Result<(), Why> {
        let mut standing = self.standing.borrow_mut();
        standing.learn(state, Now::read(), random::fraction())?;
        if let Err(error) = standing.save() {
            error!(%error, "what is known of the deployment does not outlive this agent");
        }
        Ok(())
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
        self.acknowledgement.set(acknowledgement);
    }

    async fn tell_failure(&self, failure: &str) {
        for (workload, slot) in self.slots.iter().enumerate() {
            let lacks = self.standing.borrow().lacks_certificate(workload);
            if lacks {
                slot.fail(failure.into()).await;
            }
        }
    }

    async fn keep_watching(&self) {
        let mut turns = self.coordinators.turns();
        let mut backoff = Backoff::new();
        loop {
            while self.acknowledgement.get().is_none() {
                self.issued.notified().await;
            }
            let address = turns.current();
            let established = Cell::new(None);
            let ended = self.watch(&address, &established).await;
            let lasted = established.get().map(|it: Instant| it.elapsed());
            if lasted.is_some_and(|lasted| lasted >= LONG_WATCH) {
                turns.succeeded();
                backoff.reset();
            }
            let pause = match ended {
                Ok(()) => backoff.pause(None, random::fraction()),
                Err(why) => {
                    let pause = self.pause(&mut turns, &mut backoff, &why);
                    self.watching.borrow_mut().failed(&why, Instant::now());
                    let retry_in_ms = pause.as_millis();
                    let failure = Failure { address, why };
                    if failure.why.is_not_allowed() {
                        error!(%failure, retry_in_ms, "the manifest has no place for this agent");
                    } else {
                        warn!(%failure, retry_in_ms, "the Coordinator can't be followed");
                    }
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    /// Follows one Coordinator until it ends the connection. Writes down when it began.
    async fn watch(
        &self,
        address: &CoordinatorAddress,
        established: &Cell<Option<Instant>>,
    ) -> Result<(), Why> {
        let mut client = self.coordinators.connect(address, Vec::new()).await?;
        let request = v1::WatchRequest {
            instance: self.instance.to_vec(),
            known: self.standing.borrow().latest(),
        };
        let mut news = call::answer(client.watch(request)).await?;
        let first = timeout(LONGEST_CALL, news.message()).await;
        let mut message = first.map_err(|_| Why::Deadline(LONGEST_CALL))?;
        loop {
            match message {
                Ok(None) => return Ok(()),
                Ok(Some(state)) => self.follow(state, established).await?,
                Err(status) => return Err(self.watch_failed(status, established).await),
            }
            message = self.acknowledge_until_next(&client, &mut news).await?;
        }
    }

    async fn follow(
        &self,
        state: v1::MeshState,
        established: &Cell<Option<Instant>>,
    ) -> Result<(), Why> {
        self.learn(Some(state))?;
        if established.get().is_none() {
            established.set(Some(Instant::now()));
            self.watching.borrow_mut().is_well();
            self.is_back.notify_one();
        }
        self.apply().await;
        self.news.notify_one();
        Ok(())
    }

    /// Tells the Coordinator what is in use, again whenever that has changed, until it says something
    /// itself.
    async fn acknowledge_until_next(
        &self,
        client: &MeshApiClient<Channel>,
        news: &mut Streaming<v1::MeshState>,
    ) -> Result<Result<Option<v1::MeshState>, Status>, Why> {
        loop {
            let mut acknowledging = pin!(self.acknowledge(client));
            let mut is_acknowledged = false;
            loop {
                tokio::select! {
                    message = news.message() => return Ok(message),
                    () = self.issued.notified() => break,
                    done = &mut acknowledging, if !is_acknowledged => {
                        done?;
                        is_acknowledged = true;
                    }
                }
            }
        }
    }

    /// A Coordinator that said what the mesh is like, and now that it has no place for this agent,
    /// has a new manifest.
    async fn watch_failed(&self, status: Status, established: &Cell<Option<Instant>>) -> Why {
        let why = Why::of_status(status);
        if why.is_not_allowed() && established.get().is_some() {
            self.standing.borrow_mut().withdraw();
            self.apply().await;
        }
        why
    }

    async fn acknowledge(&self, client: &MeshApiClient<Channel>) -> Result<(), Why> {
        let Some((trusted_generation, certificate_generation)) = self.acknowledgement.get() else {
            return Ok(());
        };
        for slot in &self.slots {
            slot.drained().await;
        }
        let request = v1::AcknowledgeRequest {
            instance: self.instance.to_vec(),
            trusted_generation,
            certificate_generation,
        };
        call::answer(client.clone().acknowledge(request)).await?;
        Ok(())
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

/// A connection that lasted this long was a good one.
const LONG_WATCH: Duration = Duration::from_secs(10);

const TELL_AGAIN: Duration = Duration::from_secs(1);
