//! `[coordinator]`, its options, and `init`.

use super::*;
use crate::flags::Command;

const COORDINATOR: &str = r#"[coordinator]
addresses = ["coordinator"]
manifest = "/m.json"
"#;

/// Files that are wrong, and all that the operator reads. The words WEB and DB stand for workloads
/// of four lines each, COORDINATOR for a table of three lines.
const BAD: &[(&str, &str)] = &[
    (
        "[coordinator]
WEB",
        "agent.toml:1:1: coordinator.addresses is missing; add addresses = [\"coordinator:7777\"], or give --coordinator HOST:PORT
agent.toml:1:1: coordinator.manifest is missing; add manifest = \"/etc/sealwire/manifest.json\", or give --coordinator-manifest FILE: it says what the Coordinator must prove",
    ),
    (
        r#"[coordinator]
addresses = []
manifest = ""
WEB"#,
        "agent.toml:2:13: coordinator.addresses is missing; add addresses = [\"coordinator:7777\"], or give --coordinator HOST:PORT
agent.toml:3:12: coordinator.manifest is empty; name the file",
    ),
    (
        r#"[coordinator]
addresses = ["https://c:7777", "c:0", "a:b:1", "", "c", "c:7777"]
manifest = "m.json"
WEB"#,
        "agent.toml:2:14: address `https://c:7777` is a URL; write host:port alone
agent.toml:2:32: address `c:0` has no valid port; ports are 1 to 65535, and 7777 if none is written
agent.toml:2:39: address `a:b:1` is not an IPv6 address with a port; write it as [fd00::1]:7777
agent.toml:2:48: address `` has no host name; write coordinator:7777, 192.0.2.7:7777 or [fd00::1]:7777
agent.toml:2:57: coordinator.addresses lists `c:7777` twice; remove one",
    ),
    (
        r#"[coordinator]
addresses = "coordinator"
WEB"#,
        "agent.toml:1:1: coordinator.manifest is missing; add manifest = \"/etc/sealwire/manifest.json\", or give --coordinator-manifest FILE: it says what the Coordinator must prove
agent.toml:2:13: invalid type: string \"coordinator\", expected a sequence; write a list, [\"...\"]",
    ),
    (
        "[coordinator]
adresses = []
WEB",
        "agent.toml:1:1: coordinator.addresses is missing; add addresses = [\"coordinator:7777\"], or give --coordinator HOST:PORT
agent.toml:1:1: coordinator.manifest is missing; add manifest = \"/etc/sealwire/manifest.json\", or give --coordinator-manifest FILE: it says what the Coordinator must prove
agent.toml:2:1: unknown field `adresses`, expected one of `addresses`, `manifest`, `state_dir`, `allow_simulated_tee`, `simulated_tee`, `vek`, `crl`, `collateral`",
    ),
    (
        r#"COORDINATOR
state_dir = "state"
WEB"#,
        "agent.toml:5:13: coordinator.state_dir `state` is not an absolute path without `.` and `..`; write it from / on",
    ),
    (
        r#"COORDINATOR
simulated_tee = "tee.json"
vek = "vek.pem"
WEB"#,
        "agent.toml:5:17: coordinator.simulated_tee protects nothing; if that is meant, add allow_simulated_tee = true, or give --allow-simulated-tee
agent.toml:6:7: coordinator.vek has no effect beside coordinator.simulated_tee; remove one of the two",
    ),
    (
        r#"COORDINATOR
WEB
tls_dir = "/tls""#,
        "agent.toml:9:11: workload \"web\": tls_dir has no effect, as certificates come from the Coordinator; remove tls_dir, or [coordinator] and its options",
    ),
    (
        r#"WEB
spiffe_id = "spiffe://mesh.local/ns/a/sa/b""#,
        "agent.toml:5:13: workload \"web\": spiffe_id has no effect, as certificates come from files; remove it, or add [coordinator]",
    ),
    (
        r#"COORDINATOR
WEB
spiffe_id = "spiffe://mesh.local"
DB
spiffe_id = "mesh.local/db""#,
        "agent.toml:9:13: workload \"web\": spiffe_id `spiffe://mesh.local` names a trust domain, not a workload; write the workload's
agent.toml:14:13: workload \"db\": spiffe_id `mesh.local/db` is not a SPIFFE ID (a SPIFFE ID begins with `spiffe://`, in lower case); write the one that the manifest has",
    ),
    (
        r#"COORDINATOR
WEB
spiffe_id = "spiffe://mesh.local/ns/a/sa/b"
DB"#,
        "agent.toml:10:1: workload \"db\": spiffe_id is missing; add spiffe_id = \"spiffe://...\", the identity of this one among the workloads that the manifest lets this node host",
    ),
];

