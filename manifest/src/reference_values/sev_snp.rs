use attestation::sev_snp::{GuestPolicy, PlatformInfo, Product, ReferenceValues, Tcb};

use crate::error::Problem;
use crate::path::quoted;
use crate::read::{Cursor, Object};

use super::{check_information, flag};

pub(super) fn reference_values(cursor: &Cursor<'_>) -> Option<ReferenceValues> {
    let object = cursor.object(&[
        "Platform",
        "ProductName",
        "TrustedMeasurement",
        "MinimumTCB",
        "MinimumMitigationVector",
        "GuestPolicy",
        "PlatformInfo",
        "AllowedChipIDs",
        "CPUs",
    ])?;
    check_information(&object);
    check_mitigation_vector(&object);
    let product = object
        .required("ProductName")
        .and_then(|cursor| product(&cursor));
    let measurement = object
        .required("TrustedMeasurement")
        .and_then(|cursor| cursor.hex());
    let minimum_tcb = object
        .required("MinimumTCB")
        .and_then(|cursor| tcb(&cursor, product));
    let guest_policy = object
        .required("GuestPolicy")
        .and_then(|cursor| guest_policy(&cursor));
    let platform_info = object
        .optional("PlatformInfo")
        .and_then(|cursor| platform_info(&cursor));
    let chip_ids = object
        .optional("AllowedChipIDs")
        .and_then(|cursor| cursor.distinct(Cursor::hex));
    Some(ReferenceValues {
        product: product?,
        measurement: measurement?,
        minimum_tcb: minimum_tcb?,
        guest_policy: guest_policy?,
        platform_info: platform_info.unwrap_or_default(),
        chip_ids: chip_ids.unwrap_or_default(),
    })
}

fn product(cursor: &Cursor<'_>) -> Option<Product> {
    let name = cursor.string()?;
    let product = PRODUCTS.iter().find(|(known, _)| *known == name);
    if product.is_none() {
        let want = "Milan, Genoa or Turin";
        cursor.report(Problem::UnknownProduct, quoted(name), want);
    }
    product.map(|(_, product)| *product)
}

fn tcb(cursor: &Cursor<'_>, product: Option<Product>) -> Option<Tcb> {
    let object = cursor.object(&[
        "BootloaderVersion",
        "TEEVersion",
        "SNPVersion",
        "MicrocodeVersion",
        "FMCVersion",
    ])?;
    let version = |name| object.required(name).and_then(|cursor| cursor.uint8());
    let bootloader = version("BootloaderVersion");
    let tee = version("TEEVersion");
    let snp = version("SNPVersion");
    let microcode = version("MicrocodeVersion");
    let fmc = match product {
        Some(Product::Turin) => version("FMCVersion").map(Some),
        Some(Product::Milan | Product::Genoa) => {
            if let Some(cursor) = object.optional("FMCVersion") {
                cursor.reject("no such field: only Turin has an FMC");
            }
            Some(None)
        }
        None => object.optional("FMCVersion").map(|cursor| cursor.uint8()),
    };
    Some(Tcb {
        bootloader: bootloader?,
        tee: tee?,
        snp: snp?,
        microcode: microcode?,
        fmc: fmc?,
    })
}

fn guest_policy(cursor: &Cursor<'_>) -> Option<GuestPolicy> {
    let object = cursor.object(&[
        "ABIMajor",
        "ABIMinor",
        "SMT",
        "MigrateMA",
        "Debug",
        "SingleSocket",
        "CXLAllowed",
        "MemAES256XTS",
        "RAPLDis",
        "CipherTextHidingDRAM",
        "PageSwapDisabled",
    ])?;
    let abi = |name| {
        let version = object.optional(name).and_then(|cursor| cursor.uint8());
        version.unwrap_or_default()
    };
    if let Some(debug) = object.optional("Debug")
        && debug.boolean() == Some(true)
    {
        let want = "false: the host could read the guest's memory";
        debug.report(Problem::NotPermitted, "true", want);
    }
    Some(GuestPolicy {
        abi_major: abi("ABIMajor"),
        abi_minor: abi("ABIMinor"),
        smt: flag(&object, "SMT"),
        migrate_ma: flag(&object, "MigrateMA"),
        debug: false,
        single_socket: flag(&object, "SingleSocket"),
        cxl_allow: flag(&object, "CXLAllowed"),
        mem_aes_256_xts: flag(&object, "MemAES256XTS"),
        rapl_disabled: flag(&object, "RAPLDis"),
        ciphertext_hiding: flag(&object, "CipherTextHidingDRAM"),
        page_swap_disabled: flag(&object, "PageSwapDisabled"),
    })
}

/// As Contrast's verifier takes them (go-sev-guest): some features may be on only where the manifest
/// says so, others must be on where it says so.
fn platform_info(cursor: &Cursor<'_>) -> Option<PlatformInfo> {
    let object = cursor.object(&[
        "SMTEnabled",
        "TSMEEnabled",
        "ECCEnabled",
        "RAPLDisabled",
        "CiphertextHidingDRAMEnabled",
        "AliasCheckComplete",
        "TIOEnabled",
    ])?;
    let is_set = |name| {
        let cursor = object.optional(name);
        cursor.and_then(|cursor| cursor.boolean()).unwrap_or(false)
    };
    let permitted = |name| (!is_set(name)).then_some(false);
    let demanded = |name| is_set(name).then_some(true);
    Some(PlatformInfo {
        smt: permitted("SMTEnabled"),
        tsme: permitted("TSMEEnabled"),
        ecc: demanded("ECCEnabled"),
        rapl_disabled: demanded("RAPLDisabled"),
        ciphertext_hiding: demanded("CiphertextHidingDRAMEnabled"),
        alias_check_complete: demanded("AliasCheckComplete"),
        tio: permitted("TIOEnabled"),
    })
}

/// Reports before version 5 have no such vector, and nothing here compares it: to accept a demand
/// and not check it would be worse than to refuse it.
fn check_mitigation_vector(object: &Object<'_>) {
    if let Some(cursor) = object.optional("MinimumMitigationVector")
        && cursor
            .integer(0..=u64::MAX)
            .is_some_and(|vector| vector != 0)
    {
        cursor.reject("0 or no such field: mitigation vectors are not supported");
    }
}

/// As AMD and Contrast name them.
pub(crate) const PRODUCTS: [(&str, Product); 3] = [
    ("Milan", Product::Milan),
    ("Genoa", Product::Genoa),
    ("Turin", Product::Turin),
];
