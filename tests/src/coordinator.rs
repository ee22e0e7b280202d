//! The Coordinator under test, on the simulated TEE: a process of the root namespace, with the keys
//! of its owners and everything that its agents need to prove themselves to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use attestation::Digest;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::{Answer, Metrics};
use crate::agent::{binary_of, free_port};
use crate::clock::Clock;
use crate::etcd::Etcd;
use crate::program::{Finished, HostCommand, Running, tail};
use crate::small_disk::SmallDisk;
use crate::testbed::Testbed;

/// A Coordinator with a manifest. Dropping it kills it.
#[derive(Debug)]
pub struct Coordinator {
    directory: PathBuf,
    ports: Ports,
    manifest: Value,
    clock: Option<Clock>,
    /// Of itself and of those beside it.
    mesh_apis: Vec<u16>,
    /// Where history is, and who is beside it.
    store: Vec<String>,
    audit_log: PathBuf,
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    user_api: u16,
    mesh_api: u16,
    probes: u16,
}

/// The `[coordinator]` of an agent's configuration.
#[derive(Clone, Debug, Serialize)]
pub struct CoordinatorConfig {
    addresses: Vec<String>,
    manifest: PathBuf,
    state_dir: PathBuf,
    allow_simulated_tee: bool,
    simulated_tee: PathBuf,
}

impl CoordinatorConfig {
    /// Without the leave to trust a simulated TEE.
    #[must_use]
    pub fn for_production(self) -> Self {
        Self {
            allow_simulated_tee: false,
            ..self
        }
    }
}

impl Coordinator {
    /// Starts one and sets a manifest that lists `workloads`, each of which may talk with any other.
    /// An update takes one owner, a recovery two.
    pub fn start(bed: &Testbed, workloads: &[&str]) -> Result<Self> {
        let coordinator = Self::start_without_manifest(bed, workloads)?;
        coordinator.set()?;
        Ok(coordinator)
    }

    /// Starts one of another deployment, with a manifest of the same workloads.
    pub fn start_foreign(bed: &Testbed, workloads: &[&str]) -> Result<Self> {
        let coordinator = Self::start_in(bed.directory().join("foreign"), workloads, None)?;
        coordinator.set()?;
        Ok(coordinator)
    }

    /// Starts one and writes, but does not set, its manifest.
    pub fn start_without_manifest(bed: &Testbed, workloads: &[&str]) -> Result<Self> {
        Self::start_in(bed.directory().join("coordinator"), workloads, None)
    }

    /// Starts one with a wall clock of its own, and sets a manifest.
    pub fn start_with_clock(bed: &Testbed, workloads: &[&str], clock: Clock) -> Result<Self> {
        let directory = bed.directory().join("coordinator");
        let coordinator = Self::start_in(directory, workloads, Some(clock))?;
        coordinator.set()?;
        Ok(coordinator)
    }

    /// Starts one whose history and audit log are on a disk of their own, and sets a manifest.
    pub fn start_with_disk(bed: &Testbed, workloads: &[&str], disk: &SmallDisk) -> Result<Self> {
        let mut coordinator = Self::new(bed.directory().join("coordinator"))?;
        let history = disk.path().join("history.redb");
        coordinator.store = vec!["--store".to_owned(), history.display().to_string()];
        coordinator.audit_log = disk.path().join("audit.jsonl");
        coordinator.prepare(workloads, |_| {})?;
        coordinator.run()?;
        coordinator.set()?;
        Ok(coordinator)
    }

    fn start_in(directory: PathBuf, workloads: &[&str], clock: Option<Clock>) -> Result<Self> {
        let mut coordinator = Self::new(directory)?;
        coordinator.clock = clock;
        coordinator.prepare(workloads, |_| {})?;
        coordinator.run()?;
        Ok(coordinator)
    }

