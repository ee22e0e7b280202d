//! A Coordinator of the release build on the simulated TEE, with a manifest of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::client::{ExpectedCoordinator, user_api};
use api::v1;
use attestation::{Digest, SimulatedTee, Verifier};
use attester::simulated::{generate_platform_key, platform_key_digest};
use attester::{EvidenceSource, SimulatedTeeFile};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::KeyPair as _;
use history::{OwnerKey, update_statement};
use manifest::Manifest;
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::cores::Cores;
use crate::cost::process_seconds;

/// A running Coordinator. Dropping it kills it and removes its files.
pub(crate) struct Deployment {
    process: Child,
    platform_key: Zeroizing<String>,
    owner: OwnerKey,
    /// RSA, PKCS #1.
    seedshare_owner: Vec<u8>,
    /// How many manifests were set.
    revision: u32,
    expected: Option<Arc<ExpectedCoordinator>>,
    user_api: SocketAddr,
    mesh_api: SocketAddr,
    directory: TempDir,
}

/// A manifest that was set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Set {
    /// Just before the request.
    pub(crate) asked: Instant,
    /// When its answer had come.
    pub(crate) answered: Instant,
}

impl Deployment {
    /// Starts a Coordinator and sets its first manifest.
    pub(crate) async fn start(cores: &Cores) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let platform_key = generate_platform_key()?;
        let (user_api, mesh_api, probes) = (free_address()?, free_address()?, free_address()?);
        let tee = directory.path().join("tee.json");
        fs::write(&tee, tee_file(&platform_key, policy(COORDINATOR)).to_json())?;
        let log = File::create(directory.path().join("log"))?;
        let process = cores.spawn(
            Command::new(testbed::agent::binary_of(PROGRAM))
                .arg("--store")
                .arg(directory.path().join("history.redb"))
                .arg("--audit-log")
                .arg(directory.path().join("audit.jsonl"))
                .args(["--user-api", &user_api.to_string()])
                .args(["--mesh-api", &mesh_api.to_string()])
                .args(["--probes", &probes.to_string()])
                .args(["--log-format", "json", "--allow-simulated-tee"])
                .arg("--simulated-tee")
                .arg(&tee)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        let seedshare_owner = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048)?;
        let mut deployment = Self {
            process,
            owner: OwnerKey::from_pem(&generate_platform_key()?)?,
            platform_key,
            seedshare_owner: seedshare_owner.public_key().as_ref().to_vec(),
            revision: 0,
            expected: None,
            user_api,
            mesh_api,
            directory,
        };
        deployment.wait_until_it_serves().await?;
        deployment.set().await?;
        Ok(deployment)
    }

    /// Sets a manifest that differs from the last: agents get certificates of a new mesh CA.
    pub(crate) async fn set(&mut self) -> Result<Set> {
        self.revision += 1;
        let manifest = self.manifest()?;
        let (mut client, _) =
            user_api(&self.user_api.to_string(), self.expected(&manifest)).await?;
        let status = client.get_status(v1::GetStatusRequest {}).await?;
        let previous = match status.into_inner().head {
            None => Digest([0; 32]),
            Some(head) => Digest(head.transition.as_slice().try_into()?),
        };
        let signed = self
            .owner
            .sign(&update_statement(&manifest.hash(), &previous))?;
        let request = v1::SetManifestRequest {
            manifest: manifest.bytes().to_vec(),
            policies: Vec::new(),
            authorisations: vec![v1::Authorisation {
                key: signed.key,
                signature: signed.signature,
            }],
            previous_transition: Some(previous.0.to_vec()),
        };
        let asked = Instant::now();
        client.set_manifest(request).await?;
        Ok(Set {
            asked,
            answered: Instant::now(),
        })
    }

    /// Where agents go.
    pub(crate) fn mesh_api(&self) -> SocketAddr {
        self.mesh_api
    }

    /// What agents demand of it.
    pub(crate) fn appraiser(&self) -> Result<Arc<ExpectedCoordinator>> {
        self.expected.clone().context("no manifest was set")
    }

    /// A TEE for an agent of each workload.
    pub(crate) fn tees(&self) -> Result<Vec<Arc<dyn EvidenceSource>>> {
        (0..WORKLOADS)
            .map(|number| {
                let file = tee_file(&self.platform_key, policy(&workload(number)));
                Ok(Arc::new(file.source()?) as Arc<dyn EvidenceSource>)
            })
            .collect()
    }

    /// Seconds of CPU time that it has used, user and kernel.
    pub(crate) fn cpu(&self) -> Result<f64> {
        process_seconds(self.pid())
    }

    /// Its memory now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        Memory::parse(&status).with_context(|| format!("{path} lacks a field"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    fn expected(&mut self, manifest: &Manifest) -> Arc<ExpectedCoordinator> {
        let expected = self.expected.get_or_insert_with(|| {
            Arc::new(ExpectedCoordinator::new(
                Verifier::new(SimulatedTee::Allowed),
                manifest.reference_values().clone(),
                *manifest.coordinator().0,
            ))
        });
        Arc::clone(expected)
    }

    fn manifest(&self) -> Result<Manifest> {
        let mut policies = serde_json::Map::new();
        policies.insert(
            policy(COORDINATOR).to_string(),
            json!({ "SANs": [COORDINATOR], "Role": "coordinator" }),
        );
        for number in 0..WORKLOADS {
            let name = workload(number);
            policies.insert(policy(&name).to_string(), json!({ "SANs": [name] }));
        }
        let text = json!({
            "TrustDomain": "mesh.bench",
            "Policies": policies,
            "ReferenceValues": { "simulated": [{
                "TrustedMeasurement": hex::encode(MEASUREMENT),
                "PlatformKeys": [platform_key_digest(&self.platform_key)?.to_string()],
            }] },
            "WorkloadOwnerKeyDigests": [self.owner.digest().to_string()],
            "SeedshareOwnerPubKeys": [hex::encode(&self.seedshare_owner)],
            "SeedshareQuorum": 1,
            // Long, so that acknowledgements decide.
            "Rotation": { "Mode": "graceful", "DeadlineSeconds": 300 },
            "CertificateLifetime": if self.revision.is_multiple_of(2) { "23h" } else { "24h" },
        })
        .to_string();
        Manifest::parse(text.as_bytes())
            .map_err(|errors| anyhow::anyhow!("the manifest is not valid: {errors}"))
    }

    async fn wait_until_it_serves(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let log = self.directory.path().join("log");
        loop {
            let text = fs::read_to_string(&log)?;
            if text.contains("the Coordinator serves") {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("the Coordinator ended ({status}):\n{text}");
            }
            ensure!(
                Instant::now() < deadline,
                "the Coordinator does not serve:\n{text}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it that is in RAM.
    pub(crate) resident: u64,
    /// The most that was ever in RAM.
    pub(crate) peak: u64,
}

impl Memory {
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line?.strip_suffix(" kB")?.trim().parse().ok()
        };
        Some(Self {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }
}

/// The first line of what the Coordinator says of its version.
pub(crate) fn version() -> Result<String> {
    let program = testbed::agent::binary_of(PROGRAM);
    let said = Command::new(&program)
        .arg("--version")
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let text = String::from_utf8_lossy(&said.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn policy(name: &str) -> Digest {
    Digest::of(format!("package {name}\n").as_bytes())
}

fn workload(number: usize) -> String {
    format!("workload-{number}")
}

fn tee_file(platform_key: &Zeroizing<String>, policy: Digest) -> SimulatedTeeFile {
    SimulatedTeeFile::new(platform_key.clone(), &MEASUREMENT, policy, &[0; 16])
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// How many workloads the manifest lists, besides the Coordinator.
pub(crate) const WORKLOADS: usize = 50;

const PROGRAM: &str = "sealwire-coordinator";
const COORDINATOR: &str = "coordinator";
const MEASUREMENT: [u8; 48] = [0; 48];
const LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_the_status_file() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  700 kB\nVmRSS:\t  500 kB\n";
        let expected = Memory {
            resident: 500,
            peak: 700,
        };
        assert_eq!(Memory::parse(status), Some(expected));
        assert_eq!(Memory::parse("VmRSS:\t  500 kB\n"), None);
    }
}
