//! Reference values by themselves, for judging evidence without a deployment.

use attestation::ReferenceValues;

use crate::error::{Collector, ManifestErrors};
use crate::manifest::{Manifest, json};
use crate::path::Path;
use crate::read::{Cursor, Json};
use crate::reference_values::reference_values;

/// Reads the reference values of a whole manifest, of an object that has `ReferenceValues` alone, or
/// of the object that stands under that name.
///
/// As strict as [`Manifest::parse`]; paths are those of a manifest.
pub fn reference_values_of(bytes: &[u8]) -> Result<ReferenceValues, ManifestErrors> {
    let errors = Collector::default();
    let Some(parsed) = json(bytes, &errors) else {
        return Err(errors.into_errors());
    };
    let has = |name: &str| {
        Cursor::new(&parsed, Path::root(), &Collector::default())
            .map()
            .is_some_and(|mut fields| fields.any(|(field, _)| field == name))
    };
    if has("Policies") {
        return Manifest::parse(bytes).map(|it| it.reference_values().clone());
    }
    let wrapped = if has("ReferenceValues") {
        Some(parsed)
    } else {
        let text = String::from_utf8_lossy(bytes);
        Json::parse(&format!("{{\"ReferenceValues\": {text}}}")).ok()
    };
    let values = wrapped.as_ref().and_then(|json| {
        let root = Cursor::new(json, Path::root(), &errors).object(&["ReferenceValues"])?;
        Some(reference_values(&root, &errors))
    });
    match values {
        Some(values) if errors.count() == 0 => Ok(values),
        _ => Err(errors.into_errors()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: &str = r#"{"simulated": [{"TrustedMeasurement": "MM", "PlatformKeys": ["KK"]}]}"#;

    fn values() -> String {
        VALUES
            .replace("MM", &"01".repeat(48))
            .replace("KK", &"02".repeat(32))
    }

    #[test]
    fn the_object_is_read_with_and_without_its_name() {
        let bare = reference_values_of(values().as_bytes()).unwrap();
        assert_eq!(bare.simulated.len(), 1);
        let named = format!("{{\"ReferenceValues\": {}}}", values());
        assert_eq!(reference_values_of(named.as_bytes()).unwrap(), bare);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path_in_a_manifest() {
        let wrong = values().replace("01", "zz");
        let errors = reference_values_of(wrong.as_bytes()).unwrap_err();
        let text = errors.to_string();
        assert!(
            text.contains("ReferenceValues.simulated[0].TrustedMeasurement"),
            "{text}"
        );
        for text in ["", "[]", "{}", "1", "{\"snp\": 1}", "{\"Policies\": {}}"] {
            reference_values_of(text.as_bytes()).unwrap_err();
        }
    }
}
