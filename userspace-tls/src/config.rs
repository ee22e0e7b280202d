//! The rustls configurations of one workload.

use std::sync::Arc;

use attestation::identity::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::assurance::Assurance;
use crate::credentials::{Credentials, CredentialsError, Validity};
use crate::verifier::{ClientVerifier, PeerVerifier};

/// Everything a worker needs for the handshakes of one workload: its certificate and key, the
/// rustls configurations and the verifier with its cache. Made anew when a certificate changes.
#[derive(Debug)]
pub struct MeshTls {
    identity: SpiffeId,
    validity: Validity,
    assurance: Assurance,
    client: Arc<ClientConfig>,
    client_without_alpn: Arc<ClientConfig>,
    required: ServerConfigs,
    optional: ServerConfigs,
}

impl MeshTls {
    /// Builds the configurations; an error means that rustls refuses the key or the provider.
    pub fn new(credentials: Credentials) -> Result<Self, CredentialsError> {
        let Credentials {
            certified_key,
            trust_anchors,
            identity,
            validity,
        } = credentials;
        let assurance = trust_anchors.assurance();
        let provider = Arc::new(provider());
        let verifier = Arc::new(PeerVerifier::new(trust_anchors));
        let certificate = Arc::new(SingleCertAndKey::from(certified_key));
        let server = |client_auth| {
            let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(Arc::new(ClientVerifier::new(
                    Arc::clone(&verifier),
                    client_auth,
                )))
                .with_cert_resolver(Arc::clone(&certificate) as _);
            Ok::<_, rustls::Error>(ServerConfigs::new(config))
        };
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::clone(&certificate) as _);
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        client.enable_sni = false;
        let client_without_alpn = Arc::new(client.clone());
        client.alpn_protocols = vec![ALPN_SEALWIRE_1.to_vec()];
        Ok(Self {
            identity,
            validity,
            assurance,
            client: Arc::new(client),
            client_without_alpn,
            required: server(ClientAuth::Required)?,
            optional: server(ClientAuth::Optional)?,
        })
    }

    /// The SPIFFE ID of this workload's own certificate.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// When this workload's own certificate chain is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether this workload and its peers rest on TEEs of hardware.
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    pub(crate) fn client(&self, offer: Offer) -> Arc<ClientConfig> {
        Arc::clone(match offer {
            Offer::Sealwire1 => &self.client,
            Offer::Nothing => &self.client_without_alpn,
        })
    }

    pub(crate) fn server(
        &self,
        client_auth: ClientAuth,
        offers_sealwire: bool,
    ) -> Arc<ServerConfig> {
        let configs = match client_auth {
            ClientAuth::Required => &self.required,
            ClientAuth::Optional => &self.optional,
        };
        Arc::clone(if offers_sealwire {
            &configs.sealwire
        } else {
            &configs.foreign
        })
    }
}

/// Which application protocols a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// `sealwire/1`, by which two agents know each other.
    Sealwire1,
    /// None: for a server that refuses what it does not know (RFC 7301 section 3.2), such as nginx.
    Nothing,
}

/// Whether a client must present a mesh certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Ingress mode `mtls`: a client without a mesh certificate is refused.
    Required,
    /// Ingress mode `tls`: a client may come without a certificate, but not with a wrong one.
    Optional,
}

/// The protocol by which two agents know each other as agents.
pub(crate) const ALPN_SEALWIRE_1: &[u8] = b"sealwire/1";

/// rustls refuses a client whose ALPN offer has nothing in common with the configuration, while
/// foreign clients must be served whatever they offer: hence two configurations.
#[derive(Debug)]
struct ServerConfigs {
    sealwire: Arc<ServerConfig>,
    foreign: Arc<ServerConfig>,
}

impl ServerConfigs {
    fn new(mut config: ServerConfig) -> Self {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.enable_secret_extraction = true;
        let foreign = Arc::new(config.clone());
        config.alpn_protocols = vec![ALPN_SEALWIRE_1.to_vec()];
        Self {
            sealwire: Arc::new(config),
            foreign,
        }
    }
}

/// AES-128-GCM first: the fastest of the three on every CPU with AES instructions.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}
