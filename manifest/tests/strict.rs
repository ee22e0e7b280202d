//! Bytes that are no manifest, and how errors are told.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{COORDINATOR, OWNER, WEB, refused};
use manifest::{Manifest, ManifestErrors, Problem};
use serde_json::{Value, json};

#[test]
fn every_error_is_reported_at_once_in_the_order_of_the_fields() {
    let mut json = common::full();
    common::set(&mut json, "/TrustDomian", json!("shop.example"));
    common::set(
        &mut json,
        &format!("/Policies/{WEB}/MaxInstances"),
        json!(0),
    );
    common::set(
        &mut json,
        &format!("/Policies/{WEB}/AllowedPeers"),
        json!(["bd"]),
    );
    common::set(
        &mut json,
        "/ReferenceValues/snp/0/TrustedMeasurement",
        json!("0a0b0c0d0e"),
    );
    common::set(
        &mut json,
        "/ReferenceValues/snp/0/MinimumTCB/SNPVersion",
        json!(null),
    );
    common::set(
        &mut json,
        "/ReferenceValues/snp/0/GuestPolicy/Debug",
        json!(true),
    );
    common::set(&mut json, "/ReferenceValues/tdx/0/Xfam", json!(""));
    common::set(&mut json, "/UpdateQuorum", json!(3));
    common::set(&mut json, "/Rotation/Mode", json!("slow"));
    common::set(&mut json, "/CertificateLifetime", json!("1y"));
    assert_eq!(
        refused(json.to_string().as_bytes()),
        [
            "manifest: got unknown field \"TrustDomian\" (did you mean \"TrustDomain\"?), want only \
             TrustDomain, Policies, ReferenceValues, WorkloadOwnerKeyDigests, UpdateQuorum, \
             SeedshareOwnerPubKeys, SeedshareQuorum, Rotation, CertificateLifetime"
                .to_owned(),
            format!(
                "Policies[\"{WEB}\"].MaxInstances: got 0, want a whole number from 1 to 4294967295"
            ),
            format!(
                "Policies[\"{WEB}\"].AllowedPeers[0]: got \"bd\", want the SPIFFE ID or name of a \
                 policy in this manifest (did you mean \"db\"?)"
            ),
            "ReferenceValues.snp[0].TrustedMeasurement: invalid length: 10 (expected 96)".to_owned(),
            "ReferenceValues.snp[0].MinimumTCB.SNPVersion: field cannot be empty".to_owned(),
            "ReferenceValues.snp[0].GuestPolicy.Debug: modifying this field is not permitted"
                .to_owned(),
            "ReferenceValues.tdx[0].Xfam: field cannot be empty".to_owned(),
            "UpdateQuorum: got 3, want 1 to 2, the number of keys".to_owned(),
            "Rotation.Mode: got \"slow\", want graceful or strict".to_owned(),
            "CertificateLifetime: got \"1y\", want a whole number and s, m, h or d, from 10s to 30d"
                .to_owned(),
        ]
    );
}

#[test]
fn an_error_has_its_parts() {
    let mut json = common::full();
    common::set(
        &mut json,
        "/ReferenceValues/snp/0/TrustedMeasurement",
        json!("0a"),
    );
    let errors = Manifest::parse(json.to_string().as_bytes()).unwrap_err();
    let [error] = errors.iter().collect::<Vec<_>>()[..] else {
        panic!("{errors}")
    };
    assert_eq!(error.path, "ReferenceValues.snp[0].TrustedMeasurement");
    assert_eq!(error.got, "\"0a\"");
    assert_eq!(error.want, "96 hexadecimal digits");
    let length = Problem::Length {
        found: 2,
        expected: 96,
    };
    assert_eq!(error.problem, length);
}

#[test]
fn a_hundred_errors_are_listed_and_the_rest_is_counted() {
    let mut json = common::full();
    common::set(
        &mut json,
        "/WorkloadOwnerKeyDigests",
        json!(vec!["zz"; 250]),
    );
    let lines = refused(json.to_string().as_bytes());
    assert_eq!(lines.len(), ManifestErrors::MAX_LISTED + 1);
    assert_eq!(
        lines[99],
        "WorkloadOwnerKeyDigests[99]: invalid length: 2 (expected 64)"
    );
    assert_eq!(lines[100], "and 150 more");
    let errors = Manifest::parse(json.to_string().as_bytes()).unwrap_err();
    assert_eq!((errors.iter().count(), errors.count()), (100, 250));
}

