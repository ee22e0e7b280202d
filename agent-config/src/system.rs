//! Whether the machine has what the configuration names.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{self, CloneFlags};
use nix::sys::statfs::{self, CGROUP2_SUPER_MAGIC, FsType, NSFS_MAGIC};

use super::check::Checker;
use super::file::Origin;
use super::problem::{ConfigError, Problem, Subject, WorkloadRef};
use super::{CertificateOrigin, Config, Coordinator, InitConfig, Tee, Workload};

impl Config {
    /// Looks at the machine: cgroups, namespaces, directories. Everything that is missing is
    /// reported at once. What it finds may be gone a moment later, so attaching checks again; this
    /// is for the message, and so that nothing is attached in vain. The BPF file system is not looked
    /// at: attaching mounts one where there is none.
    pub fn check_system(&self) -> Result<(), ConfigError> {
        let mut checker = Checker::new(None);
        let mut found: Vec<(&Workload, Found)> = Vec::new();
        for workload in &self.workloads {
            let subject = WorkloadRef::Name(workload.name.to_string());
            checker.within(Some(Subject {
                workload: subject,
                rule: None,
            }));
            checker.cgroup(&workload.cgroup);
            if let Some(netns) = &workload.netns {
                checker.netns(netns);
            }
            if let CertificateOrigin::Files { tls_dir } = &workload.certificates {
                checker.directory("tls_dir", tls_dir, MAKE_TLS_DIR);
            }
            let this = Found::of(workload);
            for (other_workload, other) in &found {
                checker.same_thing(workload, &this, other_workload, other);
            }
            found.push((workload, this));
        }
        checker.within(None);
        if let Some(coordinator) = &self.coordinator {
            checker.files_of(coordinator);
        }
        checker.finish()
    }
}

impl InitConfig {
    /// Looks for the files that it names; everything that is missing is reported at once.
    pub fn check_system(&self) -> Result<(), ConfigError> {
        let mut checker = Checker::new(None);
        checker.files_of(&self.coordinator);
        checker.finish()
    }
}

