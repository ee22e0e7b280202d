//! A workload before it is served.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    agent_error::AgentError,
    certificates::{self, CertificateFiles, Credential},
    config::{self, CertificateOrigin},
    credentials::CredentialSource,
    enrolment::Slot,
    workload::Workload,
};

/// A workload that was found and checked, and is not served yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(super) workload: Arc<Workload>,
    pub(super) source: CredentialSource,
    pub(super) sender: watch::Sender<Credential>,
}

impl Candidate {
    /// Looks for what the configuration names; changes nothing. Where its certificate is to come
    /// from the Coordinator, a slot for it is added to `slots`.
    pub(crate) fn find(
        config: &config::Workload,
        slots: &mut Vec<Slot>,
    ) -> Result<Self, AgentError> {
        let (sender, receiver) = certificates::channel();
        let workload = Arc::new(Workload::find(config, receiver)?);
        let source = match &config.certificates {
            CertificateOrigin::Files { tls_dir } => {
                let files = CertificateFiles::new(tls_dir.clone());
                files.check().map_err(|source| AgentError::Certificate {
                    workload: config.name.clone(),
                    source,
                })?;
                CredentialSource::Files(files)
            }
            CertificateOrigin::Coordinator { .. } => {
                let (issued, messages) = mpsc::channel(1);
                slots.push(Slot::new(issued, sender.subscribe()));
                CredentialSource::Coordinator(messages)
            }
        };
        Ok(Self {
            workload,
            source,
            sender,
        })
    }

    /// Whose.
    pub(crate) fn workload(&self) -> &Workload {
        &self.workload
    }
}
