//! Each rule of the format, broken, with the exact diagnostics.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../common/mod.rs"]
mod common;
mod owners;
mod policies;
mod reference_values;

use common::{COORDINATOR, DB, NODE, WEB, WEB_NEXT, refused, set};
use serde_json::Value;

/// One value of the full manifest is replaced; `null` is the same as none. `$WEB` and the like
/// stand for policy hashes.
fn check(cases: &[(&str, Value, &[&str])]) {
    for (pointer, value, expected) in cases {
        let mut json = common::full();
        set(&mut json, &spelt_out(pointer), value.clone());
        let expected: Vec<_> = expected.iter().map(|line| spelt_out(line)).collect();
        let got = refused(json.to_string().as_bytes());
        assert_eq!(got, expected, "{pointer} = {value}");
    }
}

fn spelt_out(text: &str) -> String {
    [
        ("$COORDINATOR", COORDINATOR),
        ("$NEXT", WEB_NEXT),
        ("$WEB", WEB),
        ("$DB", DB),
        ("$NODE", NODE),
    ]
    .iter()
    .fold(text.to_owned(), |text, (name, hash)| {
        text.replace(name, hash)
    })
}
