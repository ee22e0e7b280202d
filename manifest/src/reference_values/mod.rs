//! What evidence is compared with.

mod describe;
mod sev_snp;
mod simulated;
mod tdx;

use attestation::ReferenceValues;

use crate::error::{Collector, Problem};
use crate::read::{Cursor, Object};

pub(crate) use describe::{fields_of_simulated, fields_of_snp, fields_of_tdx};
pub(crate) use sev_snp::PRODUCTS;

pub(crate) fn reference_values(root: &Object<'_>, errors: &Collector) -> ReferenceValues {
    let path = root.path_of("ReferenceValues");
    let Some(object) = root.optional("ReferenceValues") else {
        errors.add(&path, Problem::NoReferenceValues, "nothing", "snp or tdx");
        return ReferenceValues::default();
    };
    let Some(object) = object.object(&["snp", "tdx", "simulated"]) else {
        return ReferenceValues::default();
    };
    let (snp, any_snp) = read_all(&object, "snp", sev_snp::reference_values);
    let (tdx, any_tdx) = read_all(&object, "tdx", tdx::reference_values);
    let (simulated, any_simulated) = read_all(&object, "simulated", simulated::reference_values);
    if any_simulated && (any_snp || any_tdx) {
        errors.mismatch(
            &path.field("simulated"),
            "the simulated TEE beside TEEs of hardware",
            "one or the other: what software can simulate would stand in for hardware",
        );
    }
    if !(any_snp || any_tdx || any_simulated) {
        errors.add(&path, Problem::NoReferenceValues, "nothing", "snp or tdx");
    }
    ReferenceValues {
        snp,
        tdx,
        simulated,
    }
}

/// The readable elements, and whether anything stands there, readable or not.
fn read_all<'a, R>(
    object: &Object<'a>,
    name: &'static str,
    read: impl Fn(&Cursor<'a>) -> Option<R>,
) -> (Vec<R>, bool) {
    let Some(cursor) = object.optional(name) else {
        return (Vec::new(), false);
    };
    let Some(elements) = cursor.list() else {
        return (Vec::new(), true);
    };
    if elements.len() > MAX_ENTRIES {
        cursor.reject(format_args!("at most {MAX_ENTRIES} entries"));
        return (Vec::new(), true);
    }
    (
        elements.iter().filter_map(read).collect(),
        !elements.is_empty(),
    )
}

/// `Platform` and `CPUs`, which Contrast's tools write for people: checked for type alone.
fn check_information(object: &Object<'_>) {
    if let Some(platform) = object.optional("Platform") {
        platform.string();
    }
    for cpus in object
        .optional("CPUs")
        .and_then(|cpus| cpus.list())
        .unwrap_or_default()
    {
        cpus.integer(1..=u64::from(u32::MAX));
    }
}

/// A field that is absent, or false as Contrast's tools write it.
fn flag(object: &Object<'_>, name: &'static str) -> bool {
    object
        .optional(name)
        .and_then(|cursor| cursor.boolean())
        .unwrap_or_default()
}

/// Evidence that matches none is compared with all of them, and is refused with the reasons of each.
const MAX_ENTRIES: usize = 1024;
