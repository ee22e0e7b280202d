//! Comparison of an authentic quote with reference values.

use dcap_qvl::PckCertFlag;

use super::{AuthenticQuote, ReferenceValues, TcbStatus, guest};
use crate::binding::{Digest, ReportData};
use crate::refusal::{Code, Refusal};
use crate::result::Claims;
use crate::tee::Tee;

impl AuthenticQuote {
    /// What is judged where there are no reference values: that the host may not look into the
    /// guest, and that no other guest may act on its behalf. The TCB status is not judged.
    pub fn check_baseline(&self) -> Result<(), Vec<Refusal>> {
        let mut refusals = guest::check_company(self.quote.report());
        refusals.extend(guest::check_debug(self.quote.report()).err());
        if refusals.is_empty() {
            Ok(())
        } else {
            Err(refusals)
        }
    }

    /// Compares with one reference value and gives every mismatch.
    pub fn appraise(
        &self,
        reference: &ReferenceValues,
        report_data: &ReportData,
    ) -> Result<Claims, Vec<Refusal>> {
        let mut refusals = self.check_baseline().err().unwrap_or_default();
        self.compare_report(reference, report_data, &mut refusals);
        self.compare_tcb(reference, &mut refusals);
        self.compare_platform(reference, &mut refusals);
        let host_data = self.host_data().map_err(|it| refusals.push(it));
        match host_data {
            Ok(host_data) if refusals.is_empty() => Ok(Claims {
                tee: Tee::Tdx,
                measurement: self.quote.report().mr_td,
                host_data,
                platform: self.ppid().to_vec(),
            }),
            _ => Err(refusals),
        }
    }

    fn compare_report(
        &self,
        reference: &ReferenceValues,
        report_data: &ReportData,
        refusals: &mut Vec<Refusal>,
    ) {
        let report = self.quote.report();
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &report.rtmrs;
        let [want0, want1, want2, want3] = &reference.rtmrs;
        let attributes = reference.td_attributes.unwrap_or(guest::USUAL_ATTRIBUTES);
        let comparisons: [(Code, &str, &[u8], &[u8]); 9] = [
            (
                Code::ReportData,
                "td.report_data",
                &report.report_data,
                &report_data.0,
            ),
            (
                Code::Measurement,
                "td.mr_td",
                &report.mr_td,
                &reference.mr_td,
            ),
            (Code::Measurement, "td.rtmr0", rtmr0, want0),
            (Code::Measurement, "td.rtmr1", rtmr1, want1),
            (Code::Measurement, "td.rtmr2", rtmr2, want2),
            (Code::Measurement, "td.rtmr3", rtmr3, want3),
            (
                Code::Measurement,
                "td.mr_seam",
                &report.mr_seam,
                &reference.mr_seam,
            ),
            (Code::GuestPolicy, "td.xfam", &report.xfam, &reference.xfam),
            (
                Code::GuestPolicy,
                "td.td_attributes",
                &report.td_attributes,
                &attributes,
            ),
        ];
        for (code, field, got, want) in comparisons {
            if got != want {
                let (got, want) = (hex::encode(got), hex::encode(want));
                refusals.push(Refusal::new(code, field, got, want));
            }
        }
    }

    fn compare_tcb(&self, reference: &ReferenceValues, refusals: &mut Vec<Refusal>) {
        if !reference.tcb_statuses.contains(&self.tcb_status()) {
            let allowed = reference.tcb_statuses.iter().copied();
            let allowed: Vec<_> = allowed.map(TcbStatus::as_str).collect();
            let mut got = self.tcb_status().to_string();
            if !self.advisories().is_empty() {
                got = format!("{got} ({})", self.advisories().join(", "));
            }
            refusals.push(Refusal::new(
                Code::TcbStatus,
                "tcb.status",
                got,
                format_args!("one of [{}]", allowed.join(", ")),
            ));
        }
        let number = self.tcb_evaluation_data_number();
        if let Some(minimum) = reference.min_tcb_evaluation_data_number
            && number < minimum
        {
            refusals.push(Refusal::new(
                Code::Expired,
                "tcb.evaluation_data_number",
                number,
                format_args!("at least {minimum}"),
            ));
        }
    }

    fn compare_platform(&self, reference: &ReferenceValues, refusals: &mut Vec<Refusal>) {
        let pck = &self.claims.platform.pck;
        for (demanded, field, flag) in [
            (reference.smt_disabled, "pck.smt_enabled", pck.smt_enabled),
            (
                reference.static_platform,
                "pck.dynamic_platform",
                pck.dynamic_platform,
            ),
        ] {
            if demanded && flag != PckCertFlag::False {
                refusals.push(Refusal::new(
                    Code::PlatformInfo,
                    field,
                    super::text(flag),
                    false,
                ));
            }
        }
        if !reference.ppids.is_empty() && !reference.ppids.contains(self.ppid()) {
            let listed: Vec<_> = reference.ppids.iter().map(hex::encode).collect();
            refusals.push(Refusal::new(
                Code::Platform,
                "pck.ppid",
                hex::encode(self.ppid()),
                format_args!("one of [{}]", listed.join(", ")),
            ));
        }
    }

    /// MRCONFIGID has room for SHA-384; a policy's hash is SHA-256, with zeros behind it.
    fn host_data(&self) -> Result<Digest, Refusal> {
        let mr_config_id = &self.quote.report().mr_config_id;
        let mut digest = [0; 32];
        let (hash, padding) = mr_config_id.split_at(digest.len());
        digest.copy_from_slice(hash);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Refusal::new(
                Code::HostData,
                "td.mr_config_id",
                hex::encode(mr_config_id),
                "32 bytes of hash, then zero",
            ));
        }
        Ok(Digest(digest))
    }
}