/// `serde_json::Value` would take the last one without a word.
#[test]
fn a_key_given_twice_is_refused_at_every_depth() {
    let text = common::full().to_string();
    for (once, twice, line) in [
        (
            "\"UpdateQuorum\":2".to_owned(),
            "\"UpdateQuorum\":2,\"UpdateQuorum\":1".to_owned(),
            "UpdateQuorum: got the field twice, want it once".to_owned(),
        ),
        (
            "\"UpdateQuorum\":2".to_owned(),
            // The same key, spelt with an escape.
            "\"UpdateQuorum\":2,\"\\u0055pdateQuorum\":2".to_owned(),
            "UpdateQuorum: got the field twice, want it once".to_owned(),
        ),
        (
            format!("\"{COORDINATOR}\":"),
            format!("\"{WEB}\":{{\"SANs\":[\"web.default.svc\"]}},\"{COORDINATOR}\":"),
            format!("Policies[\"{WEB}\"]: got the key twice, want it once"),
        ),
        (
            "\"MaxInstances\":3".to_owned(),
            "\"MaxInstances\":3,\"MaxInstances\":30".to_owned(),
            format!("Policies[\"{WEB}\"].MaxInstances: got the field twice, want it once"),
        ),
        (
            "\"SNPVersion\":14".to_owned(),
            "\"SNPVersion\":14,\"SNPVersion\":0".to_owned(),
            "ReferenceValues.snp[0].MinimumTCB.SNPVersion: got the field twice, want it once"
                .to_owned(),
        ),
        (
            "\"Debug\":false".to_owned(),
            "\"Debug\":false,\"Debug\":true".to_owned(),
            "ReferenceValues.snp[0].GuestPolicy.Debug: got the field twice, want it once"
                .to_owned(),
        ),
    ] {
        assert_eq!(text.matches(&once).count(), 1, "{once}");
        let lines = refused(text.replace(&once, &twice).as_bytes());
        assert_eq!(lines[0], line);
    }
}

#[test]
fn what_is_no_json_is_refused_with_line_and_column() {
    for (text, line) in [
        (
            "",
            "manifest: got EOF while parsing a value at line 1 column 0, want JSON",
        ),
        (
            "{\n  \"Policies\" {}\n}",
            "manifest: got expected `:` at line 2 column 14, want JSON",
        ),
        (
            "{}\n{}",
            "manifest: got trailing characters at line 2 column 1, want JSON",
        ),
        (
            "{\"a\": 1e999}",
            "manifest: got number out of range at line 1 column 11, want JSON",
        ),
        (
            "{'a': 1}",
            "manifest: got key must be a string at line 1 column 2, want JSON",
        ),
        ("[]", "manifest: got a list of 0, want an object"),
        ("null", "manifest: got null, want an object"),
        ("\"x\"", "manifest: got \"x\", want an object"),
    ] {
        assert_eq!(refused(text.as_bytes()), [line], "{text}");
    }
}

#[test]
fn what_is_not_utf_8_is_refused_with_its_offset() {
    assert_eq!(
        refused(b"{\"Policies\": \"\xff\"}"),
        ["manifest: got 0xff at byte offset 14, want UTF-8"]
    );
    // UTF-16, as some editors write it.
    let utf16: Vec<_> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = [b"\xff\xfe".as_slice(), &utf16].concat();
    assert_eq!(
        refused(&with_mark),
        ["manifest: got 0xff at byte offset 0, want UTF-8"]
    );
    // Cut within a character.
    assert_eq!(
        refused(b"{\"\xc3"),
        ["manifest: got 0xc3 at byte offset 2, want UTF-8"]
    );
}

#[test]
fn no_prefix_of_a_manifest_is_one_and_none_panics() {
    let text = serde_json::to_vec(&common::full()).unwrap();
    assert!(Manifest::parse(&text).is_ok());
    for length in 0..text.len() {
        assert!(Manifest::parse(&text[..length]).is_err(), "{length}");
    }
}

#[test]
fn no_flipped_bit_panics() {
    let mut text = serde_json::to_vec(&common::full()).unwrap();
    for i in 0..text.len() {
        text[i] ^= 1 << (i % 8);
        drop(Manifest::parse(&text));
        text[i] ^= 1 << (i % 8);
    }
}

#[test]
fn every_value_of_another_type_is_an_error_and_none_panics() {
    let full = common::full();
    for pointer in pointers(&full, "") {
        for value in [
            json!(true),
            json!(-1),
            json!(1.5),
            json!("*"),
            json!([[]]),
            json!({"?": 1}),
        ] {
            let mut json = full.clone();
            common::set(&mut json, &pointer, value.clone());
            if json == full
                || (value == json!(true) && full.pointer(&pointer).unwrap().is_boolean())
            {
                continue;
            }
            // The one free text.
            if pointer.ends_with("Platform") && value.is_string()
                || pointer.ends_with("WorkloadSecretID") && value.is_string()
            {
                continue;
            }
            let lines = refused(json.to_string().as_bytes());
            assert!(!lines.is_empty(), "{pointer} {value}");
        }
    }
}

#[test]
fn a_placeholder_counts_as_empty() {
    let mut json = common::full();
    common::set(
        &mut json,
        "/ReferenceValues/snp/0/MinimumTCB/TEEVersion",
        json!("FILL IN: x"),
    );
    common::set(
        &mut json,
        "/ReferenceValues/tdx/0/Rtmrs/1",
        json!("FILL IN"),
    );
    common::set(
        &mut json,
        "/WorkloadOwnerKeyDigests",
        json!([OWNER, "FILL IN: the other"]),
    );
    assert_eq!(
        refused(json.to_string().as_bytes()),
        [
            "ReferenceValues.snp[0].MinimumTCB.TEEVersion: field cannot be empty",
            "ReferenceValues.tdx[0].Rtmrs[1]: field cannot be empty",
            "WorkloadOwnerKeyDigests[1]: field cannot be empty",
        ]
    );
}

/// A JSON pointer to each value but the root.
fn pointers(json: &Value, path: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match json {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (format!("{path}/{key}"), value))
            .collect(),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .map(|(i, value)| (format!("{path}/{i}"), value))
            .collect(),
        _ => Vec::new(),
    };
    children
        .into_iter()
        .flat_map(|(pointer, value)| {
            let mut all = pointers(value, &pointer);
            all.push(pointer);
            all
        })
        .collect()
}
