//! Evidence of Intel TDX.
//!
//! A quote is checked in the order in which its objections help: its bytes, its own signatures, the
//! chain of the platform's key, the collateral. Then dcap-qvl verifies all of it once more and finds
//! the TCB level; its verdict is accepted only where both agree. What is found on the way is
//! unverified until [`authenticate`] has returned.

mod appraisal;
mod collateral;
mod guest;
mod pki;
mod quote;
mod report;
mod signature;
mod tcb_status;
mod verdict;

use dcap_qvl::{PckCertFlag, QuoteClaims};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::refusal::{Code, Refusal};

pub use quote::Quote;
pub use report::{TdReport, TdReport15, TdReport15Ex};
pub use tcb_status::{TcbStatus, UnknownTcbStatus};

/// A quote with what Intel says of the platform. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The quote, version 4 or 5.
    pub quote: Vec<u8>,
    /// Collateral as JSON (`dcap_qvl::QuoteCollateralV3`); empty where the attester had none.
    pub collateral: Vec<u8>,
}

/// The certificate that every signature must lead to.
#[derive(Clone, Debug)]
pub struct Root(CertificateDer<'static>);

impl Root {
    /// Intel's own, the Intel SGX Root CA.
    pub fn intel() -> Self {
        Self(CertificateDer::from_slice(INTEL_SGX_ROOT_CA))
    }

    /// Another certificate, DER, for tests of what Intel's key can't be had for.
    pub fn of(der: impl Into<Vec<u8>>) -> Self {
        Self(CertificateDer::from(der.into()))
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::intel()
    }
}

/// From `https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer`.
const INTEL_SGX_ROOT_CA: &[u8] = include_bytes!("tdx/intel-sgx-root-ca.der");

/// A configuration that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceValues {
    /// The guest's initial memory.
    pub mr_td: [u8; 48],
    /// What the guest measured at run time.
    pub rtmrs: [[u8; 48]; 4],
    /// The TDX module.
    pub mr_seam: [u8; 48],
    /// The CPU's extended features that the guest may use.
    pub xfam: [u8; 8],
    /// The guest's attributes; `None` for the usual ones (only `SEPT_VE_DISABLE`).
    pub td_attributes: Option<[u8; 8]>,
    /// The judgements that are accepted; debug and a revoked platform never are.
    pub tcb_statuses: Vec<TcbStatus>,
    /// The oldest collateral, by Intel's counter.
    pub min_tcb_evaluation_data_number: Option<u32>,
    /// Whether simultaneous multithreading must be off.
    pub smt_disabled: bool,
    /// Whether the platform must be one that can't be extended by packages.
    pub static_platform: bool,
    /// The platforms that are trusted, by PPID; empty for any.
    pub ppids: Vec<[u8; 16]>,
}

/// A quote whose signature holds and whose platform Intel vouches for.
#[derive(Debug)]
pub struct AuthenticQuote {
    quote: Quote,
    claims: QuoteClaims,
    tcb_status: TcbStatus,
    ppid: [u8; 16],
}

/// Checks all that does not depend on reference values.
///
/// Refuses, besides what is not authentic or not current, guests under debugging, and the guests
/// that dcap-qvl can't be told to accept: migratable ones and those without `SEPT_VE_DISABLE`.
pub fn authenticate(
    evidence: &Evidence,
    root: &Root,
    now: UnixTime,
) -> Result<AuthenticQuote, Refusal> {
    let quote = Quote::parse(&evidence.quote)?;
    quote.check_trailing()?;
    guest::check_debug(quote.report())?;
    signature::check_quote(&quote)?;

    let collateral = collateral::Collateral::parse(&evidence.collateral)?;
    let pck = collateral.pck_chain(&quote)?;
    signature::check_qe_report(&quote, &pck.leaf)?;
    collateral.check_subject(&verdict::platform(&pck)?)?;

    let document = &collateral.document;
    let pki = pki::Pki::new(&root.0, &document.root_ca_crl, &document.pck_crl, now)?;
    pki.check_chain(&pck, Code::Chain)?;
    pki.check_lists(&pck)?;
    collateral.check_issuer(&pki, now)?;
    guest::check_attributes(quote.report())?;

    let claims = verdict::judge(&evidence.quote, collateral.document, &root.0, now)?;
    let ppid = &claims.platform.pck.ppid;
    Ok(AuthenticQuote {
        tcb_status: TcbStatus::accept(claims.tcb.status)?,
        ppid: ppid
            .as_slice()
            .try_into()
            .map_err(|_| Refusal::new(Code::Chain, "pck.ppid", hex::encode(ppid), "16 bytes"))?,
        quote,
        claims,
    })
}

impl AuthenticQuote {
    /// The quote itself.
    pub fn quote(&self) -> &Quote {
        &self.quote
    }

    /// Intel's judgement of the platform, which has not been compared with anything.
    pub fn tcb_status(&self) -> TcbStatus {
        self.tcb_status
    }

    /// What is known to be wrong with the platform, such as `INTEL-SA-00837`.
    pub fn advisories(&self) -> &[String] {
        &self.claims.tcb.advisory_ids
    }

    /// The platform's family and model, stepping, type and customisation.
    pub fn fmspc(&self) -> [u8; 6] {
        self.claims.platform.pck.fmspc
    }

    /// Which machine.
    pub fn ppid(&self) -> &[u8; 16] {
        &self.ppid
    }

    /// How recent the collateral is, by Intel's counter; the lower of TCB info and QE identity.
    pub fn tcb_evaluation_data_number(&self) -> u32 {
        self.claims.tcb.eval_data_number
    }

    /// Every field of the quote, and what Intel says of the platform, by name, as text for people.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let platform = &self.claims.platform;
        let seconds = |time| i64::try_from(time).map_or_else(|_| "?".into(), pki::rfc3339);
        let mut fields = self.quote.fields();
        fields.extend([
            ("tcb.status", self.tcb_status.to_string()),
            ("tcb.advisories", self.advisories().join(", ")),
            ("tcb.date", platform.tcb_level.tcb_date.clone()),
            (
                "tcb.evaluation_data_number",
                self.tcb_evaluation_data_number().to_string(),
            ),
            ("collateral.issued", seconds(self.claims.latest_issue_date)),
            (
                "collateral.expires",
                seconds(self.claims.earliest_expiration_date),
            ),
            ("pck.fmspc", hex::encode(self.fmspc())),
            ("pck.ppid", hex::encode(self.ppid)),
            ("pck.cpu_svn", hex::encode(platform.pck.cpu_svn)),
            ("pck.pce_svn", platform.pck.pce_svn.to_string()),
            ("pck.pce_id", hex::encode(&platform.pck.pce_id)),
            ("pck.smt_enabled", text(platform.pck.smt_enabled).into()),
            (
                "pck.dynamic_platform",
                text(platform.pck.dynamic_platform).into(),
            ),
            ("pck.cached_keys", text(platform.pck.cached_keys).into()),
            ("qe.mr_signer", hex::encode(self.claims.qe.report.mr_signer)),
            ("qe.isv_svn", self.claims.qe.report.isv_svn.to_string()),
            (
                "qe.tcb_status",
                self.claims.qe.tcb_level.tcb_status.to_string(),
            ),
        ]);
        fields
    }
}

fn text(flag: PckCertFlag) -> &'static str {
    match flag {
        PckCertFlag::True => "true",
        PckCertFlag::False => "false",
        PckCertFlag::Undefined => "not certified",
    }
}
