//! Connections as an agent's `/connections` lists them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::filter::Filter;
use crate::admin::Shown;

/// The connections of one answer that passed the filter, oldest first.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) connections: Vec<Connection>,
    /// How many more are open that the agent did not list.
    pub(super) omitted: u64,
    texts: Vec<Box<RawValue>>,
}

impl Listed {
    pub(super) fn parse(body: &[u8], omitted: u64, filter: &Filter) -> anyhow::Result<Self> {
        let not_ours = "the agent's list of connections is none that this version knows";
        let texts: Vec<Box<RawValue>> = serde_json::from_slice(body).context(not_ours)?;
        let mut listed = Self {
            omitted,
            ..Self::default()
        };
        for text in texts {
            let connection = serde_json::from_str(text.get()).context(not_ours)?;
            if filter.passes(&connection) {
                listed.connections.push(connection);
                listed.texts.push(text);
            }
        }
        Ok(listed)
    }

    /// One line: an array of what the agent said of each.
    pub(super) fn as_json(&self) -> String {
        let texts: Vec<_> = self.texts.iter().map(|text| harmless(text.get())).collect();
        format!("[{}]\n", texts.join(","))
    }
}

/// JSON that means the same and has no character that a terminal obeys. Those below U+0020 are
/// escaped already, or it would be no JSON.
pub(crate) fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() && !c.is_ascii_whitespace() {
            // Writing to a String does not fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

/// A connection, as far as a table shows it. Fields of newer agents are passed over.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Connection {
    /// Counts from 1 in each agent's life.
    pub(super) id: u64,
    pub(super) workload: Shown,
    pub(super) direction: Direction,
    pub(super) mode: Shown,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// `None` before the end of the handshake, and for peers without an identity.
    pub(super) peer: Option<Shown>,
    /// `None` before bytes can flow.
    pub(super) datapath: Option<Shown>,
    pub(super) datapath_why: Option<Shown>,
    pub(super) sent: u64,
    pub(super) received: u64,
    age_ms: u64,
}

impl Connection {
    pub(super) fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms)
    }

    /// What moved since this connection was listed as `before`, by the agent's own clock; `None` if
    /// that was another one, of an agent that has ended since.
    pub(super) fn rate_since(&self, before: &Self) -> Option<Rate> {
        let is_same = (self.id, self.from, self.to) == (before.id, before.from, before.to);
        let milliseconds = self
            .age_ms
            .checked_sub(before.age_ms)
            .filter(|it| *it > 0)?;
        let per_second = |now: u64, then: u64| {
            let moved = u128::from(now.checked_sub(then)?);
            u64::try_from(moved * 1000 / u128::from(milliseconds)).ok()
        };
        let rate = Rate {
            sent: per_second(self.sent, before.sent)?,
            received: per_second(self.received, before.received)?,
        };
        is_same.then_some(rate)
    }
}

/// Bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// Which way a connection goes, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Towards the workload
    Ingress,
    /// From the workload
    Egress,
}

impl Direction {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What an agent answers for two connections, the second one in its handshake.
    pub(crate) const TWO: &str = r#"[{"id":1,"workload":"web","direction":"egress","mode":"mtls","from":"10.0.0.1:40000","to":"[fd00::1]:80","identity":"spiffe://mesh.local/ns/default/sa/web","peer":"spiffe://mesh.local/ns/default/sa/db","datapath":"userspace","datapath_why":"offload-off","local_hop":"tcp","local_hop_why":"off","key_exchange":"X25519MLKEM768","cipher":"AES-128-GCM","alpn":"sealwire/1","sent":5,"received":1234567,"spliced":0,"age_ms":250,"state":"open"},{"id":2,"workload":"web-2","direction":"ingress","mode":"mtls","from":"10.0.0.9:5","to":"10.0.0.1:443","identity":null,"peer":null,"datapath":null,"datapath_why":null,"local_hop":null,"local_hop_why":null,"key_exchange":null,"cipher":null,"alpn":null,"sent":0,"received":0,"spliced":0,"age_ms":3600000,"state":"handshaking"}]"#;

    pub(crate) fn two() -> Listed {
        Listed::parse(TWO.as_bytes(), 0, &Filter::default()).unwrap()
    }

    #[test]
    fn json_is_what_the_agent_said() {
        assert_eq!(two().as_json(), format!("{TWO}\n"));
        let none = Listed::parse(b"[]\n", 0, &Filter::default()).unwrap();
        assert_eq!(none.as_json(), "[]\n");
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_what_a_terminal_obeys() {
        let text = "[{\"peer\": \"a\u{9b}31m\u{7f}\\u001b\"},\n\t1]";
        let shown = harmless(text);
        assert!(!shown.contains(['\u{9b}', '\u{7f}']), "{shown}");
        let meaning = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(meaning(&shown), meaning(text));
    }

    #[test]
    fn what_is_no_list_of_connections_is_an_error() {
        for text in ["", "{}", "[1]", "[{\"id\": 1}]", "<html>", "[\u{1b}]"] {
            let listed = Listed::parse(text.as_bytes(), 0, &Filter::default());
            assert!(listed.is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_by_the_agents_clock() {
        let [before, _] = two().connections.try_into().unwrap();
        let mut now = before.clone();
        (now.sent, now.received, now.age_ms) = (1005, 1_234_567, 750);
        let rate = Rate {
            sent: 2000,
            received: 0,
        };
        assert_eq!(now.rate_since(&before), Some(rate));
        assert_eq!(now.rate_since(&now), None);
    }

    #[test]
    fn the_connection_of_an_agent_that_has_ended_gives_no_rate() {
        let [before, _] = two().connections.try_into().unwrap();
        let with = |change: fn(&mut Connection)| {
            let mut now = before.clone();
            now.age_ms += 1000;
            change(&mut now);
            now.rate_since(&before)
        };
        assert!(with(|_| ()).is_some());
        assert_eq!(with(|now| now.age_ms = 1), None);
        assert_eq!(with(|now| now.sent = 0), None);
        assert_eq!(with(|now| now.from.set_port(1)), None);
    }
}
