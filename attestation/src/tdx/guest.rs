//! What no reference value can allow: a guest that its host may look into.

use super::report::TdReport;
use crate::refusal::{Code, Refusal};

/// `DEBUG`: the host reads and writes the guest's memory and registers.
const DEBUG: u64 = 1;
/// Performance monitoring of the guest by its host.
const PROFILING: u64 = 0x70;
/// Bits that a verifier must refuse when set (Intel TDX Module ABI Specification 348551-008US,
/// table 3.23).
const RESERVED: u64 = 0x3fff_ffff_0780_ff8e;
const SEPT_VE_DISABLE: u64 = 1 << 28;
const MIGRATABLE: u64 = 1 << 29;

/// The attributes of a guest for which the reference values name none.
pub(super) const USUAL_ATTRIBUTES: [u8; 8] = SEPT_VE_DISABLE.to_le_bytes();

/// Refuses a guest under debugging. Whoever signed the quote and whatever else is wrong with it,
/// this is what its owner has to change first.
pub(super) fn check_debug(report: &TdReport) -> Result<(), Refusal> {
    let attributes = u64::from_le_bytes(report.td_attributes);
    let got = if attributes & DEBUG != 0 {
        "debug"
    } else if attributes & PROFILING != 0 {
        "profiling"
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        Code::Debug,
        "td.td_attributes",
        format_args!("{} ({got})", hex::encode(report.td_attributes)),
        "without debugging and profiling",
    ))
}

/// Refuses the attributes that dcap-qvl refuses too, whatever the reference values say.
pub(super) fn check_attributes(report: &TdReport) -> Result<(), Refusal> {
    let attributes = u64::from_le_bytes(report.td_attributes);
    let want = if attributes & RESERVED != 0 {
        "without reserved bits"
    } else if attributes & MIGRATABLE != 0 {
        "without MIGRATABLE"
    } else if attributes & SEPT_VE_DISABLE == 0 {
        "with SEPT_VE_DISABLE"
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        Code::GuestPolicy,
        "td.td_attributes",
        hex::encode(report.td_attributes),
        want,
    ))
}

/// Every other guest that could act on this one's behalf.
pub(super) fn check_company(report: &TdReport) -> Vec<Refusal> {
    let mut refusals: Vec<_> = report
        .service_tds()
        .into_iter()
        .filter(|(_, measurement)| **measurement != [0; 48])
        .map(|(field, measurement)| {
            let want = "zero (no service guest is bound)";
            Refusal::new(Code::GuestPolicy, field, hex::encode(measurement), want)
        })
        .collect();
    let vmid = report
        .v1_5
        .as_ref()
        .and_then(|added| added.extended.as_ref())
        .map_or(0, |extended| extended.vmid);
    if vmid != 0 {
        let want = "0 (the guest, not a virtual machine inside it)";
        refusals.push(Refusal::new(Code::GuestPolicy, "td.vmid", vmid, want));
    }
    refusals
}