impl Checker<'_> {
    fn cgroup(&mut self, path: &Path) {
        if self.directory("cgroup", path, MAKE_CGROUP)
            && let Some(file_system) = self.file_system("cgroup", path, MAKE_CGROUP)
            && file_system != CGROUP2_SUPER_MAGIC
        {
            let path = path.display().to_string();
            self.report(Origin::Nowhere, Problem::NotCgroup2 { path });
        }
    }

    fn netns(&mut self, path: &Path) {
        let Some(file_system) = self.file_system("netns", path, MAKE_NETNS) else {
            return;
        };
        let entered = if file_system == NSFS_MAGIC {
            enter_netns(path)
        } else {
            Err(Errno::EINVAL)
        };
        match entered {
            Ok(()) => {}
            Err(Errno::EINVAL) => {
                let path = path.display().to_string();
                self.report(Origin::Nowhere, Problem::NotANetns { path });
            }
            Err(errno) => {
                self.inaccessible("netns", path, MAKE_NETNS, "setns", &errno.into());
            }
        }
    }

    fn files_of(&mut self, coordinator: &Coordinator) {
        let none = [None; 3];
        let (endorsements, simulated_tee) = match &coordinator.tee {
            Tee::Hardware {
                vek,
                crl,
                collateral,
            } => ([vek, crl, collateral].map(Option::as_deref), None),
            Tee::Simulated { simulated_tee } => (none, Some(simulated_tee.as_path())),
        };
        let [vek, crl, collateral] = endorsements;
        for (key, path, create) in [
            (
                "coordinator.manifest",
                Some(coordinator.manifest.as_path()),
                GET_MANIFEST,
            ),
            (
                "coordinator.simulated_tee",
                simulated_tee,
                MAKE_SIMULATED_TEE,
            ),
            ("coordinator.vek", vek, GET_VEK),
            ("coordinator.crl", crl, GET_VEK),
            ("coordinator.collateral", collateral, GET_COLLATERAL),
        ] {
            if let Some(path) = path {
                self.regular_file(key, path, create);
            }
        }
    }

    fn regular_file(&mut self, key: &'static str, path: &Path, create: &'static str) {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                let path = path.display().to_string();
                self.report(Origin::Nowhere, Problem::NotAFile { key, path });
            }
            Ok(_) => {}
            Err(error) => self.inaccessible(key, path, create, "stat", &error),
        }
    }

    fn directory(&mut self, key: &'static str, path: &Path, create: &'static str) -> bool {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => return true,
            Ok(_) => {
                let path = path.display().to_string();
                self.report(Origin::Nowhere, Problem::NotADirectory { key, path });
            }
            Err(error) => self.inaccessible(key, path, create, "stat", &error),
        }
        false
    }

    fn file_system(
        &mut self,
        key: &'static str,
        path: &Path,
        create: &'static str,
    ) -> Option<FsType> {
        match statfs::statfs(path) {
            Ok(stat) => Some(stat.filesystem_type()),
            Err(errno) => {
                self.inaccessible(key, path, create, "statfs", &errno.into());
                None
            }
        }
    }

    fn inaccessible(
        &mut self,
        key: &'static str,
        path: &Path,
        create: &'static str,
        call: &'static str,
        error: &io::Error,
    ) {
        let path = path.display().to_string();
        let problem = match error.kind() {
            io::ErrorKind::NotFound => Problem::Absent { key, path, create },
            _ => Problem::Uninspected {
                key,
                path,
                call,
                error: error.to_string(),
            },
        };
        self.report(Origin::Nowhere, problem);
    }

    /// Two paths can lead to one thing, which the comparison of texts could not see.
    fn same_thing(&mut self, workload: &Workload, this: &Found, other: &Workload, that: &Found) {
        let other_name = other.name.to_string();
        if let (Some(one), Some(two)) = (&this.cgroup, &that.cgroup)
            && (one.starts_with(two) || two.starts_with(one))
        {
            let problem = Problem::CgroupOverlap {
                got: workload.cgroup.display().to_string(),
                other: other_name.clone(),
                other_cgroup: other.cgroup.display().to_string(),
            };
            self.report(Origin::Nowhere, problem);
        }
        let is_shared = workload.shares_netns && other.shares_netns;
        if this.netns.is_some() && this.netns == that.netns && !is_shared {
            let netns = workload.netns.as_deref().unwrap_or(Path::new(OWN_NETNS));
            let netns = netns.display().to_string();
            self.report(
                Origin::Nowhere,
                Problem::SharedNetns {
                    netns,
                    other: other_name,
                },
            );
        }
    }
}

/// What a workload's paths lead to, as far as they lead anywhere.
struct Found {
    cgroup: Option<PathBuf>,
    netns: Option<(u64, u64)>,
}

impl Found {
    fn of(workload: &Workload) -> Self {
        let netns = workload.netns.as_deref().unwrap_or(Path::new(OWN_NETNS));
        Self {
            cgroup: workload.cgroup.canonicalize().ok(),
            netns: netns
                .metadata()
                .ok()
                .map(|metadata| (metadata.dev(), metadata.ino())),
        }
    }
}

/// Namespaces of every kind lie in nsfs; only entering one tells whether it is a network's.
/// `EINVAL` if it is not. A thread enters it, as a thread's namespace is its own.
fn enter_netns(path: &Path) -> nix::Result<()> {
    let file = File::open(path)
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let enter = move || sched::setns(file, CloneFlags::CLONE_NEWNET);
    std::thread::spawn(enter).join().unwrap_or(Err(Errno::EIO))
}

const OWN_NETNS: &str = "/proc/self/ns/net";
const MAKE_CGROUP: &str = "create it with mkdir and move the workload's processes there, or \
                           correct the path";
const MAKE_NETNS: &str = "create it with `ip netns add NAME`, or correct the path";
const MAKE_TLS_DIR: &str = "create it with `sealwire pki issue`, or name another with --tls-dir";
const GET_MANIFEST: &str = "copy the deployment's manifest there, or correct the path";
const MAKE_SIMULATED_TEE: &str = "make it with `sealwire evidence simulate`, or correct the path";
const GET_VEK: &str = "fetch it from AMD's KDS, or leave it out where the host gives it";
const GET_COLLATERAL: &str = "fetch it from Intel's PCS, or correct the path";
