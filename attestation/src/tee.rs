use std::fmt;
use std::str::FromStr;

/// The kinds of trusted execution environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tee {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// Software that claims to be one; protects nothing.
    Simulated,
}

impl Tee {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::SevSnp, Self::Tdx, Self::Simulated];

    /// The name in files, on command lines and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SevSnp => "sev-snp",
            Self::Tdx => "tdx",
            Self::Simulated => "simulated",
        }
    }

    /// The byte that stands for the kind in signed and hashed data.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::SevSnp => 1,
            Self::Tdx => 2,
            Self::Simulated => 0xff,
        }
    }
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Tee {
    type Err = UnknownTee;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|tee| tee.as_str() == name)
            .ok_or(UnknownTee)
    }
}

/// No TEE of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected sev-snp, tdx or simulated")]
pub struct UnknownTee;
