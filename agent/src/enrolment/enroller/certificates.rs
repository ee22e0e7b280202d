//! Keeps the certificates fresh.

use std::time::Duration;

use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tracing::{error, info, warn};
use zeroize::Zeroize as _;

use super::super::backoff::Backoff;
use super::super::call;
use super::super::error::{Failure, Why};
use super::super::random;
use super::super::renewal::Now;
use super::super::standing::{Asked, Decision, Reason};
use super::Enroller;
use crate::certificates::rfc3339;
use crate::config::CoordinatorAddress;

impl Enroller {
    pub(super) async fn keep_certificates(&self) {
        let mut turns = self.coordinators.turns();
        let (mut backoff, mut of_clocks) = (Backoff::new(), Backoff::of_clocks());
        loop {
            let reason = self.until_due().await;
            let address = turns.current();
            match self.enrol(&address).await {
                Ok(()) => {
                    let reason = reason.as_str();
                    info!(coordinator = %address, reason, "certificates issued");
                    turns.succeeded();
                    backoff.reset();
                    of_clocks.reset();
                    self.metrics.enrolled();
                    self.enrolling.borrow_mut().is_well();
                    self.was_reached.set(true);
                }
                Err(why) => {
                    let is_of_clocks = why.is_of_clocks();
                    let backoff = if is_of_clocks {
                        &mut of_clocks
                    } else {
                        &mut backoff
                    };
                    let pause = self.pause(&mut turns, backoff, &why);
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
                    let is_outside = is_of_clocks && !self.standing.borrow().is_valid(Now::read());
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.is_back.notified(), if !is_of_clocks => {}
                        () = self.until_valid(), if is_outside => {}
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

    /// Returns when a clock that was set right makes what is held valid.
    async fn until_valid(&self) {
        while !self.standing.borrow().is_valid(Now::read()) {
            sleep(LOOK_AT_CLOCK).await;
        }
    }

    async fn enrol(&self, address: &CoordinatorAddress) -> Result<(), Why> {
        let enrolled = self.ask(address).await;
        // What was learned counts even where something failed later.
        self.apply().await;
        enrolled
    }

    /// Fresh keys and fresh evidence for every workload, on one connection.
    async fn ask(&self, address: &CoordinatorAddress) -> Result<(), Why> {
        let asked = self.standing.borrow().ask()?;
        let digests = asked.iter().map(Asked::digest).collect();
        let mut client = self.coordinators.connect(address, digests).await?;
        match self.request(&mut client, &asked).await {
            Ok(answer) => self.take(asked, answer),
            // One of them may be the reason: the others are not to suffer for it.
            Err(why) if why.is_not_allowed() && asked.len() > 1 => {
                self.ask_one_by_one(&mut client, asked, why).await
            }
            Err(why) => Err(why),
        }
    }

    async fn ask_one_by_one(
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
        if let Some(renewal) = standing.earliest().filter(|it| !it.calendar_agrees()) {
            warn!(
                valid_from = rfc3339(renewal.validity().not_before),
                valid_until = rfc3339(renewal.validity().not_after),
                clock = rfc3339(now.calendar),
                "the clocks of this machine and of the Coordinator differ: one of them is wrong, \
                 and certificates are refused too early or too late"
            );
        }
        Ok(())
    }

    async fn tell_failure(&self, failure: &str) {
        for (workload, slot) in self.slots.iter().enumerate() {
            let lacks = self.standing.borrow().lacks_certificate(workload);
            if lacks {
                slot.fail(failure.into()).await;
            }
        }
    }
}

/// How soon a clock that was set right is noticed.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
