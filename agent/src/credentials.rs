//! Keeps a workload's credential: takes what its source brings, tells workers, hooks and operators.

mod current;
mod source;

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ebpf_abi::Workload as WorkloadState;
use tracing::error;

use crate::{
    certificates::Credential,
    loader::ControlMaps,
    metrics::WorkloadMetrics,
    readiness::ReadinessBoard,
    registry::Registry,
    workload::{Telling, Workload},
};
use current::CurrentCredential;
pub(crate) use source::CredentialSource;
use tokio::sync::watch;

/// One workload's credential.
#[derive(Debug)]
pub(crate) struct CredentialKeeper {
    workload: Arc<Workload>,
    source: CredentialSource,
    current: CurrentCredential,
    /// What the hooks were told last.
    told: WorkloadState,
    is_told: bool,
    board: ReadinessBoard,
}

/// A shift of the deadline by less than this is the clocks' noise.
const TOLERANCE: Duration = Duration::from_millis(200);

impl CredentialKeeper {
    /// A keeper that has loaded nothing yet. `state` names the workload's listeners, `registry` has
    /// the connections that end when the mesh no longer wants them.
    pub(crate) fn new(
        workload: Arc<Workload>,
        source: CredentialSource,
        sender: watch::Sender<Credential>,
        registry: Arc<Registry>,
        state: WorkloadState,
        metrics: WorkloadMetrics,
        board: ReadinessBoard,
    ) -> Self {
        let current = CurrentCredential::new(workload.name.clone(), sender, registry, metrics);
        Self {
            workload,
            source,
            current,
            told: state,
            is_told: false,
            board,
        }
    }

    /// Looks at the source and the clock once, and tells whoever must know.
    pub(crate) fn look(&mut self, maps: &mut ControlMaps, now: SystemTime) {
        if let Some(brought) = self.source.poll() {
            self.current.take(brought);
        }
        self.tell(maps, now);
    }

    /// Follows the source, the clock and the devices' guard until the agent ends.
    pub(crate) async fn keep(mut self, maps: Rc<RefCell<ControlMaps>>) {
        let mut unguarded = self.workload.unguarded.subscribe();
        let mut telling = self.workload.telling.subscribe();
        loop {
            tokio::select! {
                brought = self.source.next() => {
                    if let Some(brought) = brought {
                        self.current.take(brought);
                    }
                }
                Ok(()) = unguarded.changed() => {}
                Ok(()) = telling.changed() => self.is_told = false,
            }
            self.tell(&mut maps.borrow_mut(), SystemTime::now());
        }
    }

    fn tell(&mut self, maps: &mut ControlMaps, now: SystemTime) {
        let credential = self.current.get();
        let unguarded = self.workload.unguarded.borrow().clone();
        // The hooks refuse everything of a workload without a credential.
        let until = match unguarded {
            Some(_) => 0,
            None => credential.until_ns(now),
        };
        let name = &self.workload.name;
        self.board.set(name, &credential, unguarded, now);
        self.tell_hooks(maps, until);
    }

    fn tell_hooks(&mut self, maps: &mut ControlMaps, until: u64) {
        let told = self.told.credential_until;
        let is_valid = |until| until > 1;
        let drift = Duration::from_nanos(told.abs_diff(until));
        let stays = told == until || is_valid(told) && is_valid(until) && drift < TOLERANCE;
        let is_others = *self.workload.telling.borrow() == Telling::Others;
        if is_others || self.is_told && stays {
            return;
        }
        let state = WorkloadState {
            credential_until: until,
            ..self.told
        };
        match maps.set_workload(self.workload.id, state) {
            Ok(()) => {
                self.told = state;
                self.is_told = true;
            }
            Err(error) => {
                error!(workload = %self.workload.name, %error, "the hooks can't be told");
            }
        }
    }
}
