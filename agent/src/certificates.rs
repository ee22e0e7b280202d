//! What a workload proves itself with, and how it is had from files: loads what `--tls-dir` holds,
//! again whenever it changes, and never a pair that does not belong together.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use attestation::identity::SpiffeId;
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;
use userspace_tls::{Credentials, CredentialsError, CredentialsFile, MeshTls, Validity};
use zeroize::Zeroizing;

use crate::{
    bpf::monotonic_ns,
    policy::{Membership, Objection},
};

/// What a workload can prove itself with, now. Closed until the first certificate.
#[derive(Clone, Debug)]
pub enum Credential {
    /// None was loaded yet, and why the last attempt failed.
    Missing(Arc<CertificateError>),
    /// One was loaded. It may be outside its validity: [`Credential::usable`] tells.
    Loaded(Issued),
}

/// A certificate with what the mesh says of its owner. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The TLS configurations with the certificate, its key and the trust bundle.
    pub tls: Arc<MeshTls>,
    /// Who else is in the mesh, and whom of them the workload may meet.
    pub membership: Membership,
}

impl Issued {
    /// The SPIFFE ID of the certificate.
    pub fn identity(&self) -> &SpiffeId {
        self.tls.identity()
    }

    /// When the certificate is valid.
    pub fn validity(&self) -> Validity {
        self.tls.validity()
    }
}

/// Why a workload can't open or accept connections now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unusable {
    /// No certificate was loaded.
    Missing,
    /// Its validity begins later.
    NotYetValid,
    /// Its validity is over.
    Expired,
    /// The mesh has its identity no more.
    Withdrawn,
}

impl Credential {
    /// The TLS configuration, while its certificate is valid and its identity one of the mesh's.
    pub fn usable(&self, now: SystemTime) -> Result<&Arc<MeshTls>, Unusable> {
        let Self::Loaded(issued) = self else {
            return Err(Unusable::Missing);
        };
        let Validity {
            not_before,
            not_after,
        } = issued.validity();
        if !issued.membership.lists(issued.identity()) {
            Err(Unusable::Withdrawn)
        } else if now < not_before {
            Err(Unusable::NotYetValid)
        } else if now > not_after {
            Err(Unusable::Expired)
        } else {
            Ok(&issued.tls)
        }
    }

    /// What the mesh has now against a connection that the workload makes as `own` with `peer`.
    pub fn objection(&self, own: &SpiffeId, peer: Option<&SpiffeId>) -> Option<Objection> {
        match self {
            Self::Missing(_) => Some(Objection::OwnIdentity),
            Self::Loaded(issued) => issued.membership.objection(own, peer),
        }
    }

    /// Until when the hooks may let connections begin, as `CLOCK_MONOTONIC` nanoseconds; zero
    /// where there is no certificate whose validity has begun.
    pub fn until_ns(&self, now: SystemTime) -> u64 {
        match (self.usable(now), self) {
            (Ok(tls), _) => {
                let left = tls
                    .validity()
                    .not_after
                    .duration_since(now)
                    .unwrap_or_default();
                monotonic_ns().saturating_add(left.as_nanos().try_into().unwrap_or(u64::MAX))
            }
            // Any moment that is over; the hooks tell it from zero.
            (Err(Unusable::Expired), _) => 1,
            _ => 0,
        }
    }
}

impl Credential {
    /// Why it is not [usable](Self::usable) `now`, for the operator: names the validity and what
    /// this machine's clock says, where it is a matter of time. `None` where it is usable.
    pub fn explain(&self, now: SystemTime) -> Option<String> {
        let unusable = self.usable(now).err()?;
        let Validity {
            not_before,
            not_after,
        } = match self {
            Self::Missing(why) => return Some(why.to_string()),
            Self::Loaded(issued) => issued.validity(),
        };
        let clock = rfc3339(now);
        Some(match unusable {
            Unusable::Missing => unusable.as_str().to_owned(),
            Unusable::NotYetValid => format!(
                "the certificate's validity has not begun: it is valid from {}, and this machine's \
                 clock says {clock}",
                rfc3339(not_before)
            ),
            Unusable::Expired => format!(
                "the certificate has expired: it was valid until {}, and this machine's clock says \
                 {clock}",
                rfc3339(not_after)
            ),
            Unusable::Withdrawn => {
                "the manifest in force has the workload's identity no more".to_owned()
            }
        })
    }
}

