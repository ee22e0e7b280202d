//! What judging evidence costs, for each kind: real reports of hardware, in this process.
//!
//! A report of hardware is bound to the session that it was made for, so that a stored one can't
//! enrol; judging it is the part of an enrolment that differs between kinds of evidence.

use std::time::Duration;

use anyhow::{Context, Result};
use attestation::sev_snp::{GuestPolicy, PlatformInfo, Product, Tcb};
use attestation::tdx::{self, TcbStatus};
use attestation::{Digest, Evidence, ReferenceValues, ReportData, SimulatedTee, Verifier};
use attestation::{sev_snp, simulated};
use attester::simulated::{generate_platform_key, platform_key_digest};
use attester::{EvidenceSource as _, SimulatedTeeFile};
use nix::time::{ClockId, clock_gettime};
use rustls_pki_types::UnixTime;

use crate::figure::{Quantity, Reading};

/// Seconds of CPU time to decode and judge evidence once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verification {
    pub(crate) simulated: f64,
    pub(crate) sev_snp: f64,
    pub(crate) tdx: f64,
}

impl Verification {
    /// Measures each kind for a third of `duration`.
    pub(crate) fn measure(duration: Duration) -> Result<Self> {
        let measure = |case: Case| case.measure(duration / 3);
        Ok(Self {
            simulated: measure(simulated()?)?,
            sev_snp: measure(milan()?)?,
            tdx: measure(tdx()?)?,
        })
    }

    pub(crate) fn readings(self) -> Vec<Reading> {
        let Self {
            simulated,
            sev_snp,
            tdx,
        } = self;
        vec![
            Quantity::more("simulated", PER_SECOND).of(1.0 / simulated),
            Quantity::more("SEV-SNP vector (Milan, VCEK, no CRL)", PER_SECOND).of(1.0 / sev_snp),
            Quantity::more("TDX vector (with its collateral)", PER_SECOND).of(1.0 / tdx),
            Quantity::less("simulated, each", "us").of(simulated * 1e6),
            Quantity::less("SEV-SNP vector, each", "us").of(sev_snp * 1e6),
            Quantity::less("TDX vector, each", "us").of(tdx * 1e6),
        ]
    }
}

/// Evidence that is accepted.
struct Case {
    evidence: Vec<u8>,
    report_data: ReportData,
    reference: ReferenceValues,
    now: UnixTime,
}

impl Case {
    fn measure(&self, duration: Duration) -> Result<f64> {
        let verifier = Verifier::new(SimulatedTee::Allowed);
        let (mut judged, start) = (0_u32, thread_time()?);
        let limit = duration.as_secs_f64();
        loop {
            let evidence = Evidence::decode(&self.evidence)?;
            verifier.appraise(&evidence, &self.report_data, &self.reference, self.now)?;
            judged += 1;
            let used = thread_time()?.saturating_sub(start).as_secs_f64();
            if used > limit {
                return Ok(used / f64::from(judged));
            }
        }
    }
}

fn simulated() -> Result<Case> {
    let key = generate_platform_key()?;
    let report_data = ReportData([1; 64]);
    let reference = simulated::ReferenceValues {
        measurement: [0; 48],
        platform_keys: vec![platform_key_digest(&key)?],
    };
    let tee = SimulatedTeeFile::new(key, &[0; 48], Digest([2; 32]), &[0; 16]);
    Ok(Case {
        evidence: tee.source()?.evidence(&report_data)?.encode(),
        report_data,
        reference: ReferenceValues {
            simulated: vec![reference],
            ..ReferenceValues::default()
        },
        now: UnixTime::now(),
    })
}

/// A report of an Azure VM.
fn milan() -> Result<Case> {
    let report = MILAN_REPORT;
    let part = |range| report.get(range).context("the report is too short");
    let reference = sev_snp::ReferenceValues {
        product: Product::Milan,
        measurement: part(0x90..0xc0)?.try_into()?,
        minimum_tcb: Tcb::default(),
        guest_policy: GuestPolicy {
            smt: true,
            ..GuestPolicy::default()
        },
        platform_info: PlatformInfo::default(),
        chip_ids: vec![part(0x1a0..0x1e0)?.try_into()?],
    };
    let evidence = sev_snp::Evidence {
        report: report.to_vec(),
        vek: MILAN_VCEK.to_vec(),
        crl: None,
    };
    Ok(Case {
        evidence: Evidence::SevSnp(evidence).encode(),
        report_data: ReportData(part(0x50..0x90)?.try_into()?),
        reference: ReferenceValues {
            snp: vec![reference],
            ..ReferenceValues::default()
        },
        now: at(MILAN_NOW),
    })
}

fn tdx() -> Result<Case> {
    let evidence = tdx::Evidence {
        quote: TDX_QUOTE.to_vec(),
        collateral: TDX_COLLATERAL.to_vec(),
    };
    let now = at(TDX_NOW);
    let authentic = tdx::authenticate(&evidence, &tdx::Root::intel(), now)?;
    let report = authentic.quote().report();
    let reference = tdx::ReferenceValues {
        mr_td: report.mr_td,
        rtmrs: report.rtmrs,
        mr_seam: report.mr_seam,
        xfam: report.xfam,
        td_attributes: Some(report.td_attributes),
        tcb_statuses: vec![TcbStatus::UpToDate],
        min_tcb_evaluation_data_number: None,
        smt_disabled: false,
        static_platform: false,
        ppids: vec![*authentic.ppid()],
    };
    Ok(Case {
        report_data: ReportData(report.report_data),
        evidence: Evidence::Tdx(evidence).encode(),
        reference: ReferenceValues {
            tdx: vec![reference],
            ..ReferenceValues::default()
        },
        now,
    })
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// What other processes do does not count.
fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

const PER_SECOND: &str = "1/s";

const MILAN_REPORT: &[u8] =
    include_bytes!("../../../attestation/tests/vectors/snp/azure/derived/milan-v3-v1-report.bin");
const MILAN_VCEK: &[u8] =
    include_bytes!("../../../attestation/tests/vectors/snp/azure/derived/milan-v3-v1-vcek.der");
const TDX_QUOTE: &[u8] =
    include_bytes!("../../../attestation/tests/vectors/tdx/dcap-qvl/tdx_quote");
const TDX_COLLATERAL: &[u8] =
    include_bytes!("../../../attestation/tests/vectors/tdx/dcap-qvl/tdx_quote_collateral.json");

/// 2026-01-01, within the validity of the report's certificates.
const MILAN_NOW: u64 = 1_767_225_600;
/// 2025-06-19, within the validity of the quote's collateral.
const TDX_NOW: u64 = 1_750_332_747;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_evidence_is_accepted_and_costs_something() {
        let measured = Verification::measure(Duration::from_millis(3)).unwrap();
        for seconds in [measured.simulated, measured.sev_snp, measured.tdx] {
            assert!(seconds > 0.0);
        }
    }

    #[test]
    fn what_is_judged_is_of_the_kind_that_it_is_called() {
        let tee = |case: Result<Case>| {
            let evidence = Evidence::decode(&case.unwrap().evidence).unwrap();
            evidence.tee().as_str()
        };
        assert_eq!(
            [tee(simulated()), tee(milan()), tee(tdx())],
            ["simulated", "sev-snp", "tdx"]
        );
    }
}
