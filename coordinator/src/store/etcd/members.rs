use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, ResponseHeader};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::super::append::MAX_OBJECT_BYTES;
use super::super::error::{Found, Object, Place, StoreError};
use super::super::{StoredHead, record};
use super::Keys;
use super::error::explain;
use super::options::{EtcdOptions, EtcdOptionsError};

/// The members of a cluster, and which of them answered last.
///
/// One connection to each and no balancing: a balancer goes on giving requests to a member that
/// hangs, and can't say which one it was that failed.
pub(super) struct Members {
    keys: Keys,
    all: Vec<Member>,
    current: AtomicUsize,
    timeout: Duration,
    attempt: Duration,
    options: ConnectOptions,
}

struct Member {
    endpoint: String,
    client: Mutex<Option<Client>>,
}

/// What etcd has under a key.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) value: Option<Vec<u8>>,
    /// The revision of the whole store at which it was read.
    pub(super) revision: i64,
}

/// The head, and when it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadAt {
    pub(super) head: Option<StoredHead>,
    pub(super) revision: i64,
}

impl Members {
    pub(super) fn new(options: EtcdOptions) -> Result<Self, EtcdOptionsError> {
        options.check()?;
        let shares = u32::try_from(options.endpoints.len()).unwrap_or(u32::MAX);
        let attempt = options.timeout / shares;
        Ok(Self {
            keys: Keys {
                prefix: options.prefix.trim_end_matches('/').to_owned(),
            },
            current: AtomicUsize::new(0),
            timeout: options.timeout,
            attempt,
            options: options.to_connect_options(attempt),
            all: options
                .endpoints
                .into_iter()
                .map(|endpoint| Member {
                    endpoint,
                    client: Mutex::default(),
                })
                .collect(),
        })
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) async fn head(&self) -> Result<HeadAt, StoreError> {
        let Value { value, revision } = self.read(self.keys.head(), &Object::Head).await?;
        let head = match value {
            Some(bytes) => Some(record::decode(&bytes, Object::Head)?),
            None => None,
        };
        Ok(HeadAt { head, revision })
    }

    /// Reads a key, under which `object` should be; linearizable.
    pub(super) async fn read(&self, key: String, object: &Object) -> Result<Value, StoreError> {
        let answer = self
            .call(|client| {
                let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
                let key = key.clone();
                async move {
                    let mut answer = kv.get(key, None).await?;
                    let revision = answer.header().map_or(0, ResponseHeader::revision);
                    let value = answer.take_kvs().pop().map(|it| it.into_key_value().1);
                    Ok(Value { value, revision })
                }
            })
            .await;
        answer.map_err(|error| match error {
            // Of this client, about an answer above the limit that it is given.
            StoreError::Protocol { source, .. } if is_out_of_range(&*source) => {
                StoreError::Corrupt {
                    object: object.clone(),
                    got: Found::TooLong,
                }
            }
            other => other,
        })
    }

    /// Asks one member after the other, from the one that answered last, until one does.
    ///
    /// `request` may reach the cluster more than once.
    pub(super) async fn call<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let end = Instant::now() + self.timeout;
        let first = self.current.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let index = (first + tried) % self.all.len();
            let member = &self.all[index];
            let error = match timeout(self.attempt, member.ask(&self.options, &request)).await {
                Ok(Ok(answer)) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => error,
                Err(_) => member.unavailable(NoAnswer(self.attempt)),
            };
            let StoreError::Unavailable { .. } = error else {
                return Err(error);
            };
            // The next attempt connects anew. Where this is locked, somebody does already.
            if let Ok(mut client) = member.client.try_lock() {
                client.take();
            }
            tried += 1;
            let pause = if tried % self.all.len() == 0 {
                PAUSE
            } else {
                Duration::ZERO
            };
            if Instant::now() + pause >= end {
                return Err(error);
            }
            sleep(pause).await;
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.all.iter().map(|it| &it.endpoint))
            .finish()
    }
}

impl Member {
    async fn ask<T, F>(
        &self,
        options: &ConnectOptions,
        request: &impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let explained = |error| explain(&self.endpoint, error);
        let client = self.client(options).await.map_err(explained)?;
        request(client).await.map_err(explained)
    }

    async fn client(&self, options: &ConnectOptions) -> Result<Client, etcd_client::Error> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = Client::connect([&self.endpoint], Some(options.clone())).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    fn unavailable(&self, source: impl Error + Send + Sync + 'static) -> StoreError {
        StoreError::Unavailable {
            place: Place::Etcd(self.endpoint.clone()),
            source: Box::new(source),
        }
    }
}

fn is_out_of_range(source: &(dyn Error + 'static)) -> bool {
    source
        .downcast_ref::<Status>()
        .is_some_and(|status| status.code() == Code::OutOfRange)
}

#[derive(Debug, Error)]
#[error("no answer within {0:?}")]
struct NoAnswer(Duration);

/// Between two rounds over all members.
const PAUSE: Duration = Duration::from_millis(100);

/// The largest object and what etcd adds to it.
const MAX_ANSWER: usize = MAX_OBJECT_BYTES + (64 << 10);
