//! `sealwire-agent init`: fetches once, for a program that does TLS itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::backoff::{Backoff, pause_for_manifest};
use super::call;
use super::coordinators::Next;
use super::error::{Failure, SetupError, Why};
use super::held::{AnswerError, Held};
use super::prepared::Prepared;
use super::random;
use super::renewal::Now;
use super::standing::Asked;
use crate::atomic_file;
use crate::config::{CoordinatorAddress, InitConfig};
use crate::confine::forbid_core_dumps;
use crate::signals::Signals;

/// Asks until there is a certificate, then writes the files.
///
/// # Errors
/// Where it can't ask, was told to stop, or can't write.
pub fn init(config: &InitConfig) -> Result<(), InitError> {
    let system = |what| move |source| InitError::System { what, source };
    forbid_core_dumps().map_err(|errno| system("setting the process's limits")(errno.into()))?;
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("making the event loop"))?
        .block_on(async {
            let mut signals = Signals::new().map_err(system("listening for signals"))?;
            tokio::select! {
                done = fetch_and_write(config) => done,
                () = signals.stop() => Err(InitError::Stopped),
            }
        })
}

pub(super) async fn fetch_and_write(config: &InitConfig) -> Result<(), InitError> {
    let prepared = Prepared::new(&config.coordinator, vec![None])?;
    let fetched = fetch_before(config.timeout, prepared).await?;
    fetched.write(&config.out, &config.secrets)
}

/// Why nothing was fetched.
#[derive(Debug, Error)]
pub enum InitError {
    /// No Coordinator can even be asked.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No Coordinator gave a certificate in time.
    #[error("no certificate within {} s; the log has the reasons", after.as_secs())]
    Timeout {
        /// How long it was tried.
        after: Duration,
    },
    /// A signal came first.
    #[error("told to stop before there was a certificate")]
    Stopped,
    /// A file can't be written.
    #[error("can't write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another call to the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl InitError {
    /// The exit code: 2 where the operator must change what was asked for, 3 where the machine
    /// can't do it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Setup(error) => error.exit_code(),
            Self::Timeout { .. } | Self::Stopped | Self::Write { .. } | Self::System { .. } => 1,
        }
    }
}

/// What a Coordinator gave.
struct Fetched {
    held: Held,
    trust_bundle: String,
    /// PEM.
    root_ca: String,
    secret: Option<Zeroizing<Vec<u8>>>,
}

async fn fetch_before(after: Option<Duration>, prepared: Prepared) -> Result<Fetched, InitError> {
    match after {
        None => Ok(fetch(prepared).await),
        Some(after) => timeout(after, fetch(prepared))
            .await
            .map_err(|_| InitError::Timeout { after }),
    }
}

async fn fetch(mut prepared: Prepared) -> Fetched {
    let mut turns = prepared.coordinators.turns();
    let mut backoff = Backoff::of_init();
    loop {
        let address = turns.current();
        let why = match attempt(&mut prepared, &address).await {
            Ok(fetched) => {
                info!(coordinator = %address, identity = %fetched.held.identity, "certificate issued");
                return fetched;
            }
            Err(why) => why,
        };
        let next = turns.failed();
        let pause = if why.is_not_allowed() {
            pause_for_manifest(random::fraction())
        } else if next == Next::AtOnce {
            Duration::ZERO
        } else {
            backoff.pause(None, random::fraction())
        };
        let retry_in_ms = pause.as_millis();
        let failure = Failure { address, why };
        warn!(%failure, retry_in_ms, "no certificate from the Coordinator");
        sleep(pause).await;
    }
}

async fn attempt(prepared: &mut Prepared, address: &CoordinatorAddress) -> Result<Fetched, Why> {
    let Prepared {
        coordinators,
        standing,
        instance,
    } = prepared;
    let asked = standing.ask()?;
    let digests = asked.iter().map(Asked::digest).collect();
    let mut client = coordinators.connect(address, digests).await?;
    let mut answer = call::enrol(&mut client, &asked, *instance, standing.latest()).await?;
    let mut secret = None;
    for certificate in &mut answer.certificates {
        secret = certificate.workload_secret.take().map(Zeroizing::new);
    }
    standing.learn(answer.state, Now::read(), 0.0)?;
    if let Err(error) = standing.save() {
        error!(%error, "what is known of the deployment is not remembered");
    }
    let held = standing.check(asked, answer.certificates, Now::read(), 0.0)?;
    let (Some((_, held)), Some(state)) = (held.into_iter().next(), standing.state()) else {
        return Err(AnswerError::Count { got: 0, want: 1 }.into());
    };
    held.check_clock(Now::read())?;
    if let Some(got) = secret
        .as_ref()
        .map(|it| it.len())
        .filter(|it| *it != SECRET_BYTES)
    {
        let want = SECRET_BYTES;
        return Err(AnswerError::Secret { got, want }.into());
    }
    if state.simulated {
        warn!("the certificate rests on the simulated TEE, which protects nothing");
    }
    Ok(Fetched {
        held,
        trust_bundle: state.trust_bundle.to_string(),
        root_ca: state.root_ca_pem(),
        secret,
    })
}

impl Fetched {
    /// The certificate's chain comes last: where it is, everything is.
    fn write(&self, out: &Path, secrets: &Path) -> Result<(), InitError> {
        for directory in [out, secrets] {
            fs::create_dir_all(directory).map_err(|source| InitError::Write {
                path: directory.to_owned(),
                source,
            })?;
        }
        let secret = self
            .secret
            .as_ref()
            .map(|it| Zeroizing::new(hex::encode(&**it)));
        let secret = secret.as_ref().map(|it| it.as_bytes());
        for (directory, name, mode, contents) in [
            (secrets, "workload-secret-seed", 0o400, secret),
            (out, "key.pem", 0o400, Some(self.held.key_pem())),
            (
                out,
                "mesh-ca.pem",
                0o644,
                Some(self.trust_bundle.as_bytes()),
            ),
            (
                out,
                "coordinator-root-ca.pem",
                0o644,
                Some(self.root_ca.as_bytes()),
            ),
            (
                out,
                "certChain.pem",
                0o644,
                Some(self.held.chain.as_bytes()),
            ),
        ] {
            let path = directory.join(name);
            if let Some(contents) = contents {
                atomic_file::write(&path, mode, contents)
                    .map_err(|source| InitError::Write { path, source })?;
            }
        }
        info!(out = %out.display(), secrets = %secrets.display(), "files written");
        Ok(())
    }
}

/// Of a workload's secret.
const SECRET_BYTES: usize = 64;
