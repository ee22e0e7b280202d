//! Connections between programs and the network that go past the agent: those to ports that are in
//! clear, and those that are older than the agent. Ends those that may not go on.

use std::{collections::HashSet, io, net::IpAddr};

use tracing::{error, info, warn};

use crate::{
    bpf::Tenancy,
    connection::CloseCause,
    netns::Interfaces,
    policy::IngressMode,
    rules::Rules,
    sock_diag::{self, Found, Which},
    workload::Workload,
};

/// Which of them may not go on, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unwanted<'a> {
    /// All: they began before the kernel side knew of the workload. The guard holds back what they
    /// send, so that they would stand still.
    OlderThanGuard,
    /// Those to ports that are not in clear under these rules. They may have been under others.
    NotInClear(&'a Rules),
}

impl Unwanted<'_> {
    fn has(self, port: u16) -> bool {
        match self {
            Self::OlderThanGuard => true,
            Self::NotInClear(rules) => rules.ingress.decide(port).mode != IngressMode::Plaintext,
        }
    }

    /// The code in the log and the documentation.
    fn as_str(self) -> &'static str {
        match self {
            Self::OlderThanGuard => "older-than-agent",
            Self::NotInClear(_) => CloseCause::RuleChanged.as_str(),
        }
    }
}

/// Ends the connections of a workload that go past every agent and are unwanted; how many. `agents` are
/// the cgroups in which agents have made their sockets. Connections within the namespace stay.
///
/// The hooks must know what is in clear by now: what begins meanwhile is theirs to judge.
pub(crate) fn close(workload: &Workload, agents: &HashSet<u64>, unwanted: Unwanted<'_>) -> usize {
    let name = &workload.name;
    let reason = unwanted.as_str();
    match workload.netns.run(|| reset(workload, agents, unwanted)) {
        Ok(0) => 0,
        Ok(closed) => {
            info!(workload = %name, closed, reason, "connections past the agent closed");
            closed
        }
        Err(error) => {
            match unwanted {
                Unwanted::OlderThanGuard => warn!(
                    workload = %name,
                    %error,
                    reason,
                    "connections that are older than the agent can't be closed; nothing of them goes \
                     out, and they stand still until their programs give up: restart the program"
                ),
                Unwanted::NotInClear(_) => error!(
                    workload = %name,
                    %error,
                    reason,
                    "connections to a port that was in clear can't be closed; they stay in clear \
                     until they end: restart the program"
                ),
            }
            0
        }
    }
}

fn reset(workload: &Workload, agents: &HashSet<u64>, unwanted: Unwanted<'_>) -> io::Result<usize> {
    // In a namespace that is others' as well, those of its own programs.
    let programs = match workload.tenancy {
        Tenancy::Sole => None,
        Tenancy::Shared => Some(workload.cgroup_ids()?),
    };
    let own = Interfaces::list()?;
    let own: HashSet<_> = own
        .addresses
        .iter()
        .filter(|prefix| prefix.local)
        .map(|prefix| prefix.address)
        .collect();
    let mut closed = 0;
    for socket in sock_diag::list(Which::Connections)? {
        let is_of_programs = match &programs {
            Some(programs) => programs.contains(&socket.cgroup),
            None => !agents.contains(&socket.cgroup),
        };
        let is_past = is_from_outside(&socket, &own) && is_of_programs;
        if is_past && unwanted.has(socket.port) && sock_diag::reset(&socket)? {
            closed += 1;
        }
    }
    Ok(closed)
}

fn is_from_outside(socket: &Found, own: &HashSet<IpAddr>) -> bool {
    let peer = socket.peer;
    !peer.is_loopback() && peer != socket.local && !own.contains(&peer)
}
