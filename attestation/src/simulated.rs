//! The simulated TEE: evidence that software makes of itself, so that everything runs on a laptop.
//!
//! It proves nothing about a machine. What it does prove is possession of a platform key that the
//! reference values name, so that tests of enrolment can fail. Three locks keep it out of
//! production: the verifier must be told ([`SimulatedTee`](crate::SimulatedTee)), the reference
//! values must list it, and they must list no TEE of hardware beside it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};

use crate::binding::{Digest, ReportData};
use crate::refusal::{Code, Refusal};
use crate::result::Claims;
use crate::tee::Tee;

/// A simulated report with its signature. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The encoding of a [`Report`].
    pub report: Vec<u8>,
    /// ECDSA on P-256 with SHA-256 over the report, ASN.1.
    pub signature: Vec<u8>,
    /// `SubjectPublicKeyInfo` of the platform key, DER.
    pub key: Vec<u8>,
}

/// What the simulated TEE reports. The fields are those that SEV-SNP and TDX have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The guest's initial memory; here a value that the operator gave.
    pub measurement: [u8; 48],
    /// The hash of the policy that the guest was started with; here a value that the operator gave.
    pub host_data: Digest,
    /// Which machine; here a value that the operator gave.
    pub platform: [u8; 16],
    /// What the guest asked to have signed.
    pub report_data: ReportData,
}

impl Report {
    /// The bytes that are signed. No report of hardware begins like them.
    pub fn to_bytes(&self) -> Vec<u8> {
        [
            MAGIC,
            &self.measurement,
            &self.host_data.0,
            &self.platform,
            &self.report_data.0,
        ]
        .concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (measurement, rest) = rest.split_first_chunk()?;
        let (host_data, rest) = rest.split_first_chunk()?;
        let (platform, rest) = rest.split_first_chunk()?;
        Some(Self {
            measurement: *measurement,
            host_data: Digest(*host_data),
            platform: *platform,
            report_data: ReportData(rest.try_into().ok()?),
        })
    }
}

/// A configuration of the simulated TEE that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceValues {
    /// The measurement that is trusted.
    pub measurement: [u8; 48],
    /// SHA-256 of the `SubjectPublicKeyInfo` of each platform key that is trusted.
    pub platform_keys: Vec<Digest>,
}

/// A report whose signature holds.
#[derive(Debug)]
pub struct AuthenticReport {
    report: Report,
    key: Digest,
}

/// Checks the signature, by whichever platform key it is.
pub fn authenticate(evidence: &Evidence) -> Result<AuthenticReport, Refusal> {
    let report = Report::parse(&evidence.report).ok_or_else(|| {
        Refusal::new(
            Code::Malformed,
            "report",
            format_args!("{} bytes", evidence.report.len()),
            "a simulated report",
        )
    })?;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &evidence.key)
        .ok()
        .and_then(|key| key.verify_sig(&evidence.report, &evidence.signature).ok())
        .ok_or_else(|| {
            Refusal::new(
                Code::Signature,
                "signature",
                "invalid",
                "a signature by the platform key",
            )
        })?;
    Ok(AuthenticReport {
        report,
        key: Digest::of(&evidence.key),
    })
}

impl AuthenticReport {
    /// What the report says.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// SHA-256 of the platform key.
    pub fn platform_key(&self) -> Digest {
        self.key
    }

    /// Compares with one reference value and gives every mismatch.
    pub fn appraise(
        &self,
        reference: &ReferenceValues,
        report_data: &ReportData,
    ) -> Result<Claims, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let Report {
            measurement,
            host_data,
            platform,
            report_data: bound,
        } = &self.report;
        if !reference.platform_keys.contains(&self.key) {
            let keys: Vec<_> = reference
                .platform_keys
                .iter()
                .map(Digest::to_string)
                .collect();
            refusals.push(Refusal::new(
                Code::Platform,
                "key",
                self.key,
                format_args!("one of [{}]", keys.join(", ")),
            ));
        }
        if measurement != &reference.measurement {
            refusals.push(Refusal::new(
                Code::Measurement,
                "report.measurement",
                hex::encode(measurement),
                hex::encode(reference.measurement),
            ));
        }
        if bound != report_data {
            refusals.push(Refusal::new(
                Code::ReportData,
                "report.report_data",
                format_args!("{bound:?}"),
                format_args!("{report_data:?}"),
            ));
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        Ok(Claims {
            tee: Tee::Simulated,
            measurement: *measurement,
            host_data: *host_data,
            platform: platform.to_vec(),
        })
    }
}

const MAGIC: &[u8] = b"SIMULATED - INSECURE\x01";

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    const DATA: ReportData = ReportData([4; 64]);

    struct Platform(EcdsaKeyPair);

    impl Platform {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
        }

        fn key(&self) -> Vec<u8> {
            use aws_lc_rs::encoding::AsDer;
            AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(self.0.public_key())
                .unwrap()
                .as_ref()
                .to_vec()
        }

        fn evidence(&self) -> Evidence {
            let report = Report {
                measurement: [1; 48],
                host_data: Digest([2; 32]),
                platform: [3; 16],
                report_data: DATA,
            }
            .to_bytes();
            let signature = self.0.sign(&SystemRandom::new(), &report).unwrap();
            Evidence {
                signature: signature.as_ref().to_vec(),
                key: self.key(),
                report,
            }
        }

        fn reference(&self) -> ReferenceValues {
            ReferenceValues {
                measurement: [1; 48],
                platform_keys: vec![Digest::of(&self.key())],
            }
        }
    }

    #[test]
    fn a_listed_platform_and_measurement_are_accepted() {
        let platform = Platform::new();
        let claims = authenticate(&platform.evidence())
            .unwrap()
            .appraise(&platform.reference(), &DATA)
            .unwrap();
        assert_eq!(claims.host_data, Digest([2; 32]));
        assert_eq!(claims.tee, Tee::Simulated);
    }

    #[test]
    fn every_mismatch_is_named() {
        let reference = ReferenceValues {
            measurement: [9; 48],
            ..Platform::new().reference()
        };
        let refusals = authenticate(&Platform::new().evidence())
            .unwrap()
            .appraise(&reference, &ReportData([9; 64]))
            .unwrap_err();
        let codes: Vec<_> = refusals.iter().map(|it| it.code).collect();
        assert_eq!(codes, [Code::Platform, Code::Measurement, Code::ReportData]);
    }

    #[test]
    fn a_changed_bit_or_length_is_refused() {
        let evidence = Platform::new().evidence();
        for index in 0..evidence.report.len() {
            let mut changed = evidence.clone();
            changed.report[index] ^= 1;
            authenticate(&changed).unwrap_err();
            changed.report.truncate(index);
            authenticate(&changed).unwrap_err();
        }
    }
}
