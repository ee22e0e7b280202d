//! `sealwire explain`: why a connection is as it is, or was refused, or would be.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Deserialize;

use crate::admin::{AgentArgs, Shown};
use crate::client::block_on;
use crate::connections::{Direction, harmless};
use crate::failure::Failure;

/// Say which rule, certificate and datapath decide about a connection, and what to change.
///
/// Of a connection that is open, by its number in `sealwire connections` or in the log, and of those
/// that ended last, of which an agent keeps 512 for each worker; of one that was refused, by its
/// number in the log, of which an agent keeps the last 1,000; or of one that is not there: then the
/// rules in force are asked, and nothing is dialled.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Explain {
    /// A connection's number (17), a refusal's (r17), or "FROM -> TO:PORT", where FROM is a workload
    /// of the agent, a SPIFFE ID or an address
    #[arg(value_name = "ID|rID|FROM -> TO:PORT")]
    subject: Subject,

    #[command(flatten)]
    agent: AgentArgs,

    /// Whose rules to ask, where FROM and TO do not tell
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,

    /// Which way, seen from the workload, where FROM and TO do not tell
    #[arg(long, value_name = "WHICH", value_enum)]
    direction: Option<Direction>,

    /// As JSON: what the agent has answered
    #[arg(long)]
    json: bool,
}

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Connection(u64),
    Refusal(u64),
    Question { from: String, to: String },
}

impl FromStr for Subject {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some((from, to)) = text.split_once("->") {
            let (from, to) = (from.trim(), to.trim());
            if from.is_empty() || to.is_empty() {
                bail!("both sides of -> are needed, such as \"web -> 10.0.0.2:5432\"");
            }
            return Ok(Self::Question {
                from: from.to_owned(),
                to: to.to_owned(),
            });
        }
        let number = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| is_number)
        };
        let subject = match text.strip_prefix('r') {
            Some(digits) => number(digits).map(Self::Refusal),
            None => number(text).map(Self::Connection),
        };
        subject.context(
            "expected a connection's number (17), a refusal's (r17), or \"FROM -> TO:PORT\"",
        )
    }
}

impl Explain {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let path = self.path()?;
        let port = self.agent.agent()?;
        let answer = block_on(async { Ok(port.get(&path).await?) })?;
        let text = str::from_utf8(&answer.body).context(NOT_OURS)?;
        let found: Explanation = serde_json::from_str(text).context(NOT_OURS)?;
        Ok(if self.json {
            harmless(text)
        } else {
            found.to_string()
        })
    }

    /// What the agent is asked.
    fn path(&self) -> Result<String, Failure> {
        let mut path = match &self.subject {
            Subject::Connection(id) => format!("/explain?connection={id}"),
            Subject::Refusal(id) => format!("/explain?refusal=r{id}"),
            Subject::Question { from, to } => {
                format!("/explain?from={}&to={}", encoded(from), encoded(to))
            }
        };
        let is_question = matches!(self.subject, Subject::Question { .. });
        if !is_question && (self.workload.is_some() || self.direction.is_some()) {
            return Err(Failure::usage(
                "--workload and --direction are for \"FROM -> TO:PORT\": a number is of one already",
            ));
        }
        if let Some(workload) = &self.workload {
            path = format!("{path}&workload={}", encoded(workload));
        }
        if let Some(direction) = self.direction {
            path = format!("{path}&direction={}", direction.as_str());
        }
        Ok(path)
    }
}

/// Text as a part of a URL's query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// The agent's answer. Fields of newer agents are passed over.
#[derive(Debug, Deserialize)]
struct Explanation {
    about: Shown,
    outcome: Shown,
    workload: Shown,
    direction: Shown,
    from: Option<Shown>,
    to: Option<Shown>,
    at: Option<Shown>,
    mode: Option<Shown>,
    rule: Option<Rule>,
    certificate: Certificate,
    datapath: Option<Datapath>,
    kernel_tls: KernelTls,
    refusal: Option<Refusal>,
    notes: Vec<Shown>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    name: Shown,
    place: Shown,
    peers: Option<Vec<Shown>>,
}

#[derive(Debug, Deserialize)]
struct Certificate {
    identity: Option<Shown>,
    not_after: Option<Shown>,
    peer: Option<Shown>,
}

#[derive(Debug, Deserialize)]
struct Datapath {
    name: Shown,
    why: Shown,
    means: Shown,
}

