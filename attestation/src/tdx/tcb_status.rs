use std::fmt;
use std::str::FromStr;

use crate::refusal::{Code, Refusal};

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $intel:ident;)+) => {
        /// Intel's judgement of a platform's firmware: `tcbStatus` of the TCB info, converged with
        /// those of the TDX module and of the quoting enclave (Intel PCS API, version 4).
        ///
        /// `Revoked` is not among them: such a platform is never accepted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum TcbStatus { $($(#[$doc])* $name,)+ }

        impl TcbStatus {
            /// Every status.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Intel's name for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What dcap-qvl found; a revoked platform is refused.
            pub(super) fn accept(status: dcap_qvl::TcbStatus) -> Result<Self, Refusal> {
                match status {
                    $(dcap_qvl::TcbStatus::$intel => Ok(Self::$name),)+
                    dcap_qvl::TcbStatus::Revoked => Err(Refusal::new(
                        Code::TcbStatus, "tcb.status", status, "a platform that is not revoked",
                    )),
                }
            }
        }
    };
}

statuses! {
    /// Nothing is missing.
    UpToDate = "UpToDate", UpToDate;
    /// Software must work around something.
    SwHardeningNeeded = "SWHardeningNeeded", SWHardeningNeeded;
    /// The platform must be configured.
    ConfigurationNeeded = "ConfigurationNeeded", ConfigurationNeeded;
    /// Both of them.
    ConfigurationAndSwHardeningNeeded = "ConfigurationAndSWHardeningNeeded", ConfigurationAndSWHardeningNeeded;
    /// Firmware is missing.
    OutOfDate = "OutOfDate", OutOfDate;
    /// Firmware is missing, and the platform must be configured.
    OutOfDateConfigurationNeeded = "OutOfDateConfigurationNeeded", OutOfDateConfigurationNeeded;
    /// The TDX module was updated under the running guest, which began on an outdated one.
    TdRelaunchAdvised = "TDRelaunchAdvised", TDRelaunchAdvised;
    /// That, and the platform must be configured.
    TdRelaunchAdvisedConfigurationNeeded = "TDRelaunchAdvisedConfigurationNeeded", TDRelaunchAdvisedConfigurationNeeded;
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no [`TcbStatus`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TCB status is {got:?}, must be one of {}", names())]
pub struct UnknownTcbStatus {
    /// The text.
    pub got: String,
}

impl FromStr for TcbStatus {
    type Err = UnknownTcbStatus;

    /// Reads Intel's name, as [`TcbStatus::as_str`] writes it.
    fn from_str(text: &str) -> Result<Self, UnknownTcbStatus> {
        Self::ALL
            .iter()
            .copied()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownTcbStatus { got: text.into() })
    }
}

fn names() -> String {
    let names: Vec<_> = TcbStatus::ALL.iter().map(|it| it.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_read_back_from_its_name() {
        for status in TcbStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
    }

    #[test]
    fn a_revoked_platform_has_no_status() {
        assert!("Revoked".parse::<TcbStatus>().is_err());
        let refusal = TcbStatus::accept(dcap_qvl::TcbStatus::Revoked).unwrap_err();
        assert_eq!(refusal.code, Code::TcbStatus);
    }
}