    /// Starts `N` beside each other, all with their history in `etcd`, and sets a manifest, as
    /// `change` has it, by the first. What one is asked to update, the others hear of.
    pub fn start_on<const N: usize>(
        bed: &Testbed,
        workloads: &[&str],
        etcd: &Etcd,
        change: impl FnOnce(&mut Value),
    ) -> Result<[Self; N]> {
        let directory = bed.directory().join("coordinator");
        let mut all = Vec::new();
        for _ in 0..N {
            all.push(Self::new(directory.clone())?);
        }
        let mesh_apis: Vec<_> = all.iter().map(|it| it.ports.mesh_api).collect();
        for coordinator in &mut all {
            let own = coordinator.ports.mesh_api;
            let others = mesh_apis.iter().filter(|port| **port != own);
            let peers = others.flat_map(|port| ["--peer".to_owned(), format!("127.0.0.1:{port}")]);
            coordinator.store = ["--etcd".to_owned(), etcd.url()]
                .into_iter()
                .chain(peers)
                .collect();
            coordinator.mesh_apis.clone_from(&mesh_apis);
        }
        let (first, others) = all
            .split_first_mut()
            .context("no Coordinator is asked for")?;
        first.prepare(workloads, change)?;
        first.run()?;
        first.set()?;
        for other in others {
            other.manifest = first.manifest.clone();
            other.run()?;
            other.wait_until_ready()?;
        }
        let all: Result<[Self; N], _> = all.try_into();
        all.map_err(|_| anyhow!("there are not {N}"))
    }

    fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let ports = Ports {
            user_api: free_port()?,
            mesh_api: free_port()?,
            probes: free_port()?,
        };
        let history = directory.join("history.redb");
        Ok(Self {
            manifest: Value::Null,
            clock: None,
            mesh_apis: vec![ports.mesh_api],
            store: vec!["--store".to_owned(), history.display().to_string()],
            audit_log: directory.join("audit.jsonl"),
            ports,
            directory,
            running: None,
        })
    }

    fn prepare(&mut self, workloads: &[&str], change: impl FnOnce(&mut Value)) -> Result<()> {
        self.make_keys()?;
        self.manifest = self.first_manifest(workloads)?;
        change(&mut self.manifest);
        self.write_manifest()
    }

    /// What the agent of a workload of the manifest needs.
    pub fn config_for(&self, workload: &str) -> CoordinatorConfig {
        CoordinatorConfig {
            addresses: self
                .mesh_apis
                .iter()
                .map(|port| format!("127.0.0.1:{port}"))
                .collect(),
            manifest: self.file("agents-manifest.json"),
            state_dir: self.file(&format!("{workload}-state")),
            allow_simulated_tee: true,
            simulated_tee: self.file(&format!("{workload}-tee.json")),
        }
    }

    /// What `sealwire-agent init` fetches for a workload; the directory with it.
    pub fn init(&self, workload: &str) -> Result<PathBuf> {
        let config = self.config_for(workload);
        let out = self.file(&format!("{workload}-tls"));
        program("sealwire-agent")?
            .args(["init", "--coordinator", &config.addresses.join(",")])
            .arg("--coordinator-manifest")
            .arg(config.manifest)
            .arg("--allow-simulated-tee")
            .arg("--simulated-tee")
            .arg(config.simulated_tee)
            .args(["--timeout", "10", "--out"])
            .arg(&out)
            .run(LIMIT)?
            .success()?;
        Ok(out)
    }

    /// Changes the manifest, and sets it with the owner's key.
    pub fn update(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        change(&mut self.manifest);
        self.write_manifest()?;
        self.set()
    }

    /// The same, for one that may be refused; what `sealwire set` said.
    pub fn try_update(&mut self, change: impl FnOnce(&mut Value)) -> Result<Finished> {
        change(&mut self.manifest);
        self.write_manifest()?;
        self.set_command()?.run(LIMIT)
    }

    /// What its probe `/ready` says.
    pub fn ready(&self) -> Result<Answer> {
        Answer::fetch(self.ports.probes, "/ready")
    }

    /// Its counters.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = Answer::fetch(self.ports.probes, "/metrics")?;
        Ok(Metrics::parse(&answer.body))
    }

    /// Waits until its probe `/ready` says something like this.
    pub fn wait_for_ready(&self, matches: impl Fn(&Answer) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self.ready()?;
            if matches(&answer) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the Coordinator says {answer:?}\n{}",
                tail(&self.log())
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it has its secrets, and nothing is wrong.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.wait_for_ready(|answer| answer.status == 200 && answer.body == "ready\n")
    }

    /// The hash of a workload's policy, which is its key in the manifest.
    pub fn policy(&self, workload: &str) -> Result<String> {
        Ok(Digest::of(&fs::read(self.file(&format!("{workload}.rego")))?).to_string())
    }

    /// Kills it with SIGKILL: its secrets are gone.
    pub fn kill(&mut self) -> Result<()> {
        self.running
            .take()
            .map(drop)
            .context("the Coordinator does not run")
    }

    /// Starts it again after [`Self::kill`]; it waits for its shares.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the Coordinator runs already");
        self.run()
    }

    /// Both owners give their shares.
    pub fn recover(&self) -> Result<()> {
        for share in SHARES {
            self.sealwire("recover")?
                .arg("--seedshare-owner-key")
                .arg(self.file(share))
                .arg("--verified")
                .arg(self.file("verify"))
                .run(LIMIT)?
                .success()?;
        }
        Ok(())
    }

    /// What `sealwire status --json` says.
    pub fn status(&self) -> Result<Value> {
        let finished = self.sealwire("status")?.arg("--json").run(LIMIT)?;
        Ok(serde_json::from_str(&finished.success()?.text())?)
    }

    /// Waits until no rotation is under way.
    pub fn wait_until_rotated(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status()?;
            if status["rotation"]["stage"] == "done" {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "still rotating: {status}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// `sealwire verify`, into the directory `verify`.
    pub fn verify(&self) -> Result<Finished> {
        self.sealwire("verify")?
            .arg("--out")
            .arg(self.file("verify"))
            .run(LIMIT)
    }

    /// What it logged since it was started last.
    pub fn log(&self) -> String {
        self.running
            .as_ref()
            .map(Running::stderr)
            .unwrap_or_default()
    }

    /// The process, if it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.running.as_ref().map(Running::pid)
    }

    /// Sends it a signal, SIGSTOP say.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let running = self.running.as_ref();
        running
            .context("the Coordinator does not run")?
            .signal(signal)
    }

    /// A file of its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// `sealwire` with a command, and the Coordinator and manifest that it is about.
    pub fn sealwire(&self, command: &str) -> Result<HostCommand> {
        Ok(sealwire()?
            .arg(command)
            .args([
                "--coordinator",
                &format!("127.0.0.1:{}", self.ports.user_api),
            ])
            .arg("--manifest")
            .arg(self.file("manifest.json"))
            .arg("--allow-simulated-tee"))
    }

    fn set(&self) -> Result<()> {
        self.set_command()?.run(LIMIT)?.success()?;
        Ok(())
    }

    fn set_command(&self) -> Result<HostCommand> {
        Ok(self
            .sealwire("set")?
            .arg("--workload-owner-key")
            .arg(self.file("owner.pem"))
            .arg("--workspace-dir")
            .arg(&self.directory))
    }

    fn run(&mut self) -> Result<()> {
        let Ports {
            user_api,
            mesh_api,
            probes,
        } = self.ports;
        let mut command = program("sealwire-coordinator")?;
        if let Some(clock) = &self.clock {
            command = clock.give(command);
        }
        let running = command
            .args(&self.store)
            .arg("--audit-log")
            .arg(&self.audit_log)
            .args(["--user-api", &format!("127.0.0.1:{user_api}")])
            .args(["--mesh-api", &format!("127.0.0.1:{mesh_api}")])
            .args(["--probes", &format!("127.0.0.1:{probes}")])
            .args([
                "--log-format",
                "json",
                "--allow-simulated-tee",
                "--simulated-tee",
            ])
            .arg(self.file("coordinator-tee.json"))
            .spawn()?;
        self.running = Some(running);
        let deadline = Instant::now() + LIMIT;
        while !self.log().contains("the Coordinator serves") {
            let has_ended = self.running.as_ref().is_none_or(Running::has_ended);
            if has_ended || Instant::now() > deadline {
                bail!("the Coordinator does not serve:\n{}", tail(&self.log()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn make_keys(&self) -> Result<()> {
        sealwire()?
            .args(["evidence", "platform-key", "--out"])
            .arg(self.file("platform.pem"))
            .run(LIMIT)?
            .success()?;
        openssl(&["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out"])
            .arg(self.file("owner.pem"))
            .run(LIMIT)?
            .success()?;
        for share in SHARES {
            openssl(&["genrsa", "-out"])
                .arg(self.file(share))
                .arg("2048")
                .run(LIMIT)?
                .success()?;
        }
        Ok(())
    }

    fn first_manifest(&self, workloads: &[&str]) -> Result<Value> {
        let mut policies = serde_json::Map::new();
        for workload in workloads.iter().copied().chain(["coordinator"]) {
            self.describe_tee(workload)?;
            let mut policy = json!({ "SANs": [workload] });
            if workload == "coordinator" {
                policy["Role"] = "coordinator".into();
            }
            policies.insert(self.policy(workload)?, policy);
        }
        let shares = SHARES
            .iter()
            .map(|share| {
                let der = self.der(&["rsa", "-RSAPublicKey_out"], share)?;
                Ok(hex::encode(der).into())
            })
            .collect::<Result<Vec<Value>>>()?;
        Ok(json!({
            "TrustDomain": TRUST_DOMAIN,
            "Policies": policies,
            "ReferenceValues": { "simulated": [{
                "TrustedMeasurement": hex::encode([0; 48]),
                "PlatformKeys": [Digest::of(&self.der(&["pkey", "-pubout"], "platform.pem")?).to_string()],
            }] },
            "WorkloadOwnerKeyDigests": [Digest::of(&self.der(&["pkey", "-pubout"], "owner.pem")?).to_string()],
            "SeedshareOwnerPubKeys": shares,
            "SeedshareQuorum": SHARES.len(),
            "Rotation": { "Mode": "graceful", "DeadlineSeconds": 5 },
        }))
    }

    /// A machine with a guest that runs under the policy of `workload`.
    pub fn describe_tee(&self, workload: &str) -> Result<()> {
        let policy = self.file(&format!("{workload}.rego"));
        fs::write(&policy, format!("package {workload}\n"))?;
        sealwire()?
            .args(["evidence", "simulate", "--platform-key"])
            .arg(self.file("platform.pem"))
            .arg("--policy")
            .arg(policy)
            .arg("--out")
            .arg(self.file(&format!("{workload}-tee.json")))
            .run(LIMIT)?
            .success()?;
        Ok(())
    }

    /// What openssl says of a key, DER.
    fn der(&self, arguments: &[&str], key: &str) -> Result<Vec<u8>> {
        let out = self.file("key.der");
        openssl(arguments)
            .arg("-in")
            .arg(self.file(key))
            .args(["-outform", "DER", "-out"])
            .arg(&out)
            .run(LIMIT)?
            .success()?;
        Ok(fs::read(out)?)
    }

    /// The agents' copy stays as it was first: theirs is part of what is measured.
    fn write_manifest(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.manifest)?;
        let agents = self.file("agents-manifest.json");
        if !agents.exists() {
            fs::write(agents, &text)?;
        }
        fs::write(self.file("manifest.json"), text)?;
        Ok(())
    }
}

/// The identity of a workload of any [`Coordinator`]'s manifest.
pub fn spiffe_id(workload: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{workload}")
}

fn sealwire() -> Result<HostCommand> {
    program("sealwire")
}

fn openssl(arguments: &[&str]) -> HostCommand {
    let netns = Path::new(ROOT_NETNS).to_owned();
    HostCommand::new(PathBuf::from("openssl"), netns, None).args(arguments)
}

fn program(name: &str) -> Result<HostCommand> {
    let program = binary_of(name);
    ensure!(
        program.is_file(),
        "{} does not exist: cargo build --release, or set SEALWIRE_BIN_DIR",
        program.display()
    );
    Ok(HostCommand::new(
        program,
        Path::new(ROOT_NETNS).to_owned(),
        None,
    ))
}

const TRUST_DOMAIN: &str = "mesh.test";
const ROOT_NETNS: &str = "/proc/self/ns/net";
const SHARES: [&str; 2] = ["share-1.pem", "share-2.pem"];
const LIMIT: Duration = Duration::from_secs(20);
