mod contrast;
mod coordinator;
mod in_force;
mod reading;
mod workload_rules;

use clap::Parser as _;

use super::*;
use crate::policy::{EgressMode, IngressMode, Known, RuleRef};

const WEB: &str = r#"[[workload]]
name = "web"
cgroup = "/sys/fs/cgroup/web"
netns = "/run/netns/web""#;

const DB: &str = r#"[[workload]]
name = "db"
cgroup = "/sys/fs/cgroup/db"
netns = "/run/netns/db""#;

/// Files that are wrong, and all that the operator reads. The words WEB and DB stand for the
/// workloads above, of four lines each.
const BAD: &[(&str, &str)] = &[
    (
        "",
        "no workload is configured; give --cgroup PATH, or --config FILE with a [[workload]]",
    ),
    (
        "admin_prt = 1",
        "agent.toml:1:1: unknown field `admin_prt`, expected one of `admin_port`, `log_format`, `log_level`, `offload`, `splice`, `local_acceleration`, `flow_table_entries`, `coordinator`, `workload`",
    ),
    (
        "admin_port = 0
WEB",
        "agent.toml:1:14: admin_port `0` is not a port; ports are 1 to 65535",
    ),
    (
        "admin_port = -1
WEB",
        "agent.toml:1:14: admin_port `-1` is not a port; ports are 1 to 65535",
    ),
    (
        "admin_port = 65536
WEB",
        "agent.toml:1:14: admin_port `65536` is not a port; ports are 1 to 65535",
    ),
    (
        r#"admin_port = "x"
WEB"#,
        "agent.toml:1:14: admin_port `x` is not a port; ports are 1 to 65535",
    ),
    (
        "admin_port = 9464.0
WEB",
        "agent.toml:1:14: admin_port `9464.0` is not a port; ports are 1 to 65535",
    ),
    (
        r#"log_format = "xml"
WEB"#,
        "agent.toml:1:14: log_format `xml` is unknown; write text or json",
    ),
    (
        "log_level = 3
WEB",
        "agent.toml:1:13: invalid type: integer `3`, expected a string",
    ),
    (
        r#"log_level = "loud"
WEB"#,
        "agent.toml:1:13: log_level `loud` is unknown; write error, warn, info, debug or trace",
    ),
    (
        "name = ",
        "agent.toml:1:8: string values must be quoted, expected literal string",
    ),
    (
        "WEB
prt = 3",
        "agent.toml:5:1: unknown field `prt`, expected one of `name`, `cgroup`, `netns`, `shares_netns`, `tls_dir`, `spiffe_id`, `ingress_default`, `ingress_peers`, `egress_default`, `egress_peers`, `udp`, `dry_run`, `ingress`, `egress`, `listener`",
    ),
    (
        r#"[workload]
name = "web""#,
        "agent.toml:1:1: invalid type: map, expected a sequence; write the header in double brackets, [[workload]]",
    ),
    (
        r#"WEB
name = "web""#,
        "agent.toml:5:1: duplicate key; remove one",
    ),
    (
        r#"[[workload]]
cgroup = "/c""#,
        r#"agent.toml:1:1: workload[0]: name is missing; add name = "...", or give --name NAME"#,
    ),
    (
        r#"[[workload]]
name = "web""#,
        r#"agent.toml:1:1: workload "web": cgroup is missing; add cgroup = "/sys/fs/cgroup/...", or give --cgroup PATH"#,
    ),
    (
        r#"[[workload]]
name = "Web"
cgroup = "/c""#,
        r#"agent.toml:2:8: workload "Web": name `Web` is not a name; use a-z, 0-9 and dashes, with no dash at either end"#,
    ),
    (
        r#"[[workload]]
name = "any"
cgroup = "/c""#,
        r#"agent.toml:2:8: workload "any": name `any` is reserved, as it means every peer of the mesh; choose another name"#,
    ),
    (
        r#"[[workload]]
name = "web"
cgroup = "c/../d""#,
        r#"agent.toml:3:10: workload "web": cgroup `c/../d` is not an absolute path without `.` and `..`; write it from / on"#,
    ),
    (
        r#"[[workload]]
name = "web"
cgroup = "/c/../d""#,
        r#"agent.toml:3:10: workload "web": cgroup `/c/../d` is not an absolute path without `.` and `..`; write it from / on"#,
    ),
    (
        r#"WEB
tls_dir = """#,
        r#"agent.toml:5:11: workload "web": tls_dir `` is not an absolute path without `.` and `..`; write it from / on"#,
    ),
    (
        "WEB
DB
WEB",
        r#"agent.toml:10:8: workload "web": name `web` is already the name of workload[0]; names must be unique
agent.toml:11:10: workload "web": cgroup `/sys/fs/cgroup/web` and `/sys/fs/cgroup/web` of workload "web" hold the same processes; give each workload a cgroup of its own, beside the other
agent.toml:12:9: workload "web": shares its network namespace (/run/netns/web) with workload "web", so a connection to a port could be meant for either; give each workload a netns of its own, or say shares_netns = true for both"#,
    ),
    (
        r#"WEB
[[workload]]
name = "db"
cgroup = "/sys/fs/cgroup/web/child""#,
        r#"agent.toml:7:10: workload "db": cgroup `/sys/fs/cgroup/web/child` and `/sys/fs/cgroup/web` of workload "web" hold the same processes; give each workload a cgroup of its own, beside the other"#,
    ),
    (
        r#"WEB
[[workload]]
name = "db"
cgroup = "/sys/fs/cgroup""#,
        r#"agent.toml:7:10: workload "db": cgroup `/sys/fs/cgroup` and `/sys/fs/cgroup/web` of workload "web" hold the same processes; give each workload a cgroup of its own, beside the other"#,
    ),
    (
        r#"[[workload]]
name = "a"
cgroup = "/a"
[[workload]]
name = "b"
cgroup = "/b""#,
        r#"agent.toml:4:1: workload "b": shares its network namespace (the agent's own) with workload "a", so a connection to a port could be meant for either; give each workload a netns of its own, or say shares_netns = true for both"#,
    ),
    (
        r#"WEB
ingress_default = "deny""#,
        r#"agent.toml:5:19: workload "web": ingress_default `deny` is unknown; write mtls, tls or plaintext"#,
    ),
    (
        r#"WEB
egress_default = "tls""#,
        r#"agent.toml:5:18: workload "web": egress_default `tls` is unknown; write mtls, plaintext or deny"#,
    ),
    (
        "WEB
[[workload.ingress]]
port = 0",
        r#"agent.toml:6:8: workload "web", ingress[0]: port `0` is not a port; ports are 1 to 65535"#,
    ),
    (
        r#"WEB
[[workload.ingress]]
mode = "tls""#,
        r#"agent.toml:5:1: workload "web", ingress[0]: port is missing; add port = 8080, the port that the program listens on"#,
    ),
    (
        r#"WEB
[[workload.ingress]]
port = 80
[[workload.ingress]]
port = 80
mode = "tls""#,
        r#"agent.toml:8:8: workload "web", ingress[1]: port 80 already has the rule ingress[0]; keep one of the two"#,
    ),
    (
        r#"WEB
[[workload.ingress]]
port = 80
mode = "mtsl""#,
        r#"agent.toml:7:8: workload "web", ingress[0]: mode `mtsl` is unknown; write mtls, tls or plaintext"#,
    ),
    (
        r#"WEB
[[workload.ingress]]
port = 80
mode = "tls"
peers = ["client"]"#,
        r#"agent.toml:8:9: workload "web", ingress[0]: peers has no effect where mode is tls; remove peers, or set mode = "mtls""#,
    ),
    (
        "WEB
[[workload.egress]]
port = 80",
        r#"agent.toml:5:1: workload "web", egress[0]: none of cidr, name and workload is given; add cidr = "10.0.0.0/8", or "0.0.0.0/0" and "::/0" for every address, or name = "db.example.com", or workload = "db""#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.1/8""#,
        r#"agent.toml:6:8: workload "web", egress[0]: cidr `10.0.0.1/8` has bits set behind its prefix; write 10.0.0.0/8 for the network, or leave the prefix out"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.0/33""#,
        r#"agent.toml:6:8: workload "web", egress[0]: cidr `10.0.0.0/33` has no valid prefix length; write a number from 0 to 32 after the slash"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "example.com""#,
        r#"agent.toml:6:8: workload "web", egress[0]: cidr `example.com` is not an IPv4 or IPv6 network; write it as 10.0.0.0/8, fd00::/8 or 192.0.2.7, and a DNS name as name"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "a..b""#,
        r#"agent.toml:6:8: workload "web", egress[0]: name `a..b` is not a DNS name; write it as db.example.com"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "10.0.0.300""#,
        r#"agent.toml:6:8: workload "web", egress[0]: name `10.0.0.300` is an address or a mistaken one, not a DNS name; write addresses as cidr"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "a.*.example.com""#,
        r#"agent.toml:6:8: workload "web", egress[0]: name `a.*.example.com` has a star that is not the whole first label; write *.example.com for every name below example.com"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "*db.example.com""#,
        r#"agent.toml:6:8: workload "web", egress[0]: name `*db.example.com` has a star that is not the whole first label; write *.example.com for every name below example.com"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "*""#,
        r#"agent.toml:6:8: workload "web", egress[0]: name `*` would be every name there is; write cidr = "0.0.0.0/0" and cidr = "::/0" for every address"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "*.example.com"
mode = "plaintext""#,
        r#"agent.toml:6:8: workload "web", egress[0]: mode plaintext with a name alone lets whoever answers for *.example.com choose what goes out in clear; add cidr, the network that its addresses lie in"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "*.example.com"
[[workload.egress]]
name = "*.Example.com.""#,
        r#"agent.toml:8:8: workload "web", egress[1]: *.example.com with the same ports already has the rule egress[0]; keep one of the two"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "api.example.com"
mode = "plaintext""#,
        r#"agent.toml:6:8: workload "web", egress[0]: mode plaintext with a name alone lets whoever answers for api.example.com choose what goes out in clear; add cidr, the network that its addresses lie in"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "db.example.com"
[[workload.egress]]
name = "db.Example.com.""#,
        r#"agent.toml:8:8: workload "web", egress[1]: db.example.com with the same ports already has the rule egress[0]; keep one of the two"#,
    ),
    (
        r#"WEB
[[workload.egress]]
name = "db.example.com"
cidr = "10.0.0.0/8"
port = "80-90"
[[workload.egress]]
cidr = "10.0.0.0/8"
name = "db.example.com"
port = "85-95""#,
        r#"agent.toml:11:8: workload "web", egress[1]: db.example.com in 10.0.0.0/8 with ports 85-95 overlaps egress[0] with ports 80-90, and neither is narrower; split the ranges"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "::/0"
port = "90-80""#,
        r#"agent.toml:7:8: workload "web", egress[0]: port `90-80` runs backwards; write 80-90"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "::/0"
port = [80]"#,
        r#"agent.toml:7:8: workload "web", egress[0]: port `[80]` is not a port; ports are 1 to 65535"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "::/0"
port = "80-70000""#,
        r#"agent.toml:7:8: workload "web", egress[0]: port `80-70000` is not a port; ports are 1 to 65535"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.0/8"
[[workload.egress]]
cidr = "10.0.0.0/8"
mode = "deny""#,
        r#"agent.toml:8:8: workload "web", egress[1]: 10.0.0.0/8 with the same ports already has the rule egress[0]; keep one of the two"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.0/8"
port = "80-90"
[[workload.egress]]
cidr = "10.0.0.0/8"
port = "85-95""#,
        r#"agent.toml:9:8: workload "web", egress[1]: 10.0.0.0/8 with ports 85-95 overlaps egress[0] with ports 80-90, and neither is narrower; split the ranges"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.0/8"
mode = "deny"
peers = ["db"]"#,
        r#"agent.toml:8:9: workload "web", egress[0]: peers has no effect where mode is deny; remove peers, or set mode = "mtls""#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.0/8"
peers = []"#,
        r#"agent.toml:7:9: workload "web", egress[0]: peers is empty, so nothing could be reached; name the peers, or use mode "deny""#,
    ),
    (
        "WEB
egress_peers = []",
        r#"agent.toml:5:16: workload "web": egress_peers is empty, so nothing could be reached; name the peers, or use mode "deny""#,
    ),
    (
        r#"WEB
egress_peers = ["any", "db"]"#,
        r#"agent.toml:5:17: workload "web": egress_peers lists `any` beside others, which then have no effect; keep one or the others"#,
    ),
    (
        r#"WEB
egress_peers = ["!db", "!ns/test"]"#,
        r#"agent.toml:5:16: workload "web": egress_peers says only who is not allowed; add "any", or who is"#,
    ),
    (
        r#"WEB
egress_peers = ["ns/shop", "!any"]"#,
        r#"agent.toml:5:28: workload "web": egress_peers lists `!any`, which denies everybody; name who is not allowed"#,
    ),
    (
        r#"WEB
egress_peers = ["db", "!db"]"#,
        r#"agent.toml:5:23: workload "web": egress_peers lists `!db` and `db`; remove one"#,
    ),
    (
        r#"WEB
egress_peers = ["any", "!db", "!db"]"#,
        r#"agent.toml:5:31: workload "web": egress_peers lists `!db` twice; remove one"#,
    ),
    (
        r#"WEB
egress_peers = ["db", "db"]"#,
        r#"agent.toml:5:23: workload "web": egress_peers lists `db` twice; remove one"#,
    ),
    (
        r#"WEB
egress_peers = ["spiffe://mesh.local"]"#,
        r#"agent.toml:5:17: workload "web": peer `spiffe://mesh.local` names a trust domain, not a workload; write any to allow the whole mesh"#,
    ),
    (
        r#"WEB
egress_peers = ["http://mesh.local/ns/a/sa/b"]"#,
        r#"agent.toml:5:17: workload "web": peer `http://mesh.local/ns/a/sa/b` is not a SPIFFE ID (a SPIFFE ID begins with `spiffe://`, in lower case); write spiffe://<trust domain>/ns/<namespace>/sa/<workload>"#,
    ),
    (
        r#"WEB
egress_peers = ["Db"]"#,
        r#"agent.toml:5:17: workload "web": peer `Db` is not a name; use a-z, 0-9 and dashes, with no dash at either end"#,
    ),
    (
        r#"WEB
egress_peers = "db""#,
        r#"agent.toml:5:16: invalid type: string "db", expected a sequence; write a list, ["..."]"#,
    ),
    (
        r#"WEB
ingress_default = "tls"
ingress_peers = ["db"]"#,
        r#"agent.toml:6:17: workload "web": ingress_peers has no effect, as every ingress rule and ingress_default has another mode than mtls or its own peers; remove it"#,
    ),
    (
        r#"admin_port = 0
WEB
tls_dir = "x"
[[workload.ingress]]
port = -1
mode = "x"
[[workload.egress]]
cidr = "z""#,
        r#"agent.toml:1:14: admin_port `0` is not a port; ports are 1 to 65535
agent.toml:6:11: workload "web": tls_dir `x` is not an absolute path without `.` and `..`; write it from / on
agent.toml:8:8: workload "web", ingress[0]: port `-1` is not a port; ports are 1 to 65535
agent.toml:9:8: workload "web", ingress[0]: mode `x` is unknown; write mtls, tls or plaintext
agent.toml:11:8: workload "web", egress[0]: cidr `z` is not an IPv4 or IPv6 network; write it as 10.0.0.0/8, fd00::/8 or 192.0.2.7, and a DNS name as name"#,
    ),
];

#[test]
fn every_mistake_is_reported_with_its_place_and_what_to_do() {
    for (text, diagnostics) in BAD {
        let error = parse(text).expect_err(text);
        assert_eq!(error.to_string(), *diagnostics, "for\n{text}");
    }
}

#[test]
fn what_is_unusual_but_clear_is_accepted() {
    for text in [
        "WEB",
        "WEB\nDB",
        "admin_port = 1\nlog_format = \"json\"\nlog_level = \"debug\"\nWEB",
        "admin_port = \"9464\"\nWEB",
        "admin_port = 65535\nWEB",
        // Beside each other, although one name begins with the other.
        "WEB\n[[workload]]\nname = \"b\"\ncgroup = \"/sys/fs/cgroup/web2\"",
        // The narrower range is the exception to the wider one.
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\nmode = \"deny\"\n\
         [[workload.egress]]\ncidr = \"10.0.0.0/8\"\nport = 5432\n\
         [[workload.egress]]\ncidr = \"10.0.0.0/8\"\nport = \"5000-6000\"",
        // One network within another.
        "WEB\n[[workload.egress]]\ncidr = \"::/0\"\n[[workload.egress]]\ncidr = \"fd00::/8\"",
        // A workload that only calls others.
        "WEB\ningress_peers = []",
        // The default peers are those of the one rule with mtls.
        "WEB\ningress_default = \"plaintext\"\ningress_peers = [\"db\"]\n\
         [[workload.ingress]]\nport = 80",
    ] {
        if let Err(error) = parse(text) {
            panic!("{error}\nfor\n{text}");
        }
    }
}

#[test]
fn a_file_becomes_policies_that_decide_as_it_says() {
    let config = parse(
        r#"admin_port = 9464
WEB
ingress_peers = ["client"]
egress_default = "deny"
[[workload.ingress]]
port = 8080
mode = "tls"
[[workload.egress]]
cidr = "192.0.2.7"
port = "8000-8100"
peers = ["spiffe://mesh.local/ns/default/sa/db"]"#,
    )
    .unwrap();
    let web = sole_workload(&config);
    assert_eq!(config.admin_port.unwrap().get(), 9464);
    assert_eq!(config.pins.instance.as_str(), "default");
    assert_eq!(web.certificates, files("/etc/sealwire/web"));
    assert_eq!(web.ingress.decide(8080).mode, IngressMode::Tls);
    assert_eq!(web.ingress.decide(80).mode, IngressMode::Mtls);
    assert_eq!(web.ingress.decide(80).peers.to_string(), "client");
    let decide = |to: &str| web.egress.decide(to.parse().unwrap(), Known::default());
    let to_db = decide("192.0.2.7:8100").unwrap();
    assert_eq!(to_db.mode, EgressMode::Mtls);
    assert_eq!(
        to_db.peers.to_string(),
        "spiffe://mesh.local/ns/default/sa/db"
    );
    let elsewhere = decide("192.0.2.8:8100").unwrap();
    assert_eq!(
        (elsewhere.mode, elsewhere.rule),
        (EgressMode::Deny, RuleRef::EgressDefault)
    );
}

#[test]
fn an_option_wins_over_the_environment_and_the_environment_over_the_file() {
    let port = |arguments: &[&str], variables: &[(&str, &str)], text: &str| {
        let config = combine(arguments, variables, Some(text)).unwrap();
        config.admin_port.map(NonZeroU16::get)
    };
    let ours = ("SEALWIRE_ADMIN_PORT", "2");
    let contrasts = ("CONTRAST_ADMIN_PORT", "3");
    let text = "admin_port = 4\nWEB";
    assert_eq!(
        port(&["--admin-port", "1"], &[ours, contrasts], text),
        Some(1)
    );
    assert_eq!(port(&[], &[ours, contrasts], text), Some(2));
    assert_eq!(port(&[], &[contrasts], text), Some(3));
    assert_eq!(port(&[], &[("CONTRAST_ADMIN_PORT", "")], text), Some(4));
    assert_eq!(port(&[], &[], "WEB"), None);
}

#[test]
fn a_wrong_option_or_variable_is_named() {
    for (arguments, variables, text, diagnostics) in [
        (
            &["--admin-port", "-1", "--workers", "0"][..],
            &[("SEALWIRE_LOG_FORMAT", "xml")][..],
            Some("WEB"),
            "--admin-port: admin_port `-1` is not a port; ports are 1 to 65535\n\
             --workers: workers `0` is not a number of threads; write 1 to 32, or leave it out\n\
             SEALWIRE_LOG_FORMAT: log_format `xml` is unknown; write text or json",
        ),
        (
            &[],
            &[("CONTRAST_ADMIN_PORT", "65536")],
            Some("WEB"),
            "CONTRAST_ADMIN_PORT: admin_port `65536` is not a port; ports are 1 to 65535",
        ),
        (
            &["--cgroup", "web"],
            &[],
            None,
            "--cgroup: workload \"web\": cgroup `web` is not an absolute path without `.` and `..`; \
             write it from / on",
        ),
        (
            &["--name", "web"],
            &[],
            None,
            "--name: workload \"web\": cgroup is missing; \
             add cgroup = \"/sys/fs/cgroup/...\", or give --cgroup PATH",
        ),
        (
            &["--cgroup", "/"],
            &[],
            None,
            "--cgroup: workload[0]: name is missing; add name = \"...\", or give --name NAME",
        ),
        (
            &["--cgroup", "/sys/fs/cgroup/web"],
            &[],
            Some("WEB\nDB"),
            "--cgroup: the file has 2 workloads, so an option cannot say which one it changes; \
             leave --cgroup, --name, --netns, --shares-netns and --tls-dir out, or keep one workload in the file",
        ),
        (
            &["--instance", "../web", "--bpffs", "bpf"],
            &[],
            Some("WEB"),
            "--bpffs: bpffs `bpf` is not an absolute path without `.` and `..`; write it from / on\n\
             --instance: instance `../web` is not a name; use a-z, 0-9 and dashes, with no dash at \
             either end",
        ),
    ] {
        let error = combine(arguments, variables, text).expect_err(diagnostics);
        assert_eq!(error.to_string(), diagnostics);
    }
}

#[test]
fn pod_mode_makes_a_workload_without_a_file() {
    let cgroup = "/sys/fs/cgroup/system.slice/nginx.service";
    let config = combine(&["--cgroup", cgroup], &[], None).unwrap();
    let workload = sole_workload(&config);
    assert_eq!(workload.name.as_str(), "nginx-service");
    assert_eq!(workload.cgroup, Path::new(cgroup));
    assert_eq!(workload.netns, None);
    assert_eq!(workload.certificates, files("/etc/sealwire/nginx-service"));
    assert_eq!(workload.ingress.decide(80).mode, IngressMode::Mtls);
    assert_eq!(config.pins.instance.as_str(), "nginx-service");
}

#[test]
fn workloads_that_all_say_so_share_a_namespace() {
    let text = |first, second| {
        format!(
            "[[workload]]\nname = \"a\"\ncgroup = \"/a\"\nshares_netns = {first}\n\
             [[workload]]\nname = \"b\"\ncgroup = \"/b\"\nshares_netns = {second}"
        )
    };
    let config = combine(&[], &[], Some(&text(true, true))).unwrap();
    assert!(
        config
            .workloads
            .iter()
            .all(|workload| workload.shares_netns)
    );
    for (first, second) in [(true, false), (false, true)] {
        let error = combine(&[], &[], Some(&text(first, second))).unwrap_err();
        assert!(error.to_string().contains("shares its network namespace"));
    }
}

#[test]
fn a_flag_says_that_the_namespace_is_shared() {
    let config = combine(&["--cgroup", "/a", "--shares-netns"], &[], None).unwrap();
    assert!(sole_workload(&config).shares_netns);
}

#[test]
fn a_listener_in_a_shared_namespace_would_be_everybodys() {
    let text = "WEB\nshares_netns = true\n[[workload.listener]]\nlisten = \"127.0.0.2:80\"\n\
                remote = \"db:80\"";
    let error = combine(&[], &[], Some(text)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("listener 127.0.0.2:80 would serve every program")
    );
}

#[test]
fn pod_mode_changes_the_one_workload_of_the_file_and_keeps_its_rules() {
    let text = "WEB\n[[workload.ingress]]\nport = 80\nmode = \"tls\"";
    let variables = [("SEALWIRE_TLS_DIR", "/tls")];
    let config = combine(
        &["--cgroup", "/sys/fs/cgroup/other"],
        &variables,
        Some(text),
    )
    .unwrap();
    let workload = sole_workload(&config);
    assert_eq!(workload.name.as_str(), "web");
    assert_eq!(workload.cgroup, Path::new("/sys/fs/cgroup/other"));
    assert_eq!(workload.netns.as_deref(), Some(Path::new("/run/netns/web")));
    assert_eq!(workload.certificates, files("/tls"));
    assert_eq!(workload.ingress.decide(80).mode, IngressMode::Tls);
    assert_eq!(config.pins.instance.as_str(), "web");
}

#[test]
fn detach_needs_no_workload_and_finds_the_same_pins() {
    let pins = |arguments: &[&str]| {
        Pins::load(&flags(arguments), &Environment::default())
            .unwrap()
            .instance
            .to_string()
    };
    assert_eq!(pins(&["--detach"]), "default");
    assert_eq!(pins(&["--detach", "--name", "web"]), "web");
    assert_eq!(pins(&["--detach", "--cgroup", "/sys/fs/cgroup/web"]), "web");
    assert_eq!(
        pins(&[
            "--detach",
            "--instance",
            "blue",
            "--config",
            "/does/not/exist"
        ]),
        "blue"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let flags = flags(&["--config", "/does/not/exist.toml"]);
    let error = Config::load(&flags, &Environment::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "reading the configuration /does/not/exist.toml: No such file or directory (os error 2); \
         check the path and its permissions"
    );
}

#[test]
fn the_effective_configuration_is_json() {
    let text = "WEB\n[[workload.egress]]\ncidr = \"fd00::/8\"\nport = 443\npeers = [\"db\"]";
    let config = combine(&["--workers", "2"], &[], Some(text)).unwrap();
    let any = ["any"];
    assert_eq!(
        serde_json::to_value(&config).unwrap(),
        serde_json::json!({
            "admin_port": null, "log_format": "text", "log_level": "info", "ebpf_debug": false, "offload": "off", "splice": "auto", "local_acceleration": "off", "flow_table_entries": null,
            "workers": 2, "pins": { "bpffs": "/sys/fs/bpf", "instance": "default" },
            "coordinator": null,
            "workloads": [{
                "name": "web", "cgroup": "/sys/fs/cgroup/web", "netns": "/run/netns/web",
                "shares_netns": false, "tls_dir": "/etc/sealwire/web",
                "ingress": { "default": "mtls", "peers": any, "rules": [] },
                "egress": { "default": "mtls", "peers": any, "rules": [
                    { "cidr": "fd00::/8", "ports": "443", "mode": "mtls", "peers": ["db"] },
                ]},
                "listeners": [],
            "udp": "allow",
                "enforcement": "enforced",
            }],
        })
    );
}

#[test]
fn whatever_the_machine_lacks_is_reported_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().display().to_string();
    let file = format!("{directory}/file");
    std::fs::write(&file, "").unwrap();
    let text = format!(
        r#"[[workload]]
name = "absent"
cgroup = "{directory}/absent"
netns = "{directory}/absent"
tls_dir = "{directory}/absent"
[[workload]]
name = "wrong"
cgroup = "/proc"
netns = "{file}"
tls_dir = "{file}""#
    );
    let config = parse(&text).unwrap();
    assert_eq!(
        config
            .check_system()
            .unwrap_err()
            .to_string()
            .replace(&directory, "DIR"),
        [
            "workload \"absent\": cgroup DIR/absent does not exist; create it with mkdir and move \
             the workload's processes there, or correct the path",
            "workload \"absent\": netns DIR/absent does not exist; create it with \
             `ip netns add NAME`, or correct the path",
            "workload \"absent\": tls_dir DIR/absent does not exist; create it with \
             `sealwire pki issue`, or name another with --tls-dir",
            "workload \"wrong\": cgroup /proc is not in a cgroup2 file system; name a directory \
             below the mount of type cgroup2 (see `findmnt -t cgroup2`)",
            "workload \"wrong\": netns DIR/file is not a network namespace; name a file such as \
             /run/netns/NAME (made by `ip netns add NAME`) or /proc/PID/ns/net",
            "workload \"wrong\": tls_dir DIR/file is not a directory; name the directory",
        ]
        .join("\n")
    );
}

#[test]
fn a_namespace_of_another_kind_is_no_network_namespace() {
    let diagnostics = |netns: &str| {
        let arguments = ["--cgroup", "/sys", "--netns", netns];
        combine(&arguments, &[], None)
            .unwrap()
            .check_system()
            .unwrap_err()
            .to_string()
    };
    let own = diagnostics("/proc/self/ns/net");
    if own.contains("setns") {
        eprintln!("skipped: entering a namespace needs root");
        return;
    }
    assert!(!own.contains("netns"), "{own}");
    assert!(diagnostics("/proc/self/ns/uts").contains("is not a network namespace"));
}

#[test]
fn two_paths_to_one_namespace_are_the_same_namespace() {
    let text = r#"[[workload]]
name = "one"
cgroup = "/one"
[[workload]]
name = "two"
cgroup = "/two"
netns = "/proc/self/ns/net""#;
    let diagnostics = parse(text).unwrap().check_system().unwrap_err().to_string();
    let shared = "workload \"two\": shares its network namespace (/proc/self/ns/net) with \
                  workload \"one\"";
    assert!(diagnostics.contains(shared), "{diagnostics}");
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    combine(&[], &[], Some(text))
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect()
}

fn combine(
    arguments: &[&str],
    variables: &[(&str, &str)],
    text: Option<&str>,
) -> Result<Config, ConfigError> {
    let environment = environment(variables);
    let text = text.map(|text| text.replace("WEB", WEB).replace("DB", DB));
    let parse = |text: String| ConfigFile::parse(Path::new("agent.toml"), &text);
    effective(
        &flags(arguments),
        &environment,
        text.map(parse).transpose()?,
    )
}

fn flags(arguments: &[&str]) -> Flags {
    Flags::try_parse_from([&["sealwire-agent"], arguments].concat()).unwrap()
}

fn files(tls_dir: &str) -> CertificateOrigin {
    CertificateOrigin::Files {
        tls_dir: tls_dir.into(),
    }
}

fn sole_workload(config: &Config) -> &Workload {
    assert_eq!(config.workloads.len(), 1, "{config:#?}");
    &config.workloads[0]
}
