use rustls_pki_types::UnixTime;

use crate::binding::ReportData;
use crate::evidence::Evidence;
use crate::refusal::{Code, Refusal, Refusals};
use crate::result::{AttestationResult, Claims};
use crate::{sev_snp, simulated, tdx};

/// What evidence is compared with: for each TEE, every configuration that is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceValues {
    /// AMD SEV-SNP.
    pub snp: Vec<sev_snp::ReferenceValues>,
    /// Intel TDX.
    pub tdx: Vec<tdx::ReferenceValues>,
    /// No TEE at all.
    pub simulated: Vec<simulated::ReferenceValues>,
}

/// Whether evidence of the simulated TEE is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SimulatedTee {
    /// Whatever the reference values say, it is refused.
    #[default]
    Refused,
    /// It is accepted where the reference values list it, and no TEE of hardware beside it.
    Allowed,
}

/// Authenticates evidence, then appraises it (RFC 9334, section 8).
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    snp_roots: sev_snp::Roots,
    tdx_root: tdx::Root,
    simulated: SimulatedTee,
}

impl Verifier {
    /// A verifier that trusts the roots of AMD and Intel.
    pub fn new(simulated: SimulatedTee) -> Self {
        Self {
            snp_roots: sev_snp::Roots::amd(),
            tdx_root: tdx::Root::intel(),
            simulated,
        }
    }

    /// A verifier that trusts other roots, for tests of what the vendors' keys can't be had for.
    #[must_use]
    pub fn with_roots(mut self, snp_roots: sev_snp::Roots, tdx_root: tdx::Root) -> Self {
        self.snp_roots = snp_roots;
        self.tdx_root = tdx_root;
        self
    }

    /// Accepts evidence that is authentic at `now`, bound to `report_data`, and matches one of
    /// `reference`. Otherwise gives every objection of every reference value of its TEE.
    pub fn appraise(
        &self,
        evidence: &Evidence,
        report_data: &ReportData,
        reference: &ReferenceValues,
        now: UnixTime,
    ) -> Result<AttestationResult, Refusals> {
        match evidence {
            Evidence::SevSnp(evidence) => {
                let report = sev_snp::authenticate(evidence, &self.snp_roots, now)?;
                first_match("snp", &reference.snp, |it| report.appraise(it, report_data))
            }
            Evidence::Tdx(evidence) => {
                let quote = tdx::authenticate(evidence, &self.tdx_root, now)?;
                first_match("tdx", &reference.tdx, |it| quote.appraise(it, report_data))
            }
            Evidence::Simulated(evidence) => {
                self.check_simulated(reference)?;
                let report = simulated::authenticate(evidence)?;
                first_match("simulated", &reference.simulated, |it| {
                    report.appraise(it, report_data)
                })
            }
        }
    }

    fn check_simulated(&self, reference: &ReferenceValues) -> Result<(), Refusal> {
        let refusal = |got| Refusal::new(Code::Simulated, "evidence.tee", got, "a TEE of hardware");
        if self.simulated == SimulatedTee::Refused {
            return Err(refusal("simulated"));
        }
        if !reference.snp.is_empty() || !reference.tdx.is_empty() {
            return Err(refusal("simulated, beside reference values of hardware"));
        }
        Ok(())
    }
}

fn first_match<R>(
    kind: &str,
    references: &[R],
    appraise: impl Fn(&R) -> Result<Claims, Vec<Refusal>>,
) -> Result<AttestationResult, Refusals> {
    let mut refusals = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        let name = format!("{kind}[{index}]");
        match appraise(reference) {
            Ok(claims) => return Ok(AttestationResult::new(claims, name)),
            Err(all) => refusals.extend(all.into_iter().map(|it| (name.clone(), it))),
        }
    }
    if refusals.is_empty() {
        let want = format!("listed under ReferenceValues.{kind}");
        return Err(Refusal::new(Code::TeeNotListed, "evidence.tee", kind, want).into());
    }
    Err(Refusals::new(refusals))
}
