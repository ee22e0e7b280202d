use std::fmt::Display;

use super::report::TdReport;
use crate::refusal::{Code, Refusal};

/// An Intel TDX quote, taken apart (Intel TDX DCAP Quoting Library API, appendix A.3 and A.4).
/// Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    version: u16,
    qe_vendor_id: [u8; 16],
    user_data: [u8; 20],
    report: TdReport,
    /// Header and body as they are signed.
    pub(super) signed: Vec<u8>,
    /// By the attestation key, over `signed`; r and s.
    pub(super) signature: [u8; 64],
    /// P-256; x and y.
    pub(super) attestation_key: [u8; 64],
    /// The quoting enclave's `REPORT`, which vouches for the attestation key.
    pub(super) qe_report: [u8; QE_REPORT_BYTES],
    /// By the platform's PCK, over `qe_report`; r and s.
    pub(super) qe_report_signature: [u8; 64],
    pub(super) qe_auth_data: [u8; 32],
    pub(super) certification: Certification,
    trailing: Trailing,
}

/// Which key signed the quoting enclave's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Certification {
    /// Type 5: certificates of the platform's PCK up to Intel's root, PEM.
    PckChain(Vec<u8>),
    /// Another type, which only names the key.
    Other(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailing {
    Zeros(usize),
    Data(usize),
}

/// Offset of REPORTDATA in an enclave's `REPORT`.
const QE_REPORT_DATA: usize = 320;
const QE_REPORT_BYTES: usize = 384;
const TEE_TYPE_SGX: u32 = 0;
const TEE_TYPE_TDX: u32 = 0x81;
const ECDSA_P256: u16 = 2;
const QE_REPORT_CERTIFICATION: u16 = 6;
const PCK_CERTIFICATE_CHAIN: u16 = 5;

impl Quote {
    /// The longest quote that is read, in bytes. Real ones have 5 KiB; some platforms pad to 8000.
    pub const MAX_BYTES: usize = 32 * 1024;

    /// Takes a binary quote apart, whether or not anything in it is true.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(malformed(
                "quote",
                format_args!("{} bytes", bytes.len()),
                format_args!("at most {} bytes", Self::MAX_BYTES),
            ));
        }
        let mut reader = Reader::new("quote", bytes);
        let version = reader.u16()?;
        let key_type = reader.u16()?;
        let tee_type = reader.u32()?;
        check_kind(version, tee_type)?;
        if key_type != ECDSA_P256 {
            return Err(Refusal::new(
                Code::Version,
                "header.attestation_key_type",
                key_type,
                "2 (ECDSA on P-256)",
            ));
        }
        let _svns_of_version_3 = reader.array::<4>()?;
        let qe_vendor_id = reader.array()?;
        if qe_vendor_id != dcap_qvl::INTEL_QE_VENDOR_ID {
            return Err(malformed(
                "header.qe_vendor_id",
                hex::encode(qe_vendor_id),
                hex::encode(dcap_qvl::INTEL_QE_VENDOR_ID),
            ));
        }
        let user_data = reader.array()?;
        let report = if version == 4 {
            TdReport::read_1_0(&mut reader)?
        } else {
            TdReport::read_with_descriptor(&mut reader)?
        };
        let signed = bytes.get(..bytes.len() - reader.rest.len());
        let signature_data = reader.prefixed_u32()?;
        let trailing = if reader.rest.iter().all(|byte| *byte == 0) {
            Trailing::Zeros(reader.rest.len())
        } else {
            Trailing::Data(reader.rest.len())
        };

        let mut reader = Reader::new("quote.signature_data", signature_data);
        let signature = reader.array()?;
        let attestation_key = reader.array()?;
        let certification_type = reader.u16()?;
        if certification_type != QE_REPORT_CERTIFICATION {
            return Err(malformed(
                "quote.certification_data_type",
                certification_type,
                "6 (report of the quoting enclave)",
            ));
        }
        let certification_data = reader.prefixed_u32()?;
        reader.end()?;

        let mut reader = Reader::new("quote.qe_report_certification_data", certification_data);
        let qe_report = reader.array()?;
        let qe_report_signature = reader.array()?;
        let auth_bytes = reader.u16()?;
        if auth_bytes != 32 {
            return Err(malformed("quote.qe_auth_data.size", auth_bytes, 32));
        }
        let qe_auth_data = reader.array()?;
        let certification_type = reader.u16()?;
        let certification_data = reader.prefixed_u32()?;
        reader.end()?;
        let certification = if certification_type == PCK_CERTIFICATE_CHAIN {
            Certification::PckChain(certification_data.to_vec())
        } else {
            Certification::Other(certification_type)
        };
        Ok(Self {
            version,
            qe_vendor_id,
            user_data,
            report,
            signed: signed.unwrap_or_default().to_vec(),
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            qe_auth_data,
            certification,
            trailing,
        })
    }

    /// What the TDX module reports of the guest.
    pub fn report(&self) -> &TdReport {
        &self.report
    }

    /// Every field that is not key material, by name, as text for people.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("header.version", self.version.to_string()),
            ("header.tee_type", "0x81 (TDX)".into()),
            ("header.qe_vendor_id", hex::encode(self.qe_vendor_id)),
            ("header.user_data", hex::encode(self.user_data)),
        ];
        fields.extend(self.report.fields());
        fields.extend([
            ("quote.attestation_key", hex::encode(self.attestation_key)),
            ("quote.signature", hex::encode(self.signature)),
            ("quote.qe_report", hex::encode(self.qe_report)),
            ("quote.qe_auth_data", hex::encode(self.qe_auth_data)),
            (
                "quote.certification_data_type",
                match self.certification {
                    Certification::PckChain(_) => "5 (PCK certificate chain)".into(),
                    Certification::Other(other) => other.to_string(),
                },
            ),
            (
                "quote.trailing",
                match self.trailing {
                    Trailing::Zeros(bytes) => format!("{bytes} bytes, all zero"),
                    Trailing::Data(bytes) => format!("{bytes} bytes, not all zero"),
                },
            ),
        ]);
        fields
    }

    /// The hash that the quoting enclave put into its report to vouch for the attestation key.
    pub(super) fn attestation_key_hash(&self) -> &[u8] {
        &self.qe_report[QE_REPORT_DATA..QE_REPORT_DATA + 32]
    }

    /// Nothing but padding may follow: a quote with a free tail would have many encodings.
    pub(super) fn check_trailing(&self) -> Result<(), Refusal> {
        match self.trailing {
            Trailing::Zeros(_) => Ok(()),
            Trailing::Data(bytes) => Err(malformed(
                "quote.trailing",
                format_args!("{bytes} bytes, not all zero"),
                "absent or zero",
            )),
        }
    }
}

