use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use api::MAX_MESSAGE_BYTES;
use attestation::Digest;
use attester::SimulatedTeeFile;
use attester::simulated::{generate_platform_key, platform_key_digest};
use clap::Args;

use crate::failure::Failure;
use crate::files;

/// Make the key of a simulated platform.
///
/// It stands for the key in a processor. `sealwire manifest new --platform-key` lists its digest.
#[derive(Args)]
#[command(after_help = PLATFORM_KEY_EXAMPLE)]
pub(crate) struct PlatformKey {
    /// Where the key goes
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

impl PlatformKey {
    pub(super) fn run(self) -> Result<String, Failure> {
        let key = generate_platform_key()?;
        write_secret(&self.out, &key)?;
        Ok(format!(
            "made the key of a simulated platform, which protects nothing: {}\n  digest {}\n",
            self.out.display(),
            platform_key_digest(&key)?
        ))
    }
}

/// Describe a simulated TEE: a machine, and the guest on it. It protects nothing.
///
/// The file stands in for hardware with sealwire-agent and sealwire-coordinator
/// (--simulated-tee), where they and the manifest allow it.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Simulate {
    /// The platform's key (`sealwire evidence platform-key`)
    #[arg(long, value_name = "FILE")]
    platform_key: PathBuf,

    /// The guest's policy: a document, or its digest in 64 hexadecimal digits
    #[arg(long, value_name = "FILE|HASH")]
    policy: String,

    /// The guest's measurement, 96 hexadecimal digits [default: zeroes]
    #[arg(long, value_name = "HEX", default_value = ZEROS, hide_default_value = true)]
    measurement: String,

    /// Which machine, 32 hexadecimal digits [default: zeroes]
    #[arg(long, value_name = "HEX", default_value = NO_PLATFORM, hide_default_value = true)]
    platform: String,

    /// Where the description goes; it holds the platform's key
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

impl Simulate {
    pub(super) fn run(self) -> Result<String, Failure> {
        let key = files::read_secret(&self.platform_key)?;
        let policy = match Digest::from_hex(&self.policy) {
            Some(digest) => digest,
            None => Digest::of(&files::read(self.policy.as_ref(), MAX_MESSAGE_BYTES)?),
        };
        let file = SimulatedTeeFile::new(
            key,
            &bytes("--measurement", &self.measurement)?,
            policy,
            &bytes("--platform", &self.platform)?,
        );
        file.source()?;
        write_secret(&self.out, &file.to_json())?;
        Ok(format!(
            "described a simulated TEE under policy {policy}: {}\n",
            self.out.display()
        ))
    }
}

fn bytes<const N: usize>(option: &str, text: &str) -> Result<[u8; N], Failure> {
    let mut value = [0; N];
    hex::decode_to_slice(text, &mut value)
        .map_err(|_| Failure::usage(format!("{option}: expected {} hexadecimal digits", 2 * N)))?;
    Ok(value)
}

fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("can't write {}", path.display()))?;
    Ok(())
}

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000\
                     00000000000000000000000000000000";
const NO_PLATFORM: &str = "00000000000000000000000000000000";

const PLATFORM_KEY_EXAMPLE: &str = "\
Example:
  sealwire evidence platform-key -o platform.pem";

const EXAMPLES: &str = "\
Example:
  sealwire evidence platform-key -o platform.pem
  sealwire evidence simulate --platform-key platform.pem --policy web.rego -o web-tee.json";
