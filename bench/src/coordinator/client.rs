//! Attested connections to the mesh API, from any address of the loopback network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use api::v1;
use api::v1::mesh_api_client::MeshApiClient;
use attestation::Digest;
use attested_tls::{AttestedTls, Demand, Offer, SessionKey};
use attester::EvidenceSource;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use hyper_util::rt::TokioIo;
use pem_rfc7468::LineEnding;
use tokio::net::TcpSocket;
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use super::deployment::Deployment;

/// What every agent of the harness has in common.
#[derive(Debug)]
pub(crate) struct Client {
    tls: AttestedTls,
    tees: Vec<Arc<dyn EvidenceSource>>,
    mesh_api: SocketAddr,
}

impl Client {
    /// For agents of every workload of the manifest.
    pub(crate) fn new(deployment: &Deployment) -> Result<Self> {
        let demand = Demand::Evidence(deployment.appraiser()?);
        Ok(Self {
            tls: AttestedTls::new(SessionKey::generate()?, demand, DEADLINE)?,
            tees: deployment.tees()?,
            mesh_api: deployment.mesh_api(),
        })
    }

    /// As `api::client::mesh_api`, for the agent with this number: its workload's evidence, its own
    /// address, evidence that vouches for its key.
    pub(crate) async fn connect(
        &self,
        agent: u32,
        key: Option<&Key>,
    ) -> Result<MeshApiClient<Channel>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((address(agent), 0).into())?;
        let stream = socket.connect(self.mesh_api).await?;
        stream.set_nodelay(true)?;
        let offer = Offer {
            evidence: self.tees.get(agent as usize % self.tees.len()).cloned(),
            manifest: None,
            certified_keys: key.map(Key::digest).into_iter().collect(),
        };
        let stream = self.tls.connect(stream, offer).await?;
        let only_one = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_| {
            let mut only_one = only_one.lock().unwrap_or_else(PoisonError::into_inner);
            let stream = only_one.take();
            async { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        let endpoint = Endpoint::from_static("http://attested.invalid")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = Box::pin(endpoint.connect_with_connector(connector)).await?;
        Ok(MeshApiClient::new(channel))
    }
}

/// A workload's key: P-256.
pub(crate) struct Key {
    spki: Vec<u8>,
    pem: Zeroizing<String>,
}

impl Key {
    /// A fresh random key.
    pub(crate) fn generate() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
        let pkcs8 = pair.to_pkcs8v1()?;
        let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, pkcs8.as_ref())
            .map_err(|error| anyhow::anyhow!("encoding a key: {error}"))?;
        Ok(Self {
            spki: spki.as_ref().to_vec(),
            pem: Zeroizing::new(pem),
        })
    }

    /// PKCS #8, PEM.
    pub(crate) fn pem(&self) -> &[u8] {
        self.pem.as_bytes()
    }

    /// Asks for a certificate for the caller's own identity.
    pub(crate) fn request(&self) -> v1::KeyRequest {
        v1::KeyRequest {
            public_key: self.spki.clone(),
            spiffe_id: String::new(),
        }
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.spki)
    }
}

/// The address of an agent: each has its own, since a Coordinator limits what one may do.
fn address(agent: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + agent)
}

const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);

/// As in `api::client` and `attested_tls::channel`.
const DEADLINE: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_has_an_address_of_its_own_on_the_loopback_network() {
        let of = |agent| address(agent);
        assert_eq!(of(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(of(9_999), Ipv4Addr::new(127, 1, 39, 16));
        assert!(of(100_000).is_loopback());
    }
}
