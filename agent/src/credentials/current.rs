//! The credential in force: who opens connections reads it, and those it no longer covers end.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    certificates::{CertificateError, Credential, Issued},
    connection::CloseCause,
    metrics::{ReloadResult, WorkloadMetrics},
    policy::{Mode, WorkloadName},
    registry::{Connection, Registry},
    report::certificate_loaded,
};

/// One workload's credential, as the workers see it.
#[derive(Debug)]
pub(crate) struct CurrentCredential {
    workload: WorkloadName,
    sender: watch::Sender<Credential>,
    registry: Arc<Registry>,
    metrics: WorkloadMetrics,
}

impl CurrentCredential {
    pub(crate) fn new(
        workload: WorkloadName,
        sender: watch::Sender<Credential>,
        registry: Arc<Registry>,
        metrics: WorkloadMetrics,
    ) -> Self {
        Self {
            workload,
            sender,
            registry,
            metrics,
        }
    }

    /// The credential now.
    pub(crate) fn get(&self) -> Credential {
        self.sender.borrow().clone()
    }

    /// Takes over what the source has brought.
    pub(crate) fn take(&self, brought: Result<Issued, CertificateError>) {
        match brought {
            Ok(issued) => self.install(&issued),
            Err(error) => self.note(error),
        }
    }

    /// New connections first, then those that are open: each of them either sees the new membership
    /// when it is admitted, or has written down its peer by the time that it is looked at.
    fn install(&self, issued: &Issued) {
        let name = &self.workload;
        if !self.has_certificate(issued) {
            info!(workload = %name, identity = %issued.identity(), "certificate loaded");
            certificate_loaded(&self.metrics, issued.validity());
        }
        self.sender.send_replace(Credential::Loaded(issued.clone()));
        let causes = self
            .registry
            .close_objected(|connection| self.is_over(connection, issued));
        for cause in CloseCause::ALL {
            let closed = causes.iter().filter(|it| **it == cause).count();
            if closed > 0 {
                warn!(workload = %name, closed, reason = %cause.as_str(), "connections closed");
            }
        }
    }

    /// What was loaded before stays in force, unless that is what is wrong.
    fn note(&self, error: CertificateError) {
        let name = &self.workload;
        match &error {
            CertificateError::Coordinator { source } => {
                warn!(workload = %name, error = %source, "the Coordinator gave no certificate");
            }
            CertificateError::Withdrawn { source } => {
                warn!(workload = %name, error = %source, "no certificate is in use");
            }
            error => warn!(workload = %name, %error, "the certificate files are not loaded"),
        }
        let is_withdrawn = matches!(error, CertificateError::Withdrawn { .. });
        self.metrics.certificate_reloaded(ReloadResult::Refused);
        self.sender.send_if_modified(|credential| match credential {
            Credential::Loaded(_) if !is_withdrawn => false,
            _ => {
                *credential = Credential::Missing(Arc::new(error));
                true
            }
        });
    }

    fn has_certificate(&self, issued: &Issued) -> bool {
        match &*self.sender.borrow() {
            Credential::Loaded(current) => Arc::ptr_eq(&current.tls, &issued.tls),
            Credential::Missing(_) => false,
        }
    }

    /// Why this connection must end, if it must.
    fn is_over(&self, connection: &Connection, issued: &Issued) -> Option<CloseCause> {
        if connection.workload() != self.workload.as_str() || connection.mode() == Mode::Plaintext {
            return None;
        }
        let (own, peer) = match connection.established() {
            Some(found) => (&found.identity, found.peer.as_ref()),
            None => (issued.identity(), None),
        };
        let objection = issued.membership.objection(own, peer)?;
        Some(CloseCause::from(objection))
    }
}

#[cfg(test)]
mod tests;
