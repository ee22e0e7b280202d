//! Genuine parts of evidence, wrongly put together or at the wrong time.

use attestation::Code;
use attestation::sev_snp::{Evidence, Product, Roots, SigningKey, authenticate};

use crate::authority::{Authorities, List};
use crate::own_chip::Chip;
use crate::vectors::{self, NOW, at, certificates, code, file, judge};

#[test]
fn a_vcek_of_another_chip_is_refused() {
    let (one, other) = (vectors::milan_v2(), vectors::other_milan_v2());
    for (report, vek) in [(&one, &other), (&other, &one)] {
        let swapped = vectors::evidence(report.evidence.report.clone(), vek.evidence.vek.clone());
        let refusal = judge(&swapped).unwrap_err();
        assert_eq!(refusal.code, Code::Endorsement);
        assert_eq!(refusal.field, "vcek.hwid");
    }
}

#[test]
fn a_vcek_of_another_product_is_refused() {
    let (milan, genoa) = (vectors::milan_v3().evidence, vectors::genoa_v3().evidence);
    for (report, vek) in [(&milan, &genoa), (&genoa, &milan)] {
        let swapped = vectors::evidence(report.report.clone(), vek.vek.clone());
        let refusal = judge(&swapped).unwrap_err();
        assert_eq!(refusal.code, Code::Chain);
        assert_eq!(refusal.field, "vcek.issuer");
    }
}

#[test]
fn roots_of_another_product_do_not_do() {
    let ca = certificates("ca/ask_ark_genoa.pem");
    let asvk = certificates("ca/ask_ark_genoa_vlek.pem").remove(0).to_vec();
    let genoa_as_milan = Roots::of(Product::Milan, ca[1].to_vec(), ca[0].to_vec(), asvk);
    for it in [vectors::milan_v2(), vectors::milan_v3()] {
        let refusal = authenticate(&it.evidence, &genoa_as_milan, at(NOW)).unwrap_err();
        assert_eq!(refusal.code, Code::Chain);
    }
    let milan_only = Authorities::trusted().roots(Product::Milan);
    let refusal = authenticate(&vectors::genoa_v3().evidence, &milan_only, at(NOW)).unwrap_err();
    assert_eq!(refusal.code, Code::Chain);
}

#[test]
fn a_vcek_is_no_vlek() {
    let mut evidence = vectors::milan_v3().evidence;
    evidence.report[0x48] |= 1 << 2;
    let refusal = judge(&evidence).unwrap_err();
    assert_eq!(refusal.code, Code::Chain);
    assert_eq!(refusal.field, "vlek.issuer");
}

#[test]
fn an_unsigned_report_is_refused() {
    let mut evidence = vectors::milan_v3().evidence;
    evidence.report[0x48] |= 0b111 << 2;
    assert_eq!(code(&evidence), Code::Signature);
}

#[test]
fn the_certificate_of_an_authority_is_refused_as_that_of_a_chip() {
    for it in vectors::all() {
        for ca in [
            "ca/ask_ark_milan.pem",
            "ca/ask_ark_genoa.pem",
            "ca/ask_ark_milan_vlek.pem",
        ] {
            for certificate in certificates(ca) {
                let evidence = vectors::evidence(it.evidence.report.clone(), certificate.to_vec());
                assert_eq!(code(&evidence), Code::Chain, "{} with {ca}", it.name);
            }
        }
    }
}

#[test]
fn invalid_vceks_are_refused() {
    let report = vectors::other_milan_v2().evidence.report;
    for vcek in [
        "trustee/test-vcek-invalid-legacy.der",
        "trustee/test-vcek-invalid-new.der",
    ] {
        let evidence = vectors::evidence(report.clone(), file(vcek));
        assert_eq!(code(&evidence), Code::Chain, "{vcek}");
    }
}

#[test]
fn a_chain_of_our_own_with_amds_names_is_refused() {
    let subject = |der: &[u8]| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        certificate.subject().as_raw().to_vec()
    };
    let ca = certificates("ca/ask_ark_milan.pem");
    let forged = Authorities::named(subject(&ca[1]), subject(&ca[0]));
    let chip = Chip::milan();
    for version in [2, 3] {
        let evidence = Evidence {
            report: chip.sign(chip.report(version)),
            vek: chip.certificate(&chip.vek(), &forged.ask),
            crl: None,
        };
        let refusal = judge(&evidence).unwrap_err();
        assert_eq!(refusal.code, Code::Chain, "version {version}");
        assert_eq!(refusal.got, "not signed by the issuer that it names");

        let roots = forged.roots(Product::Milan);
        authenticate(&evidence, &roots, at(NOW)).expect("nothing but the roots is wrong");
    }
}

