//! What an operator sees of a running mesh: metrics, alerts, a dashboard and the table of connections
//! agree with what happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testbed::agent::binary_of;
use testbed::pair::PORT;
use testbed::pki::spiffe_id;
use testbed::{Agent, Client, Pair, Server, require};

#[test]
fn the_table_of_connections_is_the_truth_of_an_open_one() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    let to = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[to], "--echo")?;
    let client = Client::start(pair.client(), to, HOLDS)?;
    let ends = client.connected()?;
    for (agent, direction, peer) in [
        (&pair.client_agent, "egress", "server"),
        (&pair.server_agent, "ingress", "client"),
    ] {
        agent.wait_for("the connection did not carry its bytes", |agent| {
            let open = agent.connections()?;
            Ok(open
                .iter()
                .any(|it| it["sent"] == 5000 && it["received"] == 5000))
        })?;
        let [connection] = &listed(agent, &[])?[..] else {
            bail!("not one connection: {:#?}", listed(agent, &[]));
        };
        assert_eq!(connection["direction"], direction);
        assert_eq!(connection["peer"], spiffe_id(peer));
        assert_eq!(connection["to"], to.to_string());
        assert_eq!(
            connection["from"].as_str(),
            ends.local.map(|it| it.to_string()).as_deref()
        );
        assert_eq!(connection["state"], "open");
        assert_filters(agent, direction, peer, to)?;

        let table = sealwire(agent, &["connections"])?;
        assert_eq!(table.lines().count(), 2, "{table}");
        for told in [
            direction,
            &spiffe_id(peer),
            &to.to_string(),
            "userspace:",
            "5.0 kB",
        ] {
            assert!(table.contains(told), "{told} is not in\n{table}");
        }
    }
    drop(client);
    pair.client_agent.wait_until_idle()?;
    assert_eq!(
        sealwire(&pair.client_agent, &["connections"])?,
        "no connections\n"
    );
    Ok(())
}

#[test]
fn metrics_under_traffic_are_clean_and_as_documented() -> Result<()> {
    require!("promtool");
    let pair = Pair::start()?;
    pair.assert_served()?;
    let to = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[to], "--echo")?;
    // One refusal, too.
    Client::run(pair.outsider(), to, "--send 10")?;
    pair.server_agent.refusal("peer-not-tls")?;
    for agent in [&pair.client_agent, &pair.server_agent] {
        let text = agent.metrics_text()?;
        promtool(&["check", "metrics"], &classic(&text)?)?;
        let documented = documented()?;
        for name in series(&text) {
            assert!(
                documented.contains(family(&name)),
                "{name} is not documented"
            );
        }
    }
    Ok(())
}

#[test]
fn dashboard_and_alerts_ask_for_nothing_but_documented_metrics() -> Result<()> {
    let documented = documented()?;
    for file in ["deploy/grafana/sealwire.json", RULES] {
        let text = fs::read_to_string(in_repository(file))?;
        let asked = names(&text);
        assert!(asked.len() > 5, "{file}: {asked:?}");
        for name in asked {
            assert!(
                documented.contains(family(&name)),
                "{file}: {name} is not documented"
            );
        }
    }
    Ok(())
}

