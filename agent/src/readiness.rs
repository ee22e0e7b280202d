//! Whether the workloads can be served, for who asks `/ready`.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

use crate::{
    admin::{Readiness, WorkloadReadiness},
    certificates::{Credential, Unusable},
    enrolment::Trouble,
    policy::WorkloadName,
};

/// Where each workload's state is written down.
#[derive(Clone, Debug)]
pub(crate) struct ReadinessBoard(Arc<watch::Sender<Readiness>>);

impl ReadinessBoard {
    /// A board on which no workload stands yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// What stands on the board, now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<Readiness> {
        self.0.subscribe()
    }

    /// Writes down what is wrong with the Coordinator, if anything is.
    pub(crate) fn set_coordinator(&self, trouble: Option<Trouble>) {
        self.0.send_if_modified(|board| {
            let is_news = board.coordinator != trouble;
            board.coordinator = trouble;
            is_news
        });
    }

    /// Writes down what a workload can prove itself with.
    pub(crate) fn set(&self, name: &WorkloadName, credential: &Credential, now: SystemTime) {
        let current = readiness(name, credential, now);
        self.0.send_if_modified(|board| {
            match board
                .workloads
                .iter_mut()
                .find(|workload| workload.name == *name)
            {
                Some(workload) if *workload == current => false,
                Some(workload) => {
                    *workload = current;
                    true
                }
                None => {
                    board.workloads.push(current);
                    true
                }
            }
        });
    }
}

fn readiness(name: &WorkloadName, credential: &Credential, now: SystemTime) -> WorkloadReadiness {
    let not_ready = credential
        .usable(now)
        .err()
        .map(|unusable| match (unusable, credential) {
            (Unusable::Missing, Credential::Missing(why)) => why.to_string(),
            (Unusable::Missing, Credential::Loaded(_)) => unusable.as_str().to_owned(),
            (Unusable::NotYetValid, _) => "the certificate's validity has not begun".to_owned(),
            (Unusable::Expired, _) => "the certificate has expired".to_owned(),
            (Unusable::Withdrawn, _) => {
                "the manifest in force has the workload's identity no more".to_owned()
            }
        });
    let tls = match credential {
        Credential::Loaded(tls) => Some(tls),
        Credential::Missing(_) => None,
    };
    WorkloadReadiness {
        name: name.clone(),
        identity: tls.map(|tls| tls.identity().clone()),
        not_ready,
        certificate_not_after: tls.map(|tls| tls.validity().not_after),
    }
}
