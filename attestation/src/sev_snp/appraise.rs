//! The comparison with reference values.

use super::{AuthenticReport, GuestPolicy, PlatformInfo, ReferenceValues, Tcb};
use crate::binding::ReportData;
use crate::refusal::{Code, Refusal};
use crate::result::Claims;
use crate::tee::Tee;

impl AuthenticReport {
    /// Judges what needs no reference value, and gives every objection: the host may not debug the
    /// guest, no migration agent may be associated with it, its policy has no bits that this
    /// verifier does not know, and the report was asked for at VMPL 0.
    pub fn check_baseline(&self) -> Result<(), Vec<Refusal>> {
        let mut refusals = self.essentials();
        if self.report.policy.migrate_ma {
            refusals.push(permission("migrate_ma"));
        }
        none_of(refusals)
    }

    /// Compares with one reference value and gives every mismatch. Beside what the reference names,
    /// what [`check_baseline`](Self::check_baseline) objects to is refused here too, but for a
    /// migration agent, which the reference may allow.
    pub fn appraise(
        &self,
        reference: &ReferenceValues,
        report_data: &ReportData,
    ) -> Result<Claims, Vec<Refusal>> {
        let ReferenceValues {
            product,
            measurement,
            minimum_tcb,
            guest_policy,
            platform_info,
            chip_ids,
        } = reference;
        let mut refusals = Vec::new();
        if self.report.report_data != *report_data {
            refusals.push(Refusal::new(
                Code::ReportData,
                "report.report_data",
                hex::encode(self.report.report_data.0),
                hex::encode(report_data.0),
            ));
        }
        refusals.extend(self.essentials());
        if self.product != *product {
            refusals.push(Refusal::new(
                Code::Platform,
                "report.product",
                self.product,
                product,
            ));
        }
        if self.report.measurement != *measurement {
            refusals.push(Refusal::new(
                Code::Measurement,
                "report.measurement",
                hex::encode(self.report.measurement),
                hex::encode(measurement),
            ));
        }
        refusals.extend(self.policy_mismatches(*guest_policy));
        refusals.extend(self.platform_mismatches(*platform_info));
        refusals.extend(self.old_firmware(*minimum_tcb));
        refusals.extend(self.foreign_chip(chip_ids));
        none_of(refusals)?;
        Ok(Claims {
            tee: Tee::SevSnp,
            measurement: self.report.measurement,
            host_data: self.report.host_data,
            platform: self
                .report
                .chip_id()
                .map(|it| it.to_vec())
                .unwrap_or_default(),
        })
    }

    /// What no reference value can allow.
    fn essentials(&self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        if self.report.policy.debug {
            refusals.push(Refusal::new(
                Code::Debug,
                "report.policy.debug",
                true,
                false,
            ));
        }
        if self.report.vmpl != 0 {
            refusals.push(Refusal::new(Code::Vmpl, "report.vmpl", self.report.vmpl, 0));
        }
        if !GuestPolicy::is_known(self.report.policy_bits) {
            refusals.push(Refusal::new(
                Code::GuestPolicy,
                "report.policy",
                format_args!("{:#x}", self.report.policy_bits),
                "one with bit 17 and none above bit 25",
            ));
        }
        refusals
    }

    fn policy_mismatches(&self, reference: GuestPolicy) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let policy = self.report.policy;
        if (policy.abi_major, policy.abi_minor) < (reference.abi_major, reference.abi_minor) {
            refusals.push(Refusal::new(
                Code::GuestPolicy,
                "report.policy.abi",
                format_args!("{}.{}", policy.abi_major, policy.abi_minor),
                format_args!("at least {}.{}", reference.abi_major, reference.abi_minor),
            ));
        }
        let permissions = policy
            .permissions()
            .into_iter()
            .zip(reference.permissions());
        for ((name, allows), (_, may_allow)) in permissions {
            if allows && !may_allow {
                refusals.push(permission(name));
            }
        }
        let restrictions = policy
            .restrictions()
            .into_iter()
            .zip(reference.restrictions());
        for ((name, demands), (_, must_demand)) in restrictions {
            if !demands && must_demand {
                refusals.push(Refusal::new(
                    Code::GuestPolicy,
                    format!("report.policy.{name}"),
                    false,
                    true,
                ));
            }
        }
        refusals
    }

    fn platform_mismatches(&self, reference: PlatformInfo) -> Vec<Refusal> {
        self.report
            .platform_info
            .flags()
            .into_iter()
            .zip(reference.flags())
            .filter_map(|((name, got), (_, want))| {
                let (got, want) = (got?, want?);
                (got != want).then(|| {
                    Refusal::new(
                        Code::PlatformInfo,
                        format!("report.platform_info.{name}"),
                        got,
                        want,
                    )
                })
            })
            .collect()
    }

    /// Besides the firmware that runs and that the key is of, the one that the host could go back
    /// to and the one that launched the guest must not be too old.
    fn old_firmware(&self, minimum: Tcb) -> Vec<Refusal> {
        let tcbs = [
            ("reported_tcb", self.report.reported_tcb),
            ("committed_tcb", self.report.committed_tcb),
            ("current_tcb", self.report.current_tcb),
            ("launch_tcb", self.report.launch_tcb),
        ];
        let mut refusals = Vec::new();
        for (field, tcb) in tcbs {
            let components = tcb.of(self.product).components();
            for ((name, got), (_, want)) in components.into_iter().zip(minimum.components()) {
                let Some(want) = want else { continue };
                if got.is_none_or(|got| got < want) {
                    refusals.push(Refusal::new(
                        Code::TcbTooLow,
                        format!("report.{field}.{name}"),
                        got.map_or_else(|| "none".to_owned(), |got| got.to_string()),
                        format_args!("at least {want}"),
                    ));
                }
            }
        }
        refusals
    }

    fn foreign_chip(&self, chip_ids: &[[u8; 64]]) -> Option<Refusal> {
        let chip_id = self.report.chip_id();
        if chip_ids.is_empty() || chip_id.is_some_and(|it| chip_ids.contains(it)) {
            return None;
        }
        Some(Refusal::new(
            Code::Platform,
            "report.chip_id",
            chip_id.map_or_else(|| "hidden".to_owned(), hex::encode),
            format_args!("one of {} that are listed", chip_ids.len()),
        ))
    }
}

/// The policy lets the host do what `name` stands for.
fn permission(name: &str) -> Refusal {
    Refusal::new(
        Code::GuestPolicy,
        format!("report.policy.{name}"),
        true,
        false,
    )
}

fn none_of(refusals: Vec<Refusal>) -> Result<(), Vec<Refusal>> {
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals)
    }
}
