//! OpenTelemetry: a span for each connection and each that was refused, sent by OTLP over gRPC.
//!
//! Both agents of a connection take its [`SessionId`] for the trace, and the client's span is the parent of
//! the server's: one trace shows both sides, and nothing of it is on the wire. What the exporter does is
//! set by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and so on). A collector that does
//! not keep up costs spans, never a connection.

use std::{
    env,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    trace::{
        BatchSpanProcessor, Config, SamplingDecision, SpanData, SpanEvents, SpanLinks,
        SpanProcessor as _,
    },
};
use thiserror::Error;
use tokio::runtime::{self, Runtime};
use userspace_tls::{Alpn, SessionId};

use crate::{
    connection::CloseReason,
    policy::Direction,
    refusals::Refused,
    registry::{Connection, Established},
};

/// Makes spans and sends them.
#[derive(Debug)]
pub(crate) struct Spans {
    processor: BatchSpanProcessor,
    /// What the environment says of sampling.
    config: Config,
    scope: InstrumentationScope,
    /// Where the exporter's connection lives; `None` while it ends.
    runtime: Option<Runtime>,
}

/// Why no spans can be sent.
#[derive(Debug, Error)]
pub enum SpansError {
    /// The variables ask for what this agent can't do.
    #[error(
        "{variable}={value}: this agent sends spans by `{only}` alone; unset it, or set it to that"
    )]
    Unsupported {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        only: &'static str,
    },
    /// The exporter does not like what the variables say.
    #[error("spans can't be sent as the OTEL_EXPORTER_OTLP_ variables say: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// There is no thread for it.
    #[error("starting the thread that sends spans: {0}")]
    Thread(std::io::Error),
}

/// How long the collector may take for the last spans of an agent that ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

