//! Manifests that are valid, and together have every field.

use attestation::Digest;
use serde_json::{Value, json};

use crate::rsa_owner::RsaOwner;

/// The policy of the workload that every manifest here has.
pub const WORKLOAD: Digest = Digest([0x11; 32]);
/// The policy of the node that hosts it.
pub const NODE: Digest = Digest([0x44; 32]);
/// The measurement of the simulated TEE.
pub const MEASUREMENT: [u8; 48] = [0x5a; 48];

/// A manifest for TEEs of hardware.
pub fn hardware() -> Value {
    let owners = [(); 2].map(|()| hex::encode(RsaOwner::new().public));
    json!({
        "TrustDomain": "shop.example",
        "Policies": policies(),
        "ReferenceValues": { "snp": [snp()], "tdx": [tdx()] },
        "WorkloadOwnerKeyDigests": ["aa".repeat(32), "bb".repeat(32)],
        "UpdateQuorum": 2,
        "SeedshareOwnerPubKeys": owners,
        "SeedshareQuorum": 2,
        "Rotation": { "Mode": "strict", "DeadlineSeconds": 60 },
        "CertificateLifetime": "90m"
    })
}

/// A manifest for the simulated TEE with that platform key.
pub fn simulated(platform_key: Digest) -> Value {
    json!({
        "TrustDomain": "shop.example",
        "Policies": policies(),
        "ReferenceValues": { "simulated": [{
            "TrustedMeasurement": hex::encode(MEASUREMENT),
            "PlatformKeys": [platform_key.to_string()]
        }] },
        "SeedshareOwnerPubKeys": [hex::encode(RsaOwner::new().public)]
    })
}

fn policies() -> Value {
    json!({
        "c0".repeat(32): { "SANs": ["coordinator"], "Role": "coordinator" },
        WORKLOAD.to_string(): {
            "SANs": ["web.default.svc", "10.0.0.7", "fd00::7"],
            "WorkloadSecretID": "apps/v1/Deployment/default/web",
            "AllowedPeers": ["db"],
            "MaxInstances": 64
        },
        "33".repeat(32): {
            "SANs": ["db.data.svc", "spiffe://shop.example/ns/data/sa/db"],
            "AllowedPeers": ["spiffe://shop.example/ns/default/sa/web"]
        },
        NODE.to_string(): {
            "SpiffeID": "spiffe://shop.example/node/blue",
            "Role": "node",
            "Hosts": ["web", "db"],
            "MaxInstances": 64
        }
    })
}

fn snp() -> Value {
    json!({
        "Platform": "Metal-QEMU-SNP",
        "ProductName": "Genoa",
        "TrustedMeasurement": "0a".repeat(48),
        "MinimumTCB": {
            "BootloaderVersion": 7, "TEEVersion": 0, "SNPVersion": 14, "MicrocodeVersion": 62
        },
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

fn tdx() -> Value {
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
