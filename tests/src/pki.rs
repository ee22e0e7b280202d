//! A mesh's certificates, good ones and bad ones, made for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use attestation::identity::{DnsName, SpiffeId, TrustDomain};
use coordinator::pki::{Curve, MeshCa, PrivateKey, Root, Validity, WorkloadNames, write_tls_dir};
use time::OffsetDateTime;

/// A mesh CA, and the directory with what it issued.
#[derive(Debug)]
pub struct Mesh {
    directory: PathBuf,
    trust_domain: TrustDomain,
    root: Root,
    ca: MeshCa,
}

impl Mesh {
    /// A new PKI; `directory` is made.
    pub fn new(directory: &Path) -> Result<Self> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let now = OffsetDateTime::now_utc();
        let validity = Validity::between(now - CA_LIFETIME, now + CA_LIFETIME)?;
        let root = Root::create(&trust_domain, PrivateKey::generate(Curve::P384)?, validity)?;
        let ca = root.new_mesh_ca(validity)?;
        fs::create_dir_all(directory)?;
        let mesh = Self {
            directory: directory.to_owned(),
            trust_domain,
            root,
            ca,
        };
        fs::write(mesh.ca_file(), mesh.ca.certificate().pem())?;
        Ok(mesh)
    }

    /// Issues a certificate for a day; the `--tls-dir` with it.
    pub fn issue(&self, workload: &str) -> Result<PathBuf> {
        self.issue_for(workload, Duration::from_hours(24))
    }

    /// Issues a certificate that is valid from now for so long; the `--tls-dir` with it.
    pub fn issue_for(&self, workload: &str, lifetime: Duration) -> Result<PathBuf> {
        self.issue_into(
            workload,
            workload,
            Validity::lasting(OffsetDateTime::now_utc(), lifetime)?,
        )
    }

    /// Issues a certificate whose validity ended an hour ago.
    pub fn issue_expired(&self, workload: &str) -> Result<PathBuf> {
        let end = OffsetDateTime::now_utc() - HOUR;
        let directory = format!("{workload}-expired");
        self.issue_into(workload, &directory, Validity::between(end - HOUR, end)?)
    }

    /// Issues a certificate whose validity begins in an hour.
    pub fn issue_not_yet_valid(&self, workload: &str) -> Result<PathBuf> {
        let begin = OffsetDateTime::now_utc() + HOUR;
        let directory = format!("{workload}-future");
        self.issue_into(
            workload,
            &directory,
            Validity::between(begin, begin + HOUR)?,
        )
    }

    /// Issues into a subdirectory of this name, and replaces what was issued there before.
    pub fn issue_into(
        &self,
        workload: &str,
        directory: &str,
        validity: Validity,
    ) -> Result<PathBuf> {
        let key = PrivateKey::generate(Curve::P256)?;
        let mut names = WorkloadNames::new(self.id(workload)?);
        names.dns = vec![DnsName::parse(workload)?];
        let certificate = self.ca.issue(&names, validity, &key.public_key())?;
        let directory = self.directory.join(directory);
        write_tls_dir(
            &directory,
            &certificate,
            &key,
            self.ca.certificate(),
            self.root.certificate(),
        )?;
        Ok(directory)
    }

    /// The identity of a workload of this mesh.
    pub fn id(&self, workload: &str) -> Result<SpiffeId> {
        Ok(SpiffeId::workload(&self.trust_domain, NAMESPACE, workload)?)
    }

    /// The file with the mesh CA's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("mesh-ca.pem")
    }

    /// The mesh CA's key as PEM, for certificates that no Coordinator would issue.
    pub fn ca_key(&self) -> String {
        self.ca.key().to_pem().to_string()
    }
}

/// The identity of a workload of any [`Mesh`].
pub fn spiffe_id(workload: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{workload}")
}

const TRUST_DOMAIN: &str = "mesh.test";
const NAMESPACE: &str = "default";
const HOUR: time::Duration = time::Duration::hours(1);
const CA_LIFETIME: time::Duration = time::Duration::days(10);
