//! Whether the workloads can be served, for who asks `/ready`.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

use crate::{
    admin::{ConfigurationState, Readiness, WorkloadReadiness},
    certificates::Credential,
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

    /// Writes down why what is known of the deployment is not on the disk, if it is not.
    pub(crate) fn set_unsaved(&self, why: Option<String>) {
        self.0.send_if_modified(|board| {
            let is_news = board.unsaved != why;
            board.unsaved = why;
            is_news
        });
    }

    /// Writes down which configuration is in force, and why the last one that was read is not.
    pub(crate) fn set_configuration(&self, generation: u64, refused: Option<String>) {
        self.0.send_modify(|board| {
            board.configuration = ConfigurationState {
                generation,
                refused,
            };
        });
    }

    /// Writes down that a workload is configured and not served, until it is set.
    pub(crate) fn set_unserved(&self, name: &WorkloadName, why: String) {
        self.0.send_modify(|board| {
            board.workloads.retain(|it| it.name != *name);
            board.workloads.push(WorkloadReadiness {
                name: name.clone(),
                identity: None,
                not_ready: Some(why),
                certificate_not_after: None,
            });
        });
    }

    /// Takes a workload off the board.
    pub(crate) fn remove(&self, name: &WorkloadName) {
        self.0
            .send_modify(|board| board.workloads.retain(|it| it.name != *name));
    }

    /// Writes down what a workload can prove itself with, and which device is not guarded.
    pub(crate) fn set(
        &self,
        name: &WorkloadName,
        credential: &Credential,
        unguarded: Option<String>,
        now: SystemTime,
    ) {
        let current = readiness(name, credential, unguarded, now);
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

fn readiness(
    name: &WorkloadName,
    credential: &Credential,
    unguarded: Option<String>,
    now: SystemTime,
) -> WorkloadReadiness {
    let tls = match credential {
        Credential::Loaded(tls) => Some(tls),
        Credential::Missing(_) => None,
    };
    WorkloadReadiness {
        name: name.clone(),
        identity: tls.map(|tls| tls.identity().clone()),
        not_ready: unguarded.or_else(|| credential.explain(now)),
        certificate_not_after: tls.map(|tls| tls.validity().not_after),
    }
}
