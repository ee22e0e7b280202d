//! The certificate of a VCEK or VLEK, and what AMD writes into it (KDS, certificate definitions).

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::{Product, Report, SigningKey};
use crate::refusal::{Code, Refusal};

/// A certificate, read and not verified.
pub(super) struct Vek<'a> {
    key: SigningKey,
    der: CertificateDer<'a>,
    certificate: X509Certificate<'a>,
}

impl<'a> Vek<'a> {
    /// Reads what is said to be the certificate of a key of the kind.
    pub(super) fn parse(der: &'a [u8], key: SigningKey) -> Result<Self, Refusal> {
        if der.is_empty() {
            return Err(Refusal::new(
                Code::Missing,
                key.as_str(),
                "absent",
                format_args!("the {key}'s certificate"),
            ));
        }
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(Self {
                key,
                der: der.into(),
                certificate,
            }),
            _ => Err(Refusal::new(
                Code::Malformed,
                key.as_str(),
                format_args!("{} bytes", der.len()),
                "one certificate (RFC 5280), DER",
            )),
        }
    }

    /// The kind of key.
    pub(super) fn key(&self) -> SigningKey {
        self.key
    }

    /// The bytes.
    pub(super) fn der(&self) -> &CertificateDer<'a> {
        &self.der
    }

    /// What was read.
    pub(super) fn certificate(&self) -> &X509Certificate<'a> {
        &self.certificate
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub(super) fn public_key(&self) -> &'a [u8] {
        self.certificate.tbs_certificate.subject_pki.raw
    }

    /// Checks that AMD made the certificate for this product, and for the chip and the firmware
    /// that `report` names.
    pub(super) fn check_describes(&self, report: &Report, product: Product) -> Result<(), Refusal> {
        self.check_product(product)?;
        match (self.key, report.chip_id()) {
            (SigningKey::Vcek, Some(chip_id)) => self.check_chip(chip_id, product)?,
            // A VLEK is of no chip in particular; a chip that is hidden can't be compared.
            (SigningKey::Vlek, _) | (_, None) => {}
        }
        self.check_tcb(report, product)
    }

    /// The stepping that may follow the name is not compared: `Milan-B0` is the name of chips with
    /// other steppings too.
    fn check_product(&self, product: Product) -> Result<(), Refusal> {
        let field = || format!("{}.product_name", self.key);
        let value = self.extension(&PRODUCT_NAME, "product_name")?;
        let name = match value {
            [IA5_STRING, length, name @ ..] if usize::from(*length) == name.len() => {
                String::from_utf8_lossy(name)
            }
            _ => {
                return Err(Refusal::new(
                    Code::Endorsement,
                    field(),
                    hex::encode(value),
                    "a name",
                ));
            }
        };
        let line = name.split_once('-').map_or(&*name, |(line, _)| line);
        if lines(product).contains(&line) {
            Ok(())
        } else {
            Err(Refusal::new(
                Code::Endorsement,
                field(),
                shown(&name),
                product,
            ))
        }
    }

    fn check_chip(&self, chip_id: &[u8; 64], product: Product) -> Result<(), Refusal> {
        let value = self.extension(&HWID, "hwid")?;
        // Newer certificates have it in an OCTET STRING of its own.
        let hwid = match value {
            [OCTET_STRING, length, hwid @ ..] if usize::from(*length) == hwid.len() => hwid,
            _ => value,
        };
        let (significant, rest) = chip_id.split_at(match product {
            Product::Milan | Product::Genoa => chip_id.len(),
            Product::Turin => TURIN_HWID,
        });
        if (hwid == significant || value == significant) && rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Endorsement,
            format!("{}.hwid", self.key),
            hex::encode(hwid.get(..chip_id.len()).unwrap_or(hwid)),
            format_args!("report.chip_id, {}", hex::encode(chip_id)),
        ))
    }

    fn check_tcb(&self, report: &Report, product: Product) -> Result<(), Refusal> {
        for (name, reported) in report.reported_tcb.of(product).components() {
            let Some(reported) = reported else { continue };
            let certified = self.spl(name)?;
            if certified != reported {
                return Err(Refusal::new(
                    Code::Endorsement,
                    format!("{}.tcb.{name}", self.key),
                    certified,
                    format_args!("report.reported_tcb.{name}, {reported}"),
                ));
            }
        }
        Ok(())
    }

    /// The security patch level of a component, by the component's name.
    fn spl(&self, name: &str) -> Result<u8, Refusal> {
        let oid = match name {
            "bootloader" => BOOTLOADER_SPL,
            "tee" => TEE_SPL,
            "snp" => SNP_SPL,
            "microcode" => MICROCODE_SPL,
            _ => FMC_SPL,
        };
        match self.extension(&oid, name)? {
            [INTEGER, 1, value @ 0..=0x7f] | [INTEGER, 2, 0, value @ 0x80..=0xff] => Ok(*value),
            other => Err(Refusal::new(
                Code::Endorsement,
                format!("{}.tcb.{name}", self.key),
                hex::encode(other.get(..8).unwrap_or(other)),
                "an integer of 0 to 255, DER",
            )),
        }
    }

    fn extension(&self, oid: &Oid<'_>, name: &str) -> Result<&'a [u8], Refusal> {
        match self.certificate.get_extension_unique(oid) {
            Ok(Some(X509Extension { value, .. })) => Ok(value),
            Ok(None) | Err(_) => Err(Refusal::new(
                Code::Endorsement,
                format!("{}.{name}", self.key),
                "absent or twice",
                format_args!("extension {oid}"),
            )),
        }
    }
}

/// The common name in `name`, fit for a log: the peer chose the bytes.
pub(super) fn common_name(name: &X509Name<'_>) -> String {
    name.iter_common_name()
        .next()
        .and_then(|it| it.as_str().ok())
        .map_or_else(|| "without a name".to_owned(), shown)
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The names that AMD's certificates have for what [`Product`] sums up.
fn lines(product: Product) -> &'static [&'static str] {
    match product {
        Product::Milan => &["Milan"],
        Product::Genoa => &["Genoa", "Bergamo", "Siena"],
        Product::Turin => &["Turin"],
    }
}

const PRODUCT_NAME: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.2);
const BOOTLOADER_SPL: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.1);
const TEE_SPL: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.2);
const SNP_SPL: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.3);
const MICROCODE_SPL: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.8);
const FMC_SPL: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.9);
const HWID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.4);

/// How many bytes of `CHIP_ID` Turin uses.
const TURIN_HWID: usize = 8;

// DER's tags.
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const IA5_STRING: u8 = 0x16;
