//! The genuine reports of `tests/vectors`, and how to judge them.

use std::path::Path;
use std::time::Duration;

use attestation::sev_snp::{
    AuthenticReport, Evidence, GuestPolicy, PlatformInfo, Product, ReferenceValues, Roots, Tcb,
    authenticate,
};
use attestation::{Code, Refusal, ReportData};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};

/// 2026-01-01: all genuine certificates are valid.
pub(crate) const NOW: u64 = 1_767_225_600;

pub(crate) fn at(second: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(second))
}

pub(crate) fn file(path: &str) -> Vec<u8> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/snp");
    std::fs::read(vectors.join(path)).unwrap()
}

/// The certificates in a PEM file, in its order.
pub(crate) fn certificates(path: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(&file(path))
        .collect::<Result<_, _>>()
        .unwrap()
}

/// A genuine report that nothing speaks against, and what is known of it from elsewhere.
#[derive(Clone)]
pub(crate) struct Genuine {
    pub(crate) name: &'static str,
    pub(crate) evidence: Evidence,
    pub(crate) product: Product,
    pub(crate) tcb: Tcb,
}

pub(crate) fn milan_v2() -> Genuine {
    Genuine {
        name: "Milan v2",
        evidence: evidence(
            hex::decode(file("sev-crate/report_milan.hex").trim_ascii()).unwrap(),
            file("sev-crate/vcek_milan.der"),
        ),
        product: Product::Milan,
        tcb: tcb(3, 8, 115),
    }
}

pub(crate) fn other_milan_v2() -> Genuine {
    Genuine {
        name: "another Milan v2",
        evidence: evidence(
            file("trustee/test-report.bin"),
            file("trustee/test-vcek.der"),
        ),
        product: Product::Milan,
        tcb: tcb(3, 8, 115),
    }
}

pub(crate) fn milan_v3() -> Genuine {
    Genuine {
        name: "Milan v3",
        evidence: evidence(
            file("azure/derived/milan-v3-v1-report.bin"),
            file("azure/derived/milan-v3-v1-vcek.der"),
        ),
        product: Product::Milan,
        tcb: tcb(4, 24, 219),
    }
}

pub(crate) fn genoa_v3() -> Genuine {
    Genuine {
        name: "Genoa v3",
        evidence: evidence(
            file("azure/derived/genoa-v3-report.bin"),
            certificates("azure/derived/genoa-v3-vcek.pem")
                .remove(0)
                .to_vec(),
        ),
        product: Product::Genoa,
        tcb: tcb(10, 23, 84),
    }
}

pub(crate) fn all() -> [Genuine; 4] {
    [milan_v2(), other_milan_v2(), milan_v3(), genoa_v3()]
}

/// A genuine report of Genoa that VMPL 1 asked for. It is stored as the fields of a structure.
pub(crate) fn genoa_v2_at_vmpl_1() -> Evidence {
    let fields: serde_json::Value =
        serde_json::from_slice(&file("sev_attest_tool/sample_attestation_report.json")).unwrap();
    let mut report = vec![0; 1184];
    let number = |value: &serde_json::Value| value.as_u64().unwrap().to_le_bytes();
    let bytes = |value: &serde_json::Value| -> Vec<u8> {
        let items = value.as_array().unwrap().iter();
        items.map(|it| number(it)[0]).collect()
    };
    for (at, name, length) in [
        (0x00, "version", 4),
        (0x04, "guest_svn", 4),
        (0x08, "policy", 8),
        (0x30, "vmpl", 4),
        (0x34, "sig_algo", 4),
        (0x40, "plat_info", 8),
        (0x1e8, "current_build", 1),
        (0x1e9, "current_minor", 1),
        (0x1ea, "current_major", 1),
        (0x1ec, "committed_build", 1),
        (0x1ed, "committed_minor", 1),
        (0x1ee, "committed_major", 1),
    ] {
        report[at..at + length].copy_from_slice(&number(&fields[name])[..length]);
    }
    for (at, name) in [
        (0x50, "report_data"),
        (0x90, "measurement"),
        (0x140, "report_id"),
        (0x160, "report_id_ma"),
        (0x1a0, "chip_id"),
    ] {
        let value = bytes(&fields[name]);
        report[at..at + value.len()].copy_from_slice(&value);
    }
    for (at, name) in [
        (0x38, "current_tcb"),
        (0x180, "reported_tcb"),
        (0x1e0, "committed_tcb"),
        (0x1f0, "launch_tcb"),
    ] {
        for (at, name, component) in [
            (at, name, "bootloader"),
            (at + 1, name, "tee"),
            (at + 6, name, "snp"),
            (at + 7, name, "microcode"),
        ] {
            report[at] = number(&fields[name][component])[0];
        }
    }
    for (at, name) in [(0x2a0, "r"), (0x2e8, "s")] {
        let value = bytes(&fields["signature"][name]);
        report[at..at + value.len()].copy_from_slice(&value);
    }
    evidence(report, file("sev_attest_tool/sample_vcek.crt"))
}

pub(crate) fn evidence(report: Vec<u8>, vek: Vec<u8>) -> Evidence {
    Evidence {
        report,
        vek,
        crl: None,
    }
}

fn tcb(bootloader: u8, snp: u8, microcode: u8) -> Tcb {
    Tcb {
        bootloader,
        tee: 0,
        snp,
        microcode,
        fmc: None,
    }
}

/// Judges under AMD's roots in 2026.
pub(crate) fn judge(evidence: &Evidence) -> Result<AuthenticReport, Refusal> {
    authenticate(evidence, &Roots::amd(), at(NOW))
}

/// The code of the refusal under AMD's roots in 2026.
#[track_caller]
pub(crate) fn code(evidence: &Evidence) -> Code {
    judge(evidence).unwrap_err().code
}

/// What lists exactly `report`, by its bytes.
pub(crate) fn listing(report: &[u8], product: Product, minimum_tcb: Tcb) -> ReferenceValues {
    ReferenceValues {
        product,
        measurement: report[0x90..0xc0].try_into().unwrap(),
        minimum_tcb,
        guest_policy: GuestPolicy {
            abi_major: report[0x09],
            abi_minor: report[0x08],
            smt: true,
            ..GuestPolicy::default()
        },
        platform_info: PlatformInfo::default(),
        chip_ids: vec![report[0x1a0..0x1e0].try_into().unwrap()],
    }
}

pub(crate) fn report_data(report: &[u8]) -> ReportData {
    ReportData(report[0x50..0x90].try_into().unwrap())
}
