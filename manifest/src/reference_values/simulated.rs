use attestation::simulated::ReferenceValues;

use crate::read::Cursor;

pub(super) fn reference_values(cursor: &Cursor<'_>) -> Option<ReferenceValues> {
    let object = cursor.object(&["TrustedMeasurement", "PlatformKeys"])?;
    let measurement = object
        .required("TrustedMeasurement")
        .and_then(|cursor| cursor.hex());
    let platform_keys = object.required("PlatformKeys").and_then(|cursor| {
        let keys = cursor.distinct(Cursor::digest)?;
        if cursor.list()?.is_empty() {
            cursor.reject("the digest of at least one platform key");
        }
        Some(keys)
    });
    Some(ReferenceValues {
        measurement: measurement?,
        platform_keys: platform_keys?,
    })
}
