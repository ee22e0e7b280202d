use crate::KernelRefusal;

/// An index into the per-CPU counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Refusals for one reason.
    Refused(KernelRefusal),
    /// Egress connections turned to the agent.
    EgressSteered,
    /// Ingress connections turned to the agent.
    IngressSteered,
    /// UDP datagrams that left the namespace, which Sealwire does not protect.
    UdpDatagrams,
    /// Messages of programs that passed the loopback's TCP by.
    Redirected,
    /// Answers of resolvers that the agent was not told of, as it had not read those before.
    LostDnsAnswers,
}

impl Counter {
    /// How many counters there are.
    pub const COUNT: u32 = KernelRefusal::ALL.len() as u32 + 5;

    /// The counter's place.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        const AFTER: u32 = KernelRefusal::ALL.len() as u32;
        match self {
            Self::Refused(reason) => reason as u32,
            Self::EgressSteered => AFTER,
            Self::IngressSteered => AFTER + 1,
            Self::UdpDatagrams => AFTER + 2,
            Self::Redirected => AFTER + 3,
            Self::LostDnsAnswers => AFTER + 4,
        }
    }
}
