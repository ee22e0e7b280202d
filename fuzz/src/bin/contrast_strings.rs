//! Contrast's strings: any text in the variables of ingress and egress. What is wrong is named with a
//! place that is in the string; what is accepted can be shown.
#![no_main]

use agent_config::flags::{Environment, Flags};
use agent_config::{ConfigError, Place, effective};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    [
        "web#8080#false##metrics#9090#true",
        "DISABLED",
        "db#127.137.0.1:5432#db.prod.svc:5432##x#127.137.0.2:80#[fd00::1]:443",
    ]
    .map(|it| it.as_bytes().to_vec())
    .to_vec()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Outcome::Refused;
    };
    let flags = Flags {
        cgroup: Some("/sys/fs/cgroup/web".to_owned()),
        ..Flags::default()
    };
    let of = |name: &str| {
        let environment: Environment = [(name.to_owned(), text.to_owned())].into_iter().collect();
        let config = effective(&flags, &environment, None);
        match &config {
            Ok(config) => {
                assert_eq!(config.workloads.len(), 1);
                assert!(serde_json::to_string(config).is_ok(), "/config shows it");
            }
            Err(error) => check_places(error, text),
        }
        config.is_ok()
    };
    let accepted = [INGRESS, EGRESS].map(of);
    if accepted.contains(&true) {
        Outcome::Accepted
    } else {
        Outcome::Refused
    }
}

fn check_places(error: &ConfigError, text: &str) {
    let ConfigError::Invalid(findings) = error else {
        panic!("no file was read: {error}");
    };
    assert!(!findings.is_empty());
    for finding in findings {
        let Some(Place::Entry { entry, column, .. }) = finding.place else {
            panic!("{finding} has no place");
        };
        assert!(
            entry >= 1 && (1..=text.chars().count() + 1).contains(&column),
            "{finding}"
        );
    }
}

const INGRESS: &str = "CONTRAST_INGRESS_PROXY_CONFIG";
const EGRESS: &str = "CONTRAST_EGRESS_PROXY_CONFIG";
