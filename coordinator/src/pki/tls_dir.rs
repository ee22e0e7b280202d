use std::fs;
use std::path::{Path, PathBuf};

use super::ca_certificate::CaCertificate;
use super::key::PrivateKey;
use super::workload::WorkloadCertificate;
use super::write::{Audience, Existing, WriteError, sync_dir, write_file};

/// Writes what an agent's `--tls-dir` reads, and gives the files' paths. Replaces what is there.
///
/// Each file changes at once, but two cannot. The trust comes first and the chain last, so a
/// reader that checks the key against the leaf, and tries again if they differ, never loads
/// halves of two issues.
pub fn write_tls_dir(
    dir: &Path,
    certificate: &WorkloadCertificate,
    key: &PrivateKey,
    mesh_ca: &CaCertificate,
    root: &CaCertificate,
) -> Result<Vec<PathBuf>, WriteError> {
    fs::create_dir_all(dir).map_err(|source| WriteError {
        path: dir.to_owned(),
        source,
    })?;
    let public = |name, contents: String| {
        write_file(dir, name, &contents, Audience::Public, Existing::Replace)
    };
    let files = vec![
        public("coordinator-root-ca.pem", root.pem())?,
        public("mesh-ca.pem", mesh_ca.pem())?,
        write_file(
            dir,
            "key.pem",
            &key.to_pem(),
            Audience::Secret,
            Existing::Replace,
        )?,
        public("certChain.pem", certificate.chain_pem())?,
    ];
    sync_dir(dir)?;
    Ok(files)
}
