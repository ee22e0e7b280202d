//! A first manifest is valid, or says by path what is left to fill in.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use attestation::sev_snp::Product;
use attestation::{Digest, Tee};
use common::{COORDINATOR, DB, OTHER_OWNER, OWNER, RSA, WEB, WEB_NEXT, digest, refused};
use manifest::{Manifest, Problem, ReferenceTemplate, Template, template};

fn with(reference_values: ReferenceTemplate) -> Template {
    Template {
        trust_domain: "shop.example".parse().unwrap(),
        coordinator_policy: digest(COORDINATOR),
        workloads: vec![
            ("web.default.svc".parse().unwrap(), digest(WEB)),
            ("db".parse().unwrap(), digest(DB)),
            ("web.default.svc".parse().unwrap(), digest(WEB_NEXT)),
        ],
        reference_values,
        workload_owners: vec![digest(OWNER), digest(OTHER_OWNER)],
        update_quorum: None,
        seedshare_owners: RSA.iter().map(|key| hex::decode(key).unwrap()).collect(),
        seedshare_quorum: Some(1),
    }
}

fn simulated() -> ReferenceTemplate {
    ReferenceTemplate::Simulated {
        measurement: [0x5a; 48],
        platform_keys: vec![Digest([0x5b; 32])],
    }
}

#[test]
fn with_the_simulated_tee_nothing_is_left_to_fill_in() {
    let text = template(&with(simulated()));
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.trust_domain().as_str(), "shop.example");
    assert_eq!(*manifest.coordinator().0, digest(COORDINATOR));
    let web = &manifest.policy(&digest(WEB)).unwrap().spiffe_id;
    assert_eq!(web.as_str(), "spiffe://shop.example/ns/default/sa/web");
    assert_eq!(manifest.policy(&digest(WEB_NEXT)).unwrap().spiffe_id, *web);
    let [reference] = manifest.reference_values().simulated.as_slice() else {
        panic!("one entry")
    };
    assert_eq!(reference.measurement, [0x5a; 48]);
    assert_eq!(reference.platform_keys, [Digest([0x5b; 32])]);
    assert_eq!(
        manifest.workload_owners(),
        [digest(OWNER), digest(OTHER_OWNER)]
    );
    assert_eq!(manifest.update_quorum(), 2);
    assert_eq!(manifest.seedshare_quorum(), 1);
    assert!(
        text.starts_with("{\n  \"TrustDomain\": \"shop.example\",\n"),
        "{text}"
    );
    assert!(text.ends_with("}\n"));
}

#[test]
fn the_quorum_is_more_than_half_unless_stated() {
    for (owners, quorum) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
        let mut options = with(simulated());
        options.workload_owners = (0..owners).map(|i| Digest([i; 32])).collect();
        let manifest = Manifest::parse(template(&options).as_bytes()).unwrap();
        assert_eq!(manifest.update_quorum(), quorum, "{owners}");
    }
}

#[test]
fn what_sev_snp_needs_is_named_and_refused_by_path() {
    let text = template(&with(ReferenceTemplate::SevSnp {
        product: None,
        measurement: None,
    }));
    assert!(
        text.contains("\"FILL IN: Milan, Genoa or Turin\""),
        "{text}"
    );
    assert!(text.contains("\"FILL IN: the guest's launch measurement, 96 hexadecimal digits\""));
    assert_eq!(
        refused(text.as_bytes()),
        [
            "ReferenceValues.snp[0].ProductName: field cannot be empty",
            "ReferenceValues.snp[0].TrustedMeasurement: field cannot be empty",
            "ReferenceValues.snp[0].MinimumTCB.BootloaderVersion: field cannot be empty",
            "ReferenceValues.snp[0].MinimumTCB.TEEVersion: field cannot be empty",
            "ReferenceValues.snp[0].MinimumTCB.SNPVersion: field cannot be empty",
            "ReferenceValues.snp[0].MinimumTCB.MicrocodeVersion: field cannot be empty",
        ]
    );
    let errors = Manifest::parse(text.as_bytes()).unwrap_err();
    assert!(errors.iter().all(|error| error.problem == Problem::Empty));
}

#[test]
fn what_tdx_needs_is_named_and_refused_by_path() {
    let text = template(&with(ReferenceTemplate::Tdx { measurement: None }));
    assert_eq!(
        refused(text.as_bytes()),
        [
            "ReferenceValues.tdx[0].MrTd: field cannot be empty",
            "ReferenceValues.tdx[0].MrSeam: field cannot be empty",
            "ReferenceValues.tdx[0].Rtmrs[0]: field cannot be empty",
            "ReferenceValues.tdx[0].Rtmrs[1]: field cannot be empty",
            "ReferenceValues.tdx[0].Rtmrs[2]: field cannot be empty",
            "ReferenceValues.tdx[0].Rtmrs[3]: field cannot be empty",
            "ReferenceValues.tdx[0].Xfam: field cannot be empty",
        ]
    );
}

/// Every placeholder replaced by what it asks for, the manifest is valid: the template has no other
/// mistake.
#[test]
fn a_template_that_is_filled_in_is_valid() {
    for reference_values in [
        ReferenceTemplate::SevSnp {
            product: Some(Product::Turin),
            measurement: None,
        },
        ReferenceTemplate::SevSnp {
            product: Some(Product::Milan),
            measurement: Some([1; 48]),
        },
        ReferenceTemplate::Tdx {
            measurement: Some([1; 48]),
        },
        ReferenceTemplate::Tdx { measurement: None },
    ] {
        let tee = reference_values.tee();
        let text = template(&with(reference_values));
        let filled_in: Vec<_> = text
            .lines()
            .map(|line| {
                let Some((before, placeholder)) = line.split_once("\"FILL IN") else {
                    return line.to_owned();
                };
                let value = if placeholder.contains("96 hex") {
                    format!("\"{}\"", "0a".repeat(48))
                } else if placeholder.contains("16 hex") {
                    format!("\"{}\"", "0a".repeat(8))
                } else {
                    assert!(placeholder.contains("a number from 0 to 255"), "{line}");
                    "1".to_owned()
                };
                let comma = if line.ends_with(',') { "," } else { "" };
                format!("{before}{value}{comma}")
            })
            .collect();
        let manifest = Manifest::parse(filled_in.join("\n").as_bytes());
        let manifest = manifest.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let reference = manifest.reference_values();
        assert_eq!(reference.snp.len(), usize::from(tee == Tee::SevSnp));
        assert_eq!(reference.tdx.len(), usize::from(tee == Tee::Tdx));
    }
}

#[test]
fn one_policy_for_two_workloads_is_left_for_the_parser_to_refuse() {
    let mut options = with(simulated());
    options
        .workloads
        .push(("other".parse().unwrap(), digest(WEB)));
    assert_eq!(
        refused(template(&options).as_bytes())[0],
        format!("Policies[\"{WEB}\"]: got the key twice, want it once")
    );
}
