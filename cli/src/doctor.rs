//! `sealwire doctor`: what this kernel can do for connections.

use std::fmt::Write;

use clap::Args;
use kernel_tls::{Capabilities, Verdict};
use serde_json::json;

use crate::failure::Failure;

/// Try what this machine's kernel can do, and say what to change.
///
/// Nothing of it is required: where the kernel can't, the agent encrypts.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let found = Findings::new(&Capabilities::probe());
        if self.json {
            Ok(found.as_json())
        } else {
            Ok(found.as_text()?)
        }
    }
}

struct Findings {
    kernel: String,
    tx: Verdict,
    rx: Verdict,
    rekey: Verdict,
    splice: Verdict,
    in_place: Verdict,
}

impl Findings {
    fn new(capabilities: &Capabilities) -> Self {
        let version = capabilities.version.map(|version| version.to_string());
        Self {
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
        });
        format!("{report:#}\n")
    }

    fn as_text(&self) -> Result<String, std::fmt::Error> {
        let Self {
            kernel,
            tx,
            rx,
            rekey,
            splice,
            in_place,
        } = self;
        let mut text = String::new();
        writeln!(text, "kernel              {kernel}")?;
        for (name, Verdict { ok, why }) in [
            ("kernel TLS, send", tx),
            ("kernel TLS, receive", rx),
            ("  replace keys", rekey),
            ("  splice", splice),
            ("in-place", in_place),
        ] {
            let answer = if *ok { "yes" } else { "no" };
            writeln!(text, "{name:19} {answer:3}  {why}")?;
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

    #[test]
    fn the_report_has_each_ability_with_its_reason() {
        let found = Findings::new(&Capabilities::probe());
        let report: serde_json::Value = serde_json::from_str(&found.as_json()).unwrap();
        for ability in ["tx", "rx", "rekey", "splice"] {
            let verdict = &report["kernel_tls"][ability];
            assert!(verdict["ok"].is_boolean(), "{ability}");
            assert!(!verdict["why"].as_str().unwrap().is_empty(), "{ability}");
        }
        assert_eq!(report["in_place"]["ok"], false);
        assert!(report["kernel"].as_str().unwrap().contains('.'));
    }

    #[test]
    fn the_text_has_a_line_for_each() {
        let text = Findings::new(&Capabilities::probe()).as_text().unwrap();
        assert_eq!(text.lines().count(), 6, "{text}");
    }
}
