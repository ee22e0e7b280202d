//! Two machines, those between them, and those who don't keep to the protocol.

mod attestation;
mod grpc;
mod handshake;
mod hostile;
mod relay;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::attestation::simulated::ReferenceValues as SimulatedValues;
use ::attestation::{
    AttestationResult, Code, Digest, ReferenceValues, Refusals, SimulatedTee, Verifier,
};
use attester::simulated::{generate_platform_key, platform_key_digest};
use attester::{EvidenceSource, Simulated, SimulatedOptions};
use rustls_pki_types::UnixTime;
use tokio::io::{DuplexStream, duplex};

use crate::appraisal::{Appraiser, Demand, Offer, Presented};
use crate::attested_tls::AttestedTls;
use crate::error::{AttestedTlsError, CorrelationId};
use crate::session_key::SessionKey;
use crate::stream::AttestedStream;

/// A machine with a simulated TEE.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) source: Arc<Simulated>,
    platform_key: Digest,
    measurement: [u8; 48],
}

impl Machine {
    pub(crate) fn running(measurement: u8) -> Self {
        let pem = generate_platform_key().unwrap();
        let measurement = [measurement; 48];
        Self {
            platform_key: platform_key_digest(&pem).unwrap(),
            source: Arc::new(
                Simulated::new(SimulatedOptions {
                    key_pem: pem,
                    measurement,
                    host_data: Digest([0xd0; 32]),
                    platform: [0xee; 16],
                })
                .unwrap(),
            ),
            measurement,
        }
    }

    pub(crate) fn offer(&self) -> Offer {
        Offer {
            evidence: Some(Arc::clone(&self.source) as Arc<dyn EvidenceSource>),
            ..Offer::default()
        }
    }

    /// Wants exactly this machine as it is.
    pub(crate) fn judge(&self) -> Arc<Judge> {
        Arc::new(Judge {
            reference: SimulatedValues {
                measurement: self.measurement,
                platform_keys: vec![self.platform_key],
            },
            seen: Mutex::default(),
        })
    }

    pub(crate) fn demanded(&self) -> Demand {
        Demand::Evidence(self.judge())
    }
}

pub(crate) struct Judge {
    reference: SimulatedValues,
    seen: Mutex<Vec<Presented>>,
}

impl Appraiser for Judge {
    fn appraise(&self, presented: &Presented) -> Result<AttestationResult, Refusals> {
        self.seen.lock().unwrap().push(presented.clone());
        let reference = ReferenceValues {
            simulated: vec![self.reference.clone()],
            ..ReferenceValues::default()
        };
        Verifier::new(SimulatedTee::Allowed).appraise(
            &presented.evidence,
            &presented.report_data,
            &reference,
            UnixTime::now(),
        )
    }
}

pub(crate) fn key() -> SessionKey {
    SessionKey::generate().unwrap()
}

pub(crate) fn tls(demand: Demand) -> AttestedTls {
    tls_with(key(), demand)
}

pub(crate) fn tls_with(key: SessionKey, demand: Demand) -> AttestedTls {
    AttestedTls::new(key, demand, Duration::from_secs(10)).unwrap()
}

type Connection = Result<AttestedStream<DuplexStream>, AttestedTlsError>;

/// Client and server, connected.
async fn meet(
    (client, client_offer): (&AttestedTls, Offer),
    (server, server_offer): (&AttestedTls, Offer),
) -> (Connection, Connection) {
    let (near, far) = duplex(16 * 1024);
    tokio::join!(
        client.connect(near, client_offer),
        server.accept(far, server_offer)
    )
}

/// The codes of a refusal by this side, and its id.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    result: Result<T, AttestedTlsError>,
) -> (Vec<Code>, CorrelationId) {
    match result.unwrap_err() {
        AttestedTlsError::Refused { refusals, id } => (
            refusals.iter().map(|(_, refusal)| refusal.code).collect(),
            id,
        ),
        other => panic!("{other:?}"),
    }
}

/// The code of a refusal by the peer, and its id.
#[track_caller]
pub(crate) fn refused_by_peer<T: std::fmt::Debug>(
    result: Result<T, AttestedTlsError>,
) -> (String, CorrelationId) {
    match result.unwrap_err() {
        AttestedTlsError::RefusedByPeer { code, id } => (code, id),
        other => panic!("{other:?}"),
    }
}
