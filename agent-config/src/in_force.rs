//! The configuration in force, written as a file that means the same.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use serde::Serialize;
use toml::Value;

use super::{
    CertificateOrigin, Config, Coordinator, EgressListener, Enforcement, InstanceName, Pins, Place,
    Tee, Workload,
};
use crate::policy::{EgressMode, EgressRule, IngressMode, IngressRule, PortRange, UdpMode};

/// Where each value was given, by the path of its key: `workload[0].ingress[1].port`.
pub(super) type Origins = BTreeMap<String, Place>;

/// The configuration as a file; with `origins`, each value says where it came from.
pub(super) fn print(config: &Config, origins: Option<&Origins>) -> String {
    let Config {
        admin_port,
        log_format,
        log_level,
        ebpf_debug,
        offload,
        splice,
        local_acceleration,
        workers,
        flow_table_entries,
        pins: Pins { bpffs, instance },
        coordinator,
        workloads,
    } = config;
    let mut page = Page {
        text: String::new(),
        origins,
    };
    page.maybe(
        "admin_port",
        admin_port.map(|port| i64::from(port.get())),
        "off",
    );
    page.value("log_format", log_format.as_str());
    page.value("log_level", log_level.as_str());
    page.value("offload", offload.as_str());
    page.value("splice", splice.as_str());
    page.value("local_acceleration", local_acceleration.as_str());
    let entries = flow_table_entries.map(|entries| i64::from(entries.get()));
    page.maybe("flow_table_entries", entries, "65536");
    page.option("--workers", workers);
    page.option("--bpffs", bpffs.display());
    page.option("--instance", InstanceName::as_str(instance));
    page.option("--ebpf-debug", ebpf_debug);
    if let Some(coordinator) = coordinator {
        page.coordinator(coordinator);
    }
    for (index, workload) in workloads.iter().enumerate() {
        page.workload(&format!("workload[{index}]"), workload);
    }
    page.text
}

struct Page<'a> {
    text: String,
    origins: Option<&'a Origins>,
}