#[test]
fn a_vcek_is_valid_from_its_first_second_to_its_last() {
    let it = vectors::milan_v2().evidence;
    // 2023-04-03 19:23:43 to 2030-04-03 19:23:43
    let (first, last) = (1_680_549_823, 1_901_474_623);
    let judged = |second| authenticate(&it, &Roots::amd(), at(second));
    assert!(judged(first).is_ok());
    assert!(judged(last).is_ok());
    let early = judged(first - 1).unwrap_err();
    assert_eq!(early.code, Code::NotYetValid);
    assert_eq!(
        (early.field.as_str(), early.got.as_str()),
        ("vcek.notBefore", "2023-04-03T19:23:43Z")
    );
    let late = judged(last + 1).unwrap_err();
    assert_eq!(late.code, Code::Expired);
    assert_eq!(
        (late.field.as_str(), late.got.as_str()),
        ("vcek.notAfter", "2030-04-03T19:23:43Z")
    );
    assert_eq!(judged(0).unwrap_err().code, Code::NotYetValid);
    assert_eq!(judged(u64::MAX).unwrap_err().code, Code::Expired);
}

#[test]
fn the_certificate_is_needed_whole_and_alone() {
    let mut it = vectors::milan_v3().evidence;
    let whole = std::mem::take(&mut it.vek);
    assert_eq!(code(&it), Code::Missing);
    for length in 1..whole.len() {
        it.vek = whole[..length].to_vec();
        assert_eq!(code(&it), Code::Malformed, "{length} bytes");
    }
    it.vek = [whole.as_slice(), &[0]].concat();
    assert_eq!(code(&it), Code::Malformed);
}

#[test]
fn a_report_of_another_length_is_refused() {
    let it = vectors::milan_v3().evidence;
    let mut longer = it.report.clone();
    longer.resize(4096, 0);
    for length in (0..1184).chain([1185, 1216, 4096]) {
        let evidence = vectors::evidence(longer[..length].to_vec(), it.vek.clone());
        let refusal = judge(&evidence).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed);
        assert_eq!(refusal.field, "report.length");
        assert_eq!(refusal.got, length.to_string());
    }
}

#[test]
fn an_unknown_version_is_refused() {
    let mut it = vectors::milan_v3().evidence;
    for version in [0, 1, 6, 0x0100_0003, u32::MAX] {
        it.report[..4].copy_from_slice(&version.to_le_bytes());
        let refusal = judge(&it).unwrap_err();
        assert_eq!(refusal.code, Code::Version);
        assert_eq!(refusal.got, version.to_string());
    }
}

#[test]
fn another_signature_algorithm_is_refused() {
    let chip = Chip::milan();
    for algorithm in [0, 2, 0x0100_0001, u32::MAX] {
        let mut report = chip.report(3);
        report[0x34..0x38].copy_from_slice(&algorithm.to_le_bytes());
        let refusal = chip.judge_report(report).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed);
        assert_eq!(refusal.field, "report.signature_algo");
    }
}

#[test]
fn a_kind_of_key_that_does_not_exist_is_refused() {
    let chip = Chip::milan();
    for kind in 2..=6 {
        let mut report = chip.report(3);
        report[0x48] = kind << 2;
        let refusal = chip.judge_report(report).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed);
        assert_eq!(refusal.field, "report.key_info.signing_key");
    }
}

#[test]
fn an_unknown_processor_is_refused() {
    let mut it = vectors::milan_v3().evidence;
    for (family, model) in [(0x17, 0x31), (0x19, 0x20), (0x1a, 0x12), (0x1a, 0x50)] {
        it.report[0x188..0x18a].copy_from_slice(&[family, model]);
        let refusal = judge(&it).unwrap_err();
        assert_eq!(
            (refusal.code, refusal.field.as_str()),
            (Code::Chain, "report.cpuid")
        );
    }
}

#[test]
fn a_genuine_turin_vcek_is_trusted_for_its_chip_and_firmware() {
    let vek = file("sev-crate/vcek_turin.der");
    let chip = Chip::new(Product::Turin, SigningKey::Vcek);
    let mut report = chip.report(3);
    report[0x180..0x188].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]);
    report[0x1a0..0x1a8].copy_from_slice(&hex::decode("1e550a8ee5cf9f4d").unwrap());
    let refused = |report: &[u8]| {
        let evidence = vectors::evidence(chip.sign(report.to_vec()), vek.clone());
        let refusal = judge(&evidence).unwrap_err();
        (refusal.code, refusal.field)
    };
    // Nobody has the chip's key, so that the signature is the one thing that can't hold.
    assert_eq!(
        refused(&report),
        (Code::Signature, "report.signature".into())
    );
    report[0x180] = 1;
    assert_eq!(refused(&report), (Code::Endorsement, "vcek.tcb.fmc".into()));
    report[0x1a7] ^= 1;
    assert_eq!(refused(&report), (Code::Endorsement, "vcek.hwid".into()));
}

#[test]
fn a_revocation_list_of_our_own_is_refused_under_amds_roots() {
    let mut it = vectors::milan_v3().evidence;
    it.crl = Some(Authorities::trusted().ark.list(&List::default()));
    let refusal = judge(&it).unwrap_err();
    assert_eq!(refusal.code, Code::Collateral);
    assert_eq!(
        (refusal.field.as_str(), refusal.got.as_str()),
        ("crl.issuer", "ARK-Own")
    );
}
