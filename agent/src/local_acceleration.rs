//! How bytes pass between a program and the agent: through the loopback's TCP, or past it.

use crate::bpf::WhyTcp;

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
