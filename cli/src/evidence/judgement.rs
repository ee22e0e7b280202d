//! A verdict, for people or as JSON.

use std::fmt::Write;

use attestation::{Refusal, Refusals};
use serde_json::{Value, json};

use crate::failure::Failure;

/// The objections; the first one stands at the top of the JSON object.
pub(super) fn refused(refusals: &Refusals, as_json: bool) -> Failure {
    Failure::Refused(if as_json {
        json(refusals)
    } else {
        text(refusals)
    })
}

fn json(refusals: &Refusals) -> String {
    let mut value = refusals.first().map_or(Value::Null, object);
    if let Value::Object(object_of_first) = &mut value {
        object_of_first.insert("ok".into(), false.into());
        let all = refusals.iter().map(|(reference, refusal)| {
            let mut value = object(refusal);
            value["reference"] = reference.into();
            value
        });
        object_of_first.insert("refusals".into(), all.collect());
    }
    format!("{value:#}\n")
}

fn object(refusal: &Refusal) -> Value {
    json!({
        "code": refusal.code.as_str(),
        "class": refusal.code.class().as_str(),
        "field": refusal.field,
        "got": refusal.got,
        "want": refusal.want,
        "hint": refusal.code.hint(),
    })
}

fn text(refusals: &Refusals) -> String {
    let mut text = String::from("refused\n");
    for (reference, refusal) in refusals.iter() {
        let reference = if reference.is_empty() {
            String::new()
        } else {
            format!("{reference}: ")
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "  {reference}{}\n    field  {}\n    got    {}\n    want   {}\n    hint   {}",
            refusal.code,
            refusal.field,
            refusal.got,
            refusal.want,
            refusal.code.hint()
        );
    }
    text
}
