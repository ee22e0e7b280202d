//! Port 9102: metrics and probes, for whoever runs the Coordinator. Tells no secret, and no reason why
//! a caller was refused.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::core::{Coordinator, Phase};
use crate::limited_listener::LimitedListener;

/// Serves until `stopped`.
pub async fn serve(
    listener: TcpListener,
    coordinator: Arc<Coordinator>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(LimitedListener::new(listener), router(coordinator))
        .with_graceful_shutdown(stopped)
        .await
}

/// `/metrics`, `/ready`, and `/probe/startup`, `/probe/liveness`, `/probe/readiness` as Contrast's
/// users know them.
pub fn router(coordinator: Arc<Coordinator>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(readiness))
        .route("/probe/startup", get(alive))
        .route("/probe/liveness", get(alive))
        .route("/probe/readiness", get(readiness))
        .with_state(coordinator)
}

async fn metrics(State(coordinator): State<Arc<Coordinator>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], coordinator.metrics().encode())
}

async fn alive() -> &'static str {
    "alive\n"
}

async fn readiness(State(coordinator): State<Arc<Coordinator>>) -> (StatusCode, String) {
    let (status, phase) = match coordinator.phase() {
        Phase::Ready(_) if coordinator.store_fault().is_some() => {
            (StatusCode::SERVICE_UNAVAILABLE, "store-fault")
        }
        Phase::Ready(_) => (StatusCode::OK, "ready"),
        other => (StatusCode::SERVICE_UNAVAILABLE, other.as_str()),
    };
    let trouble = coordinator.store_trouble().map(|trouble| {
        let seconds = trouble.since.elapsed().as_secs();
        format!(
            "store-unavailable for {seconds} s, nothing can be changed: {}\n",
            trouble.why
        )
    });
    let audit = coordinator
        .audit_trouble()
        .map(|why| format!("audit-log-not-written: {why}\n"));
    let body = [Some(format!("{phase}\n")), trouble, audit]
        .into_iter()
        .flatten()
        .collect();
    (status, body)
}
