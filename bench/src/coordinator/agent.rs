//! A simulated agent: the protocol of a real one, with the same checks, and no workload.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use aws_lc_rs::rand;
use history::{SignedTransition, TransitionKey};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::Channel;
use userspace_tls::{Credentials, MeshTls};

use super::client::{Client, Key};

/// When certificates of a mesh CA that is to be withdrawn are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At a random moment of a while, as real agents do.
    Spread,
    /// All at once.
    AtOnce,
}

/// Something that an agent has come to.
#[derive(Debug)]
pub(crate) struct Event {
    /// Which agent.
    pub(crate) agent: u32,
    pub(crate) at: Instant,
    pub(crate) what: What,
}

/// What an agent has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It watches, with a certificate.
    Watches,
    /// It uses this, and the Coordinator knows.
    Uses(InUse),
    /// It has to begin anew.
    Failed(String),
}

/// What an agent uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InUse {
    /// The newest generation of mesh CAs that it trusts.
    pub(crate) trusted: u64,
    /// The generation that signed its certificate.
    pub(crate) certificate: u64,
    /// Whether it trusts no other.
    pub(crate) is_alone: bool,
}

/// An agent that runs until it is dropped.
pub(crate) struct Agent {
    number: u32,
    instance: [u8; 16],
    client: Arc<Client>,
    pace: Pace,
    events: mpsc::UnboundedSender<Event>,
    /// How many may begin at once.
    beginners: Arc<Semaphore>,
    /// The latest transition, signed.
    known: Vec<u8>,
    /// The trust bundle in use.
    mesh_cas: Vec<String>,
    /// The newest generation in it.
    generation: u64,
    held: Option<Held>,
    /// When the certificate is to be replaced.
    replace_at: Option<Instant>,
}

/// A certificate in use.
struct Held {
    key: Key,
    chain: String,
    generation: u64,
    tls: MeshTls,
}

impl Agent {
    pub(crate) fn new(
        number: u32,
        client: Arc<Client>,
        pace: Pace,
        beginners: Arc<Semaphore>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self> {
        Ok(Self {
            number,
            instance: random()?,
            client,
            pace,
            events,
            beginners,
            known: Vec::new(),
            mesh_cas: Vec::new(),
            generation: 0,
            held: None,
            replace_at: None,
        })
    }

    /// Enrols, watches, and enrols anew whenever that is called for.
    pub(crate) async fn run(mut self) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let Err(error) = self.session().await;
            self.tell(What::Failed(format!("{error:#}")));
            sleep(pause.mul_f64(0.5 + fraction() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Enrols, unless that was done, and follows the Coordinator for as long as the connection lasts.
    async fn session(&mut self) -> Result<Infallible> {
        let beginning = if self.held.is_none() {
            let beginning = Arc::clone(&self.beginners).acquire_owned().await?;
            self.enrol().await?;
            Some(beginning)
        } else {
            None
        };
        let mut api = self.client.connect(self.number, None).await?;
        let request = v1::WatchRequest {
            instance: self.instance.to_vec(),
            known: self.known.clone(),
        };
        let mut states = api.watch(request).await.context("watching")?.into_inner();
        let first = states.message().await.context("watching")?;
        self.learn(first.context("the watch ended at once")?)?;
        self.acknowledge(&mut api).await?;
        drop(beginning);
        self.tell(What::Watches);
        loop {
            tokio::select! {
                state = states.message() => {
                    let state = state.context("watching")?;
                    self.learn(state.context("the watch ended")?)?;
                }
                () = until(self.replace_at) => self.enrol().await?,
            }
            self.acknowledge(&mut api).await?;
        }
    }

    /// Gets a certificate, on a connection of its own.
    async fn enrol(&mut self) -> Result<()> {
        let key = Key::generate()?;
        let mut api = self.client.connect(self.number, Some(&key)).await?;
        let request = v1::EnrolRequest {
            keys: vec![key.request()],
            instance: self.instance.to_vec(),
            known: self.known.clone(),
        };
        let mut answer = api.enrol(request).await.context("enrolling")?.into_inner();
        let certificate = answer.certificates.pop().context("no certificate")?;
        self.learn(answer.state.context("no state")?)?;
        let tls = mesh_tls(&certificate.chain, &key, &self.mesh_cas)?;
        ensure!(
            tls.identity().to_string() == certificate.spiffe_id,
            "the certificate is of {}, not of {}",
            tls.identity(),
            certificate.spiffe_id
        );
        self.held = Some(Held {
            tls,
            key,
            chain: certificate.chain,
            generation: certificate.generation,
        });
        self.replace_at = None;
        Ok(())
    }

    /// Takes over what the Coordinator says, once its signature is seen to be right.
    fn learn(&mut self, state: v1::MeshState) -> Result<()> {
        let transition = SignedTransition::decode(&state.transition)?;
        TransitionKey::from_spki(&state.transition_key)?.verify(&transition)?;
        self.known = state.transition;
        self.generation = state.generation;
        if state.mesh_cas != self.mesh_cas {
            self.mesh_cas = state.mesh_cas;
            if let Some(held) = &mut self.held {
                held.tls = mesh_tls(&held.chain, &held.key, &self.mesh_cas)?;
            }
        }
        let is_old = |held: &Held| held.generation < state.required_generation;
        if self.held.as_ref().is_some_and(is_old) && self.replace_at.is_none() {
            let spread = match self.pace {
                Pace::Spread => spread(state.deadline),
                Pace::AtOnce => Duration::ZERO,
            };
            self.replace_at = Some(Instant::now() + spread.mul_f64(fraction()));
        }
        Ok(())
    }

    /// Says what is in use.
    async fn acknowledge(&self, api: &mut MeshApiClient<Channel>) -> Result<()> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        let in_use = InUse {
            trusted: self.generation,
            certificate: held.generation,
            is_alone: self.mesh_cas.len() == 1,
        };
        let request = v1::AcknowledgeRequest {
            instance: self.instance.to_vec(),
            trusted_generation: in_use.trusted,
            certificate_generation: in_use.certificate,
        };
        api.acknowledge(request).await.context("acknowledging")?;
        self.tell(What::Uses(in_use));
        Ok(())
    }

    fn tell(&self, what: What) {
        // Nobody listens any more when the agents are about to be dropped.
        let _ = self.events.send(Event {
            agent: self.number,
            at: Instant::now(),
            what,
        });
    }
}

fn mesh_tls(chain: &str, key: &Key, mesh_cas: &[String]) -> Result<MeshTls> {
    let bundle = mesh_cas.concat();
    let credentials =
        Credentials::simulated_from_pem(chain.as_bytes(), key.pem(), bundle.as_bytes())?;
    Ok(MeshTls::new(credentials)?)
}

/// Over how long agents spread out the replacement of their certificates, as `sealwire-agent` does.
fn spread(deadline: u64) -> Duration {
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(deadline);
    let left = deadline.duration_since(SystemTime::now());
    (left.unwrap_or_default() / 20).clamp(LEAST_SPREAD, LONGEST_SPREAD)
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Chance, 0 to 1.
fn fraction() -> f64 {
    let bytes = random().unwrap_or([0; 4]);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LEAST_SPREAD: Duration = Duration::from_millis(200);
const LONGEST_SPREAD: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_spread_over_a_twentieth_of_what_is_left() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        let spread_of = |left| spread(now + left).as_secs_f64().round();
        assert!((spread_of(100) - 5.0).abs() < 0.5);
        assert_eq!(spread(now + 3_000), LONGEST_SPREAD);
        assert_eq!(spread(0), LEAST_SPREAD);
    }
}
