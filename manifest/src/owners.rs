//! Who may change the manifest, who may recover the Coordinator, and how many of them it takes.

use attestation::Digest;

use crate::error::{Collector, Problem};
use crate::read::{Cursor, Json, Object};
use crate::rsa_public_key::{RsaPublicKeyError, rsa_public_key};

/// Owners and how many of them must act together; 0 where there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owners<K> {
    pub(crate) keys: Vec<K>,
    pub(crate) quorum: usize,
}

pub(crate) fn workload_owners(root: &Object<'_>, errors: &Collector) -> Owners<Digest> {
    let listed = root.optional("WorkloadOwnerKeyDigests");
    Owners {
        quorum: quorum(root, "UpdateQuorum", listed.as_ref(), errors),
        keys: listed
            .and_then(|cursor| cursor.distinct(Cursor::digest))
            .unwrap_or_default(),
    }
}

pub(crate) fn seedshare_owners(root: &Object<'_>, errors: &Collector) -> Owners<Vec<u8>> {
    // Without any, the seed is lost with the last Coordinator, and with it the deployment.
    let fits = |keys: &[Json]| (1..=MAX_SEEDSHARE_OWNERS).contains(&keys.len());
    let listed = root.required("SeedshareOwnerPubKeys").filter(|cursor| {
        let fits = !matches!(cursor.json(), Json::List(keys) if !fits(keys));
        if !fits {
            cursor.reject(format_args!("1 to {MAX_SEEDSHARE_OWNERS} keys"));
        }
        fits
    });
    let Some(listed) = listed else {
        return Owners {
            keys: Vec::new(),
            quorum: 0,
        };
    };
    Owners {
        quorum: quorum(root, "SeedshareQuorum", Some(&listed), errors),
        keys: listed.distinct(seedshare_owner).unwrap_or_default(),
    }
}

/// How many of the listed keys it takes: unless it is stated, one, as with Contrast. Keys that are
/// unreadable count too; they have their own errors.
fn quorum(
    root: &Object<'_>,
    field: &'static str,
    keys: Option<&Cursor<'_>>,
    errors: &Collector,
) -> usize {
    let listed = match keys.map(Cursor::json) {
        Some(Json::List(keys)) => keys.len(),
        None => 0,
        Some(_) => return 0,
    };
    let Some(cursor) = root.optional(field) else {
        return listed.min(1);
    };
    let Some(quorum) = cursor.integer(0..=u64::from(u32::MAX)) else {
        return 0;
    };
    let quorum = usize::try_from(quorum).unwrap_or(usize::MAX);
    if listed == 0 && quorum > 0 {
        let want = format_args!("0 or no such field: no keys are listed");
        errors.mismatch(cursor.path(), quorum, want);
    } else if listed > 0 && !(1..=listed).contains(&quorum) {
        let want = format_args!("1 to {listed}, the number of keys");
        errors.mismatch(cursor.path(), quorum, want);
    }
    quorum
}

fn seedshare_owner(cursor: &Cursor<'_>) -> Option<Vec<u8>> {
    let der = cursor.hex_bytes()?;
    let want = "an RSA public key of 2048 to 8192 bits, PKCS#1 DER in hexadecimal digits";
    let mismatch = |got: &dyn std::fmt::Display| {
        cursor.report(Problem::Mismatch, got, want);
        None
    };
    match rsa_public_key(&der) {
        Ok(pkcs1) if pkcs1 == der => Some(pkcs1),
        Ok(_) => mismatch(&"an RSA public key in another encoding (SubjectPublicKeyInfo?)"),
        Err(error @ (RsaPublicKeyError::NotRsa | RsaPublicKeyError::Size { .. })) => {
            mismatch(&error)
        }
    }
}

/// Each owner holds one share, and recovery takes the owners one at a time.
const MAX_SEEDSHARE_OWNERS: usize = 16;
