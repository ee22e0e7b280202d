//! The simulated TEE: software that signs whatever it is told to, so that everything runs on a
//! laptop. It protects nothing.

use std::fmt;

use attestation::simulated::{Evidence as SimulatedEvidence, Report};
use attestation::{Digest, Evidence, ReportData, Tee};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

use crate::error::AttesterError;
use crate::source::EvidenceSource;

/// What the simulated TEE is to report.
pub struct SimulatedOptions {
    /// The platform key: P-256, PKCS #8, PEM; see [`generate_platform_key`].
    pub key_pem: Zeroizing<String>,
    /// The measurement of the guest.
    pub measurement: [u8; 48],
    /// The hash of the policy that the guest was started with.
    pub host_data: Digest,
    /// Which machine it is.
    pub platform: [u8; 16],
}

impl fmt::Debug for SimulatedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedOptions")
            .field("host_data", &self.host_data)
            .finish_non_exhaustive()
    }
}

/// The simulated TEE.
pub struct Simulated {
    key: PlatformKey,
    measurement: [u8; 48],
    host_data: Digest,
    platform: [u8; 16],
}

impl Simulated {
    /// A TEE that reports `options`.
    pub fn new(options: SimulatedOptions) -> Result<Self, AttesterError> {
        let SimulatedOptions {
            key_pem,
            measurement,
            host_data,
            platform,
        } = options;
        Ok(Self {
            key: PlatformKey::from_pem(&key_pem)?,
            measurement,
            host_data,
            platform,
        })
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated")
            .field("host_data", &self.host_data)
            .finish_non_exhaustive()
    }
}

impl EvidenceSource for Simulated {
    fn tee(&self) -> Tee {
        Tee::Simulated
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError> {
        let report = Report {
            measurement: self.measurement,
            host_data: self.host_data,
            platform: self.platform,
            report_data: *report_data,
        }
        .to_bytes();
        let signature = self
            .key
            .pair
            .sign(&SystemRandom::new(), &report)
            .map_err(|_| AttesterError::Crypto("sign a simulated report"))?;
        Ok(Evidence::Simulated(SimulatedEvidence {
            report,
            signature: signature.as_ref().to_vec(),
            key: self.key.spki.clone(),
        }))
    }
}

/// A fresh platform key: P-256, PKCS #8, PEM.
pub fn generate_platform_key() -> Result<Zeroizing<String>, AttesterError> {
    let failed = |_| AttesterError::Crypto("generate a key");
    let pkcs8 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .and_then(|pair| pair.to_pkcs8v1())
        .map_err(failed)?;
    pem_rfc7468::encode_string(PRIVATE_KEY, LineEnding::LF, pkcs8.as_ref())
        .map(Zeroizing::new)
        .map_err(|_| AttesterError::Crypto("encode a key"))
}

/// SHA-256 of the `SubjectPublicKeyInfo` of a platform key: what reference values name it by.
pub fn platform_key_digest(key_pem: &str) -> Result<Digest, AttesterError> {
    Ok(Digest::of(&PlatformKey::from_pem(key_pem)?.spki))
}

struct PlatformKey {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl PlatformKey {
    fn from_pem(pem: &str) -> Result<Self, AttesterError> {
        let (label, pkcs8) =
            pem_rfc7468::decode_vec(pem.as_bytes()).map_err(|_| AttesterError::PlatformKey)?;
        let pkcs8 = Zeroizing::new(pkcs8);
        if label != PRIVATE_KEY {
            return Err(AttesterError::PlatformKey);
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
            .map_err(|_| AttesterError::PlatformKey)?;
        let spki: PublicKeyX509Der<'_> = pair
            .public_key()
            .as_der()
            .map_err(|_| AttesterError::Crypto("encode a public key"))?;
        let spki = spki.as_ref().to_vec();
        Ok(Self { pair, spki })
    }
}

const PRIVATE_KEY: &str = "PRIVATE KEY";

#[cfg(test)]
mod tests {
    use attestation::simulated::{ReferenceValues, authenticate};

    use super::*;

    fn options(key_pem: Zeroizing<String>) -> SimulatedOptions {
        SimulatedOptions {
            key_pem,
            measurement: [1; 48],
            host_data: Digest([2; 32]),
            platform: [3; 16],
        }
    }

    #[test]
    fn its_evidence_is_what_the_verifier_takes() {
        let pem = generate_platform_key().unwrap();
        let reference = ReferenceValues {
            measurement: [1; 48],
            platform_keys: vec![platform_key_digest(&pem).unwrap()],
        };
        let source = Simulated::new(options(pem)).unwrap();
        assert_eq!(source.tee(), Tee::Simulated);
        let data = ReportData([9; 64]);
        let Evidence::Simulated(evidence) = source.evidence(&data).unwrap() else {
            panic!("of another TEE");
        };
        let claims = authenticate(&evidence)
            .unwrap()
            .appraise(&reference, &data)
            .unwrap();
        assert_eq!(claims.host_data, Digest([2; 32]));
        assert_eq!(claims.platform, [3; 16]);
    }

    #[test]
    fn two_keys_have_two_digests() {
        let digest = || platform_key_digest(&generate_platform_key().unwrap()).unwrap();
        assert_ne!(digest(), digest());
    }

    #[test]
    fn what_is_not_a_p256_key_is_refused() {
        let pem = generate_platform_key().unwrap();
        for bad in [
            "",
            &pem.replace("PRIVATE KEY", "EC PRIVATE KEY"),
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            let error = Simulated::new(options(Zeroizing::new(bad.to_owned()))).unwrap_err();
            assert!(matches!(error, AttesterError::PlatformKey), "{bad}");
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        let pem = generate_platform_key().unwrap();
        let options = options(pem.clone());
        let secret = pem.lines().nth(1).unwrap();
        assert!(!format!("{options:?}").contains(secret));
        let simulated = Simulated::new(options).unwrap();
        assert!(!format!("{simulated:?}").contains("pair"));
    }
}
