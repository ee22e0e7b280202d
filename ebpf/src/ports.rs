//! Which ports' ingress is not steered.

use ebpf_abi::PortKey;

use crate::{maps::INGRESS_PORTS, object::workload};

/// Whether connections to this port of the workload go straight to the program.
#[inline(always)]
pub(crate) fn is_plaintext(port: u32) -> bool {
    let rule = |port| {
        let key = PortKey {
            workload: workload(),
            port,
            reserved: 0,
        };
        // SAFETY: the map's value, which stays in place while the program runs.
        INGRESS_PORTS.get_ptr(&key).map(|value| unsafe { *value })
    };
    rule(port).or_else(|| rule(PortKey::DEFAULT)) == Some(PortKey::PLAINTEXT)
}
