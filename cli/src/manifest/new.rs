use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ::manifest::{Manifest, ManifestErrors, Problem, ReferenceTemplate, Template, template};
use anyhow::{Context, bail};
use attestation::identity::{DnsName, TrustDomain};
use attestation::sev_snp::Product;
use attestation::{Digest, Tee};
use clap::Args;

use crate::failure::Failure;
use crate::manifest::keys;

/// Write a first manifest.
///
/// With the simulated TEE it is complete. For SEV-SNP and TDX it has a place for each reference
/// value that must be filled in, and `sealwire manifest check` refuses it until then. No keys are
/// made: owners make their own and give the public ones.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct New {
    /// The trust domain of every SPIFFE ID in the mesh
    #[arg(long, default_value = "mesh.local", value_name = "NAME")]
    trust_domain: TrustDomain,

    /// The hash of the Coordinator's policy
    #[arg(long, value_name = "HASH", value_parser = policy_hash)]
    coordinator_policy: Digest,

    /// A workload's host name and the hash of its policy; may be repeated
    #[arg(long, value_name = "NAME=HASH")]
    workload: Vec<Workload>,

    /// What evidence is of: sev-snp, tdx or simulated
    #[arg(long)]
    tee: Tee,

    /// The processor, for sev-snp: Milan, Genoa or Turin
    #[arg(long, value_parser = product)]
    product: Option<Product>,

    /// The measurement of the guest's initial memory, 96 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = measurement)]
    measurement: Option<[u8; 48]>,

    /// The platform key, for simulated: P-256, PEM; may be repeated
    #[arg(long, value_name = "PEM")]
    platform_key: Vec<PathBuf>,

    /// The public key of one who may update the manifest: ECDSA, PEM; may be repeated
    #[arg(long, value_name = "PEM")]
    workload_owner_key: Vec<PathBuf>,

    /// How many of them it takes [default: more than half]
    #[arg(long, value_name = "NUMBER")]
    update_quorum: Option<usize>,

    /// The public key of one who gets a share of the seed: RSA, PEM; may be repeated
    #[arg(long, value_name = "PEM")]
    seedshare_owner_key: Vec<PathBuf>,

    /// How many of them it takes to recover [default: more than half]
    #[arg(long, value_name = "NUMBER")]
    seedshare_quorum: Option<usize>,

    /// The file to make [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl New {
    pub(super) fn run(self) -> Result<String, Failure> {
        let text = template(&Template {
            reference_values: self.reference_values()?,
            trust_domain: self.trust_domain,
            coordinator_policy: self.coordinator_policy,
            workloads: self
                .workload
                .into_iter()
                .map(|Workload { name, policy }| (name, policy))
                .collect(),
            workload_owners: all(&self.workload_owner_key, keys::workload_owner)?,
            update_quorum: self.update_quorum,
            seedshare_owners: all(&self.seedshare_owner_key, keys::seedshare_owner)?,
            seedshare_quorum: self.seedshare_quorum,
        });
        let left = left_to_fill_in(&text)?;
        let Some(out) = self.out else {
            eprint!("{}", instructions("-", &left));
            return Ok(text);
        };
        write_new(&out, &text)?;
        let out = out.display().to_string();
        Ok(format!("wrote {out}\n{}", instructions(&out, &left)))
    }

    fn reference_values(&self) -> Result<ReferenceTemplate, Failure> {
        if self.product.is_some() && self.tee != Tee::SevSnp {
            return Err(Failure::usage("--product is for --tee sev-snp"));
        }
        if !self.platform_key.is_empty() && self.tee != Tee::Simulated {
            return Err(Failure::usage("--platform-key is for --tee simulated"));
        }
        let measurement = self.measurement;
        Ok(match self.tee {
            Tee::SevSnp => ReferenceTemplate::SevSnp {
                product: self.product,
                measurement,
            },
            Tee::Tdx => ReferenceTemplate::Tdx { measurement },
            Tee::Simulated => match measurement {
                Some(measurement) if !self.platform_key.is_empty() => {
                    ReferenceTemplate::Simulated {
                        measurement,
                        platform_keys: all(&self.platform_key, keys::platform)?,
                    }
                }
                _ => {
                    return Err(Failure::usage(
                        "--tee simulated needs --measurement and --platform-key",
                    ));
                }
            },
        })
    }
}

/// A workload as the command line gives it.
#[derive(Clone, Debug)]
struct Workload {
    name: DnsName,
    policy: Digest,
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hash) = text
            .split_once('=')
            .context("expected NAME=HASH, such as web=5f3a...")?;
        Ok(Self {
            name: name.parse()?,
            policy: policy_hash(hash)?,
        })
    }
}

fn policy_hash(text: &str) -> anyhow::Result<Digest> {
    Digest::from_hex(text).context("expected a policy hash, 64 hexadecimal digits")
}

fn measurement(text: &str) -> anyhow::Result<[u8; 48]> {
    let mut measurement = [0; 48];
    hex::decode_to_slice(text, &mut measurement).context("expected 96 hexadecimal digits")?;
    Ok(measurement)
}

fn product(text: &str) -> anyhow::Result<Product> {
    Ok(match text {
        "Milan" => Product::Milan,
        "Genoa" => Product::Genoa,
        "Turin" => Product::Turin,
        _ => bail!("expected Milan, Genoa or Turin"),
    })
}

fn all<T>(
    paths: &[PathBuf],
    read: impl Fn(&Path) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    paths.iter().map(|path| read(path)).collect()
}

/// What the manifest still lacks. Whatever else is wrong with it comes from the command line.
fn left_to_fill_in(text: &str) -> Result<Vec<String>, Failure> {
    let Err(errors) = Manifest::parse(text.as_bytes()) else {
        return Ok(Vec::new());
    };
    let mut left = Vec::new();
    let mut wrong = Vec::new();
    for error in &errors {
        match error.problem {
            Problem::Empty => left.push(error.path.clone()),
            _ => wrong.push(error.to_string()),
        }
    }
    // Both together fit the list: a template lacks a dozen values at most.
    if wrong.is_empty() && errors.count() <= ManifestErrors::MAX_LISTED {
        return Ok(left);
    }
    Err(Failure::usage(format!(
        "this would not be a valid manifest:\n  {}",
        wrong.join("\n  ")
    )))
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let named = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(named)?;
    file.write_all(text.as_bytes()).with_context(named)?;
    Ok(())
}

fn instructions(file: &str, left: &[String]) -> String {
    let mut text = String::new();
    if !left.is_empty() {
        text.push_str("left to fill in:\n");
        for path in left {
            text.push_str("  ");
            text.push_str(path);
            text.push('\n');
        }
    }
    text.push_str("next: sealwire manifest check ");
    text.push_str(file);
    text.push('\n');
    text
}

const EXAMPLES: &str = "\
Examples:
  sealwire manifest new --coordinator-policy 5f3a... --workload web=77ab... --workload db=09c1... \\
      --tee sev-snp --product Genoa --workload-owner-key alice.pub.pem --workload-owner-key bob.pub.pem \\
      --seedshare-owner-key carol.pub.pem -o manifest.json

On a laptop, without a TEE:
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out platform.pem
  sealwire manifest new --coordinator-policy 5f3a... --workload web=77ab... \\
      --tee simulated --platform-key platform.pem --measurement 00... -o manifest.json

An owner's keys:
  openssl ecparam -name secp384r1 -genkey -noout -out alice.pem
  openssl pkey -in alice.pem -pubout -out alice.pub.pem
  openssl genrsa -out carol.pem 4096
  openssl pkey -in carol.pem -pubout -out carol.pub.pem";