#[derive(Debug, Deserialize)]
struct KernelTls {
    offload: Shown,
    send: Shown,
    receive: Shown,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: Shown,
    detail: Shown,
    means: Shown,
    to_do: Shown,
    docs: Shown,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            about,
            outcome,
            workload,
            direction,
            from,
            to,
            at,
            mode,
            rule,
            certificate,
            datapath,
            kernel_tls,
            refusal,
            notes,
        } = self;
        let unknown = Shown::from("?".to_owned());
        let [from, to] = [from, to].map(|it| it.as_ref().unwrap_or(&unknown));
        writeln!(f, "{about}: {}", outcome.as_str().replace('-', " "))?;
        line(
            f,
            "who",
            format_args!("{workload} {direction}, {from} -> {to}"),
        )?;
        if let Some(at) = at {
            line(f, "when", at)?;
        }
        if let Some(Refusal {
            code,
            detail,
            means,
            to_do,
            docs,
        }) = refusal
        {
            line(f, "refused", format_args!("{code}: {detail}"))?;
            line(f, "it means", means)?;
            line(f, "to do", to_do)?;
            line(f, "more", docs)?;
        }
        if let Some(Rule { name, place, peers }) = rule {
            line(f, "rule", format_args!("{name} ({place})"))?;
            if let Some(peers) = peers {
                let peers: Vec<_> = peers.iter().map(Shown::as_str).collect();
                let peers = peers.join(", ");
                line(f, "peers", if peers.is_empty() { "nobody" } else { &peers })?;
            }
        }
        if let Some(mode) = mode {
            line(f, "mode", mode)?;
        }
        let Certificate {
            identity,
            not_after,
            peer,
        } = certificate;
        match (identity, not_after) {
            (Some(identity), Some(end)) => {
                line(
                    f,
                    "certificate",
                    format_args!("{identity}, valid until {end}"),
                )?;
            }
            (Some(identity), None) => line(f, "certificate", identity)?,
            (None, _) => line(f, "certificate", "the workload has none")?,
        }
        if let Some(peer) = peer {
            line(f, "peer", peer)?;
        }
        if let Some(Datapath { name, why, means }) = datapath {
            line(f, "datapath", format_args!("{name}, {why}: {means}"))?;
        }
        if refusal.is_none() {
            let KernelTls {
                offload,
                send,
                receive,
            } = kernel_tls;
            line(f, "offload", format_args!("{offload}; the kernel's TLS:"))?;
            line(f, "  send", send)?;
            line(f, "  receive", receive)?;
        }
        for note in notes {
            line(f, "note", note)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, term: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {term:11} {value}")
}

const NOT_OURS: &str = "the agent's explanation is none that this version knows";

const EXAMPLES: &str = "\
Examples:
  sealwire explain --admin-port 9464 r17
  sealwire explain --admin-port 9464 3 --json
  sealwire explain --admin-port 9464 \"web -> 10.0.0.2:5432\"
  sealwire explain --admin-port 9464 \"spiffe://mesh.local/ns/default/sa/client -> 10.0.0.2:80\" --workload web

An agent answers if it was started with --admin-port.

Exit codes: 0 explained, 1 no agent answers or it has nothing of that number, 2 wrong usage.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_a_number_or_two_ends() {
        let parse = |text: &str| text.parse::<Subject>().unwrap();
        assert_eq!(parse("17"), Subject::Connection(17));
        assert_eq!(parse("r17"), Subject::Refusal(17));
        let question = Subject::Question {
            from: "web".to_owned(),
            to: "[fd00::2]:80".to_owned(),
        };
        assert_eq!(parse("web -> [fd00::2]:80"), question);
        assert_eq!(parse("web->[fd00::2]:80"), question);
        for text in [
            "",
            "r",
            "web",
            "+17",
            "r-1",
            "-> 10.0.0.2:80",
            "web ->",
            "17 18",
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_asked_stays_within_its_parameter() {
        assert_eq!(encoded("web"), "web");
        assert_eq!(encoded("[fd00::2]:80"), "%5Bfd00%3A%3A2%5D%3A80");
        assert_eq!(encoded("a&refusal=r1 é"), "a%26refusal%3Dr1%20%C3%A9");
    }

    #[test]
    fn a_refusal_is_a_few_lines_that_a_peer_can_not_add_to() {
        let answer = serde_json::json!({
            "about": "refusal r17", "outcome": "refused", "workload": "web",
            "direction": "ingress", "from": "10.0.0.9:40000", "to": "10.0.0.2:80",
            "at": "2026-11-22T03:30:52Z", "mode": null,
            "rule": { "name": "ingress[0] 80", "place": "number 1 of the file's" },
            "certificate": { "identity": null, "not_after": null, "peer": null },
            "datapath": null,
            "kernel_tls": { "offload": "off", "send": "no", "receive": "no" },
            "refusal": {
                "code": "peer-unknown-issuer", "detail": "subject \"\n\u{1b}[2J\"",
                "means": "another mesh", "to_do": "look", "docs": "refusals.md#x",
            },
            "notes": [], "new-in-2027": true,
        });
        let found: Explanation = serde_json::from_value(answer).unwrap();
        assert_eq!(
            found.to_string(),
            "refusal r17: refused
  who         web ingress, 10.0.0.9:40000 -> 10.0.0.2:80
  when        2026-11-22T03:30:52Z
  refused     peer-unknown-issuer: subject \"??[2J\"
  it means    another mesh
  to do       look
  more        refusals.md#x
  rule        ingress[0] 80 (number 1 of the file's)
  certificate the workload has none
"
        );
    }
}
