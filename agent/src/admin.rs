//! The admin interface over HTTP: readiness, metrics, open connections, refusals with their
//! explanation, configuration, and a page for people that shows them live.
//!
//! Answers `GET` on the loopback addresses of the agent's own namespace, and changes nothing. Who
//! can reach it sees which peers talk; it holds no key and no byte of a connection.

mod explain;
mod listener;
mod page;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use attestation::identity::SpiffeId;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::enrolment::Trouble;
use crate::kernel_tls::KernelTls;
use crate::metrics::Metrics;
use crate::policy::WorkloadName;
use crate::refusals::{History, RefusalId};
use crate::registry::{ConnectionView, Registry};
use crate::workload::Workload;
use explain::RefusedView;
use listener::{Bounded, Slots};

/// The loopback sockets of the admin interface. Nothing is answered before [`Admin::serve`].
#[derive(Debug)]
pub(crate) struct Admin {
    listeners: Vec<TcpListener>,
}

impl Admin {
    /// Binds 127.0.0.1 and, where the machine has it, `::1`. The namespace is that of the calling
    /// thread.
    pub(crate) async fn bind(port: NonZeroU16) -> Result<Self, AdminError> {
        let port = port.get();
        let failed = |address| move |source| AdminError::Bind { address, source };
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let mut listeners = vec![TcpListener::bind(v4).await.map_err(failed(v4))?];
        match TcpListener::bind(v6).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if lacks_ipv6(&error) => {}
            Err(error) => return Err(failed(v6)(error)),
        }
        Ok(Self { listeners })
    }

    /// Sockets that another agent has listened on for this.
    pub(crate) fn inherit(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let listener = |socket| TcpListener::from_std(std::net::TcpListener::from(socket));
        let listeners = sockets
            .into_iter()
            .map(listener)
            .collect::<Result<_, _>>()?;
        Ok(Self { listeners })
    }

    /// Whether all of it listens on this port, and there is anything.
    pub(crate) fn is_on(&self, port: NonZeroU16) -> bool {
        let is_on = |it: &TcpListener| it.local_addr().is_ok_and(|it| it.port() == port.get());
        !self.listeners.is_empty() && self.listeners.iter().all(is_on)
    }

    /// The sockets, for another agent that is to answer as well.
    pub(crate) fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = self.listeners.iter();
        listeners
            .map(|it| it.as_fd().try_clone_to_owned())
            .collect()
    }

    /// Answers until the returned future drops. Listing many connections takes milliseconds, so it
    /// should not run on a worker's thread.
    pub(crate) async fn serve(self, state: AdminState) {
        let router = router(state);
        let slots = Slots::default();
        let mut servers = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let bounded = Bounded::new(listener, slots.clone());
            let router = router.clone();
            servers.spawn(async move { axum::serve(bounded, router).await });
        }
        while servers.join_next().await.is_some() {}
    }
}

/// Why the admin interface is not there.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The port is taken, or reserved for root.
    #[error(
        "binding the admin interface to {address}: {source}; choose another port with --admin-port, \
         or leave it out"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the admin interface shows.