impl Page<'_> {
    /// `key = value`; the key is the last part of `path`.
    fn value(&mut self, path: &str, value: impl Into<Value>) {
        let key = path.rsplit('.').next().unwrap_or(path);
        let value = value.into();
        let origin = self.origin(path);
        self.line(&format!("{key} = {value}"), origin);
    }

    fn maybe(&mut self, path: &str, value: Option<impl Into<Value>>, otherwise: &str) {
        match value {
            Some(value) => self.value(path, value),
            None => self.line(&format!("# {path}: {otherwise}"), None),
        }
    }

    /// What has no key in a file.
    fn option(&mut self, name: &str, value: impl Display) {
        let origin = self.origin(name);
        self.line(&format!("# {name} {value}"), origin);
    }

    fn origin(&self, path: &str) -> Option<String> {
        let origins = self.origins?;
        let place = origins.get(path).map(ToString::to_string);
        Some(place.unwrap_or_else(|| "default".to_owned()))
    }

    fn line(&mut self, line: &str, origin: Option<String>) {
        // Writing to a string can't fail.
        let _ = match origin {
            Some(origin) => writeln!(self.text, "{line:<COMMENT$}  # {origin}"),
            None => writeln!(self.text, "{line}"),
        };
    }

    fn heading(&mut self, heading: &str) {
        let _ = writeln!(self.text, "\n{heading}");
    }

    fn coordinator(&mut self, coordinator: &Coordinator) {
        let Coordinator {
            addresses,
            manifest,
            state_dir,
            allow_simulated_tee,
            tee,
        } = coordinator;
        self.heading("[coordinator]");
        self.value("coordinator.addresses", list(addresses));
        self.value("coordinator.manifest", manifest.display().to_string());
        let files = match tee {
            Tee::Hardware {
                vek,
                crl,
                collateral,
            } => [("vek", vek), ("crl", crl), ("collateral", collateral)],
            Tee::Simulated { .. } => [("vek", &None), ("crl", &None), ("collateral", &None)],
        };
        for (key, file) in [("state_dir", state_dir)].into_iter().chain(files) {
            if let Some(file) = file {
                let path = format!("coordinator.{key}");
                self.value(&path, file.display().to_string());
            }
        }
        self.value("coordinator.allow_simulated_tee", *allow_simulated_tee);
        if let Tee::Simulated { simulated_tee } = tee {
            let file = simulated_tee.display().to_string();
            self.value("coordinator.simulated_tee", file);
        }
    }

    fn workload(&mut self, path: &str, workload: &Workload) {
        let Workload {
            name,
            cgroup,
            netns,
            shares_netns,
            certificates,
            ingress,
            egress,
            listeners,
            udp,
            enforcement,
        } = workload;
        self.heading("[[workload]]");
        self.value(&format!("{path}.name"), name.as_str());
        self.value(&format!("{path}.cgroup"), cgroup.display().to_string());
        if let Some(netns) = netns {
            self.value(&format!("{path}.netns"), netns.display().to_string());
        }
        if *shares_netns {
            self.value(&format!("{path}.shares_netns"), true);
        }
        match certificates {
            CertificateOrigin::Files { tls_dir } => {
                self.value(&format!("{path}.tls_dir"), tls_dir.display().to_string());
            }
            CertificateOrigin::Coordinator {
                spiffe_id: Some(id),
            } => {
                self.value(&format!("{path}.spiffe_id"), id.as_str());
            }
            CertificateOrigin::Coordinator { spiffe_id: None } => {}
        }
        // Lists of peers that nothing depends on would be mistakes.
        self.value(
            &format!("{path}.ingress_default"),
            ingress.default_mode().as_str(),
        );
        if ingress.default_mode() == IngressMode::Mtls {
            self.value(
                &format!("{path}.ingress_peers"),
                list(ingress.default_peers()),
            );
        }
        self.value(
            &format!("{path}.egress_default"),
            egress.default_mode().as_str(),
        );
        if egress.default_mode() == EgressMode::Mtls {
            self.value(
                &format!("{path}.egress_peers"),
                list(egress.default_peers()),
            );
        }
        if *udp != UdpMode::Allow {
            self.value(&format!("{path}.udp"), udp.as_str());
        }
        if *enforcement == Enforcement::DryRun {
            self.value(&format!("{path}.dry_run"), true);
        }
        for (index, IngressRule { port, mode, peers }) in ingress.rules().iter().enumerate() {
            let path = format!("{path}.ingress[{index}]");
            self.heading("[[workload.ingress]]");
            self.value(&format!("{path}.port"), i64::from(port.get()));
            self.value(&format!("{path}.mode"), mode.as_str());
            if *mode == IngressMode::Mtls {
                self.value(&format!("{path}.peers"), list(peers));
            }
        }
        for (index, rule) in egress.rules().iter().enumerate() {
            let EgressRule {
                to,
                ports,
                workload,
                mode,
                peers,
            } = rule;
            let path = format!("{path}.egress[{index}]");
            self.heading("[[workload.egress]]");
            if let Some(cidr) = to.cidr() {
                self.value(&format!("{path}.cidr"), cidr.to_string());
            }
            if let Some(name) = to.name() {
                self.value(&format!("{path}.name"), name.to_string());
            }
            if let Some(workload) = workload {
                self.value(&format!("{path}.workload"), workload.to_string());
            }
            if *ports != PortRange::ALL {
                self.value(&format!("{path}.port"), ports.to_string());
            }
            self.value(&format!("{path}.mode"), mode.as_str());
            if *mode == EgressMode::Mtls && workload.is_none() {
                self.value(&format!("{path}.peers"), list(peers));
            }
        }
        for (index, listener) in listeners.iter().enumerate() {
            let EgressListener {
                listen,
                remote,
                peers,
            } = listener;
            let path = format!("{path}.listener[{index}]");
            self.heading("[[workload.listener]]");
            self.value(&format!("{path}.listen"), listen.to_string());
            self.value(&format!("{path}.remote"), remote.to_string());
            self.value(&format!("{path}.peers"), list(peers));
        }
    }
}

/// What is a list of strings in the file.
fn list(value: &impl Serialize) -> Value {
    Value::try_from(value).unwrap_or_else(|_| Value::Array(Vec::new()))
}

/// The column of comments.
const COMMENT: usize = 40;
