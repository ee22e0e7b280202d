//! Contrast's strings among the other ways to configure.

use super::*;

const CGROUP: &[&str] = &["--cgroup", "/sys/fs/cgroup/web"];

fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    combine(CGROUP, variables, None)
}

#[test]
fn strings_say_what_happens_to_ports_and_listeners_of_the_one_workload() {
    let config = with(&[
        (
            "CONTRAST_INGRESS_PROXY_CONFIG",
            "web#8080#false##metrics#9090#true",
        ),
        (
            "CONTRAST_EGRESS_PROXY_CONFIG",
            "db#127.137.0.1:5432#db.prod:5432##x#127.137.0.2:1#[fd00::1]:2",
        ),
        ("CONTRAST_ADMIN_PORT", "9464"),
    ])
    .unwrap();
    assert_eq!(config.admin_port.map(NonZeroU16::get), Some(9464));
    let workload = sole_workload(&config);
    for (port, mode) in [
        (8080, IngressMode::Tls),
        (9090, IngressMode::Plaintext),
        (80, IngressMode::Mtls),
    ] {
        assert_eq!(workload.ingress.decide(port).mode, mode, "{port}");
    }
    let listeners = workload
        .listeners
        .iter()
        .map(|it| format!("{} {} {}", it.listen, it.remote, it.peers));
    assert_eq!(
        listeners.collect::<Vec<_>>(),
        [
            "127.137.0.1:5432 db.prod:5432 any",
            "127.137.0.2:1 [fd00::1]:2 any"
        ]
    );
    // What the program dials by itself is no less protected than without the string.
    let to = "192.0.2.1:80".parse().unwrap();
    let elsewhere = workload.egress.decide(to, Known::default()).unwrap();
    assert_eq!(elsewhere.mode, EgressMode::Mtls);
}

#[test]
fn an_empty_string_is_none_and_disabled_is_no_protection_of_ingress() {
    let empty = with(&[
        ("CONTRAST_INGRESS_PROXY_CONFIG", ""),
        ("CONTRAST_EGRESS_PROXY_CONFIG", ""),
        ("CONTRAST_ADMIN_PORT", ""),
    ])
    .unwrap();
    assert_eq!(
        sole_workload(&empty).ingress.default_mode(),
        IngressMode::Mtls
    );
    assert_eq!(empty.admin_port, None);
    let disabled = with(&[("CONTRAST_INGRESS_PROXY_CONFIG", "DISABLED")]).unwrap();
    let workload = sole_workload(&disabled);
    assert_eq!(workload.ingress.default_mode(), IngressMode::Plaintext);
    assert_eq!(workload.egress.default_mode(), EgressMode::Mtls);
}

#[test]
fn the_older_names_count_where_the_newer_are_not_given() {
    let older = with(&[
        ("EDG_INGRESS_PROXY_CONFIG", "a#1#true"),
        ("EDG_EGRESS_PROXY_CONFIG", "b#127.0.0.1:1#h:1"),
        ("EDG_ADMIN_PORT", "9901"),
    ])
    .unwrap();
    assert_eq!(older.admin_port.map(NonZeroU16::get), Some(9901));
    let workload = sole_workload(&older);
    assert_eq!(workload.ingress.decide(1).mode, IngressMode::Plaintext);
    assert_eq!(workload.listeners.len(), 1);
    let both = with(&[
        ("EDG_INGRESS_PROXY_CONFIG", "a#1#true"),
        ("CONTRAST_INGRESS_PROXY_CONFIG", "a#2#true"),
    ])
    .unwrap();
    let workload = sole_workload(&both);
    assert_eq!(workload.ingress.decide(1).mode, IngressMode::Mtls);
    assert_eq!(workload.ingress.decide(2).mode, IngressMode::Plaintext);
}

