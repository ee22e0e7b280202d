//! The genuine reports among the vectors, with the certificates of their chips.

use attestation::sev_snp::Evidence;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{at, vector};

/// 2026-01-01, when every certificate is valid.
pub const NOW: UnixTime = at(1_767_225_600);

/// Two of Milan in version 2; one of Milan and one of Genoa in version 3.
pub fn all() -> [Evidence; 4] {
    let genoa = CertificateDer::from_pem_slice(&vector("snp/azure/derived/genoa-v3-vcek.pem"));
    [
        of(
            "snp/sev-crate/report_milan.hex",
            vector("snp/sev-crate/vcek_milan.der"),
        ),
        of(
            "snp/trustee/test-report.bin",
            vector("snp/trustee/test-vcek.der"),
        ),
        of(
            "snp/azure/derived/milan-v3-v1-report.bin",
            vector("snp/azure/derived/milan-v3-v1-vcek.der"),
        ),
        of(
            "snp/azure/derived/genoa-v3-report.bin",
            genoa.expect("a certificate, PEM").to_vec(),
        ),
    ]
}

fn of(report: &str, vek: Vec<u8>) -> Evidence {
    Evidence {
        report: vector(report),
        vek,
        crl: None,
    }
}
