//! Reference values as field and value, under the manifest's names.

use std::fmt::Debug;

use attestation::{sev_snp, simulated, tdx};

use super::sev_snp::PRODUCTS;
use super::tdx::TCB_STATUSES;

pub(crate) fn fields_of_snp(values: &sev_snp::ReferenceValues) -> Vec<(&'static str, String)> {
    let sev_snp::ReferenceValues {
        product,
        measurement,
        minimum_tcb,
        guest_policy,
        platform_info,
        chip_ids,
    } = values;
    let sev_snp::Tcb {
        bootloader,
        tee,
        snp,
        microcode,
        fmc,
    } = minimum_tcb;
    let sev_snp::GuestPolicy {
        abi_major,
        abi_minor,
        smt,
        migrate_ma,
        debug: _,
        single_socket,
        cxl_allow,
        mem_aes_256_xts,
        rapl_disabled,
        ciphertext_hiding,
        page_swap_disabled,
    } = guest_policy;
    let mut fields = vec![
        ("ProductName", name_in(&PRODUCTS, product)),
        ("TrustedMeasurement", hex::encode(measurement)),
        ("MinimumTCB.BootloaderVersion", bootloader.to_string()),
        ("MinimumTCB.TEEVersion", tee.to_string()),
        ("MinimumTCB.SNPVersion", snp.to_string()),
        ("MinimumTCB.MicrocodeVersion", microcode.to_string()),
        (
            "MinimumTCB.FMCVersion",
            fmc.map_or_else(none, |version| version.to_string()),
        ),
        ("GuestPolicy.ABIMajor", abi_major.to_string()),
        ("GuestPolicy.ABIMinor", abi_minor.to_string()),
        ("GuestPolicy.SMT", smt.to_string()),
        ("GuestPolicy.MigrateMA", migrate_ma.to_string()),
        ("GuestPolicy.SingleSocket", single_socket.to_string()),
        ("GuestPolicy.CXLAllowed", cxl_allow.to_string()),
        ("GuestPolicy.MemAES256XTS", mem_aes_256_xts.to_string()),
        ("GuestPolicy.RAPLDis", rapl_disabled.to_string()),
        (
            "GuestPolicy.CipherTextHidingDRAM",
            ciphertext_hiding.to_string(),
        ),
        (
            "GuestPolicy.PageSwapDisabled",
            page_swap_disabled.to_string(),
        ),
    ];
    fields.extend(fields_of_platform_info(*platform_info));
    fields.push(("AllowedChipIDs", hex_list(chip_ids)));
    fields
}

fn fields_of_platform_info(info: sev_snp::PlatformInfo) -> [(&'static str, String); 7] {
    let sev_snp::PlatformInfo {
        smt,
        tsme,
        ecc,
        rapl_disabled,
        ciphertext_hiding,
        alias_check_complete,
        tio,
    } = info;
    [
        ("PlatformInfo.SMTEnabled", smt),
        ("PlatformInfo.TSMEEnabled", tsme),
        ("PlatformInfo.ECCEnabled", ecc),
        ("PlatformInfo.RAPLDisabled", rapl_disabled),
        (
            "PlatformInfo.CiphertextHidingDRAMEnabled",
            ciphertext_hiding,
        ),
        ("PlatformInfo.AliasCheckComplete", alias_check_complete),
        ("PlatformInfo.TIOEnabled", tio),
    ]
    .map(|(name, value)| (name, value.map_or_else(any, |value| value.to_string())))
}

pub(crate) fn fields_of_tdx(values: &tdx::ReferenceValues) -> Vec<(&'static str, String)> {
    let tdx::ReferenceValues {
        mr_td,
        rtmrs: [rtmr0, rtmr1, rtmr2, rtmr3],
        mr_seam,
        xfam,
        td_attributes,
        tcb_statuses,
        min_tcb_evaluation_data_number,
        smt_disabled,
        static_platform,
        ppids,
    } = values;
    let statuses: Vec<_> = tcb_statuses
        .iter()
        .map(|status| name_in(&TCB_STATUSES, status))
        .collect();
    vec![
        ("MrTd", hex::encode(mr_td)),
        ("MrSeam", hex::encode(mr_seam)),
        ("Rtmrs[0]", hex::encode(rtmr0)),
        ("Rtmrs[1]", hex::encode(rtmr1)),
        ("Rtmrs[2]", hex::encode(rtmr2)),
        ("Rtmrs[3]", hex::encode(rtmr3)),
        ("Xfam", hex::encode(xfam)),
        (
            "TdAttributes",
            td_attributes.map_or_else(|| "the usual ones".to_owned(), hex::encode),
        ),
        ("TcbStatuses", statuses.join(", ")),
        (
            "MinTCBEvaluationDataNumber",
            min_tcb_evaluation_data_number.map_or_else(any, |number| number.to_string()),
        ),
        ("SMTDisabled", smt_disabled.to_string()),
        ("StaticPlatform", static_platform.to_string()),
        ("AllowedPIIDs", hex_list(ppids)),
    ]
}

pub(crate) fn fields_of_simulated(
    values: &simulated::ReferenceValues,
) -> Vec<(&'static str, String)> {
    let simulated::ReferenceValues {
        measurement,
        platform_keys,
    } = values;
    let keys: Vec<_> = platform_keys.iter().map(|key| key.0).collect();
    vec![
        ("TrustedMeasurement", hex::encode(measurement)),
        ("PlatformKeys", hex_list(&keys)),
    ]
}

fn name_in<T: PartialEq + Debug>(names: &[(&str, T)], value: &T) -> String {
    match names.iter().find(|(_, known)| known == value) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("{value:?}"),
    }
}

fn hex_list<const N: usize>(values: &[[u8; N]]) -> String {
    if values.is_empty() {
        return any();
    }
    let values: Vec<_> = values.iter().map(hex::encode).collect();
    values.join(", ")
}

fn any() -> String {
    "any".to_owned()
}

fn none() -> String {
    "none".to_owned()
}
