use serde_json::json;

use crate::check;
use crate::common::{self, OWNER};

#[test]
fn reference_values() {
    const NONE: &str = "ReferenceValues: reference values in manifest cannot be empty. Is the \
                        chosen platform supported?";
    check(&[
        ("/ReferenceValues", json!(null), &[NONE]),
        ("/ReferenceValues", json!({}), &[NONE]),
        (
            "/ReferenceValues",
            json!({ "snp": [], "tdx": null }),
            &[NONE],
        ),
        (
            "/ReferenceValues",
            json!({ "sev": [] }),
            &[
                "ReferenceValues: got unknown field \"sev\" (did you mean \"snp\"?), want only snp, \
                 tdx, simulated",
                NONE,
            ],
        ),
        (
            "/ReferenceValues/simulated",
            json!([common::simulated()]),
            &[
                "ReferenceValues.simulated: got the simulated TEE beside TEEs of hardware, want one or \
               the other: what software can simulate would stand in for hardware",
            ],
        ),
        (
            "/ReferenceValues",
            json!({ "snp": [common::snp()], "simulated": [common::simulated()] }),
            &[
                "ReferenceValues.simulated: got the simulated TEE beside TEEs of hardware, want one or \
               the other: what software can simulate would stand in for hardware",
            ],
        ),
        (
            "/ReferenceValues",
            json!({ "tdx": [common::tdx()], "simulated": [common::simulated()] }),
            &[
                "ReferenceValues.simulated: got the simulated TEE beside TEEs of hardware, want one or \
               the other: what software can simulate would stand in for hardware",
            ],
        ),
        (
            "/ReferenceValues",
            json!({ "simulated": [{ "PlatformKeys": [] }, { "TrustedMeasurement": "5a", "PlatformKeys": [OWNER, OWNER] }] }),
            &[
                "ReferenceValues.simulated[0].TrustedMeasurement: field cannot be empty",
                "ReferenceValues.simulated[0].PlatformKeys: got a list of 0, want the digest of at \
                 least one platform key",
                "ReferenceValues.simulated[1].TrustedMeasurement: invalid length: 2 (expected 96)",
                "ReferenceValues.simulated[1].PlatformKeys[1]: got the same as \
                 ReferenceValues.simulated[1].PlatformKeys[0], want each one once",
            ],
        ),
        (
            "/ReferenceValues/snp",
            json!(vec![common::snp(); 1025]),
            &["ReferenceValues.snp: got a list of 1025, want at most 1024 entries"],
        ),
        (
            "/ReferenceValues/snp",
            json!({}),
            &["ReferenceValues.snp: got an object, want a list"],
        ),
    ]);
}

#[test]
fn reference_values_of_sev_snp() {
    check(&[
        (
            "/ReferenceValues/snp/0",
            json!({}),
            &[
                "ReferenceValues.snp[0].ProductName: field cannot be empty",
                "ReferenceValues.snp[0].TrustedMeasurement: field cannot be empty",
                "ReferenceValues.snp[0].MinimumTCB: field cannot be empty",
                "ReferenceValues.snp[0].GuestPolicy: field cannot be empty",
            ],
        ),
        (
            "/ReferenceValues/snp/0/ProductName",
            json!("Rome"),
            &[
                "ReferenceValues.snp[0].ProductName: unknown product name: \"Rome\" (expected Milan, \
               Genoa or Turin)",
            ],
        ),
        (
            "/ReferenceValues/snp/0/ProductName",
            json!("Turin"),
            &["ReferenceValues.snp[0].MinimumTCB.FMCVersion: field cannot be empty"],
        ),
        (
            "/ReferenceValues/snp/0/MinimumTCB/FMCVersion",
            json!(1),
            &[
                "ReferenceValues.snp[0].MinimumTCB.FMCVersion: got 1, want no such field: only Turin \
               has an FMC",
            ],
        ),
        (
            "/ReferenceValues/snp/0/MinimumTCB",
            json!({ "BootloaderVersion": 256, "TEEVersion": -1, "SNPVersion": "8" }),
            &[
                "ReferenceValues.snp[0].MinimumTCB.BootloaderVersion: value out of range for uint8: \
                 256",
                "ReferenceValues.snp[0].MinimumTCB.TEEVersion: value out of range for uint8: -1",
                "ReferenceValues.snp[0].MinimumTCB.SNPVersion: got \"8\", want a whole number from 0 \
                 to 255",
                "ReferenceValues.snp[0].MinimumTCB.MicrocodeVersion: field cannot be empty",
            ],
        ),
        (
            "/ReferenceValues/snp/0/TrustedMeasurement",
            json!("zz".repeat(48)),
            &[
                "ReferenceValues.snp[0].TrustedMeasurement: got \"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\
               zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\", want hexadecimal \
               digits",
            ],
        ),
        (
            "/ReferenceValues/snp/0/GuestPolicy/Debug",
            json!(true),
            &["ReferenceValues.snp[0].GuestPolicy.Debug: modifying this field is not permitted"],
        ),
        (
            "/ReferenceValues/snp/0/GuestPolicy/SMT",
            json!("true"),
            &["ReferenceValues.snp[0].GuestPolicy.SMT: got \"true\", want true or false"],
        ),
        (
            "/ReferenceValues/snp/0/PlatformInfo/SMTEnabled",
            json!(1),
            &["ReferenceValues.snp[0].PlatformInfo.SMTEnabled: got 1, want true or false"],
        ),
        (
            "/ReferenceValues/snp/0/AllowedChipIDs",
            json!(["0b".repeat(64), "0B".repeat(64), "0b"]),
            &[
                "ReferenceValues.snp[0].AllowedChipIDs[1]: got the same as \
                 ReferenceValues.snp[0].AllowedChipIDs[0], want each one once",
                "ReferenceValues.snp[0].AllowedChipIDs[2]: invalid length: 2 (expected 128)",
            ],
        ),
        (
            "/ReferenceValues/snp/0/MinimumMitigationVector",
            json!(3),
            &[
                "ReferenceValues.snp[0].MinimumMitigationVector: got 3, want 0 or no such field: \
               mitigation vectors are not supported",
            ],
        ),
        (
            "/ReferenceValues/snp/0/CPUs",
            json!([1, "2"]),
            &[
                "ReferenceValues.snp[0].CPUs[1]: got \"2\", want a whole number from 1 to 4294967295",
            ],
        ),
        (
            "/ReferenceValues/snp/0/Platform",
            json!(1),
            &["ReferenceValues.snp[0].Platform: got 1, want a string"],
        ),
    ]);
}

