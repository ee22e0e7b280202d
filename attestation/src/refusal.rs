use std::fmt;

/// Why evidence was not accepted: what was looked at, what was found, what would have passed.
///
/// For the operator. The peer is told no more than a short code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {field} is {got}, must be {want}")]
pub struct Refusal {
    /// What kind of objection it is.
    pub code: Code,
    /// What was looked at, such as `report.policy.debug` or `vcek.notAfter`.
    pub field: String,
    /// What was found there.
    pub got: String,
    /// What would have been accepted.
    pub want: String,
}

impl Refusal {
    /// An objection to `field`.
    pub fn new(
        code: Code,
        field: impl Into<String>,
        got: impl fmt::Display,
        want: impl fmt::Display,
    ) -> Self {
        Self {
            code,
            field: field.into(),
            got: got.to_string(),
            want: want.to_string(),
        }
    }
}

/// All objections, each with the reference value that it comes from (empty where the evidence was
/// refused before any was looked at).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals(Vec<(String, Refusal)>);

impl Refusals {
    /// At least one objection.
    pub(crate) fn new(refusals: Vec<(String, Refusal)>) -> Self {
        debug_assert!(!refusals.is_empty());
        Self(refusals)
    }

    /// Objections that come from no reference value. There must be one at least.
    pub fn unnamed(refusals: Vec<Refusal>) -> Self {
        Self::new(refusals.into_iter().map(|it| (String::new(), it)).collect())
    }

    /// The reference value's name (such as `snp[0]`) and the objection.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Refusal)> {
        self.0
            .iter()
            .map(|(name, refusal)| (name.as_str(), refusal))
    }

    /// The objection to name when there is room for one.
    pub fn first(&self) -> Option<&Refusal> {
        self.0.first().map(|(_, refusal)| refusal)
    }
}

impl From<Refusal> for Refusals {
    fn from(refusal: Refusal) -> Self {
        Self(vec![(String::new(), refusal)])
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, refusal)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if !name.is_empty() {
                write!(f, "{name}: ")?;
            }
            write!(f, "{refusal}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}

/// Who has to act on a refusal, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The bytes are not evidence of the kind.
    Malformed,
    /// A signature or a chain does not hold.
    Untrusted,
    /// It held once, or will, or for another session.
    Stale,
    /// The platform's firmware is too old.
    Tcb,
    /// The guest was started in a way that protects too little.
    Policy,
    /// All is well with it, but nobody lists it.
    NotListed,
    /// Nobody can judge it now; later, perhaps.
    Unavailable,
}

impl Class {
    /// The name in logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Untrusted => "untrusted",
            Self::Stale => "stale",
            Self::Tcb => "tcb",
            Self::Policy => "policy",
            Self::NotListed => "not-listed",
            Self::Unavailable => "unavailable",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $class:ident, $hint:literal;)+) => {
        /// What kind of objection a [`Refusal`] is. Stable; the reference explains each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $name,)+ }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Who has to act.
            pub fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)+ }
            }

            /// What to do about it.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)+ }
            }
        }
    };
}

codes! {
    /// Length, structure or a reserved field is not as specified.
    Malformed = "evidence-malformed", Malformed, "check that the file is a raw report or quote, whole and unchanged";
    /// A version that this verifier does not know.
    Version = "version-unsupported", Malformed, "update Sealwire, or the platform's firmware";
    /// Evidence of another TEE.
    WrongTee = "wrong-tee", Malformed, "name the TEE that made the evidence";
    /// A certificate does not lead to the vendor's root.
    Chain = "chain-untrusted", Untrusted, "give the certificates of the platform that made the evidence";
    /// A signature does not hold.
    Signature = "signature-invalid", Untrusted, "the evidence was changed, or signed by another key";
    /// The vendor has revoked a certificate.
    Revoked = "certificate-revoked", Untrusted, "the platform is compromised; replace it";
    /// Certificate and report tell of different platforms, products or firmware.
    Endorsement = "endorsement-mismatch", Untrusted, "fetch the certificate of this chip and firmware";
    /// Collateral is not signed by the vendor, or of another platform.
    Collateral = "collateral-untrusted", Untrusted, "fetch the collateral of this platform again";
    /// Collateral, certificate or revocation list that the verdict needs is not there.
    Missing = "endorsement-missing", Stale, "send certificates and collateral along with the evidence";
    /// Validity has not begun.
    NotYetValid = "not-yet-valid", Stale, "check the clock";
    /// Validity is over.
    Expired = "expired", Stale, "fetch fresh certificates and collateral; check the clock";
    /// The evidence was made for another session.
    ReportData = "report-data-mismatch", Stale, "the evidence is of another session: replayed or relayed";
    /// A firmware component is older than the reference values allow.
    TcbTooLow = "tcb-too-low", Tcb, "update the platform's firmware";
    /// The vendor's judgement of the platform is not among those allowed.
    TcbStatus = "tcb-status", Tcb, "update the platform, or allow the status in the reference values";
    /// The host may look into the guest.
    Debug = "debug-allowed", Policy, "start the guest without debugging";
    /// The guest's launch policy or attributes allow what they must not.
    GuestPolicy = "guest-policy", Policy, "start the guest with the policy that the reference values name";
    /// The report was asked for from another privilege level.
    Vmpl = "vmpl", Policy, "ask for the report at VMPL 0";
    /// The platform's configuration is not as the reference values demand.
    PlatformInfo = "platform-info", Policy, "configure the host as the reference values demand";
    /// The simulated TEE is not allowed here.
    Simulated = "simulated-tee-refused", Policy, "a simulated TEE protects nothing; it needs --allow-simulated-tee and a manifest that lists it";
    /// No reference value has this measurement.
    Measurement = "measurement-mismatch", NotListed, "the guest runs another image or command line than the manifest names";
    /// No policy has this hash.
    HostData = "host-data-mismatch", NotListed, "the workload runs under a policy that the manifest does not name";
    /// The chip or platform is not among those allowed.
    Platform = "platform-not-listed", NotListed, "the machine is not among those that the manifest names";
    /// No reference value is of this TEE.
    TeeNotListed = "tee-not-listed", NotListed, "add reference values of this TEE to the manifest";
    /// The verifier has no reference values yet.
    NoManifest = "no-manifest", Unavailable, "set a manifest, or recover the Coordinator";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_code_has_a_name_of_its_own() {
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn all_objections_are_said_with_their_reference_value() {
        let refusals = Refusals::new(vec![
            (
                "snp[0]".into(),
                Refusal::new(Code::Debug, "report.policy.debug", true, false),
            ),
            (
                "snp[1]".into(),
                Refusal::new(Code::Vmpl, "report.vmpl", 1, 0),
            ),
        ]);
        assert_eq!(
            refusals.to_string(),
            "snp[0]: debug-allowed: report.policy.debug is true, must be false; \
             snp[1]: vmpl: report.vmpl is 1, must be 0"
        );
    }
}
