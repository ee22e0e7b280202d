//! A second opinion: the `sev` crate, which is another implementation over other cryptography.

use attestation::Code;
use attestation::sev_snp::{Evidence, Product};
use sev::certs::snp::{Certificate, Chain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use crate::authority::{Authorities, Usage};
use crate::own_chip::Chip;
use crate::vectors::{self, certificates, code, file, judge};

fn pinned(product: Product) -> ca::Chain {
    let (ark, ask) = match product {
        Product::Milan => (builtin::milan::ark(), builtin::milan::ask()),
        Product::Genoa => (builtin::genoa::ark(), builtin::genoa::ask()),
        Product::Turin => (builtin::turin::ark(), builtin::turin::ask()),
    };
    ca::Chain {
        ark: ark.unwrap(),
        ask: ask.unwrap(),
    }
}

fn sev_accepts(evidence: &Evidence, ca: ca::Chain) -> bool {
    let Ok(vek) = Certificate::from_der(&evidence.vek) else {
        return false;
    };
    let Ok(report) = AttestationReport::from_bytes(&evidence.report) else {
        return false;
    };
    (&Chain { ca, vek }, &report).verify().is_ok()
}

#[test]
fn both_accept_what_is_genuine() {
    for it in vectors::all() {
        assert!(judge(&it.evidence).is_ok(), "{}", it.name);
        assert!(sev_accepts(&it.evidence, pinned(it.product)), "{}", it.name);
    }
    let evidence = vectors::genoa_v2_at_vmpl_1();
    assert!(judge(&evidence).is_ok());
    assert!(sev_accepts(&evidence, pinned(Product::Genoa)));
}

#[test]
fn both_refuse_what_is_invalid() {
    let it = vectors::other_milan_v2().evidence;
    let swapped = vectors::milan_v2().evidence.vek;
    for vek in [
        file("trustee/test-vcek-invalid-legacy.der"),
        file("trustee/test-vcek-invalid-new.der"),
        swapped,
    ] {
        let evidence = vectors::evidence(it.report.clone(), vek);
        assert!(judge(&evidence).is_err());
        assert!(!sev_accepts(&evidence, pinned(Product::Milan)));
    }
    for at in [0x08, 0x50, 0x90, 0xc0, 0x1f0, 0x2a0, 0x2e8] {
        let mut evidence = it.clone();
        evidence.report[at] ^= 1;
        assert!(judge(&evidence).is_err(), "byte {at:#x}");
        assert!(
            !sev_accepts(&evidence, pinned(Product::Milan)),
            "byte {at:#x}"
        );
    }
}

#[test]
fn both_have_the_same_roots() {
    for (product, vcek, vlek) in [
        (
            Product::Milan,
            "ca/ask_ark_milan.pem",
            "ca/ask_ark_milan_vlek.pem",
        ),
        (
            Product::Genoa,
            "ca/ask_ark_genoa.pem",
            "ca/ask_ark_genoa_vlek.pem",
        ),
        (
            Product::Turin,
            "ca/ask_ark_turin_vcek.pem",
            "ca/ask_ark_turin_vlek.pem",
        ),
    ] {
        let root = |name: &str| {
            let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sev_snp/roots");
            let product = product.as_str().to_lowercase();
            std::fs::read(format!("{directory}/{product}_{name}.der")).unwrap()
        };
        let der = |certificate: Certificate| certificate.to_der().unwrap();
        let theirs = pinned(product);
        assert_eq!(root("ark"), der(theirs.ark));
        assert_eq!(root("ask"), der(theirs.ask));
        let published = |file| certificates(file).into_iter().map(|it| it.to_vec());
        assert!(published(vcek).eq([root("ask"), root("ark")]));
        assert!(published(vlek).eq([root("asvk"), root("ark")]));
    }
}

/// Where the second opinion is laxer. It judges a report that it encodes anew, so that what it
/// skips when it reads can be changed; and it does not look at certificates beyond signatures.
#[test]
fn only_we_refuse_bytes_that_it_skips() {
    let it = vectors::milan_v3().evidence;
    for (at, expected) in [
        (0x3a, Code::Signature),
        (0x182, Code::Signature),
        (0x1e2, Code::Signature),
        (0x1f2, Code::Signature),
        (0x330, Code::Malformed),
        (0x49f, Code::Malformed),
    ] {
        let mut evidence = it.clone();
        evidence.report[at] ^= 1;
        assert_eq!(code(&evidence), expected, "byte {at:#x}");
        assert!(
            sev_accepts(&evidence, pinned(Product::Milan)),
            "byte {at:#x}"
        );
    }
}

#[test]
fn only_we_refuse_what_the_certificate_does_not_say() {
    let chip = Chip::milan();
    let authorities = Authorities::trusted();
    let ca = || ca::Chain {
        ark: Certificate::from_der(&authorities.ark.certify_authority(
            &authorities.ark,
            Authorities::ARK_SERIAL,
            Usage::CertificatesAndLists,
        ))
        .unwrap(),
        ask: Certificate::from_der(&authorities.ark.certify_authority(
            &authorities.ask,
            Authorities::ASK_SERIAL,
            Usage::Certificates,
        ))
        .unwrap(),
    };
    let good = chip.evidence(chip.report(3), &chip.vek());
    assert!(chip.judge(&good).is_ok());
    assert!(sev_accepts(&good, ca()));

    let mut expired = chip.vek();
    expired.not_after = "251231235959Z";
    let mut silent = chip.vek();
    silent.extensions.truncate(1);
    for (vek, expected) in [(expired, Code::Expired), (silent, Code::Endorsement)] {
        let evidence = chip.evidence(chip.report(3), &vek);
        assert_eq!(chip.judge(&evidence).unwrap_err().code, expected);
        assert!(sev_accepts(&evidence, ca()));
    }
}
