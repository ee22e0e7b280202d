//! Evidence of Intel TDX.

use rustls_pki_types::UnixTime;

use crate::binding::ReportData;
use crate::refusal::Refusal;
use crate::result::Claims;

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
pub struct Root {}

impl Root {
    /// Intel's own.
    pub fn intel() -> Self {
        Self {}
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::intel()
    }
}

/// Intel's judgement of a platform's firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcbStatus {
    /// Nothing is missing.
    UpToDate,
    /// Software must work around something.
    SwHardeningNeeded,
    /// The platform must be configured.
    ConfigurationNeeded,
    /// Both of them.
    ConfigurationAndSwHardeningNeeded,
    /// Firmware is missing.
    OutOfDate,
    /// Firmware is missing, and the platform must be configured.
    OutOfDateConfigurationNeeded,
}

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
pub struct AuthenticQuote {}

/// Checks all that does not depend on reference values.
pub fn authenticate(
    _evidence: &Evidence,
    _root: &Root,
    _now: UnixTime,
) -> Result<AuthenticQuote, Refusal> {
    todo!()
}

impl AuthenticQuote {
    /// Compares with one reference value and gives every mismatch.
    pub fn appraise(
        &self,
        _reference: &ReferenceValues,
        _report_data: &ReportData,
    ) -> Result<Claims, Vec<Refusal>> {
        todo!()
    }
}
