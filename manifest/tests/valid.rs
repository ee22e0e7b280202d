//! What a valid manifest says.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use attestation::identity::SpiffeId;
use attestation::sev_snp::Product;
use attestation::tdx::TcbStatus;
use attestation::{Digest, sev_snp, simulated, tdx};
use common::{COORDINATOR, DB, NODE, OTHER_OWNER, OWNER, RSA, WEB, WEB_NEXT, digest, parsed};
use manifest::{AllowedPeers, Manifest, Role, Rotation, RotationMode};
use serde_json::json;

#[test]
fn policies_have_the_names_and_rights_that_they_state() {
    let manifest = parsed(&common::full());
    assert_eq!(manifest.trust_domain().as_str(), "shop.example");
    assert_eq!(manifest.policies().len(), 5);

    let web = manifest.policy(&digest(WEB)).unwrap();
    assert_eq!(web.spiffe_id, id("spiffe://shop.example/ns/default/sa/web"));
    assert_eq!(web.dns, ["web.default.svc".parse().unwrap()]);
    let ip: [std::net::IpAddr; 2] = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    assert_eq!(web.ip, ip);
    let secret = web.workload_secret_id.as_deref();
    assert_eq!(secret, Some("apps/v1/Deployment/default/web"));
    assert_eq!(web.role, Role::Workload);
    assert_eq!(
        web.allowed_peers,
        only(&["spiffe://shop.example/ns/data/sa/db"])
    );
    assert_eq!(web.max_instances.unwrap().get(), 3);
    assert_eq!(web.hosts, []);

    let next = manifest.policy(&digest(WEB_NEXT)).unwrap();
    assert_eq!(next.spiffe_id, web.spiffe_id);
    assert_eq!(next.allowed_peers, web.allowed_peers);

    let db = manifest.policy(&digest(DB)).unwrap();
    assert_eq!(db.spiffe_id, id("spiffe://shop.example/ns/data/sa/db"));
    assert_eq!(
        db.allowed_peers,
        only(&["spiffe://shop.example/ns/default/sa/web"])
    );
    assert_eq!(db.max_instances, None);

    let node = manifest.policy(&digest(NODE)).unwrap();
    assert_eq!(node.role, Role::Node);
    assert_eq!(node.hosts, [web.spiffe_id.clone(), db.spiffe_id.clone()]);
    assert_eq!(node.allowed_peers, AllowedPeers::Any);

    let (hash, coordinator) = manifest.coordinator();
    assert_eq!(*hash, digest(COORDINATOR));
    assert_eq!(coordinator.role, Role::Coordinator);
    assert_eq!(manifest.policy(&digest(OWNER)), None);
}

#[test]
fn reference_values_are_typed() {
    let manifest = parsed(&common::full());
    let reference = manifest.reference_values();
    assert_eq!(
        reference.snp,
        [sev_snp::ReferenceValues {
            product: Product::Genoa,
            measurement: [0x0a; 48],
            minimum_tcb: sev_snp::Tcb {
                bootloader: 7,
                tee: 0,
                snp: 14,
                microcode: 62,
                fmc: None,
            },
            guest_policy: sev_snp::GuestPolicy {
                abi_major: 0,
                abi_minor: 31,
                smt: true,
                mem_aes_256_xts: true,
                page_swap_disabled: true,
                ..Default::default()
            },
            platform_info: sev_snp::PlatformInfo {
                smt: None,
                tsme: Some(false),
                ecc: Some(true),
                rapl_disabled: None,
                ciphertext_hiding: None,
                alias_check_complete: Some(true),
                tio: Some(false),
            },
            chip_ids: vec![[0x0b; 64]],
        }]
    );
    assert_eq!(
        reference.tdx,
        [tdx::ReferenceValues {
            mr_td: [0x1a; 48],
            rtmrs: [[0x20; 48], [0x21; 48], [0x22; 48], [0x23; 48]],
            mr_seam: [0x1b; 48],
            xfam: [0xe7, 2, 6, 0, 0, 0, 0, 0],
            td_attributes: Some([0, 0, 0, 0x10, 0, 0, 0, 0]),
            tcb_statuses: vec![TcbStatus::UpToDate, TcbStatus::SwHardeningNeeded],
            min_tcb_evaluation_data_number: Some(17),
            smt_disabled: true,
            static_platform: true,
            ppids: vec![[0x1c; 16]],
        }]
    );
    assert_eq!(reference.simulated, []);
    assert_eq!(
        parsed(&common::minimal()).reference_values().simulated,
        [simulated::ReferenceValues {
            measurement: [0x5a; 48],
            platform_keys: vec![Digest([0x5b; 32])],
        }]
    );
}