#[test]
fn every_mistake_is_reported_with_its_place_and_what_to_do() {
    for (text, diagnostics) in BAD {
        let error = parse(&text.replace("COORDINATOR", COORDINATOR)).expect_err(text);
        assert_eq!(error.to_string(), *diagnostics, "for\n{text}");
    }
}

#[test]
fn a_table_makes_certificates_come_from_the_coordinator() {
    let text = format!("{COORDINATOR}vek = \"vek.der\"\nWEB");
    let config = parse(&text).unwrap();
    let coordinator = config.coordinator.as_ref().unwrap();
    assert_eq!(coordinator.addresses[0].as_str(), "coordinator:7777");
    assert_eq!(coordinator.manifest, Path::new("/m.json"));
    let state_dir = Path::new("/var/lib/sealwire/agent-default");
    assert_eq!(coordinator.state_dir.as_deref(), Some(state_dir));
    assert!(!coordinator.allow_simulated_tee);
    assert_eq!(
        coordinator.tee,
        Tee::Hardware {
            vek: Some("vek.der".into()),
            crl: None,
            collateral: None,
        }
    );
    let own = CertificateOrigin::Coordinator { spiffe_id: None };
    assert_eq!(sole_workload(&config).certificates, own);
}

#[test]
fn options_and_variables_alone_name_a_coordinator_in_pod_mode() {
    let config = combine(
        &["--cgroup", "/sys/fs/cgroup/web", "--coordinator", "a:1,b:2"],
        &[
            ("SEALWIRE_COORDINATOR_MANIFEST", "m.json"),
            ("SEALWIRE_STATE_DIR", "/state"),
        ],
        None,
    )
    .unwrap();
    let coordinator = config.coordinator.unwrap();
    let addresses = coordinator.addresses.iter().map(ToString::to_string);
    assert_eq!(addresses.collect::<Vec<_>>(), ["a:1", "b:2"]);
    assert_eq!(coordinator.state_dir.as_deref(), Some(Path::new("/state")));
    let config = combine(
        &[
            "--cgroup",
            "/sys/fs/cgroup/web",
            "--coordinator-manifest",
            "m",
        ],
        &[("SEALWIRE_COORDINATOR", "a, [fd00::1]:2")],
        None,
    )
    .unwrap();
    let coordinator = config.coordinator.unwrap();
    let addresses = coordinator.addresses.iter().map(ToString::to_string);
    assert_eq!(addresses.collect::<Vec<_>>(), ["a:7777", "[fd00::1]:2"]);
    let state_dir = Path::new("/var/lib/sealwire/agent-web");
    assert_eq!(coordinator.state_dir.as_deref(), Some(state_dir));
}

#[test]
fn an_option_wins_over_the_environment_and_the_environment_over_the_file() {
    let first = |arguments: &[&str], variables: &[(&str, &str)]| {
        let config = combine(arguments, variables, Some(&format!("{COORDINATOR}WEB"))).unwrap();
        config.coordinator.unwrap().addresses[0].to_string()
    };
    let ours = ("SEALWIRE_COORDINATOR", "b");
    let of_init = ("COORDINATOR_HOST", "c");
    assert_eq!(first(&["--coordinator", "a"], &[ours, of_init]), "a:7777");
    assert_eq!(first(&[], &[ours, of_init]), "b:7777");
    assert_eq!(first(&[], &[of_init]), "coordinator:7777");
}

#[test]
fn contrasts_variable_alone_asks_no_coordinator() {
    let config = combine(&[], &[("COORDINATOR_HOST", "c")], Some("WEB")).unwrap();
    assert_eq!(config.coordinator, None);
}

#[test]
fn a_simulated_tee_is_allowed_by_option_or_key() {
    let simulated = |arguments: &[&str], key: &str| {
        let text = format!("{COORDINATOR}{key}\nsimulated_tee = \"tee.json\"\nWEB");
        let coordinator = combine(arguments, &[], Some(&text))?.coordinator;
        Ok::<_, ConfigError>(coordinator.unwrap())
    };
    let by_option = simulated(&["--allow-simulated-tee"], "allow_simulated_tee = false").unwrap();
    let by_key = simulated(&[], "allow_simulated_tee = true").unwrap();
    for coordinator in [by_option, by_key] {
        assert!(coordinator.allow_simulated_tee);
        let simulated_tee = "tee.json".into();
        assert_eq!(coordinator.tee, Tee::Simulated { simulated_tee });
    }
    simulated(&[], "allow_simulated_tee = false").unwrap_err();
}