impl Spans {
    /// As the environment says; `None` where it names no collector.
    ///
    /// # Errors
    /// Where it asks for what can't be done.
    pub(crate) fn from_environment() -> Result<Option<Self>, SpansError> {
        let is_named = ENDPOINTS.iter().any(|name| variable(name).is_some());
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|it| it == "true")
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|it| it == "none");
        if !is_named || is_off {
            return Ok(None);
        }
        for (names, only) in [(&EXPORTERS[..], "otlp"), (&PROTOCOLS[..], "grpc")] {
            for name in names {
                if let Some(value) = variable(name).filter(|value| value != only) {
                    return Err(SpansError::Unsupported {
                        variable: name,
                        value,
                        only,
                    });
                }
            }
        }
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("spans")
            .enable_all()
            .build()
            .map_err(SpansError::Thread)?;
        let exporter = {
            let _in_runtime = runtime.enter();
            SpanExporter::builder().with_tonic().build()?
        };
        Ok(Some(Self::sent_by(exporter, runtime)))
    }

    fn sent_by(exporter: SpanExporter, runtime: Runtime) -> Self {
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        // After the environment's own, so that OTEL_SERVICE_NAME counts.
        let mut resource = Resource::builder();
        if variable("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("sealwire-agent");
        }
        opentelemetry_sdk::trace::SpanProcessor::set_resource(&mut processor, &resource.build());
        Self {
            processor,
            config: Config::default(),
            scope: InstrumentationScope::builder("sealwire-agent")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            runtime: Some(runtime),
        }
    }

    /// A connection that was established has ended.
    pub(crate) fn closed(&self, connection: &Connection, close: CloseReason) {
        let (age, now) = (connection.opened().elapsed(), SystemTime::now());
        let established = connection.established();
        let mut span = Span::new(connection.direction());
        span.between(Some(connection.from()), Some(connection.to()));
        span.set("sealwire.workload", connection.workload().to_owned());
        span.set("sealwire.mode", connection.mode().as_str());
        span.set("sealwire.rule", connection.rule().to_string());
        if let Some(datapath) = connection.datapath() {
            span.set("sealwire.datapath", datapath.name);
            span.set("sealwire.datapath.why", datapath.why);
        }
        if let Some(established) = established {
            span.proved(established, now - age);
        }
        let traffic = connection.traffic();
        let bytes = |counter: &std::sync::atomic::AtomicU64| {
            i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
        };
        span.attributes.extend([
            KeyValue::new("sealwire.sent", bytes(&traffic.sent)),
            KeyValue::new("sealwire.received", bytes(&traffic.received)),
        ]);
        span.set("sealwire.close", close.as_str());
        if close != CloseReason::Orderly {
            span.status = Status::error(close.as_str());
        }
        self.send(span, now - age, now);
    }

    /// A connection was not let through.
    pub(crate) fn refused(&self, refused: &Refused) {
        let Refused { id, what } = refused;
        let mut span = Span::new(what.direction);
        span.between(what.from, what.to);
        span.set("sealwire.workload", what.workload.to_string());
        span.set("sealwire.refusal.id", id.to_string());
        span.set("error.type", what.code.as_str());
        if let Some(rule) = &what.rule {
            span.set("sealwire.rule", rule.to_string());
        }
        span.status = Status::error(format!("{}: {}", what.code.as_str(), what.detail));
        self.send(span, what.at, what.at);
    }

    fn send(&self, span: Span, start_time: SystemTime, end_time: SystemTime) {
        let Span {
            direction,
            name,
            session,
            has_parent,
            attributes,
            events,
            status,
        } = span;
        let ids = &self.config.id_generator;
        let trace = session.map_or_else(
            || ids.new_trace_id(),
            |SessionId(id)| TraceId::from_bytes(id),
        );
        let of_client = || client_span(trace);
        let (span_kind, id, parent) = match direction {
            Direction::Egress if session.is_some() => (SpanKind::Client, of_client(), None),
            Direction::Egress => (SpanKind::Client, ids.new_span_id(), None),
            Direction::Ingress => {
                let parent = has_parent.then(of_client);
                (SpanKind::Server, ids.new_span_id(), parent)
            }
        };
        let sampler = &self.config.sampler;
        let verdict = sampler.should_sample(None, trace, name, &span_kind, &attributes, &[]);
        if verdict.decision != SamplingDecision::RecordAndSample {
            return;
        }
        let (flags, state) = (TraceFlags::SAMPLED, TraceState::default());
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(trace, id, flags, false, state),
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: parent.is_some(),
            span_kind,
            name: name.into(),
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // What is lost then, the collector did not take.
        let _ = self.processor.shutdown_with_timeout(LAST_SPANS);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What is told of one connection.
struct Span {
    direction: Direction,
    name: &'static str,
    session: Option<SessionId>,
    /// Whether the other side has the client's span.
    has_parent: bool,
    attributes: Vec<KeyValue>,
    events: SpanEvents,
    status: Status,
}

impl Span {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            name: match direction {
                Direction::Egress => "egress connection",
                Direction::Ingress => "ingress connection",
            },
            session: None,
            has_parent: false,
            attributes: vec![KeyValue::new("network.transport", "tcp")],
            events: SpanEvents::default(),
            status: Status::Unset,
        }
    }

    fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.attributes.push(KeyValue::new(key, value));
    }

    fn between(&mut self, client: Option<SocketAddr>, server: Option<SocketAddr>) {
        if let Some(client) = client {
            self.set("client.address", client.ip().to_string());
            self.set("client.port", i64::from(client.port()));
        }
        if let Some(server) = server {
            self.set("server.address", server.ip().to_string());
            self.set("server.port", i64::from(server.port()));
            let family = if server.is_ipv4() { "ipv4" } else { "ipv6" };
            self.set("network.type", family);
        }
    }

    /// What the handshake found of a connection that was accepted at the time `start`.
    fn proved(&mut self, established: &Established, start: SystemTime) {
        self.session = Some(established.session);
        self.has_parent = established.alpn == Some(Alpn::Sealwire1);
        self.set("tls.established", true);
        self.set("tls.protocol.version", "1.3");
        self.set("tls.cipher", established.cipher);
        self.set("tls.curve", established.key_exchange.as_str());
        self.set("sealwire.identity", established.identity.to_string());
        if let Some(peer) = &established.peer {
            self.set("sealwire.peer", peer.to_string());
        }
        if let Some(alpn) = established.alpn {
            self.set("tls.next_protocol", alpn.as_str());
        }
        let after = Duration::from_millis(established.after_ms.into());
        self.events
            .events
            .push(Event::new("handshake done", start + after, Vec::new(), 0));
    }
}

/// The span of a connection's client, as both sides make it of the trace.
fn client_span(trace: TraceId) -> SpanId {
    let half = u128::from_be_bytes(trace.to_bytes()) as u64;
    SpanId::from_bytes(half.to_be_bytes())
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];
const EXPORTERS: [&str; 1] = ["OTEL_TRACES_EXPORTER"];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
];
