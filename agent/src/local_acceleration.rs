//! How bytes pass between a program and the agent: through the loopback's TCP, or past it.

use serde::Serialize;

use crate::bpf::WhyTcp;

/// The key `local_acceleration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalAcceleration {
    /// Nothing is accelerated.
    #[default]
    Off,
    /// What a program sends in small messages is redirected to the agent's socket, where that is
    /// sound.
    SkMsg,
}

impl LocalAcceleration {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Off, Self::SkMsg];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::SkMsg => "sk-msg",
        }
    }
}

/// How the bytes of one connection pass between program and agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LocalHop {
    /// Through TCP, but what the program sends may be redirected.
    SkMsg,
    /// Through TCP, and why not otherwise.
    Tcp(WhyTcp),
}

impl LocalHop {
    /// `sk-msg` or `tcp`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SkMsg => "sk-msg",
            Self::Tcp(_) => "tcp",
        }
    }

    /// Why that one.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::SkMsg => "program-never-blocks",
            Self::Tcp(why) => why.as_str(),
        }
    }
}
