//! `Verifier::appraise`: any bytes as evidence, judged by reference values that list one guest of each
//! TEE. Accepted are these guests and nothing else.
#![no_main]

use std::sync::LazyLock;

use attestation::sev_snp::{self, GuestPolicy, PlatformInfo, Product, Report, Tcb};
use attestation::tdx::{self, Quote, TcbStatus};
use attestation::{
    Claims, Digest, Evidence, ReferenceValues, ReportData, SimulatedTee, Tee, Verifier, simulated,
};
use attester::simulated::generate_platform_key;
use attester::{EvidenceSource, Simulated, SimulatedOptions};
use fuzz::genuine_tdx::NOW;
use fuzz::{Outcome, genuine_snp, genuine_tdx, start};
use libfuzzer_sys::fuzz_target;

/// Evidence, what it is bound to, and what lists it.
struct Guest {
    evidence: Evidence,
    report_data: ReportData,
    reference: ReferenceValues,
    claims: Claims,
}

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::new(SimulatedTee::Allowed));
static GUESTS: LazyLock<[Guest; 3]> = LazyLock::new(|| [of_snp(), of_tdx(), of_no_tee()]);

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    GUESTS.iter().map(|it| it.evidence.encode()).collect()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Ok(evidence) = Evidence::decode(bytes) else {
        return Outcome::Refused;
    };
    let guest = GUESTS
        .iter()
        .find(|it| it.evidence.tee() == evidence.tee())
        .expect("a guest of each TEE");
    let verdict = VERIFIER.appraise(&evidence, &guest.report_data, &guest.reference, NOW);
    match &verdict {
        Ok(result) => assert_eq!(result.claims(), &guest.claims),
        Err(refusals) => assert!(!refusals.to_string().is_empty()),
    }
    Outcome::of(&verdict)
}

fn of_snp() -> Guest {
    let [evidence, ..] = genuine_snp::all();
    let report = Report::parse(&evidence.report).expect("a report");
    let listed = sev_snp::ReferenceValues {
        product: Product::Milan,
        measurement: report.measurement,
        minimum_tcb: Tcb::default(),
        guest_policy: GuestPolicy {
            smt: true,
            ..GuestPolicy::default()
        },
        platform_info: PlatformInfo::default(),
        chip_ids: vec![report.chip_id],
    };
    Guest {
        report_data: report.report_data,
        reference: ReferenceValues {
            snp: vec![listed],
            ..ReferenceValues::default()
        },
        claims: Claims {
            tee: Tee::SevSnp,
            measurement: report.measurement,
            host_data: report.host_data,
            platform: report.chip_id.to_vec(),
        },
        evidence: Evidence::SevSnp(evidence),
    }
}

fn of_tdx() -> Guest {
    let evidence = genuine_tdx::evidence();
    let quote = Quote::parse(&evidence.quote).expect("a quote");
    let authentic = tdx::authenticate(&evidence, &tdx::Root::intel(), NOW).expect("authentic");
    let report = quote.report();
    let listed = tdx::ReferenceValues {
        mr_td: report.mr_td,
        rtmrs: report.rtmrs,
        mr_seam: report.mr_seam,
        xfam: report.xfam,
        td_attributes: None,
        tcb_statuses: vec![TcbStatus::UpToDate],
        min_tcb_evaluation_data_number: Some(17),
        smt_disabled: false,
        static_platform: false,
        ppids: vec![*authentic.ppid()],
    };
    Guest {
        report_data: ReportData(report.report_data),
        reference: ReferenceValues {
            tdx: vec![listed],
            ..ReferenceValues::default()
        },
        claims: Claims {
            tee: Tee::Tdx,
            measurement: report.mr_td,
            host_data: Digest([0; 32]),
            platform: authentic.ppid().to_vec(),
        },
        evidence: Evidence::Tdx(evidence),
    }
}

fn of_no_tee() -> Guest {
    let report_data = ReportData([4; 64]);
    let source = Simulated::new(SimulatedOptions {
        key_pem: generate_platform_key().expect("a key"),
        measurement: [1; 48],
        host_data: Digest([2; 32]),
        platform: [3; 16],
    });
    let evidence = source
        .and_then(|it| it.evidence(&report_data))
        .expect("evidence");
    let Evidence::Simulated(simulated::Evidence { key, .. }) = &evidence else {
        panic!("evidence of another TEE");
    };
    let listed = simulated::ReferenceValues {
        measurement: [1; 48],
        platform_keys: vec![Digest::of(key)],
    };
    Guest {
        report_data,
        reference: ReferenceValues {
            simulated: vec![listed],
            ..ReferenceValues::default()
        },
        claims: Claims {
            tee: Tee::Simulated,
            measurement: [1; 48],
            host_data: Digest([2; 32]),
            platform: vec![3; 16],
        },
        evidence,
    }
}
