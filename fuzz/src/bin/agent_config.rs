//! The agent's configuration file: any text, for the agent and for `init`. What is wrong is named with
//! a place that is in the file.
#![no_main]

use std::path::Path;

use agent_config::flags::{Environment, Flags, InitFlags};
use agent_config::{ConfigError, ConfigFile, InitConfig, Place, effective};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    [FILES, COORDINATOR, NODE]
        .map(|it| it.as_bytes().to_vec())
        .to_vec()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Outcome::Refused;
    };
    let read = || ConfigFile::parse(Path::new("agent.toml"), text);
    let environment = Environment::default();

    let config = read().and_then(|file| effective(&Flags::default(), &environment, Some(file)));
    match &config {
        Ok(config) => {
            assert!(!config.workloads.is_empty());
            assert!(serde_json::to_string(config).is_ok(), "/config shows it");
        }
        Err(error) => check_places(error, text),
    }
    let flags = InitFlags {
        out: Some("/run/tls".to_owned()),
        ..InitFlags::default()
    };
    let init = read().and_then(|file| InitConfig::effective(&flags, &environment, Some(file)));
    match &init {
        Ok(init) => assert!(!init.coordinator.addresses.is_empty()),
        Err(error) => check_places(error, text),
    }
    Outcome::of(&config)
}

fn check_places(error: &ConfigError, text: &str) {
    assert!(!error.to_string().is_empty());
    let ConfigError::Invalid(findings) = error else {
        panic!("no file was read: {error}");
    };
    assert!(!findings.is_empty());
    let places = findings.iter().filter_map(|it| it.place.as_ref());
    for place in places {
        if let Place::File { line, column, .. } = place {
            let lines: Vec<_> = text.split('\n').collect();
            let line = lines.get(line - 1).expect("a line of the file");
            assert!(*column <= line.chars().count() + 1, "{error}");
        }
    }
}

const FILES: &str = r#"admin_port = 9464
log_format = "json"
log_level = "debug"
flow_table_entries = 1024

[[workload]]
name = "web"
cgroup = "/sys/fs/cgroup/web"
netns = "/run/netns/web"
tls_dir = "/etc/tls/web"
ingress_default = "tls"
egress_default = "deny"
egress_peers = ["spiffe://shop.example/ns/data/sa/db"]
[[workload.ingress]]
port = 8080
mode = "mtls"
peers = ["any"]
[[workload.egress]]
cidr = "10.0.0.0/8"
port = "8000-8100"
peers = ["any"]
[[workload.egress]]
cidr = "10.1.0.0/16"
port = 5432
[[workload.egress]]
cidr = "fd00::7"
mode = "plaintext"
[[workload.egress]]
cidr = "::/0"
workload = "spiffe://shop.example/ns/data/sa/cart"
mode = "deny"

[[workload]]
name = "db"
cgroup = "/sys/fs/cgroup/db"
netns = "/run/netns/db"
ingress_peers = []
"#;

const COORDINATOR: &str = r#"
[coordinator]
addresses = ["coordinator:7777", "[fd00::1]:7777"]
manifest = "/etc/sealwire/manifest.json"
state_dir = "/var/lib/sealwire/a"
vek = "/etc/sealwire/vcek.der"
crl = "/etc/sealwire/crl.der"
collateral = "/etc/sealwire/collateral.json"

[[workload]]
name = "web"
cgroup = "/sys/fs/cgroup/web"
"#;

const NODE: &str = r#"
[coordinator]
addresses = ["10.0.0.1:7777"]
manifest = "manifest.json"
allow_simulated_tee = true
simulated_tee = "tee.json"

[[workload]]
name = "web"
cgroup = "/sys/fs/cgroup/web"
netns = "/run/netns/web"
spiffe_id = "spiffe://shop.example/ns/default/sa/web"

[[workload]]
name = "db"
cgroup = "/sys/fs/cgroup/db"
netns = "/run/netns/db"
spiffe_id = "spiffe://shop.example/ns/data/sa/db"
"#;
