use std::fmt;

use attestation::{Evidence, ReportData, Tee};

use crate::error::AttesterError;

/// Where evidence comes from.
pub trait EvidenceSource: Send + Sync + fmt::Debug {
    /// The TEE that the evidence is of.
    fn tee(&self) -> Tee;

    /// Fresh evidence that carries `report_data`. Blocks, for seconds where the platform limits the
    /// rate of requests.
    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError>;
}
