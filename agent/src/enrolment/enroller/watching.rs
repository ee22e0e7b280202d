//! Follows what the Coordinator says of the mesh, and acknowledges it.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{error, warn};

use super::super::backoff::Backoff;
use super::super::call::{self, LONGEST_CALL};
use super::super::error::{Failure, Why};
use super::super::random;
use super::Enroller;
use crate::config::CoordinatorAddress;

impl Enroller {
    pub(super) async fn keep_watching(&self) {
        let mut turns = self.coordinators.turns();
        let mut backoff = Backoff::new();
        loop {
            while self.acknowledgement.get().is_none() {
                self.to_acknowledge.notified().await;
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
            self.is_back.notify_waiters();
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
                    () = self.to_acknowledge.notified() => break,
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
}

/// A connection that lasted this long was a good one.
const LONG_WATCH: Duration = Duration::from_secs(10);
