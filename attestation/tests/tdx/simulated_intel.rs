//! Keys and statements like Intel's under a root of our own, made at start and never kept: what
//! real quotes can't show, because nobody else can sign it.

use attestation::tdx::{Evidence, Root};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::KeyPair;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::certificates::{Authorities, PCE_ID, Pck, TCB_SIGNER};
use crate::support::{BODY, SIGNATURE_DATA_LEN, vector};

pub(crate) const NOW: OffsetDateTime = datetime!(2026-06-01 0:00 UTC);
pub(crate) const FMSPC: [u8; 6] = [0x50, 0x80, 0x6f, 1, 2, 3];
pub(crate) const PPID: [u8; 16] = [7; 16];
const QE_SIGNER: [u8; 32] = [0xab; 32];

/// Everything that goes into evidence, to be changed before it is signed.
pub(crate) struct Intel {
    pub(crate) authorities: Authorities,
    pub(crate) pck: Pck,
    pub(crate) tcb_info: Value,
    pub(crate) qe_identity: Value,
    /// Header (48 bytes), then the body as in a quote of version 5, without its descriptor.
    pub(crate) report: Vec<u8>,
    pub(crate) qe_report: [u8; 384],
    /// Type of the quote's certification data; 5 for the chain.
    pub(crate) certification: u16,
}

impl Intel {
    /// A platform that is up to date, and a guest on it like the one of the real quote.
    pub(crate) fn new() -> Self {
        let authorities = Authorities::new();
        let pck = Pck::new(&authorities);
        let mut qe_report = [0; 384];
        qe_report[48] = 0x11; // attributes: initialised, 64-bit
        qe_report[128..160].copy_from_slice(&QE_SIGNER);
        qe_report[256] = 2; // product
        qe_report[258] = 5; // version
        let mut report = vector("tdx/dcap-qvl/tdx_quote")[..SIGNATURE_DATA_LEN].to_vec();
        report[BODY..BODY + 16].copy_from_slice(&[0; 16]);
        Self {
            authorities,
            pck,
            tcb_info: json!({
                "id": "TDX",
                "version": 3,
                "issueDate": "2026-05-20T00:00:00Z",
                "nextUpdate": "2026-06-19T00:00:00Z",
                "fmspc": hex::encode_upper(FMSPC),
                "pceId": hex::encode(PCE_ID),
                "tcbType": 0,
                "tcbEvaluationDataNumber": 18,
                "tdxModule": module(),
                "tdxModuleIdentities": [],
                "tcbLevels": [level(0, "UpToDate", &[])],
            }),
            qe_identity: json!({
                "id": "TD_QE",
                "version": 2,
                "issueDate": "2026-05-21T00:00:00Z",
                "nextUpdate": "2026-06-20T00:00:00Z",
                "tcbEvaluationDataNumber": 18,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": hex::encode_upper(QE_SIGNER),
                "isvprodid": 2,
                "tcbLevels": [{
                    "tcb": { "isvsvn": 4 },
                    "tcbDate": "2026-01-01T00:00:00Z",
                    "tcbStatus": "UpToDate",
                }],
            }),
            report,
            qe_report,
            certification: 5,
        }
    }

    pub(crate) fn root(&self) -> Root {
        Root::of(self.authorities.root.der().to_vec())
    }

    /// With one TCB level, which every platform meets.
    pub(crate) fn status(mut self, status: &str) -> Self {
        self.tcb_info["tcbLevels"] = json!([level(0, status, &["INTEL-SA-00001"])]);
        self
    }

