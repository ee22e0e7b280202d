//! Authentic reports of guests, platforms and firmware that must not be trusted.

use attestation::sev_snp::{Product, ReferenceValues, SigningKey, Tcb};
use attestation::{Claims, Code, Refusal};

use crate::own_chip::Chip;
use crate::vectors::{listing, report_data};

/// Judges `report` under a reference that lists it, after `change`.
fn appraise(
    chip: &Chip,
    report: Vec<u8>,
    change: impl Fn(&mut ReferenceValues),
) -> Result<Claims, Vec<Refusal>> {
    let mut reference = listing(&report, chip.product, chip.tcb());
    change(&mut reference);
    let data = report_data(&report);
    chip.judge_report(report)
        .unwrap()
        .appraise(&reference, &data)
}

fn fields(refusals: &[Refusal]) -> Vec<(&str, Code)> {
    refusals
        .iter()
        .map(|it| (it.field.as_str(), it.code))
        .collect()
}

#[test]
fn reports_of_each_version_product_and_key_are_accepted() {
    for product in Product::ALL {
        for kind in [SigningKey::Vcek, SigningKey::Vlek] {
            for version in 2..=5 {
                let chip = Chip::new(product, kind);
                let claims = appraise(&chip, chip.report(version), |_| ()).unwrap();
                assert_eq!(claims.platform, chip.chip_id());
                assert_eq!(claims.host_data.0, [0xd3; 32]);
            }
        }
    }
}

#[test]
fn a_guest_that_may_be_debugged_is_refused_even_where_the_reference_allows_it() {
    let chip = Chip::milan();
    let mut report = chip.report(3);
    report[0x0a] |= 0x08;
    let authentic = chip.judge_report(report.clone()).unwrap();
    assert!(authentic.report().policy.debug);
    let expected = [("report.policy.debug", Code::Debug)];
    assert_eq!(fields(&authentic.check_baseline().unwrap_err()), expected);
    let refusals = appraise(&chip, report, |it| it.guest_policy.debug = true).unwrap_err();
    assert_eq!(fields(&refusals), expected);
}

#[test]
fn a_report_of_another_privilege_level_is_refused() {
    let chip = Chip::milan();
    for vmpl in [1, 2, 3, u32::MAX] {
        let mut report = chip.report(3);
        report[0x30..0x34].copy_from_slice(&vmpl.to_le_bytes());
        let authentic = chip.judge_report(report.clone()).unwrap();
        assert_eq!(authentic.report().vmpl, vmpl);
        let expected = [("report.vmpl", Code::Vmpl)];
        assert_eq!(fields(&authentic.check_baseline().unwrap_err()), expected);
        assert_eq!(
            fields(&appraise(&chip, report, |_| ()).unwrap_err()),
            expected
        );
    }
}

#[test]
fn a_migration_agent_is_refused_unless_the_reference_allows_it() {
    let chip = Chip::milan();
    let mut report = chip.report(3);
    report[0x0a] |= 0x04;
    let expected = [("report.policy.migrate_ma", Code::GuestPolicy)];
    let authentic = chip.judge_report(report.clone()).unwrap();
    assert_eq!(fields(&authentic.check_baseline().unwrap_err()), expected);
    let refusals = appraise(&chip, report.clone(), |_| ()).unwrap_err();
    assert_eq!(fields(&refusals), expected);
    appraise(&chip, report, |it| it.guest_policy.migrate_ma = true).unwrap();
}

#[test]
fn a_policy_that_this_verifier_does_not_know_is_refused() {
    let chip = Chip::milan();
    let expected = [("report.policy", Code::GuestPolicy)];
    for (byte, bits) in [(0x0a, 0x02), (0x0b, 0x04), (0x0f, 0x80)] {
        let mut report = chip.report(5);
        report[byte] ^= bits;
        let authentic = chip.judge_report(report.clone()).unwrap();
        assert_eq!(fields(&authentic.check_baseline().unwrap_err()), expected);
        assert_eq!(
            fields(&appraise(&chip, report, |_| ()).unwrap_err()),
            expected
        );
    }
}

#[test]
fn permissions_need_the_references_and_restrictions_meet_it() {
    type Change = fn(&mut ReferenceValues);
    let chip = Chip::milan();
    let permissions: [(u8, &str, Change); 2] = [
        (0, "smt", |it| it.guest_policy.smt = false),
        (5, "cxl_allow", |it| it.guest_policy.cxl_allow = false),
    ];
    for (bit, name, forbid) in permissions {
        let mut report = chip.report(5);
        report[0x0a] |= 1 << bit;
        let refusals = appraise(&chip, report, forbid).unwrap_err();
        let field = format!("report.policy.{name}");
        assert_eq!(fields(&refusals), [(field.as_str(), Code::GuestPolicy)]);
    }
    let restrictions: [(usize, u8, &str, Change); 5] = [
        (0x0a, 4, "single_socket", |it| {
            it.guest_policy.single_socket = true;
        }),
        (0x0a, 6, "mem_aes_256_xts", |it| {
            it.guest_policy.mem_aes_256_xts = true;
        }),
        (0x0a, 7, "rapl_disabled", |it| {
            it.guest_policy.rapl_disabled = true;
        }),
        (0x0b, 0, "ciphertext_hiding", |it| {
            it.guest_policy.ciphertext_hiding = true;
        }),
        (0x0b, 1, "page_swap_disabled", |it| {
            it.guest_policy.page_swap_disabled = true;
        }),
    ];
    for (byte, bit, name, demand) in restrictions {
        let mut report = chip.report(5);
        let refusals = appraise(&chip, report.clone(), demand).unwrap_err();
        let field = format!("report.policy.{name}");
        assert_eq!(fields(&refusals), [(field.as_str(), Code::GuestPolicy)]);
        report[byte] |= 1 << bit;
        appraise(&chip, report.clone(), demand).unwrap();
        appraise(&chip, report, |_| ()).expect("more than is demanded");
    }
}

