//! Keeps a workload's credential: loads new files, tells workers, hooks and operators.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ebpf_abi::Workload as WorkloadState;
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use crate::{
    bpf::ControlMaps,
    certificates::{CertificateFiles, Credential, POLL_INTERVAL},
    metrics::{ReloadResult, WorkloadMetrics},
    readiness::ReadinessBoard,
    report::certificate_loaded,
    workload::Workload,
};

/// One workload's credential.
#[derive(Debug)]
pub(crate) struct CredentialKeeper {
    workload: Arc<Workload>,
    files: CertificateFiles,
    sender: watch::Sender<Credential>,
    /// What the hooks were told last.
    told: WorkloadState,
    is_told: bool,
    metrics: WorkloadMetrics,
    board: ReadinessBoard,
}

/// A shift of the deadline by less than this is the clocks' noise.
const TOLERANCE: Duration = Duration::from_millis(200);

impl CredentialKeeper {
    /// A keeper that has loaded nothing yet. `state` names the workload's listeners.
    pub(crate) fn new(
        workload: Arc<Workload>,
        files: CertificateFiles,
        sender: watch::Sender<Credential>,
        state: WorkloadState,
        metrics: WorkloadMetrics,
        board: ReadinessBoard,
    ) -> Self {
        Self {
            workload,
            files,
            sender,
            told: state,
            is_told: false,
            metrics,
            board,
        }
    }

    /// Looks at the files and the clock once, and tells whoever must know.
    pub(crate) fn look(&mut self, maps: &mut ControlMaps, now: SystemTime) {
        let name = &self.workload.name;
        match self.files.poll() {
            None => {}
            Some(Ok(tls)) => {
                info!(workload = %name, identity = %tls.identity(), "certificate loaded");
                certificate_loaded(&self.metrics, tls.validity());
                self.sender.send_replace(Credential::Loaded(Arc::new(tls)));
            }
            Some(Err(error)) => {
                warn!(workload = %name, %error, "the certificate files are not loaded");
                self.metrics.certificate_reloaded(ReloadResult::Refused);
                self.sender.send_if_modified(|credential| match credential {
                    Credential::Missing(why) => {
                        *why = Arc::new(error);
                        true
                    }
                    Credential::Loaded(_) => false,
                });
            }
        }
        let credential = self.sender.borrow().clone();
        self.board.set(name, &credential, now);
        self.tell_hooks(maps, credential.until_ns(now));
    }

    /// Looks again and again until the agent ends.
    pub(crate) async fn keep(mut self, mut maps: ControlMaps) {
        loop {
            sleep(POLL_INTERVAL).await;
            self.look(&mut maps, SystemTime::now());
        }
    }

    fn tell_hooks(&mut self, maps: &mut ControlMaps, until: u64) {
        let told = self.told.credential_until;
        let is_valid = |until| until > 1;
        let drift = Duration::from_nanos(told.abs_diff(until));
        let stays = told == until || is_valid(told) && is_valid(until) && drift < TOLERANCE;
        if self.is_told && stays {
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
