//! The command line above the environment, and what pod mode makes of them.

use std::path::{Path, PathBuf};

use super::check::Checker;
use super::contrast::{self, At, EgressEntry, IngressEntry, IngressString};
use super::file::{FileKeys, Given, IngressKeys, ListenerKeys, Origin, Scalar, WorkloadKeys};
use super::problem::Problem;
use super::{InstanceName, Pins};
use crate::flags::{Environment, Flags};
use crate::policy::{IngressMode, LONGEST_NAME, WorkloadName};

/// The command line above the environment.
pub(super) struct Layers<'a> {
    pub(super) flags: &'a Flags,
    pub(super) environment: &'a Environment,
}

impl Layers<'_> {
    /// What was given for `option`, if anything was.
    pub(super) fn option(&self, option: Named) -> Option<Given<String>> {
        self.either((option.flag)(self.flags), option.name, option.variable)
    }

    /// What was given for the option `name`, else in `variable`.
    pub(super) fn either(
        &self,
        flag: Option<&String>,
        name: &'static str,
        variable: &'static str,
    ) -> Option<Given<String>> {
        match flag {
            Some(value) => Some(Given {
                value: value.clone(),
                origin: Origin::Flag(name),
            }),
            None => self.variable(variable),
        }
    }

    /// What was given for an option that may be given several times; the variable separates by
    /// commas.
    pub(super) fn list(&self, option: NamedList) -> Option<Given<Vec<Given<String>>>> {
        let NamedList {
            name,
            variable,
            flag,
        } = option;
        let values = flag(self.flags);
        let (values, origin) = if values.is_empty() {
            let text = self.variable(variable)?;
            let values = text.value.split(',').map(|it| it.trim().to_owned());
            (values.collect(), text.origin)
        } else {
            (values.to_vec(), Origin::Flag(name))
        };
        let value = values
            .into_iter()
            .map(|value| Given { value, origin })
            .collect();
        Some(Given { value, origin })
    }

    pub(super) fn variable(&self, name: &'static str) -> Option<Given<String>> {
        let value = self.environment.value(name)?.to_owned();
        Some(Given {
            value,
            origin: Origin::Variable(name),
        })
    }

    /// The options of pod mode create the one workload, or change the file's.
    pub(super) fn apply_pod_mode(&self, checker: &mut Checker<'_>, keys: &mut FileKeys) -> RunMode {
        let [name, cgroup, netns, tls_dir] =
            [NAME, CGROUP, NETNS, TLS_DIR].map(|option| self.option(option));
        let shares_netns = self.flags.shares_netns.then_some(Given {
            value: true,
            origin: Origin::Flag("--shares-netns"),
        });
        let options = [&name, &cgroup, &netns, &tls_dir];
        let first = options.into_iter().flatten().next();
        let first = first.map(|option| option.origin);
        let Some(origin) = first.or(shares_netns.as_ref().map(|it| it.origin)) else {
            return RunMode::Node;
        };
        if keys.workload.len() > 1 {
            let count = keys.workload.len();
            checker.report(origin, Problem::SeveralWorkloads { count });
            return RunMode::Node;
        }
        if keys.workload.is_empty() {
            keys.workload.push(Given {
                value: WorkloadKeys::default(),
                origin,
            });
        }
        let workload = &mut keys.workload[0].value;
        for (key, option) in [
            (&mut workload.name, name),
            (&mut workload.cgroup, cgroup),
            (&mut workload.netns, netns),
            (&mut workload.tls_dir, tls_dir),
        ] {
            *key = option.or(key.take());
        }
        workload.shares_netns = shares_netns.or(workload.shares_netns.take());
        if workload.name.is_none() {
            workload.name = workload.cgroup.as_ref().and_then(name_of_cgroup);
        }
        RunMode::Pod
    }

    /// Contrast's strings replace what the file says of ports and listeners.
    pub(super) fn apply_contrast(&self, checker: &mut Checker<'_>, keys: &mut FileKeys) {
        let [ingress, egress] = [INGRESS_STRINGS, EGRESS_STRINGS].map(|it| self.contrast(it));
        let Some(first) = ingress.as_ref().or(egress.as_ref()) else {
            return;
        };
        let origin = first.origin;
        let workload = match keys.workload.as_mut_slice() {
            [] => {
                keys.workload.push(Given {
                    value: WorkloadKeys::default(),
                    origin,
                });
                &mut keys.workload[0].value
            }
            [workload] => &mut workload.value,
            several => {
                let count = several.len();
                return checker.report(origin, Problem::StringsForSeveral { count });
            }
        };
        if let Some(string) = ingress {
            match contrast::ingress(&string.value) {
                Ok(IngressString::Disabled) => {
                    let plaintext = IngressMode::Plaintext.as_str().to_owned();
                    workload.ingress_default = Some(string.map(|_| plaintext));
                    workload.ingress = Vec::new();
                }
                Ok(IngressString::Ports(entries)) => {
                    workload.ingress_default = None;
                    workload.ingress = entries.iter().map(|at| ingress_keys(&string, at)).collect();
                }
                Err(mistakes) => checker.entries(string.origin, mistakes),
            }
        }
        if let Some(string) = egress {
            match contrast::egress(&string.value) {
                Ok(entries) => {
                    workload.listener = entries
                        .iter()
                        .map(|at| listener_keys(&string, at))
                        .collect();
                }
                Err(mistakes) => checker.entries(string.origin, mistakes),
            }
        }
    }

    /// The options that have a key at the top of the file.
    pub(super) fn apply_options(&self, keys: &mut FileKeys) {
        let admin_port = self.option(ADMIN_PORT);
        let admin_port = admin_port.or_else(|| self.contrast(ADMIN_PORTS));
        keys.admin_port = admin_port
            .map(|it| it.map(Scalar))
            .or(keys.admin_port.take());
        for (key, option) in [
            (&mut keys.log_format, LOG_FORMAT),
            (&mut keys.log_level, LOG_LEVEL),
            (&mut keys.offload, OFFLOAD),
            (&mut keys.splice, SPLICE),
            (&mut keys.local_acceleration, LOCAL_ACCELERATION),
        ] {
            *key = self.option(option).or(key.take());
        }
    }

    /// The first of Contrast's variables that is given.
    fn contrast(&self, names: [&'static str; 2]) -> Option<Given<String>> {
        names.into_iter().find_map(|name| self.variable(name))
    }

    pub(super) fn pins(&self, checker: &mut Checker<'_>, pod: Option<&WorkloadName>) -> Pins {
        let instance = match self.option(INSTANCE) {
            Some(instance) => checker.name("instance", instance),
            None => pod.cloned(),
        };
        let bpffs = match self.option(BPFFS) {
            Some(bpffs) => checker.path("bpffs", bpffs),
            None => PathBuf::from(DEFAULT_BPFFS),
        };
        let instance = instance
            .as_ref()
            .map(InstanceName::from)
            .unwrap_or_default();
        Pins { bpffs, instance }
    }
}