#[test]
fn a_guest_that_runs_on_an_older_abi_is_refused_and_on_a_newer_is_not() {
    let chip = Chip::milan();
    for ((major, minor), accepted) in [
        ((1, 55), true),
        ((1, 54), false),
        ((0, 99), false),
        ((1, 56), true),
        ((2, 0), true),
    ] {
        let mut report = chip.report(3);
        report[0x08..0x0a].copy_from_slice(&[minor, major]);
        let result = appraise(&chip, report, |it| {
            it.guest_policy.abi_major = 1;
            it.guest_policy.abi_minor = 55;
        });
        assert_eq!(result.is_ok(), accepted, "{major}.{minor}");
    }
}

#[test]
fn each_tcb_of_the_report_must_reach_the_minimum_in_each_component() {
    for product in Product::ALL {
        let chip = Chip::new(product, SigningKey::Vcek);
        let positions: &[(&str, usize)] = match product {
            Product::Milan | Product::Genoa => {
                &[("bootloader", 0), ("tee", 1), ("snp", 6), ("microcode", 7)]
            }
            Product::Turin => &[
                ("fmc", 0),
                ("bootloader", 1),
                ("tee", 2),
                ("snp", 3),
                ("microcode", 7),
            ],
        };
        for (name, position) in positions {
            for (field, at) in [
                ("current_tcb", 0x38),
                ("committed_tcb", 0x1e0),
                ("launch_tcb", 0x1f0),
            ] {
                let mut report = chip.report(5);
                let got = report[at + position] - 1;
                report[at + position] = got;
                let refusals = appraise(&chip, report, |_| ()).unwrap_err();
                let field = format!("report.{field}.{name}");
                assert_eq!(fields(&refusals), [(field.as_str(), Code::TcbTooLow)]);
                assert_eq!(refusals[0].got, got.to_string());
                assert_eq!(refusals[0].want, format!("at least {}", got + 1));
            }
            // The reported one is in the certificate too, so that here it is the minimum that grows.
            let refusals = appraise(&chip, chip.report(5), |it| raise(&mut it.minimum_tcb, name));
            assert_eq!(refusals.unwrap_err().len(), 4, "{product} {name}");
        }
    }
}

fn raise(tcb: &mut Tcb, name: &str) {
    let component = match name {
        "bootloader" => &mut tcb.bootloader,
        "tee" => &mut tcb.tee,
        "snp" => &mut tcb.snp,
        "microcode" => &mut tcb.microcode,
        _ => tcb.fmc.as_mut().unwrap(),
    };
    *component += 1;
}

#[test]
fn a_chip_that_is_hidden_has_no_platform_and_is_on_no_list() {
    for kind in [SigningKey::Vcek, SigningKey::Vlek] {
        for version in [2, 3] {
            let chip = Chip::new(Product::Milan, kind);
            let mut report = chip.report(version);
            report[0x1a0..0x1e0].fill(0);
            let claims = appraise(&chip, report.clone(), |it| it.chip_ids.clear()).unwrap();
            assert_eq!(claims.platform, [0; 0]);
            // The list that `listing` makes names the zeros themselves.
            let refusals = appraise(&chip, report, |_| ()).unwrap_err();
            assert_eq!(fields(&refusals), [("report.chip_id", Code::Platform)]);
            assert_eq!(refusals[0].got, "hidden");
        }
    }
}

#[test]
fn what_later_versions_add_is_read_from_them_alone() {
    let chip = Chip::milan();
    for version in 2..=5 {
        let mut report = chip.report(version);
        report[0x1f8..0x200].copy_from_slice(&3_u64.to_le_bytes());
        report[0x200..0x208].copy_from_slice(&7_u64.to_le_bytes());
        let authentic = chip.judge_report(report).unwrap();
        let report = authentic.report();
        let vectors = (report.launch_mit_vector, report.current_mit_vector);
        match version {
            5 => assert_eq!(vectors, (Some(3), Some(7))),
            _ => assert_eq!(vectors, (None, None)),
        }
        assert_eq!(report.cpuid.is_some(), version >= 3);
        let names: Vec<_> = report.fields().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.contains(&"current_mit_vector"), version == 5);
        assert_eq!(names.contains(&"cpuid"), version >= 3);
    }
}
