//! What an agent must have seen, by who made it happen.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::Value;

/// What became of the connections of one workload.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Those that were let through and have ended, or are open.
    pub(crate) served: Vec<Served>,
    /// Those that were not.
    pub(crate) refused: Vec<Refused>,
}

/// A connection that was let through.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// `ingress` or `egress`.
    pub(crate) direction: &'static str,
    /// Who opened it.
    pub(crate) from: SocketAddr,
    /// Where to.
    pub(crate) to: SocketAddr,
    /// The other side's identity.
    pub(crate) peer: String,
    /// The rule that let it through.
    pub(crate) rule: String,
    /// Bytes of the program to the peer.
    pub(crate) sent: u64,
    /// Bytes of the program from the peer.
    pub(crate) received: u64,
    /// Why it ended; `None` while it is open.
    pub(crate) close: Option<&'static str>,
}

impl Served {
    /// Whether this is what a line of the access log, or an entry of `/connections`, shows.
    pub(crate) fn is(&self, shown: &Value) -> bool {
        shown["direction"] == self.direction
            && shown["from"] == self.from.to_string()
            && shown["to"] == self.to.to_string()
            && shown["mode"] == "mtls"
            && shown["peer"] == self.peer
            && shown["rule"] == self.rule
            && shown["sent"] == self.sent
            && shown["received"] == self.received
            && shown["close"].as_str() == self.close
    }
}

/// A connection that was not let through.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    /// `ingress` or `egress`.
    pub(crate) direction: &'static str,
    /// Who opened it, where the driver knows.
    pub(crate) from: Option<SocketAddr>,
    /// Where to.
    pub(crate) to: SocketAddr,
    /// The code.
    pub(crate) reason: &'static str,
    /// The rule that decided, or had let it through so far.
    pub(crate) rule: Option<String>,
    /// Who refused it.
    pub(crate) by: By,
}

/// Who refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The agent.
    Agent,
    /// The eBPF programs.
    Kernel,
}

impl Refused {
    /// Whether this is what a line of the log shows, whose key for the code is `reason`, or an entry of
    /// `/refusals`, where it is `code`.
    pub(crate) fn is(&self, shown: &Value, key: &str) -> bool {
        shown["direction"] == self.direction
            && shown[key] == self.reason
            && shown["to"] == self.to.to_string()
            && shown["rule"].as_str() == self.rule.as_deref()
            && self
                .from
                .is_none_or(|from| shown["from"] == from.to_string())
    }
}

impl Account {
    /// How many ended, by direction and reason.
    pub(crate) fn closes(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        count(
            self.served
                .iter()
                .filter_map(|it| Some((it.direction, it.close?))),
        )
    }

    /// How many were refused by whom, by direction and reason.
    pub(crate) fn refusals(&self, by: By) -> BTreeMap<(&'static str, &'static str), u64> {
        let refused = self.refused.iter().filter(|it| it.by == by);
        count(refused.map(|it| (it.direction, it.reason)))
    }

    /// How often the peer proved itself in this direction: also those that were refused after it.
    pub(crate) fn handshakes(&self, direction: &str) -> u64 {
        let served = self.served.iter().filter(|it| it.direction == direction);
        let after = self.refused.iter().filter(|it| {
            it.direction == direction
                && direction == "ingress"
                && ["peer-not-allowed", "dial-refused"].contains(&it.reason)
        });
        (served.count() + after.count()) as u64
    }

    /// Bytes of programs in this direction: sent, received.
    pub(crate) fn bytes(&self, direction: &str) -> (u64, u64) {
        let served = self.served.iter().filter(|it| it.direction == direction);
        served.fold((0, 0), |(sent, received), it| {
            (sent + it.sent, received + it.received)
        })
    }
}

fn count<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// Each that is expected is shown once, and nothing else is.
pub(crate) fn assert_same<'a, T: std::fmt::Debug + 'a>(
    what: &str,
    expected: impl IntoIterator<Item = &'a T>,
    shown: &[Value],
    is: impl Fn(&T, &Value) -> bool,
) -> Result<()> {
    let mut left: Vec<&Value> = shown.iter().collect();
    let mut missing = Vec::new();
    for one in expected {
        match left.iter().position(|it| is(one, it)) {
            Some(at) => drop(left.swap_remove(at)),
            None => missing.push(one),
        }
    }
    ensure!(
        missing.is_empty() && left.is_empty(),
        "{what} and the truth differ; not shown: {missing:#?}\nnot true: {left:#?}"
    );
    Ok(())
}