#[test]
fn every_flag_reaches_its_own_field() {
    for flag in [
        "SMT",
        "MigrateMA",
        "SingleSocket",
        "CXLAllowed",
        "MemAES256XTS",
        "RAPLDis",
        "CipherTextHidingDRAM",
        "PageSwapDisabled",
    ] {
        let mut json = common::full();
        common::set(
            &mut json,
            "/ReferenceValues/snp/0/GuestPolicy",
            json!({ flag: true }),
        );
        let policy = parsed(&json).reference_values().snp[0].guest_policy;
        let flags = [
            ("SMT", policy.smt),
            ("MigrateMA", policy.migrate_ma),
            ("SingleSocket", policy.single_socket),
            ("CXLAllowed", policy.cxl_allow),
            ("MemAES256XTS", policy.mem_aes_256_xts),
            ("RAPLDis", policy.rapl_disabled),
            ("CipherTextHidingDRAM", policy.ciphertext_hiding),
            ("PageSwapDisabled", policy.page_swap_disabled),
        ];
        assert!(
            flags.iter().all(|(name, set)| (*name == flag) == *set),
            "{flag} {policy:?}"
        );
    }
    for flag in [
        "SMTEnabled",
        "TSMEEnabled",
        "ECCEnabled",
        "RAPLDisabled",
        "CiphertextHidingDRAMEnabled",
        "AliasCheckComplete",
        "TIOEnabled",
    ] {
        let mut json = common::full();
        common::set(
            &mut json,
            "/ReferenceValues/snp/0/PlatformInfo",
            json!({ flag: true }),
        );
        let info = parsed(&json).reference_values().snp[0].platform_info;
        // A feature that may be on, or one that must be.
        for (name, value) in [
            ("SMTEnabled", info.smt),
            ("TSMEEnabled", info.tsme),
            ("TIOEnabled", info.tio),
        ] {
            assert_eq!(value, (name != flag).then_some(false), "{flag} {info:?}");
        }
        for (name, value) in [
            ("ECCEnabled", info.ecc),
            ("RAPLDisabled", info.rapl_disabled),
            ("CiphertextHidingDRAMEnabled", info.ciphertext_hiding),
            ("AliasCheckComplete", info.alias_check_complete),
        ] {
            assert_eq!(value, (name == flag).then_some(true), "{flag} {info:?}");
        }
    }
}

#[test]
fn owners_quorums_rotation_and_lifetime_are_as_stated() {
    let manifest = parsed(&common::full());
    assert_eq!(
        manifest.workload_owners(),
        [digest(OWNER), digest(OTHER_OWNER)]
    );
    assert_eq!(manifest.update_quorum(), 2);
    let keys: Vec<_> = manifest
        .seedshare_owners()
        .iter()
        .map(hex::encode)
        .collect();
    assert_eq!(keys, *RSA);
    assert_eq!(manifest.seedshare_quorum(), 2);
    let expected = Rotation {
        mode: RotationMode::Strict,
        deadline: Duration::from_mins(1),
    };
    assert_eq!(manifest.rotation(), expected);
    assert_eq!(manifest.certificate_lifetime(), Duration::from_mins(90));
}

#[test]
fn what_is_left_out_has_a_default() {
    let manifest = parsed(&common::minimal());
    assert_eq!(manifest.trust_domain().as_str(), "mesh.local");
    let (_, coordinator) = manifest.coordinator();
    let expected = id("spiffe://mesh.local/ns/default/sa/coordinator");
    assert_eq!(coordinator.spiffe_id, expected);
    assert_eq!(coordinator.allowed_peers, AllowedPeers::Any);
    assert_eq!(manifest.workload_owners(), []);
    assert_eq!(manifest.update_quorum(), 0);
    assert_eq!(manifest.seedshare_quorum(), 1);
    let expected = Rotation {
        mode: RotationMode::Graceful,
        deadline: Duration::from_mins(5),
    };
    assert_eq!(manifest.rotation(), expected);
    assert_eq!(manifest.certificate_lifetime(), Duration::from_hours(24));
}

#[test]
fn one_owner_suffices_unless_a_quorum_is_stated() {
    let mut json = common::full();
    common::remove(&mut json, "/UpdateQuorum");
    common::remove(&mut json, "/SeedshareQuorum");
    let manifest = parsed(&json);
    assert_eq!(
        (manifest.update_quorum(), manifest.seedshare_quorum()),
        (1, 1)
    );
}

#[test]
fn the_default_tcb_status_is_up_to_date_alone() {
    let mut json = common::full();
    for field in [
        "TcbStatuses",
        "TdAttributes",
        "MinTCBEvaluationDataNumber",
        "AllowedPIIDs",
    ] {
        common::remove(&mut json, &format!("/ReferenceValues/tdx/0/{field}"));
    }
    let manifest = parsed(&json);
    let [tdx] = manifest.reference_values().tdx.as_slice() else {
        panic!("one entry")
    };
    assert_eq!(tdx.tcb_statuses, [TcbStatus::UpToDate]);
    assert_eq!(tdx.td_attributes, None);
    assert_eq!(tdx.min_tcb_evaluation_data_number, None);
    assert!(tdx.ppids.is_empty());
}

