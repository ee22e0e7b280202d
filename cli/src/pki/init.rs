use std::fmt::Write;
use std::path::PathBuf;

use attestation::identity::TrustDomain;
use clap::Args;
use coordinator::pki::PkiDir;
use time::OffsetDateTime;

use crate::failure::Failure;

/// Make a root CA, an intermediate and a mesh CA in a new directory.
///
/// The directory holds CA keys in clear: for development and tests only. In production the
/// Coordinator keeps them in the memory of a confidential VM.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Init {
    /// The directory to make; an existing one must be empty
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The trust domain of every SPIFFE ID in the mesh
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
}

impl Init {
    pub(super) fn run(self) -> Result<String, Failure> {
        let Self { dir, trust_domain } = self;
        let pki = PkiDir::init(&dir, &trust_domain, OffsetDateTime::now_utc())?;
        let mut text = format!("made a development PKI for trust domain {trust_domain}\n");
        for file in pki.files() {
            writeln!(text, "  {}", file.display())?;
        }
        let dir = dir.display();
        writeln!(
            text,
            "next: sealwire pki issue --dir {dir} --name web --out web-tls"
        )?;
        Ok(text)
    }
}

const EXAMPLES: &str = "\
Example:
  sealwire pki init --dir pki --trust-domain mesh.local

Writes, readable by you alone:
  coordinator-root-ca.pem   root certificate: what data owners trust
  root-key.pem              its key
  mesh-ca.pem               mesh CA certificate: what workloads trust
  intermediate.pem          the same CA, signed by the root: sent along by workloads
  mesh-ca-key.pem           the key of both";