    /// With `bytes` in the guest's report.
    pub(crate) fn report(mut self, offset: usize, bytes: &[u8]) -> Self {
        let at = BODY + offset;
        if self.report.len() < at + bytes.len() {
            self.report.resize(at + bytes.len(), 0);
        }
        self.report[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// With a body of TDX 1.5, plain (3) or extended (4), the added fields zero.
    pub(crate) fn version_5(mut self, kind: u16) -> Self {
        let bytes = match kind {
            2 => 584,
            3 => 648,
            _ => 885,
        };
        self.report.resize(BODY + bytes, 0);
        self.report[0] = 5;
        self
    }

    /// Signs it all.
    pub(crate) fn evidence(&self) -> Evidence {
        Evidence {
            quote: self.quote(),
            collateral: serde_json::to_vec(&self.collateral()).unwrap(),
        }
    }

    pub(crate) fn collateral(&self) -> Value {
        let tcb_info = self.tcb_info.to_string();
        let qe_identity = self.qe_identity.to_string();
        let signer = &self.authorities.tcb_signer;
        let chain = self.authorities.chain(&signer.certificate);
        json!({
            "root_ca_crl": hex::encode(self.authorities.root_crl()),
            "pck_crl": hex::encode(self.authorities.pck_crl()),
            "tcb_info_issuer_chain": chain,
            "tcb_info_signature": hex::encode(sign(&signer.key, tcb_info.as_bytes())),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": chain,
            "qe_identity_signature": hex::encode(sign(&signer.key, qe_identity.as_bytes())),
            "qe_identity": qe_identity,
        })
    }

    pub(crate) fn quote(&self) -> Vec<u8> {
        let attestation_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = &attestation_key.public_key().as_ref()[1..];
        let auth_data = [9; 32];
        let mut qe_report = self.qe_report;
        let hash = attestation::Digest::of(&[point, &auth_data].concat());
        qe_report[320..352].copy_from_slice(&hash.0);

        let mut inner = qe_report.to_vec();
        inner.extend(sign(&self.pck.key, &qe_report));
        inner.extend(32_u16.to_le_bytes());
        inner.extend(auth_data);
        inner.extend(self.certification.to_le_bytes());
        let chain = if self.certification == 5 {
            self.pck_chain().into_bytes()
        } else {
            vec![1; 404]
        };
        append(&mut inner, &chain);

        let mut quote = self.report.clone();
        if quote[0] == 5 {
            let kind: u16 = match quote.len() - BODY {
                584 => 2,
                648 => 3,
                _ => 4,
            };
            let bytes = u32::try_from(quote.len() - BODY).unwrap();
            let descriptor = [&kind.to_le_bytes()[..], &bytes.to_le_bytes()].concat();
            quote.splice(BODY..BODY, descriptor);
        }
        let signature = attestation_key.sign(&SystemRandom::new(), &quote).unwrap();
        let mut data = [signature.as_ref(), point, &6_u16.to_le_bytes()].concat();
        append(&mut data, &inner);
        append(&mut quote, &data);
        quote
    }

    pub(crate) fn pck_chain(&self) -> String {
        let pck_ca = self.authorities.pck_ca.pem();
        format!(
            "{}{pck_ca}{}",
            self.pck.certificate,
            self.authorities.root.pem()
        )
    }

    /// Has the serial number of the signer of statements revoked, or another one.
    pub(crate) fn revoke(mut self, serial: u8) -> Self {
        if serial == self.pck.serial {
            self.authorities.revoked_by_pck_ca.push(serial);
        } else {
            self.authorities.revoked_by_root.push(serial);
        }
        self
    }

    pub(crate) fn tcb_signer_serial() -> u8 {
        TCB_SIGNER
    }
}

fn append(to: &mut Vec<u8>, data: &[u8]) {
    to.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    to.extend_from_slice(data);
}

/// What Intel says of a TDX module that it signed.
pub(crate) fn module() -> Value {
    json!({
        "mrsigner": "00".repeat(48),
        "attributes": "0000000000000000",
        "attributesMask": "FFFFFFFFFFFFFFFF",
    })
}

/// A TCB level that platforms from this version of the TDX module on meet.
pub(crate) fn level(tdx_module: u8, status: &str, advisories: &[&str]) -> Value {
    let mut tdx = vec![json!({ "svn": 0 }); 16];
    tdx[0] = json!({ "svn": tdx_module });
    json!({
        "tcb": {
            "sgxtcbcomponents": vec![json!({ "svn": 0 }); 16],
            "pcesvn": 11,
            "tdxtcbcomponents": tdx,
        },
        "tcbDate": "2026-01-01T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": advisories,
    })
}

/// ECDSA on P-256 with SHA-256; r and s.
pub(crate) fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der())
        .unwrap()
        .sign(&SystemRandom::new(), message)
        .unwrap()
        .as_ref()
        .to_vec()
}
