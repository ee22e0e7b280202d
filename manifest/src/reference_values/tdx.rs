use attestation::tdx::{ReferenceValues, TcbStatus};

use crate::error::Problem;
use crate::read::{Cursor, Object};

use super::{check_information, flag};

pub(super) fn reference_values(cursor: &Cursor<'_>) -> Option<ReferenceValues> {
    let object = cursor.object(&[
        "Platform",
        "MrTd",
        "MrSeam",
        "Rtmrs",
        "Xfam",
        "TdAttributes",
        "TcbStatuses",
        "MinTCBEvaluationDataNumber",
        "SMTDisabled",
        "StaticPlatform",
        "MemoryIntegrity",
        "AllowedPIIDs",
        "CPUs",
    ])?;
    check_information(&object);
    check_memory_integrity(&object);
    let mr_td = object.required("MrTd").and_then(|cursor| cursor.hex());
    let mr_seam = object.required("MrSeam").and_then(|cursor| cursor.hex());
    let rtmrs = object.required("Rtmrs").and_then(|cursor| rtmrs(&cursor));
    let xfam = object.required("Xfam").and_then(|cursor| cursor.hex());
    let min_tcb_evaluation_data_number = object
        .optional("MinTCBEvaluationDataNumber")
        .and_then(|cursor| cursor.integer(0..=u64::from(u32::MAX)))
        .and_then(|number| u32::try_from(number).ok());
    Some(ReferenceValues {
        td_attributes: td_attributes(&object),
        tcb_statuses: tcb_statuses(&object),
        min_tcb_evaluation_data_number,
        smt_disabled: flag(&object, "SMTDisabled"),
        static_platform: flag(&object, "StaticPlatform"),
        ppids: object
            .optional("AllowedPIIDs")
            .and_then(|cursor| cursor.distinct(Cursor::hex))
            .unwrap_or_default(),
        mr_td: mr_td?,
        mr_seam: mr_seam?,
        rtmrs: rtmrs?,
        xfam: xfam?,
    })
}

fn rtmrs(cursor: &Cursor<'_>) -> Option<[[u8; 48]; 4]> {
    let elements = cursor.list()?;
    let rtmrs: Vec<_> = elements.iter().map(Cursor::hex).collect();
    if elements.len() != 4 {
        cursor.reject("a list of 4, one for each register");
        return None;
    }
    let rtmrs: Vec<_> = rtmrs.into_iter().collect::<Option<_>>()?;
    rtmrs.try_into().ok()
}

fn td_attributes(object: &Object<'_>) -> Option<[u8; 8]> {
    let cursor = object.optional("TdAttributes")?;
    let attributes: [u8; 8] = cursor.hex()?;
    let [under_debug, ..] = attributes;
    if under_debug != 0 {
        let want = "none of bits 0 to 7 set: they make the guest's memory readable from outside";
        cursor.report(Problem::NotPermitted, cursor.json(), want);
    }
    Some(attributes)
}

fn tcb_statuses(object: &Object<'_>) -> Vec<TcbStatus> {
    let Some(cursor) = object.optional("TcbStatuses") else {
        return vec![TcbStatus::UpToDate];
    };
    let Some(elements) = cursor.list() else {
        return Vec::new();
    };
    if elements.is_empty() {
        cursor.reject("at least one status, or no such field for UpToDate alone");
    }
    let mut statuses = Vec::new();
    for element in elements {
        let Some(status) = element.one_of(&TCB_STATUSES) else {
            continue;
        };
        if statuses.contains(&status) {
            element.reject("each status once");
        }
        statuses.push(status);
    }
    statuses
}

/// Whether a platform has memory integrity is not in a quote, so that demanding it would be an
/// empty promise.
fn check_memory_integrity(object: &Object<'_>) {
    if let Some(cursor) = object.optional("MemoryIntegrity")
        && cursor.boolean() == Some(true)
    {
        cursor.reject("false or no such field: not supported, a quote does not say it");
    }
}

/// As Intel's TCB info names them; what is revoked is never accepted.
pub(super) const TCB_STATUSES: [(&str, TcbStatus); 6] = [
    ("UpToDate", TcbStatus::UpToDate),
    ("SWHardeningNeeded", TcbStatus::SwHardeningNeeded),
    ("ConfigurationNeeded", TcbStatus::ConfigurationNeeded),
    (
        "ConfigurationAndSWHardeningNeeded",
        TcbStatus::ConfigurationAndSwHardeningNeeded,
    ),
    ("OutOfDate", TcbStatus::OutOfDate),
    (
        "OutOfDateConfigurationNeeded",
        TcbStatus::OutOfDateConfigurationNeeded,
    ),
];
