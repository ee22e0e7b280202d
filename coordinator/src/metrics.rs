//! What Prometheus scrapes. Names follow its conventions; labels are few and bounded.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::core::Phase;
use crate::refusal::RefusalCode;

/// The Coordinator's counters and gauges. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    phase: Family<PhaseLabel, Gauge>,
    manifest_generation: Gauge,
    mesh_ca_generation: Gauge,
    enrolments: Counter,
    refusals: Family<RefusalLabel, Counter>,
    attestation_failures: Family<AttestationLabel, Counter>,
    instances: Gauge,
    watchers: Gauge,
    laggards: Counter,
    store_faults: Gauge,
    store_unavailable: Gauge,
    audit_lines_lost: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    code: Code,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Code(RefusalCode);

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_str().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttestationLabel {
    code: &'static str,
}

impl Metrics {
    /// With the count of what the audit log lacks.
    #[must_use]
    pub fn with_audit_lines_lost(self, audit_lines_lost: Counter) -> Self {
        Self {
            audit_lines_lost,
            ..self
        }
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> String {
        let mut registry = Registry::with_prefix("sealwire_coordinator");
        registry.register(
            "phase",
            "1 for the phase that the Coordinator is in",
            self.phase.clone(),
        );
        registry.register(
            "history_seq",
            "Sequence number of the latest transition, 0 without a manifest",
            self.manifest_generation.clone(),
        );
        registry.register(
            "mesh_ca_generation",
            "Generation of the mesh CA that signs",
            self.mesh_ca_generation.clone(),
        );
        registry.register("enrolments", "Certificates issued", self.enrolments.clone());
        registry.register(
            "refusals",
            "Requests refused, by code",
            self.refusals.clone(),
        );
        registry.register(
            "attestation_failures",
            "Evidence refused, by code",
            self.attestation_failures.clone(),
        );
        registry.register(
            "instances",
            "Agents that hold certificates which have not expired",
            self.instances.clone(),
        );
        registry.register(
            "watchers",
            "Agents that follow changes",
            self.watchers.clone(),
        );
        registry.register(
            "laggards",
            "Agents that a rotation went on without",
            self.laggards.clone(),
        );
        registry.register(
            "store_fault",
            "1 while the store gives something that it can't have been given",
            self.store_faults.clone(),
        );
        registry.register(
            "store_unavailable",
            "1 while the store does not answer",
            self.store_unavailable.clone(),
        );
        registry.register(
            "audit_lines_lost",
            "Lines that the audit log's file lacks, as it could not be written",
            self.audit_lines_lost.clone(),
        );
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    pub(crate) fn phase(&self, phase: &Phase) {
        for name in ["uninitialised", "recovery", "ready"] {
            self.phase
                .get_or_create(&PhaseLabel { phase: name })
                .set(i64::from(name == phase.as_str()));
        }
        if let Phase::Ready(deployment) = phase {
            let seq = deployment.ledger.chain().head().seq;
            self.manifest_generation.set(gauge(seq));
            self.mesh_ca_generation
                .set(gauge(deployment.ledger.view().signing()));
        }
    }

    pub(crate) fn enrolled(&self) {
        self.enrolments.inc();
    }

    pub(crate) fn refused(&self, code: RefusalCode) {
        self.refusals
            .get_or_create(&RefusalLabel { code: Code(code) })
            .inc();
    }

    pub(crate) fn attestation_failed(&self, code: attestation::Code) {
        let code = code.as_str();
        self.attestation_failures
            .get_or_create(&AttestationLabel { code })
            .inc();
    }

    pub(crate) fn instances(&self, count: usize) {
        self.instances.set(gauge(count as u64));
    }

    pub(crate) fn watching(&self, change: i64) {
        self.watchers.inc_by(change);
    }

    pub(crate) fn laggard(&self) {
        self.laggards.inc();
    }

    pub(crate) fn store_unavailable(&self, is_unavailable: bool) {
        self.store_unavailable.set(i64::from(is_unavailable));
    }

    pub(crate) fn store_fault(&self, is_faulty: bool) {
        self.store_faults.set(i64::from(is_faulty));
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
