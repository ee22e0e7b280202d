//! What the certificate of a VCEK or VLEK must say.

use attestation::Code;
use attestation::sev_snp::{Product, SigningKey};

use crate::authority::Authorities;
use crate::der;
use crate::own_chip::{Chip, Vek, oid};

/// The refusal of evidence whose certificate was changed, by code and field.
#[track_caller]
fn refused(chip: &Chip, change: impl Fn(&mut Vek)) -> (Code, String) {
    let mut vek = chip.vek();
    change(&mut vek);
    let evidence = chip.evidence(chip.report(3), &vek);
    let refusal = chip.judge(&evidence).unwrap_err();
    (refusal.code, refusal.field)
}

#[test]
fn an_expired_certificate_is_refused_by_the_name_of_its_key() {
    for (kind, field) in [
        (SigningKey::Vcek, "vcek.notAfter"),
        (SigningKey::Vlek, "vlek.notAfter"),
    ] {
        let chip = Chip::new(Product::Milan, kind);
        assert_eq!(
            refused(&chip, |it| it.not_after = "251231235959Z"),
            (Code::Expired, field.into())
        );
    }
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    assert_eq!(
        refused(&Chip::milan(), |it| it.not_before = "260101000001Z"),
        (Code::NotYetValid, "vcek.notBefore".into())
    );
}

#[test]
fn a_vlek_needs_no_chip_and_a_vcek_does() {
    let vlek = Chip::new(Product::Genoa, SigningKey::Vlek);
    vlek.judge_report(vlek.report(3)).unwrap();
    assert_eq!(
        refused(&Chip::milan(), |it| it.remove(oid::HWID)),
        (Code::Endorsement, "vcek.hwid".into())
    );
}

#[test]
fn a_key_signs_as_what_it_was_certified() {
    for kind in [SigningKey::Vcek, SigningKey::Vlek] {
        let chip = Chip::new(Product::Milan, kind);
        let wrong = match kind {
            SigningKey::Vcek => &Authorities::trusted().asvk,
            SigningKey::Vlek => &Authorities::trusted().ask,
        };
        let mut evidence = chip.evidence(chip.report(3), &chip.vek());
        evidence.vek = chip.certificate(&chip.vek(), wrong);
        let refusal = chip.judge(&evidence).unwrap_err();
        assert_eq!(refusal.code, Code::Chain);
        assert_eq!(refusal.field, format!("{kind}.issuer"));
    }
}

#[test]
fn the_product_must_be_the_reports() {
    for product in Product::ALL {
        let chip = Chip::new(product, SigningKey::Vcek);
        for name in ["Milan", "Milan-B0", "Genoa", "Siena", "Turin", "Venice", ""] {
            let mut vek = chip.vek();
            vek.set(
                oid::PRODUCT_NAME,
                der::value(der::IA5_STRING, &[name.as_bytes()]),
            );
            let result = chip.judge(&chip.evidence(chip.report(3), &vek));
            let belongs = match product {
                Product::Milan => name.starts_with("Milan"),
                Product::Genoa => name == "Genoa" || name == "Siena",
                Product::Turin => name == "Turin",
            };
            match result {
                Ok(_) => assert!(belongs, "{name} for {product}"),
                Err(refusal) => {
                    assert!(!belongs, "{name} for {product}: {refusal}");
                    assert_eq!(refusal.code, Code::Endorsement);
                    assert_eq!(refusal.field, "vcek.product_name");
                }
            }
        }
    }
}

#[test]
fn what_the_certificate_says_of_itself_can_not_break_a_log() {
    let chip = Chip::milan();
    let mut vek = chip.vek();
    let name = format!("evil\n\u{1b}[31m{}", "x".repeat(80));
    vek.set(
        oid::PRODUCT_NAME,
        der::value(der::IA5_STRING, &[name.as_bytes()]),
    );
    let refusal = chip
        .judge(&chip.evidence(chip.report(3), &vek))
        .unwrap_err();
    assert!(!refusal.to_string().contains(char::is_control), "{refusal}");
    assert!(refusal.got.len() < 100, "{refusal}");
}

