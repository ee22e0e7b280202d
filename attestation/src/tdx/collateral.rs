//! What Intel says of a platform: the JSON document that comes along with a quote.

use dcap_qvl::intel::PckExtension;
use dcap_qvl::{QeIdentity, QuoteCollateralV3, TcbInfo};
use rustls_pki_types::UnixTime;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::pki::{Chain, Pki, check_dates};
use super::quote::{Certification, Quote, malformed};
use super::signature::signed_by;
use crate::refusal::{Code, Refusal};

/// The longest document that is read, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// The fields of `QuoteCollateralV3`; byte strings are hexadecimal.
#[derive(Deserialize)]
struct Document {
    pck_crl_issuer_chain: Option<String>,
    root_ca_crl: Option<String>,
    pck_crl: Option<String>,
    tcb_info_issuer_chain: Option<String>,
    tcb_info: Option<String>,
    tcb_info_signature: Option<String>,
    qe_identity_issuer_chain: Option<String>,
    qe_identity: Option<String>,
    qe_identity_signature: Option<String>,
    pck_certificate_chain: Option<String>,
}

/// A whole document. Nothing in it is verified.
pub(super) struct Collateral {
    pub(super) document: QuoteCollateralV3,
    tcb_info: TcbInfo,
    qe_identity: QeIdentity,
}

impl Collateral {
    pub(super) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        if json.is_empty() {
            let want = "collateral of the platform";
            return Err(Refusal::new(Code::Missing, "collateral", "absent", want));
        }
        if json.len() > MAX_BYTES {
            return Err(malformed(
                "collateral",
                format_args!("{} bytes", json.len()),
                format_args!("at most {MAX_BYTES} bytes"),
            ));
        }
        let read: Document = serde_json::from_slice(json)
            .map_err(|error| malformed("collateral", error, "QuoteCollateralV3 as JSON"))?;
        let document = QuoteCollateralV3 {
            pck_crl_issuer_chain: read.pck_crl_issuer_chain.unwrap_or_default(),
            root_ca_crl: bytes("collateral.root_ca_crl", read.root_ca_crl)?,
            pck_crl: bytes("collateral.pck_crl", read.pck_crl)?,
            tcb_info_issuer_chain: present(
                "collateral.tcb_info_issuer_chain",
                read.tcb_info_issuer_chain,
            )?,
            tcb_info: present("collateral.tcb_info", read.tcb_info)?,
            tcb_info_signature: bytes("collateral.tcb_info_signature", read.tcb_info_signature)?,
            qe_identity_issuer_chain: present(
                "collateral.qe_identity_issuer_chain",
                read.qe_identity_issuer_chain,
            )?,
            qe_identity: present("collateral.qe_identity", read.qe_identity)?,
            qe_identity_signature: bytes(
                "collateral.qe_identity_signature",
                read.qe_identity_signature,
            )?,
            pck_certificate_chain: read.pck_certificate_chain,
        };
        let unreadable = |field, error: serde_json::Error| {
            Refusal::new(Code::Collateral, field, error, "as Intel's PCS gives it")
        };
        Ok(Self {
            tcb_info: serde_json::from_str(&document.tcb_info)
                .map_err(|error| unreadable("collateral.tcb_info", error))?,
            qe_identity: serde_json::from_str(&document.qe_identity)
                .map_err(|error| unreadable("collateral.qe_identity", error))?,
            document,
        })
    }

    /// The chain of the platform's PCK: from here, else from the quote.
    pub(super) fn pck_chain(&self, quote: &Quote) -> Result<Chain, Refusal> {
        if let Some(chain) = &self.document.pck_certificate_chain {
            return Chain::read("collateral.pck_certificate_chain", chain.as_bytes());
        }
        match &quote.certification {
            Certification::PckChain(chain) => Chain::read("quote.pck_certificate_chain", chain),
            Certification::Other(other) => Err(Refusal::new(
                Code::Missing,
                "collateral.pck_certificate_chain",
                format_args!("absent, and the quote's certification data is of type {other}"),
                "the certificates of the platform's PCK",
            )),
        }
    }

    /// That it is of a TDX platform, and of this one.
    pub(super) fn check_subject(&self, pck: &PckExtension) -> Result<(), Refusal> {
        let refusal = |field, got: &dyn std::fmt::Display, want: &dyn std::fmt::Display| {
            Err(Refusal::new(Code::Collateral, field, got, want))
        };
        let TcbInfo { id, version, .. } = &self.tcb_info;
        if id != "TDX" || *version < 3 {
            let got = format_args!("{id}, version {version}");
            return refusal("collateral.tcb_info.id", &got, &"TDX, version 3");
        }
        let QeIdentity { id, version, .. } = &self.qe_identity;
        if id != "TD_QE" || !(2..=3).contains(version) {
            let got = format_args!("{id}, version {version}");
            return refusal("collateral.qe_identity.id", &got, &"TD_QE, version 2 or 3");
        }
        for (field, got, want) in [
            (
                "collateral.tcb_info.fmspc",
                &self.tcb_info.fmspc,
                &pck.fmspc[..],
            ),
            (
                "collateral.tcb_info.pceId",
                &self.tcb_info.pce_id,
                &pck.pce_id[..],
            ),
        ] {
            let want = hex::encode(want);
            if !got.eq_ignore_ascii_case(&want) {
                return refusal(field, got, &want);
            }
        }
        Ok(())
    }

    /// That Intel signed it and that it holds at `now`.
    pub(super) fn check_issuer(&self, pki: &Pki<'_>, now: UnixTime) -> Result<(), Refusal> {
        let document = &self.document;
        check_signature(
            pki,
            (
                "collateral.tcb_info_issuer_chain",
                &document.tcb_info_issuer_chain,
            ),
            ("collateral.tcb_info", &document.tcb_info),
            &document.tcb_info_signature,
        )?;
        check_signature(
            pki,
            (
                "collateral.qe_identity_issuer_chain",
                &document.qe_identity_issuer_chain,
            ),
            ("collateral.qe_identity", &document.qe_identity),
            &document.qe_identity_signature,
        )?;
        let TcbInfo {
            issue_date,
            next_update,
            ..
        } = &self.tcb_info;
        check_validity("collateral.tcb_info", issue_date, next_update, now)?;
        let QeIdentity {
            issue_date,
            next_update,
            ..
        } = &self.qe_identity;
        check_validity("collateral.qe_identity", issue_date, next_update, now)
    }
}

