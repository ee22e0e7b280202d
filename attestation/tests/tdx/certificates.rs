//! Certificates and revocation lists like those of Intel's SGX PKI (Intel SGX PCK Certificate and
//! Certificate Revocation List Profile Specification).

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CustomExtension, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::simulated_intel::{FMSPC, PPID};

pub(crate) const PCE_ID: [u8; 2] = [0, 0];
pub(crate) const ROOT: u8 = 1;
pub(crate) const PCK_CA: u8 = 2;
pub(crate) const TCB_SIGNER: u8 = 3;
const PLATFORM: u8 = 4;

type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) struct Authorities {
    pub(crate) root: Ca,
    pub(crate) pck_ca: Ca,
    pub(crate) tcb_signer: Signer,
    pub(crate) revoked_by_root: Vec<u8>,
    pub(crate) revoked_by_pck_ca: Vec<u8>,
    pub(crate) crl_dates: (OffsetDateTime, OffsetDateTime),
}

pub(crate) struct Signer {
    pub(crate) key: KeyPair,
    /// PEM.
    pub(crate) certificate: String,
}

impl Authorities {
    pub(crate) fn new() -> Self {
        let root = Ca::self_signed(authority("Simulated SGX Root CA", ROOT), key()).unwrap();
        let pck_ca = authority("Simulated SGX PCK Platform CA", PCK_CA);
        let pck_ca = Ca::signed_by(pck_ca, key(), &root).unwrap();
        let tcb_signer = Signer::new("Simulated SGX TCB Signing", TCB_SIGNER, &root);
        Self {
            root,
            pck_ca,
            tcb_signer,
            revoked_by_root: Vec::new(),
            revoked_by_pck_ca: Vec::new(),
            crl_dates: (
                datetime!(2026-05-25 0:00 UTC),
                datetime!(2026-06-25 0:00 UTC),
            ),
        }
    }

    /// A certificate with the root behind it, PEM.
    pub(crate) fn chain(&self, certificate: &str) -> String {
        format!("{certificate}{}", self.root.pem())
    }

    pub(crate) fn root_crl(&self) -> Vec<u8> {
        self.crl(&self.root, &self.revoked_by_root)
    }

    pub(crate) fn pck_crl(&self) -> Vec<u8> {
        self.crl(&self.pck_ca, &self.revoked_by_pck_ca)
    }

    fn crl(&self, issuer: &Ca, revoked: &[u8]) -> Vec<u8> {
        let (this_update, next_update) = self.crl_dates;
        let revoked_certs = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        });
        CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(issuer)
        .unwrap()
        .der()
        .to_vec()
    }
}

impl Signer {
    pub(crate) fn new(name: &str, serial: u8, issuer: &Issuer<'_, KeyPair>) -> Self {
        let key = key();
        let certificate = subject(name, serial).signed_by(&key, issuer).unwrap();
        Self {
            key,
            certificate: certificate.pem(),
        }
    }
}

/// What a PCK certificate says of a platform.
#[derive(Clone)]
pub(crate) struct Platform {
    pub(crate) ppid: [u8; 16],
    pub(crate) fmspc: [u8; 6],
    pub(crate) pce_id: [u8; 2],
    /// Dynamic platform, cached keys, SMT; absent where one package is all there is.
    pub(crate) configuration: Option<[bool; 3]>,
    pub(crate) not_after: OffsetDateTime,
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            ppid: PPID,
            fmspc: FMSPC,
            pce_id: PCE_ID,
            configuration: Some([true; 3]),
            not_after: datetime!(2033-01-01 0:00 UTC),
        }
    }
}

pub(crate) struct Pck {
    pub(crate) key: KeyPair,
    /// PEM.
    pub(crate) certificate: String,
    pub(crate) serial: u8,
}

impl Pck {
    pub(crate) fn new(authorities: &Authorities) -> Self {
        Self::of(&Platform::default(), &authorities.pck_ca)
    }

    pub(crate) fn of(platform: &Platform, issuer: &Issuer<'_, KeyPair>) -> Self {
        let mut params = subject("Simulated SGX PCK Certificate", PLATFORM);
        params.not_after = platform.not_after;
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &[1, 2, 840, 113_741, 1, 13, 1],
            platform.extension(),
        )];
        let key = key();
        let certificate = params.signed_by(&key, issuer).unwrap();
        Self {
            key,
            certificate: certificate.pem(),
            serial: PLATFORM,
        }
    }
}

impl Platform {
    fn extension(&self) -> Vec<u8> {
        let mut entries = vec![
            entry(&[1], &tlv(0x04, &self.ppid)),
            entry(&[2], &tlv(0x30, &tcb())),
            entry(&[3], &tlv(0x04, &self.pce_id)),
            entry(&[4], &tlv(0x04, &self.fmspc)),
            entry(&[5], &tlv(0x0a, &[1])),
        ];
        if let Some(flags) = self.configuration {
            let flags: Vec<_> = (1..)
                .zip(flags)
                .map(|(id, flag)| entry(&[7, id], &tlv(0x01, &[if flag { 0xff } else { 0 }])))
                .collect();
            entries.push(entry(&[7], &tlv(0x30, &flags.concat())));
        }
        tlv(0x30, &entries.concat())
    }
}

/// CPUSVN with its components, and the version of the certification enclave.
fn tcb() -> Vec<u8> {
    let mut entries: Vec<_> = (1..=16)
        .map(|component| entry(&[2, component], &tlv(0x02, &[3])))
        .collect();
    entries.push(entry(&[2, 17], &tlv(0x02, &[13])));
    entries.push(entry(&[2, 18], &tlv(0x04, &[3; 16])));
    entries.concat()
}

/// A value by its object identifier below that of the extension.
fn entry(id: &[u8], value: &[u8]) -> Vec<u8> {
    let oid = [&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1], id].concat();
    tlv(0x30, &[&tlv(0x06, &oid), value].concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match u8::try_from(content.len()) {
        Ok(short @ 0..0x80) => vec![short],
        Ok(long) => vec![0x81, long],
        Err(_) => {
            let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
            vec![0x82, high, low]
        }
    };
    [&[tag], &length[..], content].concat()
}

pub(crate) fn authority(name: &str, serial: u8) -> CertificateParams {
    let mut params = subject(name, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn subject(name: &str, serial: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&[serial]));
    params.not_before = datetime!(2025-01-01 0:00 UTC);
    params.not_after = datetime!(2040-01-01 0:00 UTC);
    params
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}
