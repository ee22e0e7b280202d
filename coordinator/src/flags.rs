//! The command line of `sealwire-coordinator`. In production it is part of what is measured.

use std::net::SocketAddr;
use std::path::PathBuf;

use attestation::Digest;
use clap::{Parser, ValueEnum};

/// What the operator wrote.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "sealwire-coordinator",
    version,
    about = "Verifies what workloads run on, and issues their mesh certificates",
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP
)]
pub struct Flags {
    /// Address of the user API: set, verify, recover, status
    #[arg(long, value_name = "ADDR", default_value = "[::]:1313", help_heading = NETWORK)]
    pub user_api: SocketAddr,

    /// Address of the mesh API: enrolment of agents, recovery from other Coordinators
    #[arg(long, value_name = "ADDR", default_value = "[::]:7777", help_heading = NETWORK)]
    pub mesh_api: SocketAddr,

    /// Address of /metrics, /ready and /probe/{startup,liveness,readiness}
    #[arg(long, value_name = "ADDR", default_value = "[::]:9102", help_heading = NETWORK)]
    pub probes: SocketAddr,

    /// Mesh API of another Coordinator of this deployment (host:port); may be repeated
    #[arg(long, value_name = "HOST:PORT", help_heading = NETWORK)]
    pub peer: Vec<String>,

    /// File that holds history; made when it is not there
    #[arg(long, value_name = "FILE", default_value = "/var/lib/sealwire/history.redb",
          conflicts_with = "etcd", help_heading = STORE)]
    pub store: PathBuf,

    /// etcd endpoint in place of a file, such as `https://etcd-0:2379`; may be repeated
    #[arg(long, value_name = "URL", help_heading = STORE)]
    pub etcd: Vec<String>,

    /// Prefix of every key in etcd
    #[arg(long, value_name = "PREFIX", default_value = "sealwire/", help_heading = STORE)]
    pub etcd_prefix: String,

    /// CA certificate of etcd, PEM
    #[arg(long, value_name = "FILE", help_heading = STORE)]
    pub etcd_ca: Option<PathBuf>,

    /// Client certificate for etcd, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_key", help_heading = STORE)]
    pub etcd_cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cert", help_heading = STORE)]
    pub etcd_key: Option<PathBuf>,

    /// User name for etcd
    #[arg(long, value_name = "NAME", requires = "etcd_password_file", help_heading = STORE)]
    pub etcd_user: Option<String>,

    /// File with that user's password
    #[arg(long, value_name = "FILE", requires = "etcd_user", help_heading = STORE)]
    pub etcd_password_file: Option<PathBuf>,

    /// SHA-256 of a key (`SubjectPublicKeyInfo`, 64 hexadecimal digits) that may sign the first
    /// manifest; may be repeated. Without any, whoever comes first sets it
    #[arg(long, value_name = "DIGEST", value_parser = digest, help_heading = TRUST)]
    pub owner_key: Vec<Digest>,

    /// How many of the owner keys must sign the first manifest [default: all]
    #[arg(long, value_name = "K", requires = "owner_key", help_heading = TRUST)]
    pub owner_quorum: Option<usize>,

    /// File with the certificate of this machine's VCEK or VLEK (SEV-SNP), where the host gives none
    #[arg(long, value_name = "FILE", help_heading = TRUST)]
    pub vek: Option<PathBuf>,

    /// File with AMD's revocation list
    #[arg(long, value_name = "FILE", help_heading = TRUST)]
    pub crl: Option<PathBuf>,

    /// File with Intel's collateral of this machine, JSON (TDX)
    #[arg(long, value_name = "FILE", help_heading = TRUST)]
    pub collateral: Option<PathBuf>,

    /// Accept evidence of the simulated TEE, where the manifest lists it: protects nothing
    #[arg(long, help_heading = SIMULATED)]
    pub allow_simulated_tee: bool,

    /// Run on the simulated TEE that this file describes (`sealwire evidence simulate`)
    #[arg(long, value_name = "FILE", requires = "allow_simulated_tee", help_heading = SIMULATED)]
    pub simulated_tee: Option<PathBuf>,

    /// Append-only log of who set, recovered, enrolled and was refused, and why
    #[arg(long, value_name = "FILE", help_heading = SEEN)]
    pub audit_log: Option<PathBuf>,

    /// How log lines look
    #[arg(long, value_enum, default_value = "text", help_heading = SEEN)]
    pub log_format: LogFormat,

    /// The least important level that is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = SEEN)]
    pub log_level: tracing::Level,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::from_hex(text).ok_or_else(|| {
        "expected 64 hexadecimal digits: openssl pkey -in KEY -pubout -outform DER | sha256sum"
            .to_owned()
    })
}

const NETWORK: &str = "Network";
const STORE: &str = "Store";
const TRUST: &str = "Trust";
const SIMULATED: &str = "Without a TEE";
const SEEN: &str = "Seen from outside";

const LONG_ABOUT: &str = "\
Verifies what workloads run on, and issues their mesh certificates.

It starts with nothing: set a manifest with `sealwire set`. After a restart it waits for the shares \
of its seed (`sealwire recover`), or takes the seed from a --peer. Every secret is in its memory \
alone; the store holds history, which anybody may read and nobody can forge.";

const AFTER_HELP: &str = "\
Examples:
  On SEV-SNP or TDX:
      sealwire-coordinator --owner-key 3b2f... --audit-log /var/log/sealwire/audit.jsonl

  On a laptop, protecting nothing:
      sealwire-coordinator --store history.redb --allow-simulated-tee --simulated-tee coordinator-tee.json

  One of three, on etcd:
      sealwire-coordinator --etcd https://etcd:2379 --etcd-ca ca.pem --peer coordinator-1:7777 --peer coordinator-2:7777

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the platform lacks something required.";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn a_simulated_tee_must_be_allowed_by_name() {
        let parse =
            |words: &[&str]| Flags::try_parse_from([&["sealwire-coordinator"], words].concat());
        parse(&["--simulated-tee", "tee.json"]).unwrap_err();
        parse(&["--allow-simulated-tee", "--simulated-tee", "tee.json"]).unwrap();
    }
}
