//! OpenTelemetry: a connection is one trace in both agents, a refused one is an error, and a collector that
//! never answers harms nobody.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use testbed::pair::PORT;
use testbed::pki::spiffe_id;
use testbed::{Client, Pair, Server, peer, require, skip};
use tonic::transport::server::{Server as Grpc, TcpIncoming};
use tonic::{Request, Response, Status};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn a_connection_is_one_trace_in_both_agents_and_in_their_logs() -> Result<()> {
    require!();
    let collector = Collector::start()?;
    let Some(pair) = start(collector.address)? else {
        return Ok(());
    };
    for to in [pair.server().at(PORT), pair.server().at_v6(PORT)] {
        let _serving = Server::start(pair.server(), &[to], "--send 3000")?;
        let sniffer = pair.bed.sniff()?;
        let ended = Client::start(pair.client(), to, "--send 5000")?.closed()?;
        ended.assert_exact(5000, 3000);
        sniffer.finish()?.assert_only_ciphertext(8000);

        let of_client = collector.wait_for("egress connection", to)?;
        let of_server = collector.wait_for("ingress connection", to)?;
        assert_eq!(of_client.trace_id, of_server.trace_id);
        assert_eq!(of_server.parent_span_id, of_client.span_id);
        assert!(of_client.parent_span_id.is_empty());
        assert_eq!(of_client.kind(), SpanKind::Client);
        assert_eq!(of_server.kind(), SpanKind::Server);
        assert_ne!(of_client.span_id, of_server.span_id);
        for (span, peer, sent) in [(&of_client, "server", 5000), (&of_server, "client", 3000)] {
            let told = attributes(span);
            assert_eq!(told["sealwire.peer"], spiffe_id(peer));
            assert_eq!(told["sealwire.sent"], sent.to_string());
            assert_eq!(told["sealwire.close"], "orderly");
            assert_eq!(told["tls.curve"], "X25519MLKEM768");
            let [proved] = &span.events[..] else {
                panic!("not one event: {span:?}");
            };
            assert!(span.start_time_unix_nano <= proved.time_unix_nano);
            assert!(proved.time_unix_nano <= span.end_time_unix_nano);
            let status = span.status.clone().unwrap_or_default();
            assert_eq!(status.code(), StatusCode::Unset);
        }
        // The logs call it the same.
        let trace = hex::encode(&of_client.trace_id);
        for agent in [&pair.client_agent, &pair.server_agent] {
            let line = agent.access(|line| line["session"] == trace)?;
            assert_eq!(line["to"], to.to_string());
        }
    }
    Ok(())
}

#[test]
fn a_refused_connection_is_an_error() -> Result<()> {
    require!();
    let collector = Collector::start()?;
    let Some(pair) = start(collector.address)? else {
        return Ok(());
    };
    let to = pair.server().at(PORT);
    // Nobody listens there.
    let refused = Client::start(pair.client(), to, "--send 100")?.closed()?;
    assert!(refused.was_reset(), "{refused:?}");
    let span = collector.wait_for("ingress connection", to)?;
    let status = span.status.clone().context("no status")?;
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(attributes(&span)["error.type"], "dial-refused");
    let id = &attributes(&span)["sealwire.refusal.id"];
    let line = pair.server_agent.refusal("dial-refused")?;
    assert_eq!(&line["id"], id);
    Ok(())
}

#[test]
fn a_collector_that_never_answers_harms_no_traffic_and_no_end() -> Result<()> {
    require!();
    // Whoever dials it is connected, and hears nothing.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let Some(mut pair) = start(mute.local_addr()?)? else {
        return Ok(());
    };
    let to = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[to], "--echo --quiet")?;
    let sniffer = pair.bed.sniff()?;
    // More spans than wait for a collector.
    let many = peer::many(
        pair.client(),
        to,
        "--connections 5000 --in-turn 8 --send 100",
    )?;
    assert_eq!(many.exact, 5000, "{many:?}");
    sniffer.finish()?.assert_only_ciphertext(2 * 100 * 5000);
    for agent in [&mut pair.client_agent, &mut pair.server_agent] {
        let ended = agent.stop()?;
        assert!(ended.success(), "{ended}");
    }
    Ok(())
}

/// Two agents that send spans there; `None` where they were built without.
fn start(collector: SocketAddr) -> Result<Option<Pair>> {
    let pair = Pair::start_tuned(
        |_, _, _| {},
        |_, client, server| {
            let endpoint = format!("http://{collector}");
            let told = |config: testbed::AgentConfig| {
                config
                    .with_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
                    .with_variable("OTEL_BSP_SCHEDULE_DELAY", "100")
            };
            (told(client), told(server))
        },
    )?;
    if pair
        .client_agent
        .log()
        .contains("without the feature `otlp`")
    {
        skip::report("the agent was built without the feature otlp");
        return Ok(None);
    }
    Ok(Some(pair))
}

/// What takes spans by OTLP over gRPC.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Result<Self> {
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let taken = Taken(spans.clone());
        let (tell, told) = mpsc::channel();
        thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())?;
                tell.send(incoming.local_addr()?)?;
                let service = Grpc::builder().add_service(TraceServiceServer::new(taken));
                service.serve_with_incoming(incoming).await?;
                Ok(())
            })
        });
        let address = told.recv().context("the collector does not listen")?;
        Ok(Self { address, spans })
    }

    /// The span of this name whose connection went there.
    fn wait_for(&self, name: &str, to: SocketAddr) -> Result<Span> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = spans.iter().filter(|span| {
                let told = attributes(span);
                span.name == name
                    && told["server.address"] == to.ip().to_string()
                    && told["server.port"] == to.port().to_string()
            });
            if let Some(span) = found.next() {
                return Ok(span.clone());
            }
            ensure!(Instant::now() < deadline, "no span `{name}` in {spans:#?}");
            drop(spans);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Taken(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let told = span.attributes.iter();
    told.filter_map(|it| {
        let value = it.value.as_ref()?.value.as_ref()?;
        Some((it.key.clone(), text(value)))
    })
    .collect()
}

const PATIENCE: Duration = Duration::from_secs(20);
