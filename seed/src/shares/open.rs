//! Opening: an owner's private key turns its part of the document into a share.

use attestation::Digest;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey, PublicKey,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::document::SharesDocument;
use super::share::{Share, ShareDecodeError, ShareError};
use super::split::OAEP_LABEL;

impl SharesDocument {
    /// Decrypts the share of the owner of this RSA private key, unencrypted PKCS #8
    /// (`BEGIN PRIVATE KEY`) or PKCS #1 (`BEGIN RSA PRIVATE KEY`) in PEM form, and checks it against
    /// what the document says of it.
    pub fn decrypt(&self, owner_private_key_pem: &str) -> Result<Share, DecryptError> {
        let key = OwnerPrivateKey::from_pem(owner_private_key_pem)?;
        let (index, entry) = self.share_of(&key.public).ok_or(DecryptError::NotAnOwner {
            key: Digest::of(&key.public),
        })?;
        let encoded = key
            .decrypt(&entry.ciphertext)
            .ok_or(DecryptError::Ciphertext { index })?;
        let share =
            Share::decode(&encoded).map_err(|error| DecryptError::Encoding { index, error })?;
        if share.index != index {
            return Err(DecryptError::Swapped {
                index,
                of: share.index,
            });
        }
        self.check(&share).map_err(DecryptError::Share)?;
        Ok(share)
    }
}

struct OwnerPrivateKey {
    key: PrivateDecryptingKey,
    /// The public half as PKCS #1 in DER form.
    public: Vec<u8>,
}

impl OwnerPrivateKey {
    fn from_pem(pem: &str) -> Result<Self, OwnerKeyError> {
        if pem.len() > MAX_PEM {
            return Err(OwnerKeyError::TooLong { got: pem.len() });
        }
        let (label, der) =
            pem_rfc7468::decode_vec(pem.as_bytes()).map_err(OwnerKeyError::NotPem)?;
        let der = Zeroizing::new(der);
        let pkcs8 = match label {
            "PRIVATE KEY" => der,
            "RSA PRIVATE KEY" => pkcs8_of(&der),
            "ENCRYPTED PRIVATE KEY" => return Err(OwnerKeyError::Encrypted),
            _ => return Err(OwnerKeyError::Label),
        };
        let key = PrivateDecryptingKey::from_pkcs8(&pkcs8).map_err(|_| OwnerKeyError::NotRsa)?;
        let spki: PublicKeyX509Der<'_> = key
            .public_key()
            .as_der()
            .map_err(|_| OwnerKeyError::NotRsa)?;
        let public = PublicKey::from_der(spki.as_ref()).map_err(|_| OwnerKeyError::NotRsa)?;
        Ok(Self {
            key,
            public: public.as_ref().to_vec(),
        })
    }

    fn decrypt(self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let key = OaepPrivateDecryptingKey::new(self.key).ok()?;
        let mut plaintext = Zeroizing::new(vec![0; key.min_output_size()]);
        let len = key
            .decrypt(
                &OAEP_SHA256_MGF1SHA256,
                ciphertext,
                &mut plaintext,
                Some(OAEP_LABEL),
            )
            .ok()?
            .len();
        plaintext.truncate(len);
        Some(plaintext)
    }
}

/// Wraps a PKCS #1 `RSAPrivateKey` (RFC 8017, appendix A.1.2) as a PKCS #8 `PrivateKeyInfo`
/// (RFC 5208), which is the only form that aws-lc-rs decrypts with.
fn pkcs8_of(pkcs1: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut content = Zeroizing::new(Vec::with_capacity(pkcs1.len() + 64));
    content.extend_from_slice(VERSION_0_RSA_ENCRYPTION);
    push_der(&mut content, DER_OCTET_STRING, pkcs1);
    let mut pkcs8 = Zeroizing::new(Vec::with_capacity(content.len() + 16));
    push_der(&mut pkcs8, DER_SEQUENCE, &content);
    pkcs8
}

fn push_der(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    if let Ok(short @ ..=0x7f) = u8::try_from(content.len()) {
        out.push(short);
    } else {
        let len = content.len().to_be_bytes();
        let significant = len.iter().skip_while(|byte| **byte == 0);
        out.push(0x80 | significant.clone().count() as u8);
        out.extend(significant);
    }
    out.extend_from_slice(content);
}

/// Why a private key gives no share.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecryptError {
    /// It is not a private key that can be used.
    #[error(transparent)]
    Key(#[from] OwnerKeyError),
    /// Nothing was encrypted to it.
    #[error(
        "no share is encrypted to this key: SHA-256 of its public key (PKCS #1 DER) is {key}, which \
         is no owner's"
    )]
    NotAnOwner {
        /// SHA-256 of the public key.
        key: Digest,
    },
    /// The key does not decrypt what the document says is its owner's.
    #[error(
        "share {index} cannot be decrypted with its owner's key: it is damaged, or encrypted to \
         another owner"
    )]
    Ciphertext {
        /// Which share.
        index: u8,
    },
    /// What was decrypted is not a share.
    #[error("share {index} is encrypted to this key, but malformed: {error}")]
    Encoding {
        /// Which share.
        index: u8,
        /// What is wrong.
        error: ShareDecodeError,
    },
    /// Another owner's share was encrypted to this owner.
    #[error("share {index} is swapped: share {of} is encrypted in its place")]
    Swapped {
        /// Which share the document says it is.
        index: u8,
        /// Which share it says it is.
        of: u8,
    },
    /// What was decrypted is not the share that the document tells of.
    #[error(transparent)]
    Share(ShareError),
}

/// Why a text is not the private key of a seed-share owner.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OwnerKeyError {
    /// Longer than any key.
    #[error("a private key in PEM form has at most {MAX_PEM} bytes, not {got}")]
    TooLong {
        /// The number of bytes.
        got: usize,
    },
    /// The text is not PEM.
    #[error("not a private key in PEM form: {0}")]
    NotPem(pem_rfc7468::Error),
    /// It needs a passphrase.
    #[error("the private key is encrypted; decrypt it first (`openssl pkey -in FILE`)")]
    Encrypted,
    /// Another PEM label, such as `CERTIFICATE` or `EC PRIVATE KEY`.
    #[error("not an RSA private key (`BEGIN PRIVATE KEY` or `BEGIN RSA PRIVATE KEY`)")]
    Label,
    /// Another kind of key, another size, or damaged.
    #[error("not an RSA private key of 2048 to 8192 bits")]
    NotRsa,
}

/// A key of 8192 bits has 6.4 KiB in PEM form; comments before it are allowed for.
const MAX_PEM: usize = 64 * 1024;

const DER_OCTET_STRING: u8 = 0x04;
const DER_SEQUENCE: u8 = 0x30;

/// `INTEGER 0`, `SEQUENCE { OBJECT IDENTIFIER rsaEncryption, NULL }`.
const VERSION_0_RSA_ENCRYPTION: &[u8] = &[
    0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
    0x05, 0x00,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_lengths_have_the_shortest_form() {
        for (len, want) in [
            (0, &[0x04, 0x00][..]),
            (0x7f, &[0x04, 0x7f]),
            (0x80, &[0x04, 0x81, 0x80]),
            (0xff, &[0x04, 0x81, 0xff]),
            (0x100, &[0x04, 0x82, 0x01, 0x00]),
            (0x1_0000, &[0x04, 0x83, 0x01, 0x00, 0x00]),
        ] {
            let content = vec![0xaa; len];
            let mut out = Vec::new();
            push_der(&mut out, DER_OCTET_STRING, &content);
            assert_eq!(out, [want, &content].concat());
        }
    }
}