#[test]
fn turin_has_an_fmc() {
    let mut json = common::full();
    common::set(
        &mut json,
        "/ReferenceValues/snp/0/ProductName",
        json!("Turin"),
    );
    common::set(
        &mut json,
        "/ReferenceValues/snp/0/MinimumTCB/FMCVersion",
        json!(1),
    );
    let manifest = parsed(&json);
    assert_eq!(manifest.reference_values().snp[0].minimum_tcb.fmc, Some(1));
}

#[test]
fn an_empty_list_of_peers_allows_nobody() {
    let mut json = common::full();
    common::set(
        &mut json,
        &format!("/Policies/{DB}/AllowedPeers"),
        json!([]),
    );
    let manifest = parsed(&json);
    assert_eq!(
        manifest.policy(&digest(DB)).unwrap().allowed_peers,
        only(&[])
    );
}

#[test]
fn the_bytes_are_kept_and_hashed_as_they_are() {
    let spaced = serde_json::to_vec_pretty(&common::full()).unwrap();
    let manifest = Manifest::parse(&spaced).unwrap();
    assert_eq!(manifest.bytes(), spaced);
    assert_eq!(manifest.hash(), Digest::of(&spaced));
    let dense = parsed(&common::full());
    assert_ne!(dense.hash(), manifest.hash());
    assert_ne!(dense, manifest);
    assert_eq!(Manifest::parse(manifest.bytes()).unwrap(), manifest);
}

/// As `contrast generate` writes them for bare metal: Go's nulls and empty strings, no field of ours.
#[test]
fn a_manifest_of_contrast_is_accepted() {
    let text = r#"{
  "Policies": {
    "7dd8d2a1e3a3b6cf6b2b6dbf0f4ea5cb4b3c8bb8bd1b2ac2ae0d0d7a5fbc1d01": {
      "SANs": ["coordinator"],
      "WorkloadSecretID": "apps/v1/StatefulSet/default/coordinator",
      "Role": "coordinator"
    },
    "1f5c1c8d0e8a0b8c3a1d1b1f9a7e5d3c2b1a0f9e8d7c6b5a4f3e2d1c0b9a8f7e": {
      "SANs": ["emoji", "emoji.default.svc.cluster.local"],
      "WorkloadSecretID": "apps/v1/Deployment/default/emoji",
      "Role": ""
    },
    "2f5c1c8d0e8a0b8c3a1d1b1f9a7e5d3c2b1a0f9e8d7c6b5a4f3e2d1c0b9a8f7e": {
      "SANs": ["voting"],
      "WorkloadSecretID": ""
    }
  },
  "ReferenceValues": {
    "snp": [{
      "Platform": "Metal-QEMU-SNP",
      "ProductName": "Milan",
      "TrustedMeasurement": "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f",
      "MinimumTCB": {
        "BootloaderVersion": 3, "TEEVersion": 0, "SNPVersion": 8, "MicrocodeVersion": 115
      },
      "GuestPolicy": {
        "ABIMinor": 0, "ABIMajor": 0, "SMT": true, "MigrateMA": false, "Debug": false,
        "SingleSocket": false, "CXLAllowed": false, "MemAES256XTS": false, "RAPLDis": false,
        "CipherTextHidingDRAM": false, "PageSwapDisabled": false
      },
      "PlatformInfo": {
        "SMTEnabled": true, "TSMEEnabled": false, "ECCEnabled": false, "RAPLDisabled": false,
        "CiphertextHidingDRAMEnabled": false, "AliasCheckComplete": false, "TIOEnabled": false
      },
      "MinimumMitigationVector": 0,
      "AllowedChipIDs": null,
      "CPUs": [1, 2]
    }],
    "tdx": null
  },
  "WorkloadOwnerKeyDigests": null,
  "SeedshareOwnerPubKeys": ["RSA"]
}
"#;
    let text = text.replace("RSA", &RSA[0]);
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.policies().len(), 3);
    assert_eq!(manifest.update_quorum(), 0);
    let emoji = digest("1f5c1c8d0e8a0b8c3a1d1b1f9a7e5d3c2b1a0f9e8d7c6b5a4f3e2d1c0b9a8f7e");
    let emoji = manifest.policy(&emoji).unwrap();
    assert_eq!(
        emoji.spiffe_id,
        id("spiffe://mesh.local/ns/default/sa/emoji")
    );
    assert_eq!(emoji.allowed_peers, AllowedPeers::Any);
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn only(ids: &[&str]) -> AllowedPeers {
    AllowedPeers::Only(ids.iter().map(|text| id(text)).collect::<BTreeSet<_>>())
}
