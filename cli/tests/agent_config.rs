//! `sealwire check` and `sealwire config`, as an operator meets them: files, messages, exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const GOOD: &str = r#"[[workload]]
name = "web"
cgroup = "/sys/fs/cgroup/web"
[[workload.ingress]]
port = 8080
[[workload.egress]]
cidr = "10.0.0.0/8"
mode = "plaintext"
"#;

const BAD: &str = r#"admin_port = 65616
[[workload]]
name = "web"
cgroup = "/sys/fs/cgroup/web"
egress_default = "maybe"
"#;

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `sealwire` with these arguments and variables, `input` on its standard input, and `agent.toml`
/// in its directory.
fn sealwire(arguments: &[&str], variables: &[(&str, &str)], file: &str, input: &str) -> Run {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("agent.toml"), file).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sealwire"))
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who is told nothing of standard input does not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_good_file_is_summed_up() {
    let run = sealwire(&["check", "agent.toml"], &[], GOOD, "");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(
        run.stdout,
        "workload web: ingress mtls but for 1 rule, egress mtls but for 1 rule, 0 listeners\n\
         ok: 1 workload\n"
    );
}

#[test]
fn every_mistake_is_told_with_exit_code_2() {
    let run = sealwire(&["check", "agent.toml"], &[], BAD, "");
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        run.stderr,
        "error: agent.toml:1:14: admin_port `65616` is not a port; ports are 1 to 65535\n\
         agent.toml:5:18: workload \"web\": egress_default `maybe` is unknown; write mtls, plaintext \
         or deny\n"
    );
}

#[test]
fn standard_input_and_the_environment_are_checked_as_files_are() {
    let run = sealwire(&["check", "-"], &[], "", BAD);
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr.contains("standard input:1:14: "),
        "{}",
        run.stderr
    );
    let variables = [
        ("SEALWIRE_CGROUP", "/c"),
        ("SEALWIRE_NAME", "web"),
        ("CONTRAST_INGRESS_PROXY_CONFIG", "a#80#true##b#80#false"),
    ];
    let run = sealwire(&["check"], &variables, "", "");
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr
            .contains("CONTRAST_INGRESS_PROXY_CONFIG: entry 2, column 14: "),
        "{}",
        run.stderr
    );
    let named = sealwire(&["check"], &[("SEALWIRE_CONFIG", "agent.toml")], GOOD, "");
    assert_eq!(named.code, Some(0), "{}", named.stderr);
}

#[test]
fn file_and_environment_are_checked_together() {
    let variables = [("SEALWIRE_LOG_LEVEL", "loud")];
    let run = sealwire(&["check", "agent.toml"], &variables, BAD, "");
    assert_eq!(run.stderr.lines().count(), 3, "{}", run.stderr);
}

#[test]
fn a_file_that_is_not_there_is_said_so() {
    let run = sealwire(&["check", "nowhere.toml"], &[], GOOD, "");
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("nowhere.toml"), "{}", run.stderr);
}

#[test]
fn the_machine_is_looked_at_if_asked_for() {
    let run = sealwire(&["check", "--machine", "agent.toml"], &[], GOOD, "");
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("does not exist"), "{}", run.stderr);
}

#[test]
fn mistakes_are_json_too() {
    let run = sealwire(&["check", "--json", "agent.toml"], &[], BAD, "");
    assert_eq!(run.code, Some(2));
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(told["ok"], false);
    assert_eq!(told["mistakes"][0]["place"]["line"], 1);
    assert_eq!(told["mistakes"][0]["place"]["column"], 14);
    assert_eq!(told["mistakes"][1]["subject"], "workload \"web\"");
    let run = sealwire(&["check", "--json", "agent.toml"], &[], GOOD, "");
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((told["ok"].as_bool(), run.code), (Some(true), Some(0)));
}

#[test]
fn what_config_prints_passes_the_check() {
    let printed = sealwire(
        &["config", "print", "--origin", "agent.toml"],
        &[],
        GOOD,
        "",
    );
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    assert!(
        printed.stdout.contains("# agent.toml:5:8"),
        "{}",
        printed.stdout
    );
    let again = sealwire(&["check", "-"], &[], "", &printed.stdout);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let bad = sealwire(&["config", "print", "agent.toml"], &[], BAD, "");
    assert_eq!(bad.code, Some(2));
}

#[test]
fn the_schema_is_json_that_knows_every_table() {
    let run = sealwire(&["config", "schema"], &[], "", "");
    let schema: Value = serde_json::from_str(&run.stdout).unwrap();
    let workload = &schema["properties"]["workload"]["items"];
    assert_eq!(
        workload["properties"]["egress"]["items"]["additionalProperties"],
        false
    );
}

#[test]
fn every_help_teaches_with_examples() {
    for command in [&["check", "--help"][..], &["config", "print", "--help"]] {
        let run = sealwire(command, &[], "", "");
        assert!(run.stdout.contains("Examples:"), "{}", run.stdout);
    }
}
