//! What a new manifest changes, in the words that an operator reads before signing it.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use attestation::Tee;
use common::{COORDINATOR, DB, NODE, OTHER_OWNER, OWNER, RSA, WEB, WEB_NEXT, digest, parsed, set};
use manifest::{Change, Manifest, PolicyChange, diff};
use serde_json::{Value, json};

const WEB_ID: &str = "spiffe://shop.example/ns/default/sa/web";
const DB_ID: &str = "spiffe://shop.example/ns/data/sa/db";
const NODE_ID: &str = "spiffe://shop.example/node/blue";

/// The changes from the full manifest to that with the values at these pointers.
fn changes(edits: &[(&str, Value)]) -> Vec<Change> {
    let mut json = common::full();
    for (pointer, value) in edits {
        set(&mut json, pointer, value.clone());
    }
    diff(&parsed(&common::full()), &parsed(&json))
}

fn texts(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

fn without_policy(hash: &str) -> Value {
    let mut json = common::full();
    common::remove(&mut json, &format!("/Policies/{hash}"));
    json
}

#[test]
fn spelling_is_no_change() {
    let full = parsed(&common::full());
    let spaced = serde_json::to_vec_pretty(&common::full()).unwrap();
    assert_eq!(diff(&full, &Manifest::parse(&spaced).unwrap()), []);

    let changes = changes(&[
        (
            &format!("/Policies/{WEB}/SANs"),
            json!(["web.default.svc", "fd00:0::7", "10.0.0.7"]),
        ),
        (&format!("/Policies/{WEB}/AllowedPeers"), json!([DB_ID])),
        (&format!("/Policies/{WEB}/SpiffeID"), json!(WEB_ID)),
        (&format!("/Policies/{WEB}/Role"), json!("")),
        ("/WorkloadOwnerKeyDigests", json!([OTHER_OWNER, OWNER])),
        ("/SeedshareOwnerPubKeys", json!([RSA[1], RSA[0]])),
        ("/ReferenceValues/snp/0/Platform", json!(null)),
    ]);
    assert_eq!(changes, []);
}

#[test]
fn policies_come_and_go() {
    let without = parsed(&without_policy(WEB_NEXT));
    let full = parsed(&common::full());
    let next = full.policy(&digest(WEB_NEXT)).unwrap().clone();

    let added = diff(&without, &full);
    let hash = digest(WEB_NEXT);
    let policy = next.clone();
    assert_eq!(added, [Change::PolicyAdded { hash, policy }]);
    assert_eq!(
        texts(&added),
        [format!(
            "policy {WEB_NEXT} added: its guests get certificates as {WEB_ID} and may talk with 1 \
             peer"
        )]
    );

    let removed = diff(&full, &without);
    let policy = next;
    assert_eq!(removed, [Change::PolicyRemoved { hash, policy }]);
    assert_eq!(
        texts(&removed),
        [format!(
            "policy {WEB_NEXT} ({WEB_ID}) removed: its certificates are withdrawn and its \
             connections closed"
        )]
    );
    assert_eq!(
        (removed[0].kind(), removed[0].subject().as_str()),
        ("policy-removed", WEB_NEXT)
    );
}

#[test]
fn a_node_that_goes_takes_its_workloads_along() {
    let removed = diff(&parsed(&common::full()), &parsed(&without_policy(NODE)));
    assert_eq!(
        texts(&removed),
        [format!(
            "policy {NODE} ({NODE_ID}) removed: its certificates and those of the workloads on such \
             nodes are withdrawn and their connections closed"
        )]
    );
}

#[test]
fn another_coordinator_is_the_heir_of_the_seed() {
    let mut json = without_policy(COORDINATOR);
    let hash = "d".repeat(64);
    let policy = json!({ "SANs": ["coordinator"], "Role": "coordinator" });
    set(&mut json, &format!("/Policies/{hash}"), policy);
    let id = "spiffe://shop.example/ns/default/sa/coordinator";
    assert_eq!(
        texts(&diff(&parsed(&common::full()), &parsed(&json))),
        [
            format!(
                "policy {COORDINATOR} ({id}) removed: such a Coordinator is no longer trusted and \
                 recovers from no other"
            ),
            format!(
                "policy {hash} added: such a Coordinator may recover the seed and issue certificates"
            ),
        ]
    );
}

#[test]
fn each_part_of_a_policy_is_a_change_of_its_own() {
    let changed = changes(&[(
        &format!("/Policies/{NODE}"),
        json!({
            "SpiffeID": "spiffe://shop.example/node/green", "Role": "node", "Hosts": ["web"],
            "SANs": ["10.1.0.1"], "WorkloadSecretID": "nodes", "AllowedPeers": [], "MaxInstances": 2
        }),
    )]);
    let kinds: Vec<_> = changed.iter().map(Change::kind).collect();
    assert_eq!(
        kinds,
        [
            "spiffe-id",
            "name-added",
            "workload-secret-id",
            "peers-restricted",
            "max-instances",
            "host-removed",
        ]
    );
    let policy = format!("policy {NODE} (spiffe://shop.example/node/green)");
    assert_eq!(
        texts(&changed),
        [
            format!(
                "{policy}: SPIFFE ID {NODE_ID} -> spiffe://shop.example/node/green: certificates of \
                 the old one are withdrawn and their connections closed"
            ),
            format!("{policy}: name 10.1.0.1 added: its next certificate has it"),
            format!(
                "{policy}: workload secret id none -> nodes: what was encrypted with the old secret \
                 can't be read with the new one"
            ),
            format!("{policy}: allowed peers: any -> nobody: connections with others are closed"),
            format!("{policy}: instances at most no limit -> 2"),
            format!("{policy}: the node may no longer host {DB_ID}: it gets no certificate there"),
        ]
    );
    assert!(changed.iter().all(|change| change.subject() == NODE));
}

#[test]
fn peers_are_allowed_and_withdrawn_one_by_one() {
    let changed = changes(&[(
        &format!("/Policies/{DB}/AllowedPeers"),
        json!(["coordinator", "db"]),
    )]);
    let policy = format!("policy {DB} ({DB_ID})");
    assert_eq!(
        texts(&changed),
        [
            format!("{policy}: peer {WEB_ID} withdrawn: connections with it are closed"),
            format!("{policy}: peer {DB_ID} allowed"),
            format!("{policy}: peer spiffe://shop.example/ns/default/sa/coordinator allowed"),
        ]
    );
    let changed = changes(&[(&format!("/Policies/{DB}/AllowedPeers"), json!(null))]);
    assert!(
        matches!(
            changed.as_slice(),
            [Change::PolicyChanged {
                change: PolicyChange::AllPeersAllowed,
                ..
            }]
        ),
        "{changed:?}"
    );
}

#[test]
fn a_workload_that_becomes_a_node_is_named() {
    let changed = changes(&[(&format!("/Policies/{NODE}"), json!({ "SpiffeID": NODE_ID }))]);
    let policy = format!("policy {NODE} ({NODE_ID})");
    assert_eq!(
        texts(&changed),
        [
            format!("{policy}: role node -> workload"),
            format!("{policy}: the node may no longer host {DB_ID}: it gets no certificate there"),
            format!("{policy}: the node may no longer host {WEB_ID}: it gets no certificate there"),
        ]
    );
}

#[test]
fn a_raised_tcb_is_a_change_of_that_field() {
    let mut raised = common::snp();
    set(&mut raised, "/MinimumTCB/SNPVersion", json!(15));
    // Before the one that stays as it is.
    let changed = changes(&[("/ReferenceValues/snp", json!([raised, common::snp()]))]);
    assert_eq!(
        texts(&changed),
        [format!(
            "reference value snp[0] added: sev-snp guests with measurement {} are trusted",
            "0a".repeat(48)
        )]
    );
    let changed = changes(&[("/ReferenceValues/snp", json!([raised]))]);
    assert_eq!(
        texts(&changed),
        [
            "reference value snp[0]: MinimumTCB.SNPVersion 14 -> 15: holds for every certificate from \
          now on"
        ]
    );
    assert_eq!(changed[0].kind(), "reference-value-changed");
}

#[test]
fn every_field_of_a_reference_value_is_compared() {
    let other_hex = |bytes: usize| "ee".repeat(bytes);
    for (pointer, value) in [
        ("snp/0/ProductName", json!("Milan")),
        ("snp/0/MinimumTCB/BootloaderVersion", json!(99)),
        ("snp/0/MinimumTCB/TEEVersion", json!(99)),
        ("snp/0/MinimumTCB/SNPVersion", json!(99)),
        ("snp/0/MinimumTCB/MicrocodeVersion", json!(99)),
        ("snp/0/GuestPolicy/ABIMajor", json!(99)),
        ("snp/0/GuestPolicy/ABIMinor", json!(99)),
        ("snp/0/GuestPolicy/SMT", json!(false)),
        ("snp/0/GuestPolicy/MigrateMA", json!(true)),
        ("snp/0/GuestPolicy/SingleSocket", json!(true)),
        ("snp/0/GuestPolicy/CXLAllowed", json!(true)),
        ("snp/0/GuestPolicy/MemAES256XTS", json!(false)),
        ("snp/0/GuestPolicy/RAPLDis", json!(true)),
        ("snp/0/GuestPolicy/CipherTextHidingDRAM", json!(true)),
        ("snp/0/GuestPolicy/PageSwapDisabled", json!(false)),
        ("snp/0/PlatformInfo/SMTEnabled", json!(false)),
        ("snp/0/PlatformInfo/TSMEEnabled", json!(true)),
        ("snp/0/PlatformInfo/ECCEnabled", json!(false)),
        ("snp/0/PlatformInfo/RAPLDisabled", json!(true)),
        (
            "snp/0/PlatformInfo/CiphertextHidingDRAMEnabled",
            json!(true),
        ),
        ("snp/0/PlatformInfo/AliasCheckComplete", json!(false)),
        ("snp/0/PlatformInfo/TIOEnabled", json!(true)),
        ("snp/0/AllowedChipIDs", json!(null)),
        ("tdx/0/MrSeam", json!(other_hex(48))),
        ("tdx/0/Rtmrs/0", json!(other_hex(48))),
        ("tdx/0/Rtmrs/3", json!(other_hex(48))),
        ("tdx/0/Xfam", json!(other_hex(8))),
        ("tdx/0/TdAttributes", json!(null)),
        ("tdx/0/TcbStatuses", json!(null)),
        ("tdx/0/MinTCBEvaluationDataNumber", json!(null)),
        ("tdx/0/SMTDisabled", json!(false)),
        ("tdx/0/StaticPlatform", json!(false)),
        ("tdx/0/AllowedPIIDs", json!(null)),
    ] {
        let changed = changes(&[(&format!("/ReferenceValues/{pointer}"), value)]);
        let [
            Change::ReferenceValueChanged {
                entry,
                field,
                old,
                new,
            },
        ] = changed.as_slice()
        else {
            panic!("{pointer}: {changed:?}")
        };
        let path = format!("{}.{field}", entry.replace("[0]", ".0"));
        let path = path.replace('[', ".").replace(']', "");
        assert_eq!(path, pointer.replace('/', "."));
        assert_ne!(old, new);
    }
}

#[test]
fn another_measurement_is_another_reference_value() {
    let changed = changes(&[("/ReferenceValues/tdx/0/MrTd", json!("ee".repeat(48)))]);
    assert_eq!(
        texts(&changed),
        [
            format!(
                "reference value tdx[0] removed: tdx guests with measurement {} get no certificate, \
                 unless another entry lists them",
                "1a".repeat(48)
            ),
            format!(
                "reference value tdx[0] added: tdx guests with measurement {} are trusted",
                "ee".repeat(48)
            ),
        ]
    );
}

#[test]
fn leaving_hardware_for_the_simulated_tee_shows() {
    let changed = changes(&[(
        "/ReferenceValues",
        json!({ "simulated": [common::simulated()] }),
    )]);
    let tees: Vec<_> = changed
        .iter()
        .map(|change| match change {
            Change::ReferenceValueAdded { tee, .. } => (Some(*tee), None),
            Change::ReferenceValueRemoved { tee, .. } => (None, Some(*tee)),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (None, Some(Tee::SevSnp)),
        (None, Some(Tee::Tdx)),
        (Some(Tee::Simulated), None),
    ];
    assert_eq!(tees, expected);
}

#[test]
fn owners_and_quorums() {
    let third = "e".repeat(64);
    let changed = changes(&[
        ("/WorkloadOwnerKeyDigests", json!([OWNER, third])),
        ("/UpdateQuorum", json!(1)),
        ("/SeedshareOwnerPubKeys", json!([RSA[0]])),
        ("/SeedshareQuorum", json!(1)),
    ]);
    let key = attestation::Digest::of(&hex::decode(&RSA[1]).unwrap());
    assert_eq!(
        texts(&changed),
        [
            format!("owner key {OTHER_OWNER} removed: its signature no longer counts"),
            format!("owner key {third} added: it may sign updates"),
            "update quorum 2 -> 1: an update takes 1 owner".to_owned(),
            format!(
                "seed-share owner {key} removed: it gets no new share; who holds a quorum of old \
                 ones still has the seed"
            ),
            "seed-share quorum 2 -> 1: recovery takes 1 share".to_owned(),
        ]
    );
}

#[test]
fn giving_up_owners_is_said_to_be_final() {
    let changed = changes(&[
        ("/WorkloadOwnerKeyDigests", json!([])),
        ("/UpdateQuorum", json!(null)),
    ]);
    let texts = texts(&changed);
    let says = |what: &str| texts.iter().any(|text| text.contains(what));
    assert!(
        says("this manifest can never be changed again"),
        "{texts:?}"
    );
}

#[test]
fn rotation_and_lifetime() {
    let changed = changes(&[
        ("/Rotation", json!({ "DeadlineSeconds": 600 })),
        ("/CertificateLifetime", json!("2d")),
    ]);
    assert_eq!(
        texts(&changed),
        [
            "rotation strict -> graceful: updates drop no connection of who stays trusted",
            "rotation deadline 1m -> 10m: agents that take longer are left behind",
            "certificate lifetime 90m -> 2d: holds for every certificate from now on",
        ]
    );
}

#[test]
fn another_trust_domain_is_the_first_thing_said() {
    let mut json = common::minimal();
    set(&mut json, "/TrustDomain", json!("other.example"));
    let changed = diff(&parsed(&common::minimal()), &parsed(&json));
    let kinds: Vec<_> = changed.iter().map(Change::kind).collect();
    assert_eq!(kinds, ["trust-domain", "spiffe-id"]);
}
