//! Revocation lists: whose they are, of when, and what they say.

use attestation::Code;
use attestation::sev_snp::{Product, SigningKey, authenticate};

use crate::authority::{Authorities, Authority, List, Usage};
use crate::der;
use crate::own_chip::Chip;
use crate::vectors::{NOW, at};

/// What becomes of good evidence with `crl`: the refusal's code and field.
fn with_list(chip: &Chip, crl: Vec<u8>, ask_usage: Usage) -> Result<(), (Code, String)> {
    let mut vek = chip.vek();
    vek.serial = 0;
    let mut evidence = chip.evidence(chip.report(3), &vek);
    evidence.crl = Some(crl);
    let roots = Authorities::trusted().roots_with(chip.product, ask_usage);
    match authenticate(&evidence, &roots, at(NOW)) {
        Ok(_) => Ok(()),
        Err(refusal) => Err((refusal.code, refusal.field)),
    }
}

fn with_root_list(chip: &Chip, list: &List<'_>) -> Result<(), (Code, String)> {
    let crl = Authorities::trusted().ark.list(list);
    with_list(chip, crl, Usage::Certificates)
}

#[test]
fn a_list_that_names_none_of_the_chain_changes_nothing() {
    let chip = Chip::milan();
    assert_eq!(with_root_list(&chip, &List::default()), Ok(()));
    let others = List {
        // 0 is the chip's number, but the root did not give the chip its certificate.
        serials: &[0, 1, 0x7f, 0xff, Authorities::ASVK_SERIAL],
        ..List::default()
    };
    assert_eq!(with_root_list(&chip, &others), Ok(()));
}

#[test]
fn a_revoked_signer_is_refused_for_its_own_kind_of_key() {
    for (kind, serial, other, field) in [
        (
            SigningKey::Vcek,
            Authorities::ASK_SERIAL,
            Authorities::ASVK_SERIAL,
            "ask.serialNumber",
        ),
        (
            SigningKey::Vlek,
            Authorities::ASVK_SERIAL,
            Authorities::ASK_SERIAL,
            "asvk.serialNumber",
        ),
    ] {
        let chip = Chip::new(Product::Genoa, kind);
        let list = |serials: &[u8]| {
            let list = List {
                serials,
                ..List::default()
            };
            with_root_list(&chip, &list)
        };
        assert_eq!(list(&[0, 1, serial]), Err((Code::Revoked, field.into())));
        assert_eq!(list(&[0, 1, other]), Ok(()));
    }
}

#[test]
fn a_revoked_root_is_refused() {
    let list = List {
        serials: &[Authorities::ARK_SERIAL],
        ..List::default()
    };
    assert_eq!(
        with_root_list(&Chip::milan(), &list),
        Err((Code::Revoked, "ark.serialNumber".into()))
    );
}

#[test]
fn a_revoked_chip_is_refused_by_a_list_of_its_issuer() {
    let chip = Chip::milan();
    let of_issuer = |serials: &[u8]| {
        let list = List {
            serials,
            ..List::default()
        };
        let crl = Authorities::trusted().ask.list(&list);
        with_list(&chip, crl, Usage::CertificatesAndLists)
    };
    assert_eq!(
        of_issuer(&[0]),
        Err((Code::Revoked, "vcek.serialNumber".into()))
    );
    assert_eq!(of_issuer(&[1]), Ok(()));
    // The root gave the ASK its number; the ASK's list says nothing of it.
    assert_eq!(of_issuer(&[Authorities::ASK_SERIAL]), Ok(()));
}

#[test]
fn who_may_not_sign_lists_is_not_believed() {
    let crl = Authorities::trusted().ask.list(&List::default());
    assert_eq!(
        with_list(&Chip::milan(), crl, Usage::Certificates),
        Err((Code::Collateral, "crl.issuer".into()))
    );
}

#[test]
fn a_list_by_another_is_refused() {
    let foreign = Authority::new(der::name("ARK-Other"));
    assert_eq!(
        with_list(
            &Chip::milan(),
            foreign.list(&List::default()),
            Usage::Certificates
        ),
        Err((Code::Collateral, "crl.issuer".into()))
    );
    let forged = Authority::new(Authorities::trusted().ark.name.clone());
    assert_eq!(
        with_list(
            &Chip::milan(),
            forged.list(&List::default()),
            Usage::Certificates
        ),
        Err((Code::Collateral, "crl.signature".into()))
    );
}

#[test]
fn a_list_is_good_from_its_first_second_until_the_next_is_due() {
    let chip = Chip::milan();
    let between = |this_update, next_update| {
        let list = List {
            this_update,
            next_update,
            ..List::default()
        };
        with_root_list(&chip, &list)
    };
    assert_eq!(between("260101000000Z", "260101000001Z"), Ok(()));
    assert_eq!(
        between("251201000000Z", "260101000000Z"),
        Err((Code::Expired, "crl.nextUpdate".into()))
    );
    assert_eq!(
        between("260101000001Z", "260201000000Z"),
        Err((Code::NotYetValid, "crl.thisUpdate".into()))
    );
}

#[test]
fn an_expired_list_is_refused_even_where_it_revokes_nothing_and_before_what_it_says() {
    let list = List {
        serials: &[Authorities::ASK_SERIAL],
        next_update: "251215000000Z",
        ..List::default()
    };
    assert_eq!(
        with_root_list(&Chip::milan(), &list),
        Err((Code::Expired, "crl.nextUpdate".into()))
    );
}

#[test]
fn what_is_not_a_list_is_refused() {
    let whole = Authorities::trusted().ark.list(&List::default());
    let chip = Chip::milan();
    let malformed = Err((Code::Malformed, "crl".to_owned()));
    for length in 0..whole.len() {
        let result = with_list(&chip, whole[..length].to_vec(), Usage::Certificates);
        assert_eq!(result, malformed, "{length} bytes");
    }
    let longer = [whole.as_slice(), &[0]].concat();
    assert_eq!(with_list(&chip, longer, Usage::Certificates), malformed);
}

#[test]
fn a_list_with_a_meaning_that_is_not_understood_is_refused() {
    let chip = Chip::milan();
    let with = |extension: Vec<u8>| {
        let list = List {
            extensions: vec![extension],
            ..List::default()
        };
        with_root_list(&chip, &list)
    };
    let refused = Err((Code::Collateral, "crl.extensions".to_owned()));
    let delta = &[0x55, 0x1d, 0x1b];
    let scope = &[0x55, 0x1d, 0x1c];
    let unknown = &[0x2b, 0x06, 0x01];
    assert_eq!(with(der::extension(delta, true, &der::integer(1))), refused);
    assert_eq!(with(der::extension(unknown, true, &[])), refused);
    assert_eq!(with(der::extension(unknown, false, &[])), Ok(()));
    // Only certificates of authorities: these are what the root signs.
    let authorities = der::sequence(&[&[0x82, 0x01, 0xff]]);
    assert_eq!(with(der::extension(scope, true, &authorities)), Ok(()));
    let indirect = der::sequence(&[&[0x84, 0x01, 0xff]]);
    assert_eq!(with(der::extension(scope, true, &indirect)), refused);
}
