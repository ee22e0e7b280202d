use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::appraisal::Offer;
use crate::attested_tls::AttestedTls;
use crate::error::AttestedTlsError;
use crate::stream::Peer;

/// Opens one attested TCP connection to `address` (`host:port`) for gRPC.
///
/// There is no other connection behind the channel: what was attested is what is talked to. When the
/// connection ends, calls fail, and the caller opens another one, with new evidence.
pub async fn channel(
    tls: Arc<AttestedTls>,
    address: String,
    offer: Offer,
) -> Result<(Channel, Arc<Peer>), AttestedTlsError> {
    let deadline = tls.deadline();
    let stream = tls
        .before(deadline, async { Ok(TcpStream::connect(&address).await?) })
        .await?;
    // Small messages go back and forth. A failure costs time only.
    let _ = stream.set_nodelay(true);
    let remote = stream.peer_addr()?;
    let stream = tls
        .connect_before(deadline, stream, offer, Some(remote))
        .await?;
    let peer = Arc::clone(stream.peer());
    let only_one = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = only_one
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        async { stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, ENDED)) }
    });
    // The name is for the `:authority` of HTTP/2, where nobody looks at it.
    let endpoint = Endpoint::from_static("http://attested.invalid")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    // Boxed for its size: the whole of HTTP/2's set-up.
    let connect = Box::pin(endpoint.connect_with_connector(connector));
    let channel = tls
        .before(deadline, async {
            connect.await.map_err(AttestedTlsError::Channel)
        })
        .await?;
    Ok((channel, peer))
}

const ENDED: &str = "the attested connection has ended; connect again";
const KEEP_ALIVE: Duration = Duration::from_secs(15);