#[derive(Clone, Debug)]
pub(crate) struct AdminState {
    /// For `/connections`.
    pub registry: Arc<Registry>,
    /// For `/refusals`.
    pub refusals: Arc<History>,
    /// For `/explain`: whose rules are asked.
    pub workloads: watch::Receiver<Vec<Arc<Workload>>>,
    /// For `/explain`.
    pub kernel_tls: Arc<KernelTls>,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/ready`.
    pub readiness: watch::Receiver<Readiness>,
    /// For `/config`: the effective configuration.
    pub config_json: watch::Receiver<Arc<str>>,
}

/// Whether connections can be served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    /// Each workload; none means that the agent is still starting.
    pub workloads: Vec<WorkloadReadiness>,
    /// What is wrong with the Coordinator. Workloads go on with the certificates that they have.
    pub coordinator: Option<Trouble>,
    /// Why the disk does not have what the agent remembers of its deployment.
    pub unsaved: Option<String>,
    /// Which configuration is in force.
    pub configuration: ConfigurationState,
}

/// Which configuration is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ConfigurationState {
    /// Counts from 1 for each agent's life.
    pub generation: u64,
    /// Why the last one that was read is not in force, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Readiness {
    /// Whether every workload is ready.
    pub(crate) fn is_ready(&self) -> bool {
        !self.workloads.is_empty() && self.workloads.iter().all(|it| it.not_ready.is_none())
    }
}

/// Whether the connections of one workload can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadReadiness {
    /// The workload's name.
    pub name: WorkloadName,
    /// Who it is in the mesh; `None` without a certificate.
    pub identity: Option<SpiffeId>,
    /// Why its connections are refused; `None` if they are served.
    pub not_ready: Option<String>,
    /// When its certificate expires; `None` without one.
    pub certificate_not_after: Option<SystemTime>,
}

fn router(state: AdminState) -> Router {
    page::routes()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/connections", get(connections))
        .route("/refusals", get(refusals))
        .route("/explain", get(explain))
        .route("/config", get(config))
        .fallback(unknown_path)
        .layer(middleware::from_fn(guard))
        .with_state(state)
}

/// A page of the internet can make a browser on this machine ask a name that resolves to loopback
/// (DNS rebinding); only the `Host` header tells such a request from an honest one.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = if !names_loopback(&request) {
        let hint = "this interface answers to localhost, 127.0.0.1 and [::1] only\n";
        (StatusCode::MISDIRECTED_REQUEST, hint).into_response()
    } else if request.method() != Method::GET {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            [(ALLOW, "GET")],
            "only GET is answered\n",
        )
            .into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn names_loopback(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let header = host
        .to_str()
        .ok()
        .and_then(|host| host.parse::<Authority>().ok());
    header.is_some_and(|authority| is_loopback(&authority))
        && request.uri().authority().is_none_or(is_loopback)
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    if authority.as_str().contains('@') {
        return false;
    }
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

async fn ready(State(state): State<AdminState>) -> Response {
    let readiness = state.readiness.borrow().clone();
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, json(&ReadyView::of(&readiness))).into_response()
}

async fn metrics(State(state): State<AdminState>) -> Response {
    state.registry.count_bytes();
    ([(CONTENT_TYPE, OPEN_METRICS)], state.metrics.encode()).into_response()
}

async fn connections(State(state): State<AdminState>) -> Response {
    let connections = state.registry.connections();
    let now = Instant::now();
    let listed = &connections[..connections.len().min(MOST_LISTED)];
    let views: Vec<ConnectionView<'_>> = listed.iter().map(|it| it.view(now)).collect();
    let omitted = connections.len() - listed.len();
    ([(OMITTED, omitted.to_string())], json(&views)).into_response()
}

/// What `/refusals` is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusalsQuery {
    after: Option<String>,
}

async fn refusals(
    State(state): State<AdminState>,
    Query(RefusalsQuery { after }): Query<RefusalsQuery>,
) -> Response {
    let after = after.map(|text| {
        let parsed = text.parse::<RefusalId>();
        parsed.map_err(|error| format!("after {text:?} {error}\n"))
    });
    let after = match after.transpose() {
        Ok(after) => after,
        Err(hint) => return (StatusCode::BAD_REQUEST, hint).into_response(),
    };
    let (refused, omitted) = state.refusals.newest(after);
    let views: Vec<RefusedView<'_>> = refused.iter().map(|it| (&**it).into()).collect();
    let since = rfc3339(state.refusals.since()).unwrap_or_default();
    let headers = [(OMITTED, omitted.to_string()), (SINCE, since)];
    (headers, json(&views)).into_response()
}

async fn explain(State(state): State<AdminState>, Query(query): Query<explain::Query>) -> Response {
    match explain::explain(&state, query) {
        Ok(explanation) => json(&explanation),
        Err(error) => (error.status(), format!("{error}\n")).into_response(),
    }
}

async fn config(State(state): State<AdminState>) -> Response {
    let json = state.config_json.borrow().to_string();
    ([(CONTENT_TYPE, JSON)], json).into_response()
}

async fn unknown_path() -> Response {
    let hint = "unknown path; there are /, /ready, /metrics, /connections, /refusals, /explain and \
                /config\n";
    (StatusCode::NOT_FOUND, hint).into_response()
}

fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_string(value) {
        Ok(mut text) => {
            text.push('\n');
            ([(CONTENT_TYPE, JSON)], text).into_response()
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("making JSON: {error}\n"),
        )
            .into_response(),
    }
}

#[derive(Serialize)]
struct ReadyView<'a> {
    ready: bool,
    configuration: &'a ConfigurationState,
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<CoordinatorView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsaved: Option<&'a str>,
    workloads: Vec<WorkloadReadyView<'a>>,
}

#[derive(Serialize)]
struct CoordinatorView<'a> {
    reachable: bool,
    trouble_seconds: u64,
    why: &'a str,
}

#[derive(Serialize)]
struct WorkloadReadyView<'a> {
    name: &'a str,
    identity: Option<&'a str>,
    ready: bool,
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    certificate_not_after: Option<String>,
}

impl<'a> ReadyView<'a> {
    fn of(readiness: &'a Readiness) -> Self {
        let workload = |it: &'a WorkloadReadiness| {
            let expires = it.certificate_not_after.and_then(rfc3339);
            WorkloadReadyView {
                name: it.name.as_str(),
                identity: it.identity.as_ref().map(SpiffeId::as_str),
                ready: it.not_ready.is_none(),
                why: it.not_ready.as_deref(),
                warning: readiness
                    .coordinator
                    .as_ref()
                    .map(|trouble| match &expires {
                        Some(expires) if it.not_ready.is_none() => {
                            format!("{trouble}, certificate expires at {expires}")
                        }
                        _ => format!("{trouble}, no certificate is in use"),
                    }),
                certificate_not_after: expires,
            }
        };
        let workloads = readiness.workloads.iter().map(workload).collect();
        let coordinator = readiness
            .coordinator
            .as_ref()
            .map(|trouble| CoordinatorView {
                reachable: !trouble.is_unreachable(),
                trouble_seconds: trouble.age(tokio::time::Instant::now()).as_secs(),
                why: &trouble.why,
            });
        Self {
            coordinator,
            configuration: &readiness.configuration,
            unsaved: readiness.unsaved.as_deref(),
            ready: readiness.is_ready(),
            workloads,
        }
    }
}

fn rfc3339(time: SystemTime) -> Option<String> {
    OffsetDateTime::from(time).format(&Rfc3339).ok()
}

/// No `::1` on the interface, or no IPv6 at all.
fn lacks_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// About 10 MB of JSON. The header [`OMITTED`] says how many connections more there are.
const MOST_LISTED: usize = 20_000;
const OMITTED: &str = "sealwire-omitted";

/// When the agent began to count: numbers from before mean something else.
const SINCE: &str = "sealwire-since";

#[cfg(test)]
mod tests;
