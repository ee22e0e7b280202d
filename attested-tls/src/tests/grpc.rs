//! tonic on top.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Code as GrpcCode, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::*;
use crate::{Acceptor, ConnectedPeer, Limits, channel};

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Seen {
    /// The key of the caller's session.
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bool, tag = "2")]
    is_attested: bool,
    #[prost(bool, tag = "3")]
    has_address: bool,
}

/// Tells callers what it sees of them.
#[derive(Clone)]
struct WhoAmI;

impl UnaryService<Empty> for WhoAmI {
    type Response = Seen;
    type Future = Ready<Result<Response<Seen>, Status>>;

    fn call(&mut self, request: Request<Empty>) -> Self::Future {
        let ConnectedPeer(peer) = request.extensions().get().unwrap();
        ready(Ok(Response::new(Seen {
            key: peer.key.0.to_vec(),
            is_attested: peer.result.is_some(),
            has_address: peer.remote.is_some(),
        })))
    }
}

impl Service<http::Request<Body>> for WhoAmI {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Seen, Empty>::default());
            Ok(grpc.unary(WhoAmI, request).await)
        })
    }
}

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

async fn ask(channel: &Channel) -> Result<Seen, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/test.WhoAmI/Ask");
    let codec = ProstCodec::<Empty, Seen>::default();
    let answer = client.unary(Request::new(Empty {}), path, codec).await?;
    Ok(answer.into_inner())
}

/// A coordinator on a port of its own, which demands the machine `client`.
async fn coordinator(server: &Machine, client: &Machine) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let offer = server.offer();
    let acceptor = Acceptor::new(
        listener,
        Arc::new(tls(client.demanded())),
        move || offer.clone(),
        Limits::default(),
    );
    tokio::spawn(
        Server::builder()
            .add_service(WhoAmI)
            .serve_with_incoming(acceptor.incoming()),
    );
    address
}

#[tokio::test]
async fn a_service_sees_who_calls_and_the_caller_whom_it_calls() {
    let (agent, server) = (Machine::running(1), Machine::running(2));
    let address = coordinator(&server, &agent).await;
    let agent_key = key();
    let tls = Arc::new(tls_with(agent_key.clone(), server.demanded()));
    let (channel, peer) = channel(tls, address.clone(), agent.offer()).await.unwrap();
    assert_eq!(peer.result.as_ref().unwrap().claims().measurement, [2; 48]);
    assert_eq!(peer.remote.unwrap().to_string(), address);
    let seen = ask(&channel).await.unwrap();
    assert_eq!(seen.key, agent_key.digest().0);
    assert!(seen.is_attested && seen.has_address);
}

#[tokio::test]
async fn who_is_refused_gets_no_channel() {
    let (agent, server) = (Machine::running(1), Machine::running(2));
    let address = coordinator(&server, &agent).await;
    let other = Machine::running(1);
    let tls = Arc::new(tls(server.demanded()));
    let (code, _) = refused_by_peer(channel(tls, address, other.offer()).await);
    assert_eq!(code, "attestation-refused");
}

/// Passes connections on, until they are cut.
struct Wire {
    address: String,
    connections: Arc<AtomicUsize>,
    passing: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Wire {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap().to_string(),
            connections: Arc::default(),
            passing: Arc::default(),
        };
        let (connections, passing) = (Arc::clone(&wire.connections), Arc::clone(&wire.passing));
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let target = target.clone();
                let passed = tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
                passing.lock().unwrap().push(passed.abort_handle());
            }
        });
        wire
    }

    fn cut(&self) {
        for passed in self.passing.lock().unwrap().drain(..) {
            passed.abort();
        }
    }
}

#[tokio::test]
async fn a_channel_whose_connection_ended_fails_and_opens_no_other() {
    let (agent, server) = (Machine::running(1), Machine::running(2));
    let wire = Wire::to(coordinator(&server, &agent).await).await;
    let tls = Arc::new(tls(server.demanded()));
    let connect = || channel(Arc::clone(&tls), wire.address.clone(), agent.offer());
    let (channel, _) = connect().await.unwrap();
    ask(&channel).await.unwrap();
    wire.cut();
    for _ in 0..3 {
        let status = ask(&channel).await.unwrap_err();
        assert!(
            matches!(status.code(), GrpcCode::Unavailable | GrpcCode::Unknown),
            "{status:?}"
        );
    }
    assert_eq!(wire.connections.load(Ordering::SeqCst), 1);
    // The wire and the server are well: another channel works.
    let (channel, _) = connect().await.unwrap();
    ask(&channel).await.unwrap();
}
