//! The object identifiers that Sealwire writes into certificates.
//!
//! They lie under `2.25.139871248`. Arcs below `2.25` belong to whoever has drawn them at
//! random as a UUID (ITU-T X.667, section 6). Ours are the lowest 28 bits of a UUID whose other bits
//! are zero: Go, and older releases of Python's `cryptography`, refuse a whole certificate over one
//! arc that takes more than four octets, and rcgen holds an arc in 64 bits.
//!
//! | arc | what | type |
//! |---|---|---|
//! | `.1` | [`TEE`] | `UTF8String`, as [`Tee::as_str`](crate::Tee::as_str) has it |
//! | `.2` | [`MEASUREMENT`] | `OCTET STRING`, 48 bytes |
//! | `.3` | [`HOST_DATA`] | `OCTET STRING`, 32 bytes |
//! | `.4` | [`PLATFORM`] | `OCTET STRING`; absent where the platform hides it |
//! | `.5` | [`MANIFEST`] | `OCTET STRING`, 32 bytes: SHA-256 of the manifest |
//! | `.6` | [`TRANSITION`] | `INTEGER`, from 0 to 2^64 - 1 |
//! | `.16` | [`SIMULATED`] | a key purpose, see there |

/// An object identifier under Sealwire's arc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Oid {
    arcs: &'static [u64],
    der: &'static [u8],
}

impl Oid {
    /// The arcs, from the top of the tree to the leaf.
    pub const fn arcs(self) -> &'static [u64] {
        self.arcs
    }

    /// The contents octets of the DER encoding (ITU-T X.690, section 8.19), without tag and length.
    pub const fn der(self) -> &'static [u8] {
        self.der
    }
}

macro_rules! oid {
    ($leaf:literal) => {
        Oid {
            arcs: &[2, 25, ARC, $leaf],
            der: &[0x69, 0xc2, 0xd9, 0x88, 0x10, $leaf],
        }
    };
}

/// Extension: the kind of TEE that the workload proved to run in.
pub const TEE: Oid = oid!(1);

/// Extension: the initial memory of the guest (MEASUREMENT of SEV-SNP, MRTD of TDX).
pub const MEASUREMENT: Oid = oid!(2);

/// Extension: the hash of the policy that the guest was started with (`HOST_DATA` of SEV-SNP,
/// MRCONFIGID of TDX).
pub const HOST_DATA: Oid = oid!(3);

/// Extension: the machine (`CHIP_ID` of SEV-SNP, PPID of TDX).
pub const PLATFORM: Oid = oid!(4);

/// Extension: the manifest under which the certificate was issued.
pub const MANIFEST: Oid = oid!(5);

/// Extension: the number of the transition that put that manifest in force.
pub const TRANSITION: Oid = oid!(6);

/// Key purpose (RFC 5280, section 4.2.1.12): TLS between workloads whose TEE is simulated, so that
/// nothing protects them.
///
/// A certificate with it has no other purpose, and the extension is critical. Whoever does not
/// know it, or accepts hardware alone, refuses the certificate for TLS.
pub const SIMULATED: Oid = oid!(16);

/// Drawn once, below 2^28.
const ARC: u64 = 139_871_248;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use x509_parser::der_parser::Oid as ParsedOid;

    use super::*;

    const ALL: [Oid; 7] = [
        TEE,
        MEASUREMENT,
        HOST_DATA,
        PLATFORM,
        MANIFEST,
        TRANSITION,
        SIMULATED,
    ];

    #[test]
    fn arcs_and_der_say_the_same() {
        for oid in ALL {
            let parsed = ParsedOid::new(oid.der().into());
            let arcs: Vec<_> = parsed.iter().unwrap().collect();
            assert_eq!(arcs, oid.arcs());
            assert_eq!(ParsedOid::from(oid.arcs()).unwrap().as_bytes(), oid.der());
        }
    }

    #[test]
    fn each_stands_for_itself_alone_under_the_documented_arc() {
        let distinct: HashSet<_> = ALL.iter().map(|oid| oid.der()).collect();
        assert_eq!(distinct.len(), ALL.len());
        let simulated = ParsedOid::new(SIMULATED.der().into()).to_id_string();
        assert_eq!(simulated, "2.25.139871248.16");
    }
}
