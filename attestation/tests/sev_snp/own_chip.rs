//! Chips of our own, for what no genuine report shows. Keys are made when a test runs.

use attestation::Refusal;
use attestation::sev_snp::{AuthenticReport, Evidence, Product, SigningKey, Tcb, authenticate};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::authority::{Authorities, Authority, Subject};
use crate::der;
use crate::vectors::{NOW, at};

const EC_P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];

/// What a certificate of a VCEK or VLEK says.
#[derive(Clone)]
pub(crate) struct Vek {
    pub(crate) serial: u8,
    pub(crate) not_before: &'static str,
    pub(crate) not_after: &'static str,
    /// The content of AMD's extensions, by the end of their identifiers.
    pub(crate) extensions: Vec<(&'static [u8], Vec<u8>)>,
}

/// Ends of identifiers under AMD's arc 1.3.6.1.4.1.3704.1.
pub(crate) mod oid {
    pub(crate) const PRODUCT_NAME: &[u8] = &[2];
    pub(crate) const BOOTLOADER: &[u8] = &[3, 1];
    pub(crate) const TEE: &[u8] = &[3, 2];
    pub(crate) const SNP: &[u8] = &[3, 3];
    pub(crate) const MICROCODE: &[u8] = &[3, 8];
    pub(crate) const FMC: &[u8] = &[3, 9];
    pub(crate) const HWID: &[u8] = &[4];
    pub(crate) const CSP_ID: &[u8] = &[5];
}

impl Vek {
    /// Changes one extension's content.
    pub(crate) fn set(&mut self, oid: &[u8], content: Vec<u8>) {
        self.extensions
            .iter_mut()
            .find(|(known, _)| *known == oid)
            .unwrap()
            .1 = content;
    }

    pub(crate) fn remove(&mut self, oid: &[u8]) {
        self.extensions.retain(|(known, _)| *known != oid);
    }
}

/// A chip that signs reports.
pub(crate) struct Chip {
    pub(crate) product: Product,
    pub(crate) kind: SigningKey,
    key: EcdsaKeyPair,
}

impl Chip {
    pub(crate) fn new(product: Product, kind: SigningKey) -> Self {
        Self {
            product,
            kind,
            key: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
        }
    }

    pub(crate) fn milan() -> Self {
        Self::new(Product::Milan, SigningKey::Vcek)
    }

    /// The firmware that it has.
    pub(crate) fn tcb(&self) -> Tcb {
        Tcb {
            bootloader: 4,
            tee: 1,
            snp: 24,
            microcode: 219,
            fmc: (self.product == Product::Turin).then_some(2),
        }
    }

    pub(crate) fn chip_id(&self) -> [u8; 64] {
        let mut id = [0; 64];
        match self.product {
            Product::Turin => id[..8].copy_from_slice(&[0xc1; 8]),
            Product::Milan | Product::Genoa => id = [0xc2; 64],
        }
        id
    }

    /// A report of `version` that nothing speaks against, to be changed and signed.
    pub(crate) fn report(&self, version: u8) -> Vec<u8> {
        let mut report = vec![0; 1184];
        let mut put = |at: usize, bytes: &[u8]| {
            report[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let Tcb {
            bootloader,
            tee,
            snp,
            microcode,
            fmc,
        } = self.tcb();
        let (cpuid, tcb) = match self.product {
            Product::Milan => (
                [0x19, 0x01, 1],
                [bootloader, tee, 0, 0, 0, 0, snp, microcode],
            ),
            Product::Genoa => (
                [0x19, 0x11, 1],
                [bootloader, tee, 0, 0, 0, 0, snp, microcode],
            ),
            Product::Turin => (
                [0x1a, 0x02, 1],
                [fmc.unwrap(), bootloader, tee, snp, 0, 0, 0, microcode],
            ),
        };
        put(0x00, &[version]);
        put(0x08, &[0x1f, 0x00, 0x03]);
        put(0x34, &[1]);
        put(0x40, &[0b10_0101]);
        if self.kind == SigningKey::Vlek {
            put(0x48, &[1 << 2]);
        }
        put(0x50, &[0xd1; 64]);
        put(0x90, &[0xd2; 48]);
        put(0xc0, &[0xd3; 32]);
        if version >= 3 {
            put(0x188, &cpuid);
        }
        put(0x1a0, &self.chip_id());
        for at in [0x38, 0x180, 0x1e0, 0x1f0] {
            put(at, &tcb);
        }
        report
    }

    /// Signs `report`.
    pub(crate) fn sign(&self, mut report: Vec<u8>) -> Vec<u8> {
        let signature = self
            .key
            .sign(&SystemRandom::new(), &report[..0x2a0])
            .unwrap();
        for (at, scalar) in [0x2a0, 0x2e8]
            .into_iter()
            .zip(signature.as_ref().chunks(48))
        {
            report[at..at + 48].copy_from_slice(scalar);
            report[at..at + 48].reverse();
        }
        report
    }

    /// What AMD would write into its certificate.
    pub(crate) fn vek(&self) -> Vek {
        let Tcb {
            bootloader,
            tee,
            snp,
            microcode,
            fmc,
        } = self.tcb();
        let mut extensions = vec![
            (
                oid::PRODUCT_NAME,
                der::value(der::IA5_STRING, &[self.product.as_str().as_bytes()]),
            ),
            (oid::BOOTLOADER, der::integer(bootloader)),
            (oid::TEE, der::integer(tee)),
            (oid::SNP, der::integer(snp)),
            (oid::MICROCODE, der::integer(microcode)),
        ];
        extensions.extend(fmc.map(|fmc| (oid::FMC, der::integer(fmc))));
        extensions.push(match (self.kind, self.product) {
            (SigningKey::Vlek, _) => (oid::CSP_ID, der::value(der::IA5_STRING, &[b"cloud"])),
            (_, Product::Turin) => (oid::HWID, self.chip_id()[..8].to_vec()),
            _ => (oid::HWID, self.chip_id().to_vec()),
        });
        Vek {
            serial: 0,
            not_before: "250101000000Z",
            not_after: "310101000000Z",
            extensions,
        }
    }

    /// The certificate that `signer` gives.
    pub(crate) fn certificate(&self, vek: &Vek, signer: &Authority) -> Vec<u8> {
        const AMD: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];
        let extensions = vek
            .extensions
            .iter()
            .map(|(oid, content)| der::extension(&[AMD, oid].concat(), false, content))
            .collect();
        signer.certify(&Subject {
            name: &der::name("SEV-Chip"),
            serial: vek.serial,
            not_before: vek.not_before,
            not_after: vek.not_after,
            key: der::sequence(&[EC_P384, &der::bit_string(self.key.public_key().as_ref())]),
            extensions,
        })
    }

    /// Evidence of `report`, signed, with a certificate of `vek` by the authorities that the tests
    /// trust.
    pub(crate) fn evidence(&self, report: Vec<u8>, vek: &Vek) -> Evidence {
        let signer = Authorities::trusted().signer(self.kind);
        Evidence {
            report: self.sign(report),
            vek: self.certificate(vek, signer),
            crl: None,
        }
    }

    /// Judges evidence of this chip.
    pub(crate) fn judge(&self, evidence: &Evidence) -> Result<AuthenticReport, Refusal> {
        let roots = Authorities::trusted().roots(self.product);
        authenticate(evidence, &roots, at(NOW))
    }

    /// Judges `report`, signed, with the certificate that belongs to it.
    pub(crate) fn judge_report(&self, report: Vec<u8>) -> Result<AuthenticReport, Refusal> {
        self.judge(&self.evidence(report, &self.vek()))
    }
}
