//! A deployment on the simulated TEE: real Coordinators behind real connections, in the test's
//! process or in processes of their own, and what owners and agents do.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod agent;
pub(crate) mod bed;
pub(crate) mod manifest;
pub(crate) mod owners;
pub(crate) mod platform;
pub(crate) mod process;
pub(crate) mod running;
pub(crate) mod store;
pub(crate) mod user;

use std::time::Duration;

use tonic::Status;

/// Longer than anything takes on a busy machine; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The stable code that a refusal carries.
pub(crate) fn code(status: &Status) -> &str {
    status
        .metadata()
        .get(api::CODE)
        .map_or("", |it| it.to_str().unwrap())
}

/// The id under which a refusal's reason is written down.
pub(crate) fn id(status: &Status) -> &str {
    status
        .metadata()
        .get(api::ID)
        .map_or("", |it| it.to_str().unwrap())
}

/// Asks until the answer is `Some`.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}