#[test]
fn reference_values_of_tdx() {
    let rtmr = "20".repeat(48);
    check(&[
        (
            "/ReferenceValues/tdx/0",
            json!({}),
            &[
                "ReferenceValues.tdx[0].MrTd: field cannot be empty",
                "ReferenceValues.tdx[0].MrSeam: field cannot be empty",
                "ReferenceValues.tdx[0].Rtmrs: field cannot be empty",
                "ReferenceValues.tdx[0].Xfam: field cannot be empty",
            ],
        ),
        (
            "/ReferenceValues/tdx/0/Rtmrs",
            json!([rtmr, rtmr, rtmr]),
            &[
                "ReferenceValues.tdx[0].Rtmrs: got a list of 3, want a list of 4, one for each register",
            ],
        ),
        (
            "/ReferenceValues/tdx/0/Rtmrs",
            json!([rtmr, rtmr, rtmr, ""]),
            &["ReferenceValues.tdx[0].Rtmrs[3]: field cannot be empty"],
        ),
        (
            "/ReferenceValues/tdx/0/TdAttributes",
            json!("0100001000000000"),
            &["ReferenceValues.tdx[0].TdAttributes: modifying this field is not permitted"],
        ),
        (
            "/ReferenceValues/tdx/0/TcbStatuses",
            json!([]),
            &[
                "ReferenceValues.tdx[0].TcbStatuses: got a list of 0, want at least one status, or no \
               such field for UpToDate alone",
            ],
        ),
        (
            "/ReferenceValues/tdx/0/TcbStatuses",
            json!(["UpToDate", "Revoked", "UpToDate"]),
            &[
                "ReferenceValues.tdx[0].TcbStatuses[1]: got \"Revoked\", want UpToDate, \
                 SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, \
                 OutOfDate or OutOfDateConfigurationNeeded",
                "ReferenceValues.tdx[0].TcbStatuses[2]: got \"UpToDate\", want each status once",
            ],
        ),
        (
            "/ReferenceValues/tdx/0/MinTCBEvaluationDataNumber",
            json!(-1),
            &[
                "ReferenceValues.tdx[0].MinTCBEvaluationDataNumber: got -1, want a whole number from 0 \
               to 4294967295",
            ],
        ),
        (
            "/ReferenceValues/tdx/0/MemoryIntegrity",
            json!(true),
            &[
                "ReferenceValues.tdx[0].MemoryIntegrity: got true, want false or no such field: not \
               supported, a quote does not say it",
            ],
        ),
        (
            "/ReferenceValues/tdx/0/SMTDisabled",
            json!("no"),
            &["ReferenceValues.tdx[0].SMTDisabled: got \"no\", want true or false"],
        ),
        (
            "/ReferenceValues/tdx/0/AllowedPIIDs",
            json!(["1c"]),
            &["ReferenceValues.tdx[0].AllowedPIIDs[0]: invalid length: 2 (expected 32)"],
        ),
        (
            "/ReferenceValues/tdx/0/Rtrms",
            json!([]),
            &[
                "ReferenceValues.tdx[0]: got unknown field \"Rtrms\" (did you mean \"Rtmrs\"?), want \
               only Platform, MrTd, MrSeam, Rtmrs, Xfam, TdAttributes, TcbStatuses, \
               MinTCBEvaluationDataNumber, SMTDisabled, StaticPlatform, MemoryIntegrity, \
               AllowedPIIDs, CPUs",
            ],
        ),
    ]);
}
