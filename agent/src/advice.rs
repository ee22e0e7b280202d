//! What each refusal means and what to do about it: the texts of docs/src/reference/refusals.md.

use ebpf_abi::KernelRefusal;
use serde::Serialize;
use userspace_tls::HandshakeRefusal as Handshake;

use crate::{
    certificates::Unusable,
    connection::{CloseCause, RefusalReason as Reason},
    refusals::RefusalCode,
};

/// What a refusal means, for who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Advice {
    /// What happened.
    pub means: &'static str,
    /// What to look at or to change.
    pub to_do: &'static str,
}

impl RefusalCode {
    /// Its section of the book, from the root of the sources.
    pub(crate) fn docs(self) -> String {
        format!("docs/src/reference/refusals.md#{}", self.as_str())
    }

    /// What it means.
    pub(crate) fn advice(self) -> Advice {
        let (means, to_do) = match self {
            Self::Kernel(KernelRefusal::AgentStale) => (
                "no agent has written its heartbeat for 0.8 s: it is dead, stopped, or has \
                 not finished starting",
                "start the agent; look at why it ended",
            ),
            Self::Kernel(KernelRefusal::NoCredential) => (
                "the workload has no certificate, or one whose validity has not begun; or a \
                 device of its namespace is not guarded",
                "the line, and `/ready`, say why, with both times; `sealwire pki issue`; \
                 compare the clocks",
            ),
            Self::Kernel(KernelRefusal::CredentialExpired) => (
                "the workload's certificate has expired",
                "renew it; the agent takes it up by itself",
            ),
            Self::Kernel(KernelRefusal::UnknownWorkload) => (
                "the hooks run, but no agent has told them of the workload",
                "start the agent with this workload in its configuration",
            ),
            Self::Kernel(KernelRefusal::NoListener) => (
                "the agent's listener is gone, or there is none for this address family. In \
                 the first 0.8 s after an agent died this comes instead of `agent-stale`",
                "start the agent; for IPv6 alone: does the namespace's loopback have `::1`?",
            ),
            Self::Kernel(KernelRefusal::FlowTableFull) => (
                "too many connections are on their way to the agent",
                "see `sealwire_map_entries{map=\"flows\"}`; raise `flow_table_entries`",
            ),
            Self::Kernel(KernelRefusal::BoundDevice) => (
                "the program's socket is bound to a device (`SO_BINDTODEVICE`), so it can't \
                 be turned to the loopback",
                "configure the program without it",
            ),
            Self::Kernel(KernelRefusal::ForeignNamespace) => (
                "a process of the workload's cgroup connected in another network namespace \
                 than the workload's",
                "start the program in the workload's namespace, or move it out of the cgroup",
            ),
            Self::Kernel(KernelRefusal::NotSteered) => (
                "a connection reached a socket of a workload that shares its network namespace \
                 (`shares_netns`), and had not come by way of the agent: the program listened \
                 before the agent was there, or begins to at this moment",
                "once: nothing, the client tries again. Else restart the program",
            ),
            Self::Kernel(KernelRefusal::PortTableFull) => (
                "programs of workloads that share their network namespace (`shares_netns`) have \
                 listened on more than 131072 addresses and ports, so that this one is not \
                 reachable",
                "stop the programs, `sealwire-agent --detach`, and start anew",
            ),
            Self::Kernel(KernelRefusal::UdpDenied) => (
                "a program sent a datagram out of a namespace whose workload has `udp = \"deny\"`; it \
                 was dropped, and the program told so where it is of the workload's cgroup. Counts \
                 packets",
                "find the program (`from`, `to`). Names can be looked up over TCP (`use-vc` in \
                 `resolv.conf`) where an egress rule lets that through",
            ),
            Self::Kernel(KernelRefusal::RefusedRecently) => (
                "the destination refused, or was denied by a rule, less than one second ago",
                "nothing: an echo of `dial-refused` or `denied-by-rule`",
            ),
            Self::Kernel(KernelRefusal::UnsealedSegment) => (
                "a TCP segment that carries something tried to leave the namespace past the \
                 agent, and was dropped. Counts segments, retransmissions included",
                "find the program (`from`, `to`): is it outside the cgroup, or its connection \
                 older than the agent? Restart it inside the cgroup",
            ),
            Self::Agent(Reason::NoOriginalDestination) => (
                "a connection reached the egress listener without a destination: a program \
                 dialled the agent's own port, or the flow table was full",
                "look for `flow-table-full`; else find who scans the loopback",
            ),
            Self::Agent(Reason::WrongWorkload) => (
                "the hook of one workload turned the connection, the listener of another \
                 accepted it",
                "a process of one workload's cgroup runs in another workload's namespace: \
                 move it",
            ),
            Self::Agent(Reason::OwnAddressLoop) => (
                "a connection within the namespace reached the ingress listener: its \
                 addresses have just changed, or a program dialled the listener",
                "once: nothing. Often: find who scans the loopback",
            ),
            Self::Agent(Reason::PlaintextPort) => (
                "the kernel side turned a connection to the agent that a rule leaves alone",
                "should not be; report it",
            ),
            Self::Agent(Reason::DeniedByRule) => (
                "an egress rule says `deny`, of the destination or of the workload that has answered \
                 there; the detail names it",
                "change the rule, or the program",
            ),
            Self::Agent(Reason::Credential(Unusable::Missing)) => (
                "the workload has no certificate. As `no-credential`, where the certificate \
                 changed between hook and agent",
                "`/ready` says why; `sealwire pki issue`, or look at the Coordinator",
            ),
            Self::Agent(Reason::Credential(Unusable::NotYetValid)) => (
                "the validity of the workload's certificate has not begun",
                "compare the clocks; `/ready` has both times",
            ),
            Self::Agent(Reason::Credential(Unusable::Expired)) => (
                "the workload's certificate has expired. As `credential-expired`, where it \
                 expired between hook and agent",
                "renew it; the agent takes it up by itself",
            ),
            Self::Agent(Reason::TooManyHandshakes) => (
                "the source has 4096 connections waiting on one worker",
                "is the source attacked, or attacking?",
            ),
            Self::Agent(Reason::Closed(CloseCause::PeerNotAllowedAnyMore)) => (
                "a new manifest or configuration no longer lets the two meet, and came while \
                 the connection was being made",
                "`sealwire manifest diff`; look at `AllowedPeers` of both, and at `peers`",
            ),
            Self::Agent(Reason::Closed(CloseCause::RuleChanged)) => (
                "a rule of a new configuration denies the connection, or its listener is \
                 gone; that came while it was being made",
                "connect again; if it stays refused, look at the rule",
            ),
            Self::Agent(Reason::Closed(CloseCause::WorkloadRemoved)) => (
                "a new configuration does not have the workload any more, or has it with \
                 another cgroup, namespace or certificate",
                "connect again; if it stays refused, look at the configuration",
            ),
            Self::Agent(
                Reason::Credential(Unusable::Withdrawn)
                | Reason::Closed(CloseCause::IdentityWithdrawn),
            ) => (
                "the manifest in force no longer has the identity of the workload, or not for \
                 this agent; or its peer's, since they began",
                "look at `Policies` and `Hosts`; `sealwire manifest diff`",
            ),
            Self::Agent(Reason::DialRefused) => (
                "the destination refused; on ingress: the program does not listen there",
                "start it; look at the port",
            ),
            Self::Agent(Reason::DialTimeout) => (
                "no answer in time (30 s at most)",
                "look at routes and firewalls",
            ),
            Self::Agent(Reason::NameUnknown) => (
                "a stricter egress rule may be for the destination, by a name that the resolvers \
                 of the workload's namespace can't look up (a name that has no address is known); \
                 or by a wildcard, and no program of the workload was heard to be told of the \
                 address: it was looked up over TCP, TLS or HTTPS, in a file or by another service, \
                 before the agent ran, or longer ago than the answer was good for",
                "a name: the log says why it can't be looked up; mend `resolv.conf` or the name. A \
                 wildcard: let the program look names up over UDP, again before it connects, or \
                 give what it dials a rule by `cidr` or by its whole name",
            ),
            Self::Agent(Reason::NameLookup) => (
                "the name of a listener has no address; the detail says what the resolver \
                 said, or that none answered within 10 s",
                "look it up from the workload's namespace; is `resolv.conf` right?",
            ),
            Self::Agent(Reason::DialUnreachable) => ("no route, or nobody there", "look at routes"),
            Self::Agent(Reason::DialFailed) => (
                "another error, which the detail names: no file descriptor, no address, a \
                 full table",
                "as the detail says",
            ),
            Self::Agent(Reason::HandshakeTimeout) => (
                "not done within 10 s",
                "is the peer overloaded, or a slow scanner?",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerNotTls)) => (
                "the peer's first bytes are no TLS; the detail shows them",
                "ingress: the client talks in clear. Is it outside the mesh? Egress: the \
                 server does. A `plaintext` rule, if that is meant",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerTlsVersion)) => {
                ("the peer does not offer TLS 1.3", "update it")
            }
            Self::Agent(Reason::Handshake(Handshake::PeerNoCertificate)) => (
                "the client showed none",
                "give it one; or mode `tls` for this port",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerUnknownIssuer)) => (
                "its certificate does not chain to our `mesh-ca.pem`; the detail has subject \
                 and issuer",
                "another mesh? A rotated CA? Put both CAs into `mesh-ca.pem` while you change",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerCertificateExpired)) => (
                "a certificate of its chain has expired",
                "renew it; compare the clocks",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerCertificateNotYetValid)) => (
                "a certificate of its chain is not valid yet",
                "compare the clocks",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerIdentityMissing)) => (
                "its certificate has no URI, several, or one that is no SPIFFE ID",
                "issue another",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerSimulated)) => (
                "its certificate rests on a simulated TEE, which counts for nothing here",
                "is it of a test deployment? `allow_simulated_tee`, if this is one too",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerNotSimulated)) => (
                "this workload's own TEE is simulated, so it meets others of that kind alone; \
                 the peer's certificate is not of that kind",
                "is one of the two of a test deployment? `allow_simulated_tee`, if both are",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerCertificateInvalid)) => (
                "wrong purpose, encoding or signature; the detail says which",
                "issue another",
            ),
            Self::Agent(Reason::PeerNotAllowed) => (
                "its certificate is good, but the rule does not list it, or the manifest: it \
                 has the identity no more, or `AllowedPeers` of this workload does not name \
                 it. The detail says which",
                "add it to `peers`, or to the manifest, if it should",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerAlert)) => (
                "the peer refused us; the detail names the alert",
                "look at the peer's log: does it accept our certificate?",
            ),
            Self::Agent(Reason::Handshake(Handshake::PeerProtocol)) => (
                "what it sent can't be followed, or there is no common cipher",
                "update it; report it if it is one of ours",
            ),
            Self::Agent(Reason::Handshake(Handshake::Truncated)) => (
                "the peer closed during the handshake",
                "a port scan, a health check that only connects, a peer that gave up",
            ),
            Self::Agent(Reason::Handshake(Handshake::Reset)) => (
                "the connection broke during the handshake",
                "as `truncated`: a port scan, a health check, a peer that gave up",
            ),
            Self::Agent(Reason::Handshake(Handshake::TooLarge)) => (
                "a record over 16 KiB, or more than 128 KiB of handshake",
                "is the peer sane?",
            ),
            Self::Agent(Reason::Handshake(Handshake::Local)) => {
                ("the fault is on this side; the detail says it", "report it")
            }
        };
        Advice { means, to_do }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code that there is.
    fn codes() -> Vec<RefusalCode> {
        let before = [
            Reason::NoOriginalDestination,
            Reason::WrongWorkload,
            Reason::OwnAddressLoop,
            Reason::PlaintextPort,
            Reason::DeniedByRule,
            Reason::TooManyHandshakes,
            Reason::HandshakeTimeout,
            Reason::PeerNotAllowed,
            Reason::DialRefused,
            Reason::DialTimeout,
            Reason::NameLookup,
            Reason::NameUnknown,
            Reason::DialUnreachable,
            Reason::DialFailed,
        ];
        let credential = [
            Unusable::Missing,
            Unusable::NotYetValid,
            Unusable::Expired,
            Unusable::Withdrawn,
        ];
        let handshake = [
            Handshake::PeerNoCertificate,
            Handshake::PeerUnknownIssuer,
            Handshake::PeerCertificateExpired,
            Handshake::PeerCertificateNotYetValid,
            Handshake::PeerIdentityMissing,
            Handshake::PeerSimulated,
            Handshake::PeerNotSimulated,
            Handshake::PeerCertificateInvalid,
            Handshake::PeerTlsVersion,
            Handshake::PeerNotTls,
            Handshake::PeerAlert,
            Handshake::PeerProtocol,
            Handshake::Truncated,
            Handshake::Reset,
            Handshake::TooLarge,
            Handshake::Local,
        ];
        let of_agent = before
            .into_iter()
            .chain(credential.map(Reason::Credential))
            .chain(handshake.map(Reason::Handshake))
            .chain(CloseCause::ALL.map(Reason::Closed));
        let of_kernel = KernelRefusal::ALL.map(RefusalCode::Kernel);
        of_kernel
            .into_iter()
            .chain(of_agent.map(RefusalCode::Agent))
            .collect()
    }

    /// Text without links, on one line.
    fn plain(markdown: &str) -> String {
        let mut text = String::new();
        let mut rest = markdown;
        while let Some((before, after)) = rest.split_once("](") {
            let (before, label) = before.rsplit_once('[').unwrap();
            text.extend([before, label]);
            rest = after.split_once(')').unwrap().1;
        }
        text.push_str(rest);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_book_has_a_section_for_each_code_with_the_same_words() {
        let page = include_str!("../../docs/src/reference/refusals.md");
        let sections: Vec<_> = page
            .split("\n### `")
            .skip(1)
            .map(|section| {
                let (code, rest) = section.split_once("`\n").unwrap();
                (code, plain(rest.split("\n## ").next().unwrap()))
            })
            .collect();
        let mut codes = codes();
        codes.sort_by_key(|code| code.as_str());
        codes.dedup_by_key(|code| code.as_str());
        for code in &codes {
            let Advice { means, to_do } = code.advice();
            let expected = format!("- It means: {means} - To do: {to_do}");
            let found: Vec<_> = sections
                .iter()
                .filter(|(name, _)| *name == code.as_str())
                .map(|(_, text)| text)
                .collect();
            assert_eq!(found, [&expected], "{}", code.as_str());
        }
        assert_eq!(sections.len(), codes.len());
    }
}