#[test]
fn the_dashboard_is_json_whose_every_query_is_one_of_prometheus() -> Result<()> {
    require!("promtool");
    let text = fs::read_to_string(in_repository("deploy/grafana/sealwire.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let queries = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten()
        .filter_map(|target| target["expr"].as_str());
    // Grafana puts durations and choices in; rules are what promtool looks at queries in.
    let rules: Vec<Value> = queries
        .map(|query| query.replace("$__rate_interval", "5m"))
        .enumerate()
        .map(|(number, query)| json!({ "record": format!("query:{number}"), "expr": query }))
        .collect();
    assert!(rules.len() > 20, "{}", rules.len());
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(
        &file,
        &json!({ "groups": [{ "name": "dashboard", "rules": rules }] }),
    )?;
    let path = file.path().to_str().context("a path that is no text")?;
    promtool(&["check", "rules", path], "")
}

#[test]
fn alerts_fire_when_they_should() -> Result<()> {
    require!("promtool");
    let path = |file: &str| in_repository(file).display().to_string();
    promtool(&["check", "rules", &path(RULES)], "")?;
    promtool(
        &[
            "test",
            "rules",
            &path("deploy/prometheus/sealwire.rules.test.yaml"),
        ],
        "",
    )
}

/// Each filter of `sealwire connections` finds the one connection, and its opposite does not.
fn assert_filters(agent: &Agent, direction: &str, peer: &str, to: SocketAddr) -> Result<()> {
    let (address, name) = (to.to_string(), format!("sa/{peer}"));
    let other = if direction == "egress" {
        "ingress"
    } else {
        "egress"
    };
    let nowhere = SocketAddr::new(to.ip(), to.port() + 1).to_string();
    for (option, met, missed) in [
        ("--direction", direction, other),
        ("--peer", &name, "sa/nobody"),
        ("--peer", &spiffe_id(peer), "spiffe://mesh.local"),
        ("--to", &address, &nowhere),
        ("--to", &to.ip().to_string(), "10.99.99.99"),
    ] {
        assert_eq!(listed(agent, &[option, met])?.len(), 1, "{option} {met}");
        assert_eq!(
            listed(agent, &[option, missed])?.len(),
            0,
            "{option} {missed}"
        );
    }
    Ok(())
}

/// What `sealwire connections --json` says.
fn listed(agent: &Agent, options: &[&str]) -> Result<Vec<Value>> {
    let json = sealwire(agent, &[&["connections", "--json"], options].concat())?;
    serde_json::from_str(&json).with_context(|| format!("no array: {json}"))
}

/// Asks this agent.
fn sealwire(agent: &Agent, arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary_of("sealwire"))
        .args(arguments)
        .env("SEALWIRE_ADMIN_PORT", agent.admin_port().to_string())
        .output()
        .context("could not start sealwire")?;
    succeeded(output)
}

fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not start promtool")?;
    // It reads all before it says anything, and who is to read no input has none to read.
    let mut stdin = child.stdin.take().context("no standard input")?;
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(complaints.is_empty(), "{complaints}");
    succeeded(output).map(drop)
}

fn succeeded(output: Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{}\n{stdout}{stderr}",
        output.status
    );
    Ok(stdout)
}

/// `OpenMetrics` in the older format of Prometheus, the only one that promtool judges: there the name
/// of a counter is that of its series, and an information is a gauge.
fn classic(open_metrics: &str) -> Result<String> {
    let kinds: BTreeMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let translated = |line: &str| {
        let Some(comment) = COMMENTS.iter().find(|it| line.starts_with(**it)) else {
            return Ok(line.to_owned());
        };
        let (name, rest) = line[comment.len()..].split_once(' ').context("no name")?;
        let kind = kinds.get(name);
        let kind = kind.with_context(|| format!("{name} has no type"))?;
        let (suffix, rest) = match *kind {
            "counter" => ("_total", rest),
            "info" if rest == "info" => ("_info", "gauge"),
            "info" => ("_info", rest),
            _ => ("", rest),
        };
        anyhow::Ok(format!("{comment}{name}{suffix} {rest}"))
    };
    let lines = open_metrics.lines().filter(|line| *line != "# EOF");
    let lines: Vec<String> = lines.map(translated).collect::<Result<_>>()?;
    Ok(lines.join("\n") + "\n")
}

/// The names of the series in the text of `/metrics`.
fn series(text: &str) -> BTreeSet<String> {
    let samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    names(&samples.join("\n"))
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("sealwire_"))
        .map(str::to_owned)
        .collect()
}

/// A histogram is documented under the name that its series begin with.
fn family(name: &str) -> &str {
    ["_bucket", "_count", "_sum"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

/// The metrics that the book tells of.
fn documented() -> Result<BTreeSet<String>> {
    let page = in_repository("docs/src/reference/metrics.md");
    Ok(names(&fs::read_to_string(page)?))
}

fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

const COMMENTS: [&str; 2] = ["# HELP ", "# TYPE "];

const RULES: &str = "deploy/prometheus/sealwire.rules.yaml";

/// Sends, hears all of it back, and stays.
const HOLDS: &str = "--send 5000 --stop-after 5000 --no-half-close --linger 60000";