fn ingress_keys(string: &Given<String>, at: &At<IngressEntry>) -> Given<IngressKeys> {
    let IngressEntry { port, disable_tls } = at.value;
    let mode = if disable_tls {
        IngressMode::Plaintext
    } else {
        IngressMode::Tls
    };
    let origin = string.origin.entry(at);
    let given = |value: &dyn ToString| Given {
        value: value.to_string(),
        origin,
    };
    Given {
        value: IngressKeys {
            port: Some(given(&port).map(Scalar)),
            mode: Some(given(&mode.as_str())),
            peers: None,
        },
        origin,
    }
}

fn listener_keys(string: &Given<String>, at: &At<EgressEntry>) -> Given<ListenerKeys> {
    let EgressEntry { listen, remote } = &at.value;
    let origin = string.origin.entry(at);
    let given = |value: &dyn ToString| {
        Some(Given {
            value: value.to_string(),
            origin,
        })
    };
    Given {
        value: ListenerKeys {
            listen: given(listen),
            remote: given(remote),
            peers: None,
        },
        origin,
    }
}

/// Whether the options name one workload, or the file names any number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RunMode {
    Pod,
    Node,
}

/// An option, and the variable that stands in for it.
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub(super) name: &'static str,
    variable: &'static str,
    flag: fn(&Flags) -> Option<&String>,
}

