//! What the hooks are told of a workload.

use std::net::TcpListener;

use ebpf_abi::Workload as WorkloadState;

use crate::{
    agent_error::{AgentError, failed},
    listen::Listeners,
    loader::ControlMaps,
    policy::{IngressMode, IngressPolicy, UdpMode},
    rules::Rules,
    workload::Workload,
};

/// Whether a port that was in clear is so no longer.
pub(super) fn seals_a_port(before: &Rules, rules: &Rules) -> bool {
    let is_in_clear =
        |rules: &Rules, port| rules.ingress.decide(port).mode == IngressMode::Plaintext;
    let sealed = |port| is_in_clear(before, port) && !is_in_clear(rules, port);
    let ports = rules.ingress.rules().iter().chain(before.ingress.rules());
    // Port 0 is none, and has the default.
    sealed(0) || ports.map(|rule| rule.port.get()).any(sealed)
}

pub(super) fn set_ports(
    maps: &mut ControlMaps,
    workload: &Workload,
    rules: &Rules,
) -> Result<(), AgentError> {
    let (default_is_plaintext, ports) = plaintext_ports(&rules.ingress);
    maps.set_ingress_ports(workload.id, default_is_plaintext, &ports)?;
    maps.set_udp_denied(workload.id, rules.udp == UdpMode::Deny)?;
    Ok(())
}

/// Enters a worker's listeners into the maps and into the workload's state.
pub(super) fn publish(
    maps: &mut ControlMaps,
    workload: &Workload,
    index: usize,
    listeners: &Listeners,
    state: &mut WorkloadState,
) -> Result<(), AgentError> {
    state.egress_v4[index] = listeners.egress_port(false).unwrap_or(0);
    state.egress_v6[index] = listeners.egress_port(true).unwrap_or(0);
    for listener in &listeners.ingress {
        set_listener(maps, workload, index, listener)?;
    }
    Ok(())
}

pub(super) fn set_listener(
    maps: &mut ControlMaps,
    workload: &Workload,
    worker: usize,
    listener: &TcpListener,
) -> Result<(), AgentError> {
    let address = listener.local_addr().map_err(failed("asking a listener"))?;
    maps.set_listener(workload.id, worker as u32, address.is_ipv6(), listener)?;
    Ok(())
}

/// The ports that differ from the default, and whether each is plaintext.
fn plaintext_ports(policy: &IngressPolicy) -> (bool, Vec<(u16, bool)>) {
    let is_plaintext = |mode| mode == IngressMode::Plaintext;
    let default = is_plaintext(policy.default_mode());
    let ports = policy
        .rules()
        .iter()
        .map(|rule| (rule.port.get(), is_plaintext(rule.mode)))
        .filter(|(_, plaintext)| *plaintext != default)
        .collect();
    (default, ports)
}
