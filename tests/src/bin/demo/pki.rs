//! Certificates as a person would make them to try Sealwire: with `sealwire pki`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::agent;

/// What `sealwire pki init` made.
#[derive(Debug)]
pub(crate) struct Pki(PathBuf);

impl Pki {
    /// A new mesh in a new directory.
    pub(crate) fn init(directory: PathBuf) -> Result<Self> {
        sealwire(&[
            "init".as_ref(),
            "--dir".as_ref(),
            directory.as_os_str(),
            "--trust-domain".as_ref(),
            TRUST_DOMAIN.as_ref(),
        ])?;
        Ok(Self(directory))
    }

    /// The `--tls-dir` of a workload, with a new certificate.
    pub(crate) fn issue(&self, workload: &str) -> Result<PathBuf> {
        let out = self.0.join(format!("{workload}-tls"));
        sealwire(&[
            "issue".as_ref(),
            "--dir".as_ref(),
            self.0.as_os_str(),
            "--name".as_ref(),
            workload.as_ref(),
            "--out".as_ref(),
            out.as_os_str(),
        ])?;
        Ok(out)
    }
}

/// The operator's binary, beside the agent's.
pub(crate) fn binary() -> PathBuf {
    agent::binary().with_file_name("sealwire")
}

fn sealwire(arguments: &[&OsStr]) -> Result<()> {
    let binary = binary();
    let done = Command::new(&binary)
        .arg("pki")
        .args(arguments)
        .output()
        .with_context(|| format!("could not start {}", Path::display(&binary)))?;
    ensure!(
        done.status.success(),
        "sealwire pki: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}

const TRUST_DOMAIN: &str = "demo.mesh";