fn check_kind(version: u16, tee_type: u32) -> Result<(), Refusal> {
    let known_to_intel = (3..=5).contains(&version);
    if known_to_intel && tee_type != TEE_TYPE_TDX {
        let got = match tee_type {
            TEE_TYPE_SGX => "0x0 (SGX)".into(),
            other => format!("{other:#x}"),
        };
        let want = "0x81 (TDX)";
        return Err(Refusal::new(Code::WrongTee, "header.tee_type", got, want));
    }
    if !known_to_intel || version == 3 {
        let want = "4 or 5";
        return Err(Refusal::new(Code::Version, "header.version", version, want));
    }
    Ok(())
}

pub(super) fn malformed(field: &str, got: impl Display, want: impl Display) -> Refusal {
    Refusal::new(Code::Malformed, field, got, want)
}

/// Reads little-endian fields off the front of a part of the quote.
pub(super) struct Reader<'a> {
    part: &'static str,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(part: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            part,
            whole: bytes.len(),
            rest: bytes,
        }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| {
            let read = self.whole - self.rest.len();
            malformed(
                self.part,
                format_args!("{} bytes", self.whole),
                format_args!("at least {} bytes", read.saturating_add(bytes)),
            )
        })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Refusal> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_le_bytes)
    }

    fn prefixed_u32(&mut self) -> Result<&'a [u8], Refusal> {
        let bytes = self.u32()?;
        self.take(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn end(&self) -> Result<(), Refusal> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(malformed(
            self.part,
            format_args!("{} bytes", self.whole),
            format_args!("{} bytes", self.whole - self.rest.len()),
        ))
    }
}