/// An option that may be given several times, and the variable that stands in for it.
#[derive(Clone, Copy)]
pub(super) struct NamedList {
    name: &'static str,
    variable: &'static str,
    flag: fn(&Flags) -> &[String],
}

macro_rules! named {
    ($name:literal, $variable:literal, $($field:ident).+) => {
        Named {
            name: $name,
            variable: $variable,
            flag: |flags| flags.$($field).+.as_ref(),
        }
    };
}

/// The last component of a cgroup, with what a name cannot hold made into dashes:
/// `/sys/fs/cgroup/system.slice/nginx.service` is `nginx-service`.
fn name_of_cgroup(cgroup: &Given<String>) -> Option<Given<String>> {
    let last = Path::new(&cgroup.value)
        .file_name()?
        .to_str()?
        .to_ascii_lowercase();
    let dashed = last.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let short: String = dashed
        .trim_matches('-')
        .chars()
        .take(LONGEST_NAME)
        .collect();
    let value = short.trim_end_matches('-').to_owned();
    (!value.is_empty()).then_some(Given {
        value,
        origin: cgroup.origin,
    })
}

pub(super) const CONFIG: Named = named!("--config", "SEALWIRE_CONFIG", config);
const NAME: Named = named!("--name", "SEALWIRE_NAME", name);
const CGROUP: Named = named!("--cgroup", "SEALWIRE_CGROUP", cgroup);
const NETNS: Named = named!("--netns", "SEALWIRE_NETNS", netns);
const TLS_DIR: Named = named!("--tls-dir", "SEALWIRE_TLS_DIR", tls_dir);
const ADMIN_PORT: Named = named!("--admin-port", "SEALWIRE_ADMIN_PORT", admin_port);
pub(super) const LOG_FORMAT: Named = named!("--log-format", "SEALWIRE_LOG_FORMAT", log_format);
pub(super) const LOG_LEVEL: Named = named!("--log-level", "SEALWIRE_LOG_LEVEL", log_level);
const OFFLOAD: Named = named!("--offload", "SEALWIRE_OFFLOAD", offload);
const SPLICE: Named = named!("--splice", "SEALWIRE_SPLICE", splice);
const LOCAL_ACCELERATION: Named = named!(
    "--local-acceleration",
    "SEALWIRE_LOCAL_ACCELERATION",
    local_acceleration
);
pub(super) const WORKERS: Named = named!("--workers", "SEALWIRE_WORKERS", workers);
pub(super) const INSTANCE: Named = named!("--instance", "SEALWIRE_INSTANCE", instance);
pub(super) const BPFFS: Named = named!("--bpffs", "SEALWIRE_BPFFS", bpffs);
pub(super) const COORDINATOR: NamedList = NamedList {
    name: "--coordinator",
    variable: "SEALWIRE_COORDINATOR",
    flag: |flags| &flags.coordinator.addresses,
};
pub(super) const COORDINATOR_MANIFEST: Named = named!(
    "--coordinator-manifest",
    "SEALWIRE_COORDINATOR_MANIFEST",
    coordinator.manifest
);
pub(super) const STATE_DIR: Named =
    named!("--state-dir", "SEALWIRE_STATE_DIR", coordinator.state_dir);
pub(super) const VEK: Named = named!("--vek", "SEALWIRE_VEK", coordinator.vek);
pub(super) const CRL: Named = named!("--crl", "SEALWIRE_CRL", coordinator.crl);
pub(super) const COLLATERAL: Named = named!(
    "--collateral",
    "SEALWIRE_COLLATERAL",
    coordinator.collateral
);
pub(super) const SIMULATED_TEE: Named = named!(
    "--simulated-tee",
    "SEALWIRE_SIMULATED_TEE",
    coordinator.simulated_tee
);

// Contrast's variables, and the names that they had in its first versions.
const ADMIN_PORTS: [&str; 2] = ["CONTRAST_ADMIN_PORT", "EDG_ADMIN_PORT"];
const INGRESS_STRINGS: [&str; 2] = ["CONTRAST_INGRESS_PROXY_CONFIG", "EDG_INGRESS_PROXY_CONFIG"];
const EGRESS_STRINGS: [&str; 2] = ["CONTRAST_EGRESS_PROXY_CONFIG", "EDG_EGRESS_PROXY_CONFIG"];

const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
