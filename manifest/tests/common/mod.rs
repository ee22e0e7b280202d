//! Manifests to start from, and ways to change them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::LazyLock;

use attestation::Digest;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use manifest::Manifest;
use serde_json::{Value, json};

pub(crate) const COORDINATOR: &str =
    "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
pub(crate) const WEB: &str = "1111111111111111111111111111111111111111111111111111111111111111";
pub(crate) const WEB_NEXT: &str =
    "2222222222222222222222222222222222222222222222222222222222222222";
pub(crate) const DB: &str = "3333333333333333333333333333333333333333333333333333333333333333";
pub(crate) const NODE: &str = "4444444444444444444444444444444444444444444444444444444444444444";
pub(crate) const OWNER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const OTHER_OWNER: &str =
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// PKCS#1 DER of two keys, in hexadecimal digits.
pub(crate) static RSA: LazyLock<[String; 2]> = LazyLock::new(|| {
    [(); 2].map(|()| {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        hex::encode(pair.public_key().as_ref())
    })
});

/// Every field of the schema, but for what only the simulated TEE has.
pub(crate) fn full() -> Value {
    json!({
        "TrustDomain": "shop.example",
        "Policies": {
            COORDINATOR: { "SANs": ["coordinator"], "Role": "coordinator" },
            WEB: {
                "SANs": ["web.default.svc", "10.0.0.7", "fd00::7"],
                "WorkloadSecretID": "apps/v1/Deployment/default/web",
                "AllowedPeers": ["db"],
                "MaxInstances": 3
            },
            WEB_NEXT: { "SANs": ["10.0.0.7", "web.default.svc", "fd00::7"], "AllowedPeers": ["db.data.svc"] },
            DB: {
                "SANs": ["db.data.svc", "spiffe://shop.example/ns/data/sa/db"],
                "AllowedPeers": ["spiffe://shop.example/ns/default/sa/web"]
            },
            NODE: { "SpiffeID": "spiffe://shop.example/node/blue", "Role": "node", "Hosts": ["web", "db"] }
        },
        "ReferenceValues": { "snp": [snp()], "tdx": [tdx()] },
        "WorkloadOwnerKeyDigests": [OWNER, OTHER_OWNER],
        "UpdateQuorum": 2,
        "SeedshareOwnerPubKeys": RSA.as_slice(),
        "SeedshareQuorum": 2,
        "Rotation": { "Mode": "strict", "DeadlineSeconds": 60 },
        "CertificateLifetime": "90m"
    })
}

pub(crate) fn snp() -> Value {
    json!({
        "Platform": "Metal-QEMU-SNP",
        "ProductName": "Genoa",
        "TrustedMeasurement": "0a".repeat(48),
        "MinimumTCB": { "BootloaderVersion": 7, "TEEVersion": 0, "SNPVersion": 14, "MicrocodeVersion": 62 },
        "GuestPolicy": {
            "ABIMajor": 0, "ABIMinor": 31, "SMT": true, "MigrateMA": false, "Debug": false,
            "SingleSocket": false, "CXLAllowed": false, "MemAES256XTS": true, "RAPLDis": false,
            "CipherTextHidingDRAM": false, "PageSwapDisabled": true
        },
        "PlatformInfo": {
            "SMTEnabled": true, "TSMEEnabled": false, "ECCEnabled": true, "RAPLDisabled": false,
            "CiphertextHidingDRAMEnabled": false, "AliasCheckComplete": true, "TIOEnabled": false
        },
        "AllowedChipIDs": ["0b".repeat(64)],
        "CPUs": [1, 2, 4]
    })
}

pub(crate) fn tdx() -> Value {
    json!({
        "Platform": "Metal-QEMU-TDX",
        "MrTd": "1a".repeat(48),
        "MrSeam": "1b".repeat(48),
        "Rtmrs": ["20".repeat(48), "21".repeat(48), "22".repeat(48), "23".repeat(48)],
        "Xfam": "e702060000000000",
        "TdAttributes": "0000001000000000",
        "TcbStatuses": ["UpToDate", "SWHardeningNeeded"],
        "MinTCBEvaluationDataNumber": 17,
        "SMTDisabled": true,
        "StaticPlatform": true,
        "MemoryIntegrity": false,
        "AllowedPIIDs": ["1c".repeat(16)],
        "CPUs": [8]
    })
}

pub(crate) fn simulated() -> Value {
    json!({ "TrustedMeasurement": "5a".repeat(48), "PlatformKeys": ["5b".repeat(32)] })
}

/// What must be there and no more.
pub(crate) fn minimal() -> Value {
    json!({
        "Policies": { COORDINATOR: { "SANs": ["coordinator"], "Role": "coordinator" } },
        "ReferenceValues": { "simulated": [simulated()] },
        "SeedshareOwnerPubKeys": [RSA[0]]
    })
}

pub(crate) fn parsed(json: &Value) -> Manifest {
    Manifest::parse(json.to_string().as_bytes()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The diagnostics, one line each.
pub(crate) fn refused(bytes: &[u8]) -> Vec<String> {
    match Manifest::parse(bytes) {
        Ok(_) => panic!("accepted: {}", String::from_utf8_lossy(bytes)),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

pub(crate) fn digest(hex: &str) -> Digest {
    Digest::from_hex(hex).unwrap()
}

/// Puts `value` where the JSON pointer says, in an object or a list that is there.
pub(crate) fn set(json: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match json.pointer_mut(parent).unwrap() {
        Value::Object(fields) => {
            fields.insert(last.to_owned(), value);
        }
        Value::Array(values) => values[last.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer}: {other}"),
    }
}

pub(crate) fn remove(json: &mut Value, pointer: &str) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let fields = json.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    fields.remove(last).unwrap();
}