impl Unusable {
    /// The refusal's code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "no-certificate",
            Self::NotYetValid => "certificate-not-yet-valid",
            Self::Expired => "certificate-expired",
            Self::Withdrawn => "identity-withdrawn",
        }
    }
}

/// Why no certificate could be had.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The files don't hold what they must.
    #[error("in {directory}: {source}")]
    Content {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with which file.
        source: CredentialsError,
    },
    /// The Coordinator gave none.
    #[error("the Coordinator gave no certificate: {source}")]
    Coordinator {
        /// What it answered, or why it did not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate of before is of no use any more.
    #[error("{source}")]
    Withdrawn {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody has tried yet.
    #[error("no certificate was loaded yet")]
    NotYet,
}

/// Watches one directory.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    directory: PathBuf,
    seen: Option<Stamp>,
}

/// What changes when a file is written or replaced, for each of the three.
#[derive(Debug, PartialEq, Eq)]
struct Stamp([Option<(u64, u64, i64, i64)>; 3]);

impl CertificateFiles {
    /// Files under `directory`, of which nothing is loaded yet.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            seen: None,
        }
    }

    /// Tells files that can't serve, which the operator must mend, from files that are yet to come.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), CertificateError> {
        match self.load() {
            Err(CertificateError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Loads the files if they have changed since the last call; `None` where they have not.
    ///
    /// # Errors
    /// Names the file and what is wrong. What was loaded before stays in force.
    pub(crate) fn poll(&mut self) -> Option<Result<MeshTls, CertificateError>> {
        let stamp = Stamp::of(&self.directory);
        if self.seen.as_ref() == Some(&stamp) {
            return None;
        }
        let loaded = self.load();
        // Files that changed while they were read are read again next time.
        self.seen = (Stamp::of(&self.directory) == stamp).then_some(stamp);
        Some(loaded)
    }

    fn load(&self) -> Result<MeshTls, CertificateError> {
        let chain = self.read(CredentialsFile::CertChain)?;
        let key = Zeroizing::new(self.read(CredentialsFile::Key)?);
        let mesh_ca = self.read(CredentialsFile::MeshCa)?;
        Credentials::from_pem(&chain, &key, &mesh_ca)
            .and_then(MeshTls::new)
            .map_err(|source| CertificateError::Content {
                directory: self.directory.clone(),
                source,
            })
    }

    fn read(&self, file: CredentialsFile) -> Result<Vec<u8>, CertificateError> {
        let path = self.directory.join(file.to_string());
        fs::read(&path).map_err(|source| CertificateError::Read { path, source })
    }
}

impl Stamp {
    fn of(directory: &Path) -> Self {
        Self(FILES.map(|file| {
            let metadata = fs::metadata(directory.join(file.to_string())).ok()?;
            Some((
                metadata.ino(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec(),
            ))
        }))
    }
}

const FILES: [CredentialsFile; 3] = [
    CredentialsFile::CertChain,
    CredentialsFile::Key,
    CredentialsFile::MeshCa,
];

/// How often the directory is looked at: soon enough for rotation, and it works on any file system
/// and through any chain of symbolic links, which inotify does not.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A moment of the calendar, to the second, as people read it.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).truncate_to_second();
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// A channel that carries a workload's credential to the workers.
pub(crate) fn channel() -> (watch::Sender<Credential>, watch::Receiver<Credential>) {
    watch::channel(Credential::Missing(Arc::new(CertificateError::NotYet)))
}

#[cfg(test)]
pub(crate) mod testing;
