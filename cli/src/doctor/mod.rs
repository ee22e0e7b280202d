//! `sealwire doctor`: whether an agent can run here, and what this kernel can do for connections.

mod finding;
mod machine;
mod programs;

use std::fmt::Write;

use clap::Args;
use kernel_tls::{Capabilities, Verdict};
use serde_json::json;

use crate::failure::Failure;
use finding::Finding;

/// Look whether an agent can run on this machine, try what its kernel can do, and say what to change.
///
/// With `fail`, no agent runs; with `warn`, one runs but not for everything, or it could not be
/// learned. The kernel's TLS is not required: where the kernel can't, the agent encrypts.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let capabilities = Capabilities::probe();
        let found = Findings::new(&capabilities, machine::findings(capabilities.version));
        if self.json {
            Ok(found.as_json())
        } else {
            Ok(found.as_text()?)
        }
    }
}

struct Findings {
    machine: Vec<Finding>,
    kernel: String,
    tx: Verdict,
    rx: Verdict,
    rekey: Verdict,
    splice: Verdict,
    in_place: Verdict,
}

impl Findings {
    fn new(capabilities: &Capabilities, machine: Vec<Finding>) -> Self {
        let version = capabilities.version.map(|version| version.to_string());
        Self {
            machine,
            kernel: version.unwrap_or_else(|| "unknown".to_owned()),
            tx: capabilities.tx_verdict(),
            rx: capabilities.rx_verdict(),
            rekey: capabilities.rekey().into(),
            splice: capabilities.splice().into(),
            in_place: Verdict {
                ok: false,
                why: "this version of Sealwire has no in-place mode".to_owned(),
            },
        }
    }

    fn as_json(&self) -> String {
        let Self {
            machine,
            kernel,
            tx,
            rx,
            rekey,
            splice,
            in_place,
        } = self;
        let report = json!({
            "kernel": kernel,
            "kernel_tls": { "tx": tx, "rx": rx, "rekey": rekey, "splice": splice },
            "in_place": in_place,
            "findings": machine,
        });
        format!("{report:#}\n")
    }

    fn as_text(&self) -> Result<String, std::fmt::Error> {
        let Self {
            machine,
            kernel: _,
            tx,
            rx,
            rekey,
            splice,
            in_place,
        } = self;
        let mut text = String::new();
        for Finding {
            name,
            state,
            detail,
            advice,
        } in machine
        {
            let state = state.as_str();
            writeln!(text, "{name:22} {state:4}  {detail}")?;
            if let Some(advice) = advice {
                writeln!(text, "{:29}{advice}", "")?;
            }
        }
        writeln!(text)?;
        for (name, Verdict { ok, why }) in [
            ("kernel TLS, send", tx),
            ("kernel TLS, receive", rx),
            ("  replace keys", rekey),
            ("  splice", splice),
            ("in-place", in_place),
        ] {
            let answer = if *ok { "yes" } else { "no" };
            writeln!(text, "{name:22} {answer:4}  {why}")?;
        }
        Ok(text)
    }
}

const EXAMPLES: &str = "\
Examples:
  sealwire doctor
  sealwire doctor --json

Run it as root, as the agent runs: some attempts need CAP_NET_ADMIN and CAP_BPF.
It opens connections on the loopback and none elsewhere.";

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Findings {
        let capabilities = Capabilities::probe();
        Findings::new(&capabilities, machine::findings(capabilities.version))
    }

    #[test]
    fn the_report_has_each_ability_with_its_reason() {
        let report: serde_json::Value = serde_json::from_str(&found().as_json()).unwrap();
        for ability in ["tx", "rx", "rekey", "splice"] {
            let verdict = &report["kernel_tls"][ability];
            assert!(verdict["ok"].is_boolean(), "{ability}");
            assert!(!verdict["why"].as_str().unwrap().is_empty(), "{ability}");
        }
        assert_eq!(report["in_place"]["ok"], false);
        assert!(report["kernel"].as_str().unwrap().contains('.'));
    }

    #[test]
    fn whatever_is_not_well_comes_with_what_to_do() {
        let report: serde_json::Value = serde_json::from_str(&found().as_json()).unwrap();
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 12, "{findings:#?}");
        for finding in findings {
            assert!(!finding["detail"].as_str().unwrap().is_empty(), "{finding}");
            let is_ok = finding["state"] == "ok";
            assert_eq!(finding["advice"].is_null(), is_ok, "{finding}");
        }
    }

    #[test]
    fn the_text_has_a_line_for_each() {
        let found = found();
        let text = found.as_text().unwrap();
        let names = found.machine.iter().map(|it| it.name);
        for name in names.chain(["kernel TLS, send", "kernel TLS, receive", "in-place"]) {
            assert!(
                text.lines().any(|line| line.starts_with(name)),
                "{name} in\n{text}"
            );
        }
    }
}