#[test]
fn a_string_replaces_what_the_file_says_of_the_same() {
    let text = r#"WEB
ingress_default = "tls"
egress_default = "deny"
[[workload.ingress]]
port = 80
mode = "plaintext"
[[workload.listener]]
listen = "127.0.0.1:1"
remote = "db:1"
peers = ["db"]"#;
    let file_alone = combine(&[], &[], Some(text)).unwrap();
    let workload = sole_workload(&file_alone);
    assert_eq!(workload.listeners[0].peers.to_string(), "db");
    let variables = [
        ("CONTRAST_INGRESS_PROXY_CONFIG", "a#81#true"),
        ("CONTRAST_EGRESS_PROXY_CONFIG", "a#127.0.0.1:2#db:2"),
    ];
    let config = combine(&[], &variables, Some(text)).unwrap();
    let workload = sole_workload(&config);
    for (port, mode) in [(80, IngressMode::Mtls), (81, IngressMode::Plaintext)] {
        assert_eq!(workload.ingress.decide(port).mode, mode, "{port}");
    }
    assert_eq!(workload.egress.default_mode(), EgressMode::Deny);
    assert_eq!(workload.listeners.len(), 1);
    assert_eq!(workload.listeners[0].listen.port(), 2);
}

#[test]
fn mistakes_in_strings_are_told_with_all_others() {
    let variables = [
        ("CONTRAST_INGRESS_PROXY_CONFIG", "a#0#true##b#81#maybe"),
        ("CONTRAST_EGRESS_PROXY_CONFIG", "a#10.0.0.1:1#h:1"),
        ("CONTRAST_ADMIN_PORT", "-1"),
    ];
    let error = combine(&["--name", "Web"], &variables, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--name: workload \"Web\": name `Web` is not a name; use a-z, 0-9 and dashes, with no dash at either end\n\
         --name: workload \"Web\": cgroup is missing; add cgroup = \"/sys/fs/cgroup/...\", or give --cgroup PATH\n\
         CONTRAST_ADMIN_PORT: admin_port `-1` is not a port; ports are 1 to 65535\n\
         CONTRAST_EGRESS_PROXY_CONFIG: entry 1, column 3: listen address 10.0.0.1:1 is not in 127.0.0.0/8; choose one there, such as 127.137.0.1\n\
         CONTRAST_INGRESS_PROXY_CONFIG: entry 1, column 3: port `0` is not a port; ports are 1 to 65535\n\
         CONTRAST_INGRESS_PROXY_CONFIG: entry 2, column 16: `maybe` does not say whether TLS is off; write false (TLS without a client certificate) or true (not protected), or leave the entry out (mutual TLS)"
    );
}

#[test]
fn strings_can_not_say_which_of_several_workloads_they_are_for() {
    let error = combine(
        &[],
        &[("EDG_EGRESS_PROXY_CONFIG", "a#127.0.0.1:1#h:1")],
        Some("WEB\nDB"),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "EDG_EGRESS_PROXY_CONFIG: the file has 2 workloads, so Contrast's strings cannot say which one they are for; write rules into the file instead"
    );
}

#[test]
fn listeners_of_the_file_are_judged_as_those_of_strings() {
    let text = r#"WEB
[[workload.listener]]
listen = "127.0.0.1:1"
[[workload.listener]]
listen = "10.0.0.1:1"
remote = "h"
[[workload.listener]]
listen = "127.0.0.1:2"
remote = "h:1"
[[workload.listener]]
listen = "127.0.0.1:2"
remote = "h:2""#;
    let error = combine(&[], &[], Some(text)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "agent.toml:5:1: workload \"web\", listener[0]: remote is missing; add remote = \"host:port\"\n\
         agent.toml:8:10: workload \"web\", listener[1]: listen address 10.0.0.1:1 is not in 127.0.0.0/8; choose one there, such as 127.137.0.1\n\
         agent.toml:9:10: workload \"web\", listener[1]: remote `h` is not a host with a port; write host:port, an IPv6 address as [address]:port\n\
         agent.toml:14:10: workload \"web\", listener[3]: 127.0.0.1:2 already has listener[2]; keep one of the two"
    );
}
