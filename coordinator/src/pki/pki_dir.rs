use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use attestation::identity::TrustDomain;
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::ca_certificate::CaCertificate;
use super::error::PkiError;
use super::key::{Curve, KeyError, PrivateKey};
use super::mesh_ca::MeshCa;
use super::names::WorkloadNames;
use super::root::Root;
use super::tls_dir::write_tls_dir;
use super::validity::{Validity, ValidityError};
use super::workload::WorkloadCertificate;
use super::write::{Audience, Existing, WriteError, sync_dir, write_file};

/// A PKI whose keys lie in a directory: for development and tests, where no Coordinator runs.
///
/// A Coordinator keeps its keys in memory and never uses this.
#[derive(Debug)]
pub struct PkiDir {
    path: PathBuf,
    root: CaCertificate,
    mesh_ca: MeshCa,
}

impl PkiDir {
    /// Makes a PKI with fresh keys in `path`, which must not exist or be empty.
    ///
    /// The directory becomes the owner's alone.
    pub fn init(
        path: &Path,
        trust_domain: &TrustDomain,
        now: OffsetDateTime,
    ) -> Result<Self, PkiDirError> {
        let validity = Validity::of_ca(now, CA_LIFETIME)?;
        let root = Root::create(trust_domain, PrivateKey::generate(Curve::P384)?, validity)?;
        let mesh_ca = root.new_mesh_ca(validity)?;

        create_private_dir(path)?;
        let write = |name, contents: &str, audience| {
            write_file(path, name, contents, audience, Existing::Refuse)
        };
        write(ROOT_KEY, &root.key().to_pem(), Audience::Secret)?;
        write(MESH_CA_KEY, &mesh_ca.key().to_pem(), Audience::Secret)?;
        write(MESH_CA, &mesh_ca.certificate().pem(), Audience::Public)?;
        write(
            INTERMEDIATE,
            &mesh_ca.intermediate().pem(),
            Audience::Public,
        )?;
        write(ROOT, &root.certificate().pem(), Audience::Public)?;
        sync_dir(path)?;

        Ok(Self {
            path: path.to_owned(),
            root: root.certificate().clone(),
            mesh_ca,
        })
    }

    /// Opens what [`init`](Self::init) made. The root's key is left alone.
    pub fn open(path: &Path) -> Result<Self, PkiDirError> {
        let root = read_certificate(&path.join(ROOT))?;
        let intermediate = read_certificate(&path.join(INTERMEDIATE))?;
        let certificate = read_certificate(&path.join(MESH_CA))?;
        let key = read_key(&path.join(MESH_CA_KEY))?;
        intermediate
            .check_signed_by(&root)
            .and_then(|()| MeshCa::from_parts(certificate, intermediate, key))
            .map(|mesh_ca| Self {
                path: path.to_owned(),
                root,
                mesh_ca,
            })
            .map_err(|source| PkiDirError::Inconsistent {
                path: path.to_owned(),
                source,
            })
    }

    /// Issues a certificate with a fresh key into `out`, as an agent's `--tls-dir` wants it.
    ///
    /// Replaces an earlier issue there, file by file and never half; see [`write_tls_dir`].
    pub fn issue_to_dir(
        &self,
        names: &WorkloadNames,
        validity: Validity,
        out: &Path,
    ) -> Result<IssuedFiles, PkiDirError> {
        let key = PrivateKey::generate(Curve::P256)?;
        let certificate = self.mesh_ca.issue(names, validity, &key.public_key())?;
        let files = write_tls_dir(
            out,
            &certificate,
            &key,
            self.mesh_ca.certificate(),
            &self.root,
        )?;
        Ok(IssuedFiles { certificate, files })
    }

    /// What data owners trust.
    pub fn root(&self) -> &CaCertificate {
        &self.root
    }

    /// The CA that issues.
    pub fn mesh_ca(&self) -> &MeshCa {
        &self.mesh_ca
    }

    /// The paths of the PKI's files, secrets included.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        [ROOT, ROOT_KEY, INTERMEDIATE, MESH_CA, MESH_CA_KEY]
            .into_iter()
            .map(|name| self.path.join(name))
    }
}

/// A certificate that was issued, and where it lies.
#[derive(Clone, Debug)]
pub struct IssuedFiles {
    /// The certificate.
    pub certificate: WorkloadCertificate,
    /// The files written, in that order.
    pub files: Vec<PathBuf>,
}

/// Why a PKI on disk was not made, opened or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PkiDirError {
    /// `init` would have to overwrite.
    #[error(
        "{} is not empty and may hold a PKI; choose another directory, or remove it if no workload needs it any more",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// `open` found no PKI.
    #[error("{} does not exist; make a PKI with `sealwire pki init` first", path.display())]
    Missing {
        /// The file that is not there.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file does not hold what its name promises.
    #[error("cannot use {}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PkiError,
    },
    /// The files are of different PKIs.
    #[error("the files in {} do not belong together", path.display())]
    Inconsistent {
        /// The directory.
        path: PathBuf,
        /// Which ones.
        source: PkiError,
    },
    /// The clock is off, most likely.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// The certificate was not issued.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl From<KeyError> for PkiDirError {
    fn from(error: KeyError) -> Self {
        Self::Pki(error.into())
    }
}

fn create_private_dir(path: &Path) -> Result<(), PkiDirError> {
    let failed = |source| WriteError {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    if fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(PkiDirError::NotEmpty {
            path: path.to_owned(),
        });
    }
    // An empty directory that was there already may have been open to others.
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    Ok(())
}

fn read_certificate(path: &Path) -> Result<CaCertificate, PkiDirError> {
    CaCertificate::from_pem(&read(path)?).map_err(|source| PkiDirError::Malformed {
        path: path.to_owned(),
        source,
    })
}

fn read_key(path: &Path) -> Result<PrivateKey, PkiDirError> {
    PrivateKey::from_pem(&read(path)?).map_err(|source| PkiDirError::Malformed {
        path: path.to_owned(),
        source: source.into(),
    })
}

fn read(path: &Path) -> Result<Zeroizing<String>, PkiDirError> {
    let path = path.to_owned();
    match fs::read_to_string(&path) {
        Ok(contents) => Ok(Zeroizing::new(contents)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            Err(PkiDirError::Missing { path })
        }
        Err(source) => Err(PkiDirError::Read { path, source }),
    }
}

const ROOT: &str = "coordinator-root-ca.pem";
const ROOT_KEY: &str = "root-key.pem";
const INTERMEDIATE: &str = "intermediate.pem";
const MESH_CA: &str = "mesh-ca.pem";
const MESH_CA_KEY: &str = "mesh-ca-key.pem";

/// Long enough that nobody's test bed dies of it: a development PKI has no rotation.
const CA_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
