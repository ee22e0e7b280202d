//! Connections for tests, as far as they have come.

use super::*;
use crate::metrics::Metrics;

/// How far a connection has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// The peer has not proved itself yet.
    Handshaking,
    /// With this workload.
    Met(&'static str),
    /// With a client without a certificate.
    MetNobody,
}

/// A connection of a workload from 10.0.0.1 to port 80 of 10.0.0.2, by the default rule.
pub(crate) fn open(
    registry: &Arc<Registry>,
    metrics: &Metrics,
    workload: &str,
    direction: Direction,
    mode: Mode,
    stage: Stage,
) -> Registration {
    let entry = registry.register(0, opening(metrics, workload, direction, mode));
    let peer = match stage {
        Stage::Handshaking => return entry,
        Stage::Met(peer) => Some(id(peer)),
        Stage::MetNobody => None,
    };
    entry.set_established(Established {
        identity: id(workload),
        peer,
        key_exchange: KeyExchange::X25519MlKem768,
        cipher: "TLS13_AES_128_GCM_SHA256",
        alpn: None,
        session: SessionId([0; 16]),
        after_ms: 3,
        rule: None,
    });
    entry
}

/// What is known of such a connection when it begins.
pub(crate) fn opening(
    metrics: &Metrics,
    workload: &str,
    direction: Direction,
    mode: Mode,
) -> Opening {
    let metrics = metrics.workload(&workload.parse().unwrap());
    Opening {
        lane: Arc::clone(metrics.lane(direction)),
        mode,
        rule: match direction {
            Direction::Ingress => RuleRef::IngressDefault,
            Direction::Egress => RuleRef::EgressDefault,
        },
        names: None,
        from: "10.0.0.1:40000".parse().unwrap(),
        to: "10.0.0.2:80".parse().unwrap(),
        opened: Instant::now(),
        traffic: Arc::default(),
    }
}

fn id(workload: &str) -> SpiffeId {
    let id = format!("spiffe://mesh.local/ns/default/sa/{workload}");
    id.parse().unwrap()
}