#[test]
fn the_effective_configuration_is_json() {
    let text = format!(
        "{COORDINATOR}allow_simulated_tee = true\nsimulated_tee = \"tee.json\"\nWEB\n\
         spiffe_id = \"spiffe://mesh.local/ns/a/sa/b\""
    );
    let json = serde_json::to_value(parse(&text).unwrap()).unwrap();
    assert_eq!(
        json["coordinator"],
        serde_json::json!({
            "addresses": ["coordinator:7777"], "manifest": "/m.json",
            "state_dir": "/var/lib/sealwire/agent-default",
            "allow_simulated_tee": true, "simulated_tee": "tee.json",
        })
    );
    assert_eq!(
        json["workloads"][0]["spiffe_id"],
        "spiffe://mesh.local/ns/a/sa/b"
    );
    assert_eq!(json["workloads"][0]["tls_dir"], serde_json::Value::Null);
}

#[test]
fn files_that_are_not_there_are_reported_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().display().to_string();
    let config = init(
        &[
            "--coordinator",
            "c",
            "--out",
            "/out",
            "--vek",
            &directory,
            "--crl",
            "/absent/crl",
        ],
        &[("SEALWIRE_COORDINATOR_MANIFEST", "/absent/m.json")],
        None,
    );
    let error = config.unwrap().check_system().unwrap_err().to_string();
    assert_eq!(
        error.replace(&directory, "DIR"),
        "coordinator.manifest /absent/m.json does not exist; copy the deployment's manifest there, \
         or correct the path\n\
         coordinator.vek DIR is not a file; name the file\n\
         coordinator.crl /absent/crl does not exist; fetch it from AMD's KDS, or leave it out where \
         the host gives it"
    );
}

#[test]
fn init_takes_contrasts_variable_below_ours_and_above_the_file() {
    let first = |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["--out", "/o"], arguments].concat();
        let config = init(&arguments, variables, Some(COORDINATOR)).unwrap();
        config.coordinator.addresses[0].to_string()
    };
    let ours = ("SEALWIRE_COORDINATOR", "b");
    let contrasts = ("COORDINATOR_HOST", "c");
    assert_eq!(first(&["--coordinator", "a"], &[ours, contrasts]), "a:7777");
    assert_eq!(first(&[], &[ours, contrasts]), "b:7777");
    assert_eq!(first(&[], &[contrasts]), "c:7777");
    assert_eq!(first(&[], &[]), "coordinator:7777");
}

#[test]
fn init_needs_no_workload_and_remembers_nothing_unless_told_to() {
    let config = init(&["--out", "out", "--timeout", "60"], &[], Some(COORDINATOR)).unwrap();
    assert_eq!(config.out, Path::new("out"));
    assert_eq!(config.secrets, Path::new("out"));
    assert_eq!(config.timeout.unwrap().as_secs(), 60);
    assert_eq!(config.coordinator.state_dir, None);
    let variables = [("SEALWIRE_OUT", "/o"), ("SEALWIRE_SECRETS", "/s")];
    let config = init(&[], &variables, Some(COORDINATOR)).unwrap();
    assert_eq!(config.out, Path::new("/o"));
    assert_eq!(config.secrets, Path::new("/s"));
    assert_eq!(config.timeout, None);
}

#[test]
fn what_init_lacks_or_mistakes_is_reported_at_once() {
    let error = init(&["--timeout", "0"], &[], None)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "coordinator.addresses is missing; add addresses = [\"coordinator:7777\"], or give \
         --coordinator HOST:PORT\n\
         coordinator.manifest is missing; add manifest = \"/etc/sealwire/manifest.json\", or give \
         --coordinator-manifest FILE: it says what the Coordinator must prove\n\
         out is missing; give --out DIR\n\
         --timeout: timeout `0` is not a number of seconds; write 1 to 604800, or leave it out"
    );
}

fn init(
    arguments: &[&str],
    variables: &[(&str, &str)],
    text: Option<&str>,
) -> Result<InitConfig, ConfigError> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment: Environment = variables.iter().map(owned).collect();
    let arguments = [&["sealwire-agent", "init"], arguments].concat();
    let flags = Flags::try_parse_from(arguments).unwrap();
    let Some(Command::Init(flags)) = flags.command else {
        panic!("no subcommand");
    };
    let file = text.map(|text| ConfigFile::parse(Path::new("agent.toml"), text));
    InitConfig::effective(&flags, &environment, file.transpose()?)
}
