//! The configuration in force, as `sealwire config print` shows it.

use super::*;

const FILE: &str = r#"log_level = "debug"

[[workload]]
name = "web"
cgroup = "/sys/fs/cgroup/web"
netns = "/run/netns/web"
egress_default = "deny"
[[workload.ingress]]
port = 8080
peers = ["client", "spiffe://mesh.local/ns/a/sa/b"]
[[workload.ingress]]
port = 9090
mode = "plaintext"
[[workload.egress]]
cidr = "10.0.0.0/8"
port = "8000-8100"
[[workload.egress]]
cidr = "fd00::7"
port = 443
mode = "plaintext"
[[workload.egress]]
cidr = "192.0.2.0/24"
workload = "cart"
[[workload.egress]]
workload = "spiffe://mesh.local/ns/shop/sa/cart"
port = 80
mode = "deny"
[[workload.listener]]
listen = "127.137.0.1:5432"
remote = "[fd00::9]:5432"
peers = ["db"]

[[workload]]
name = "db"
cgroup = "/sys/fs/cgroup/a \"quoted\" \\ place"
netns = "/run/netns/db"
ingress_peers = []
ingress_default = "mtls"
"#;

const COORDINATOR: &str = r#"[coordinator]
addresses = ["c:7777", "[fd00::1]:1"]
manifest = "/m.json"
vek = "/vek"
crl = "/crl"

[[workload]]
name = "web"
cgroup = "/c"
spiffe_id = "spiffe://mesh.local/ns/a/sa/web"
"#;

fn printed(arguments: &[&str], variables: &[(&str, &str)], text: &str, origins: bool) -> String {
    let file = ConfigFile::parse(Path::new("agent.toml"), text).unwrap();
    in_force(
        &flags(arguments),
        &environment(variables),
        Some(file),
        origins,
    )
    .unwrap()
}

#[test]
fn what_is_printed_means_the_same_again() {
    for text in [FILE, COORDINATOR] {
        let meant = combine(&[], &[], Some(text)).unwrap();
        for origins in [false, true] {
            let printed = printed(&[], &[], text, origins);
            let again = parse(&printed).unwrap();
            assert_eq!(
                serde_json::to_value(&again).unwrap(),
                serde_json::to_value(&meant).unwrap(),
                "{printed}"
            );
        }
    }
}

#[test]
fn every_value_says_where_it_was_given() {
    let text = r#"log_level = "debug"
offload = "tx"
[[workload]]
cgroup = "/sys/fs/cgroup/web"
[[workload.ingress]]
port = 80
"#;
    let variables = [
        ("SEALWIRE_LOG_LEVEL", "warn"),
        ("CONTRAST_ADMIN_PORT", "9464"),
        ("SEALWIRE_WORKERS", "3"),
        (
            "CONTRAST_EGRESS_PROXY_CONFIG",
            "db#127.137.0.1:5432#db:5432",
        ),
    ];
    let said = printed(
        &["--name", "web", "--log-format", "json"],
        &variables,
        text,
        true,
    );
    // Comments stand in one column.
    let comments: Vec<_> = said.lines().filter_map(|line| line.find("  # ")).collect();
    assert!(
        comments.iter().all(|column| *column == comments[0]),
        "{said}"
    );
    let said = said.lines().map(|line| match line.split_once("  # ") {
        Some((value, origin)) => format!("{} # {origin}\n", value.trim_end()),
        None => format!("{line}\n"),
    });
    assert_eq!(
        said.collect::<String>(),
        "\
admin_port = 9464 # CONTRAST_ADMIN_PORT
log_format = \"json\" # --log-format
log_level = \"warn\" # SEALWIRE_LOG_LEVEL
offload = \"tx\" # agent.toml:2:11
splice = \"auto\" # default
local_acceleration = \"off\" # default
# flow_table_entries: 65536
# --workers 3 # SEALWIRE_WORKERS
# --bpffs /sys/fs/bpf # default
# --instance web # default
# --ebpf-debug false # default

[[workload]]
name = \"web\" # --name
cgroup = \"/sys/fs/cgroup/web\" # agent.toml:4:10
tls_dir = \"/etc/sealwire/web\" # default
ingress_default = \"mtls\" # default
ingress_peers = [\"any\"] # default
egress_default = \"mtls\" # default
egress_peers = [\"any\"] # default

[[workload.ingress]]
port = 80 # agent.toml:6:8
mode = \"mtls\" # default
peers = [\"any\"] # default

[[workload.listener]]
listen = \"127.137.0.1:5432\" # CONTRAST_EGRESS_PROXY_CONFIG: entry 1, column 1
remote = \"db:5432\" # CONTRAST_EGRESS_PROXY_CONFIG: entry 1, column 1
peers = [\"any\"] # default
"
    );
}
