//! What the kernel side reports, told to the operator: refusals one by one, counters, tables.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ebpf_abi::{Direction as KernelDirection, KernelRefusal, RefusalEvent};
use kernel_tls::NicOffload;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, warn};

use crate::{
    loader::{Refusals, Steering},
    policy::Direction,
    readable::readable,
    report::Telemetry,
    workload::Workload,
};

/// How often counters are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Passes reports on until the agent ends. What was refused while no agent was there comes first.
pub(crate) async fn follow(
    steering: Steering,
    mut refusals: Refusals,
    workloads: watch::Receiver<Vec<Arc<Workload>>>,
    telemetry: Arc<Telemetry>,
) {
    let events = match refusals.events().and_then(readable) {
        Ok(events) => events,
        Err(error) => {
            error!(%error, "refusals of the kernel side can't be followed");
            return;
        }
    };
    let has_tls = NicOffload::read().is_some();
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ready = events.readable() => {
                refusals.drain(|event| tell(&event, &workloads.borrow(), &telemetry));
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
            }
            _ = tick.tick() => {
                match steering.read() {
                    Ok(readings) => telemetry.kernel(&readings),
                    Err(error) => warn!(%error, "the kernel side's counters can't be read"),
                }
                telemetry.lost_lines();
                if has_tls {
                    telemetry.metrics().set_nic_offload(nic_offload(&workloads.borrow()));
                }
            }
        }
    }
}

/// What network cards protect in the namespaces of the workloads.
fn nic_offload(workloads: &[Arc<Workload>]) -> Option<NicOffload> {
    let counted = workloads
        .iter()
        .filter_map(|workload| workload.netns.run(|| Ok(NicOffload::read())).ok()?);
    counted.reduce(NicOffload::and)
}

fn tell(event: &RefusalEvent, workloads: &[Arc<Workload>], telemetry: &Telemetry) {
    let Some(reason) = KernelRefusal::from_code(event.reason) else {
        return;
    };
    let workload = workloads
        .iter()
        .find(|workload| workload.id == event.workload);
    let direction = if event.direction == KernelDirection::Ingress as u32 {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    // The agent knows why nothing may begin; the kernel side knows that nothing may.
    let is_of_credential = matches!(
        reason,
        KernelRefusal::NoCredential | KernelRefusal::CredentialExpired
    );
    let why = workload
        .filter(|_| is_of_credential)
        .and_then(|workload| workload.explain_refusals(SystemTime::now()));
    telemetry.refused_by_kernel(
        workload.map_or("?", |workload| workload.name.as_str()),
        direction,
        event,
        reason,
        why.as_deref(),
    );
}