fn check_signature(
    pki: &Pki<'_>,
    (chain_field, chain): (&'static str, &str),
    (field, text): (&str, &str),
    signature: &[u8],
) -> Result<(), Refusal> {
    let chain = Chain::read(chain_field, chain.as_bytes())?;
    pki.check_chain(&chain, Code::Collateral)?;
    let signed = signed_by(&chain.leaf, text.as_bytes(), signature);
    if signed {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Collateral,
        field,
        "a text that its signer did not sign",
        "the text that Intel signed",
    ))
}

fn check_validity(field: &str, from: &str, to: &str, now: UnixTime) -> Result<(), Refusal> {
    let seconds = |text: &str| {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(OffsetDateTime::unix_timestamp)
            .map_err(|error| {
                let got = format_args!("{text} ({error})");
                Refusal::new(Code::Collateral, field, got, "a date as in RFC 3339")
            })
    };
    check_dates(field, (seconds(from)?, seconds(to)?), now)
}

fn present(field: &str, value: Option<String>) -> Result<String, Refusal> {
    value
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Refusal::new(Code::Missing, field, "absent", "as Intel's PCS gives it"))
}

fn bytes(field: &str, value: Option<String>) -> Result<Vec<u8>, Refusal> {
    hex::decode(present(field, value)?)
        .map_err(|error| malformed(field, error, "hexadecimal digits"))
}
