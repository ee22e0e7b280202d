use attestation::{Digest, Role};
use tokio_rustls::TlsStream;

use crate::config::ALPN;
use crate::error::{AttestedTlsError, ProtocolViolation};

/// A completed handshake: two keys and a secret of their own, nobody attested yet.
#[derive(Debug)]
pub(crate) struct Session<S> {
    pub(crate) tls: TlsStream<S>,
    /// Which side this is.
    pub(crate) role: Role,
    pub(crate) own_key: Digest,
    pub(crate) peer_key: Digest,
}

impl<S> Session<S> {
    pub(crate) fn new(
        tls: impl Into<TlsStream<S>>,
        own_key: Digest,
    ) -> Result<Self, AttestedTlsError> {
        let tls = tls.into();
        let (_, connection) = tls.get_ref();
        // rustls refuses a wrong protocol, but not a peer that names none at all.
        if connection.alpn_protocol() != Some(ALPN) {
            return Err(ProtocolViolation::Alpn.into());
        }
        let Some([peer_key]) = connection.peer_certificates() else {
            return Err(AttestedTlsError::Tls(
                rustls::Error::NoCertificatesPresented,
            ));
        };
        Ok(Self {
            peer_key: Digest::of(peer_key),
            role: match tls {
                TlsStream::Client(_) => Role::Client,
                TlsStream::Server(_) => Role::Server,
            },
            own_key,
            tls,
        })
    }

    /// What both ends of this session have in common with no other (RFC 8446, section 7.5).
    pub(crate) fn exporter(&self, nonce: &[u8; 32]) -> Result<[u8; 32], AttestedTlsError> {
        let (output, context) = ([0; 32], Some(&nonce[..]));
        match &self.tls {
            TlsStream::Client(tls) => {
                tls.get_ref()
                    .1
                    .export_keying_material(output, EXPORTER_LABEL, context)
            }
            TlsStream::Server(tls) => {
                tls.get_ref()
                    .1
                    .export_keying_material(output, EXPORTER_LABEL, context)
            }
        }
        .map_err(AttestedTlsError::Tls)
    }
}

/// The other side.
pub(crate) fn opposite(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}

const EXPORTER_LABEL: &[u8] = b"EXPORTER-sealwire-attestation";
