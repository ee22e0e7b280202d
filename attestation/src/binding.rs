//! What evidence is bound to: one TLS session, in one direction, for one purpose.
//!
//! Binding to the exporter value of the session is what defeats relaying: a value that both ends
//! of one session agree on, and that no other session has, even one with the same keys
//! (RFC 8446, section 7.5).

use std::fmt;

use aws_lc_rs::digest::{SHA256, SHA512, digest};

use crate::tee::Tee;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut value = [0; 32];
        value.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(value)
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut value = [0; 32];
        hex::decode_to_slice(text, &mut value).ok()?;
        Some(Self(value))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 64 bytes that a TEE signs on its guest's behalf (`REPORT_DATA` of SEV-SNP, `REPORTDATA` of TDX).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportData(pub [u8; 64]);

impl fmt::Debug for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Which side of the session the evidence is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The side that opened the connection.
    Client,
    /// The side that accepted it.
    Server,
}

/// Everything that one piece of evidence vouches for.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// Whose evidence it is.
    pub role: Role,
    /// The TEE that signs.
    pub tee: Tee,
    /// The verifier's challenge: fresh for each session.
    pub nonce: &'a [u8; 32],
    /// The exporter value of the session, with the nonce as context.
    pub exporter: &'a [u8; 32],
    /// SHA-256 of the attester's `SubjectPublicKeyInfo` in this session.
    pub own_key: Digest,
    /// SHA-256 of the verifier's.
    pub peer_key: Digest,
    /// The manifest that the attester acts under, where it has one.
    pub manifest: Option<Digest>,
    /// SHA-256 of each `SubjectPublicKeyInfo` that the attester asks to have certified.
    pub certified_keys: &'a [Digest],
}

impl Binding<'_> {
    /// The value that the evidence must carry.
    ///
    /// SHA-512 over a list whose items are each preceded by their length, so that no two lists give
    /// the same bytes.
    pub fn report_data(&self) -> ReportData {
        let mut list = Vec::with_capacity(512);
        let mut item = |bytes: &[u8]| {
            list.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            list.extend_from_slice(bytes);
        };
        item(DOMAIN);
        item(&[match self.role {
            Role::Client => 0,
            Role::Server => 1,
        }]);
        item(&[self.tee.code()]);
        item(self.nonce);
        item(self.exporter);
        item(&self.own_key.0);
        item(&self.peer_key.0);
        item(self.manifest.as_ref().map_or(&[], |hash| &hash.0));
        item(&(self.certified_keys.len() as u64).to_be_bytes());
        for key in self.certified_keys {
            item(&key.0);
        }
        let mut value = [0; 64];
        value.copy_from_slice(digest(&SHA512, &list).as_ref());
        ReportData(value)
    }
}

const DOMAIN: &[u8] = b"sealwire attested TLS v1";

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: Binding<'static> = Binding {
        role: Role::Client,
        tee: Tee::SevSnp,
        nonce: &[1; 32],
        exporter: &[2; 32],
        own_key: Digest([3; 32]),
        peer_key: Digest([4; 32]),
        manifest: None,
        certified_keys: &[],
    };

    #[test]
    fn each_part_changes_the_report_data() {
        let variants = [
            BINDING,
            Binding {
                role: Role::Server,
                ..BINDING
            },
            Binding {
                tee: Tee::Tdx,
                ..BINDING
            },
            Binding {
                tee: Tee::Simulated,
                ..BINDING
            },
            Binding {
                nonce: &[9; 32],
                ..BINDING
            },
            Binding {
                exporter: &[9; 32],
                ..BINDING
            },
            Binding {
                own_key: Digest([9; 32]),
                ..BINDING
            },
            Binding {
                peer_key: Digest([9; 32]),
                ..BINDING
            },
            Binding {
                manifest: Some(Digest([0; 32])),
                ..BINDING
            },
            Binding {
                certified_keys: &[Digest([0; 32])],
                ..BINDING
            },
            Binding {
                certified_keys: &[Digest([0; 32]); 2],
                ..BINDING
            },
        ];
        for (i, a) in variants.iter().enumerate() {
            for b in &variants[..i] {
                assert_ne!(a.report_data(), b.report_data(), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_same_parts_give_the_same_report_data() {
        assert_eq!(BINDING.report_data(), BINDING.report_data());
    }
}