#[test]
fn both_encodings_of_a_chip_are_read() {
    for product in Product::ALL {
        let chip = Chip::new(product, SigningKey::Vcek);
        let (_, raw) = chip.vek().extensions.pop().unwrap();
        let mut vek = chip.vek();
        vek.set(oid::HWID, der::value(der::OCTET_STRING, &[&raw]));
        chip.judge(&chip.evidence(chip.report(3), &vek)).unwrap();
    }
}

#[test]
fn a_chip_that_differs_in_a_bit_or_in_length_is_refused() {
    for product in Product::ALL {
        let chip = Chip::new(product, SigningKey::Vcek);
        let (_, right) = chip.vek().extensions.pop().unwrap();
        let mut flipped = right.clone();
        flipped[7] ^= 0x10;
        let longer = [right.as_slice(), &[0]].concat();
        let shorter = right[..right.len() - 1].to_vec();
        for wrong in [flipped, longer, shorter, vec![]] {
            assert_eq!(
                refused(&chip, |it| it.set(oid::HWID, wrong.clone())),
                (Code::Endorsement, "vcek.hwid".into())
            );
        }
    }
}

#[test]
fn a_turin_chip_uses_eight_bytes_and_no_more() {
    let chip = Chip::new(Product::Turin, SigningKey::Vcek);
    for at in 0x1a8..0x1e0 {
        let mut report = chip.report(3);
        report[at] = 1;
        let refusal = chip.judge_report(report).unwrap_err();
        assert_eq!(refusal.code, Code::Endorsement);
        assert_eq!(refusal.field, "vcek.hwid");
    }
}

#[test]
fn each_component_of_the_firmware_must_be_the_reported_one() {
    for product in Product::ALL {
        for kind in [SigningKey::Vcek, SigningKey::Vlek] {
            let chip = Chip::new(product, kind);
            let tcb = chip.tcb();
            for (oid, name, value) in [
                (oid::BOOTLOADER, "bootloader", Some(tcb.bootloader)),
                (oid::TEE, "tee", Some(tcb.tee)),
                (oid::SNP, "snp", Some(tcb.snp)),
                (oid::MICROCODE, "microcode", Some(tcb.microcode)),
                (oid::FMC, "fmc", tcb.fmc),
            ] {
                let Some(value) = value else { continue };
                let expected = (Code::Endorsement, format!("{kind}.tcb.{name}"));
                for wrong in [
                    der::integer(value + 1),
                    der::integer(value - 1),
                    // Not DER: more bytes than it takes, a negative number, another type.
                    vec![0x02, 0x03, 0, 0, value],
                    vec![0x02, 0x01, value | 0x80],
                    vec![0x04, 0x01, value],
                    vec![0x02, 0x01],
                    vec![],
                ] {
                    assert_eq!(refused(&chip, |it| it.set(oid, wrong.clone())), expected);
                }
                let (code, field) = refused(&chip, |it| it.remove(oid));
                assert_eq!(code, Code::Endorsement);
                assert!(field.ends_with(name), "{field}");
            }
        }
    }
}

#[test]
fn an_extension_that_is_there_twice_is_refused() {
    let (code, _) = refused(&Chip::milan(), |it| {
        let hwid = it.extensions.pop().unwrap();
        it.extensions.extend([hwid.clone(), hwid]);
    });
    assert_eq!(code, Code::Endorsement);
}

#[test]
fn a_report_that_another_key_signed_is_refused() {
    let (one, other) = (Chip::milan(), Chip::milan());
    let mut evidence = one.evidence(one.report(3), &one.vek());
    evidence.report = other.sign(evidence.report);
    let refusal = one.judge(&evidence).unwrap_err();
    assert_eq!(refusal.code, Code::Signature);
}
