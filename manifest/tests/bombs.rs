//! Manifests that try to be expensive.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{WEB, refused};
use manifest::Manifest;
use serde_json::json;

#[test]
fn a_hundred_mebibytes_are_refused_unread() {
    let mut bytes = vec![b' '; 100 * 1024 * 1024];
    // Read as far as this, it would be another error.
    bytes[0] = 0xff;
    assert_eq!(
        refused(&bytes),
        ["manifest: got 104857600 bytes, want at most 1048576 bytes"]
    );
}

#[test]
fn the_longest_manifest_is_accepted_and_one_more_byte_is_not() {
    let mut bytes = common::full().to_string().into_bytes();
    bytes.resize(Manifest::MAX_BYTES, b'\n');
    assert!(Manifest::parse(&bytes).is_ok());
    bytes.push(b'\n');
    assert_eq!(
        refused(&bytes),
        ["manifest: got 1048577 bytes, want at most 1048576 bytes"]
    );
}

#[test]
fn deep_nesting_is_refused_and_the_stack_survives() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = Manifest::MAX_BYTES / open.len() - 1;
        let lines = refused(open.repeat(depth).as_bytes());
        assert!(
            lines[0].starts_with("manifest: got recursion limit exceeded at line 1"),
            "{lines:?}"
        );
        let closed = [open.repeat(200), "1".to_owned(), close.repeat(200)].concat();
        let lines = refused(closed.as_bytes());
        assert!(
            lines[0].starts_with("manifest: got recursion limit exceeded at line 1"),
            "{lines:?}"
        );
    }
}

#[test]
fn more_values_than_any_manifest_has_are_refused() {
    let text = ["[", &"0,".repeat(Manifest::MAX_BYTES / 2 - 2), "0]"].concat();
    assert_eq!(
        refused(text.as_bytes()),
        [
            "manifest: got more than 250000 values in one manifest at line 1 column 499999, want JSON"
        ]
    );
}

#[test]
fn long_texts_are_cut_in_messages() {
    let mut json = common::full();
    let long = "x\u{1b}".repeat(100_000);
    common::set(&mut json, "/Rotation/Mode", json!(long));
    common::set(&mut json, &format!("/Policies/{long}"), json!({}));
    common::set(&mut json, &format!("/{long}"), json!(1));
    common::set(&mut json, "/TrustDomain", json!(long));
    for line in refused(json.to_string().as_bytes()) {
        assert!(line.len() < 2000, "{}", line.len());
        assert!(line.chars().all(|c| !c.is_control()), "{line}");
    }
}

/// The hint compares names, and both sides of the comparison come from the manifest.
#[test]
fn thousands_of_unknown_names_are_refused_with_a_hundred_hints() {
    let mut json = common::full();
    let peers: Vec<_> = (0..20_000).map(|i| format!("unknown-{i:07}")).collect();
    common::set(
        &mut json,
        &format!("/Policies/{WEB}/AllowedPeers"),
        json!(peers),
    );
    let policies = json
        .pointer_mut("/Policies")
        .unwrap()
        .as_object_mut()
        .unwrap();
    for i in 0..3000 {
        policies.insert(
            format!("{i:064x}"),
            json!({ "SANs": [format!("known-{i:057}")] }),
        );
    }
    assert_eq!(
        refused(json.to_string().as_bytes()).last().unwrap(),
        "and 19900 more"
    );
}

/// Each is compared with the first of its identity, which says a lot.
#[test]
fn thousands_of_contradictions_are_refused() {
    let mut json = common::full();
    let policies = json
        .pointer_mut("/Policies")
        .unwrap()
        .as_object_mut()
        .unwrap();
    let peers: Vec<_> = (0..2000).map(|i| format!("w{i}")).collect();
    for (i, peer) in peers.iter().enumerate() {
        policies.insert(format!("{:064x}", i + 1), json!({ "SANs": [peer] }));
    }
    let said = json!({ "SANs": ["same"], "AllowedPeers": peers });
    policies.insert(format!("{:064x}", 0), said);
    for i in 0..5000 {
        let hash = format!("f{i:063x}");
        policies.insert(hash, json!({ "SANs": ["same"], "AllowedPeers": [] }));
    }
    let lines = refused(json.to_string().as_bytes());
    assert_eq!(lines.len(), 101);
    assert_eq!(lines[100], "and 4900 more");
    let id = "spiffe://shop.example/ns/default/sa";
    let first: Vec<_> = [0, 1, 10, 100, 1000, 1001, 1002, 1003]
        .iter()
        .map(|i| format!("{id}/w{i}"))
        .collect();
    assert_eq!(
        lines[0],
        format!(
            "Policies[\"f{:063x}\"].AllowedPeers: got none, want {} and 1992 more as in \
             Policies[\"{:064x}\"]: both are {id}/same",
            0,
            first.join(", "),
            0
        )
    );
}
