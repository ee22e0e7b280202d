//! Compares an account with all that an agent tells.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::admin::{Answer, Metrics};
use testbed::agent::binary_of;
use testbed::{Agent, Browser, Screen, skip};

use super::account::{Account, By, Refused, Served, assert_same};

/// All that the agent tells is what the account has; these connections are open meanwhile.
pub(crate) fn assert_true(agent: &Agent, account: &Account, open: &[Served]) -> Result<()> {
    let ended: Vec<_> = account
        .served
        .iter()
        .filter(|it| it.close.is_some())
        .collect();
    // What happened last may be on its way to the log, or to its end.
    agent.wait_for("it tells less than has happened", |agent| {
        let [access, refused] = log(agent);
        let now = agent.connections()?;
        let sent = now.iter().filter_map(|it| it["sent"].as_u64());
        Ok(access.len() >= ended.len()
            && refused.len() >= account.refused.len()
            && now.len() == open.len()
            && sent.sum::<u64>() >= open.iter().map(|it| it.sent).sum())
    })?;

    assert_same("/connections", open, &agent.connections()?, Served::is)?;
    let [access, refused] = log(agent);
    assert_same("the access log", ended, &access, Served::is)?;
    assert_same(
        "the log of refusals",
        &account.refused,
        &refused,
        |it, line| it.is(line, "reason"),
    )?;
    let refusals = refusals(agent)?;
    // In the log by their numbers as well.
    assert_same("/refusals", &refused, &refusals, |line, it| {
        line["id"] == it["id"] && line["reason"] == it["code"] && line["rule"] == it["rule"]
    })?;
    assert_same("/refusals", &account.refused, &refusals, |it, shown| {
        it.is(shown, "code")
    })?;
    assert_explained(agent, &account.refused, &refusals)?;
    assert_counted(&agent.metrics()?, account, open.len())?;
    assert_shown(agent, open, &refusals)
}

fn assert_counted(metrics: &Metrics, account: &Account, open: usize) -> Result<()> {
    let equal = |name: &str, labels: &[(&str, &str)], expected: u64| {
        let counted = metrics.sum(name, labels);
        ensure!(
            counted == expected,
            "{name}{labels:?} is {counted}, not {expected}"
        );
        Ok(())
    };
    for (name, label, counts) in [
        ("sealwire_connections_total", "close", account.closes()),
        (
            "sealwire_refusals_total",
            "reason",
            account.refusals(By::Agent),
        ),
    ] {
        for ((direction, reason), count) in &counts {
            equal(name, &[("direction", direction), (label, reason)], *count)?;
        }
        // And for no other reason.
        equal(name, &[], counts.values().sum())?;
    }
    let by_kernel = account.refusals(By::Kernel);
    for ((_, reason), count) in &by_kernel {
        let name = "sealwire_kernel_refusals_total";
        equal(name, &[("reason", reason)], *count)?;
    }
    equal(
        "sealwire_kernel_refusals_total",
        &[],
        by_kernel.values().sum(),
    )?;
    equal("sealwire_connections_open", &[], open as u64)?;
    for direction in ["ingress", "egress"] {
        let (sent, received) = account.bytes(direction);
        for (flow, bytes) in [("sent", sent), ("received", received)] {
            let labels = [("direction", direction), ("flow", flow)];
            equal("sealwire_bytes_total", &labels, bytes)?;
        }
        equal(
            "sealwire_handshake_seconds_count",
            &[("direction", direction)],
            account.handshakes(direction),
        )?;
    }
    Ok(())
}

/// `sealwire explain` says of each refusal the rule and the code that it was for.
fn assert_explained(agent: &Agent, truth: &[Refused], refusals: &[Value]) -> Result<()> {
    let mut explained = Vec::new();
    for refusal in refusals {
        let id = refusal["id"].as_str().context("no id")?;
        let port = agent.admin_port().to_string();
        let output = Command::new(binary_of("sealwire"))
            .args(["explain", "--json", "--admin-port", &port, id])
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "explain {id}: {stderr}");
        let mut told: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(told["outcome"] == "refused", "{told}");
        told["code"] = told["refusal"]["code"].take();
        told["rule"] = told["rule"]["name"].take();
        explained.push(told);
    }
    assert_same("sealwire explain", truth, &explained, |it, told| {
        it.is(told, "code")
    })
}

/// The live page shows the same connections and refusals.
fn assert_shown(agent: &Agent, open: &[Served], refusals: &[Value]) -> Result<()> {
    if let Err(reason) = skip::possible(&["chromium"]) {
        skip::report(&reason);
        return Ok(());
    }
    let url = format!("http://127.0.0.1:{}/", agent.admin_port());
    let mut browser = Browser::open(&url, Screen::DESK)?;
    let refused = match refusals.len() {
        0 => "Nothing was refused.".to_owned(),
        1 => "1 connection refused.".to_owned(),
        more => format!("{more} connections refused."),
    };
    browser.wait_until(&format!(
        "byId('status').textContent === 'The workload is ready. {refused}'"
    ))?;
    let note = match open.len() {
        0 => "None is open.".to_owned(),
        more => format!("{more} open, busiest first."),
    };
    browser.wait_until(&format!(
        "byId('connections-note').textContent === '{note}'"
    ))?;

    let shown = browser.evaluate(
        "JSON.stringify([...byId('connections').children].map((it) => it.firstElementChild.textContent))",
    )?;
    let mut shown: Vec<String> = serde_json::from_str(shown.as_str().context("no text")?)?;
    let route = |it: &Served| format!("{} → {}", it.from, it.to);
    let mut routes: Vec<_> = open.iter().map(route).collect();
    shown.sort();
    routes.sort();
    ensure!(
        shown == routes,
        "the page shows {shown:?} open, not {routes:?}"
    );

    let shown = browser.evaluate(
        "JSON.stringify([...document.querySelectorAll('#refusals summary')]\
         .map((it) => [...it.children].slice(0, 3).map((part) => part.textContent)))",
    )?;
    let shown: Value = serde_json::from_str(shown.as_str().context("no text")?)?;
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let summary = |it: &Value| {
        let [workload, direction] = ["workload", "direction"].map(|key| text(&it[key]));
        let [from, to] = ["from", "to"].map(|key| text(&it[key]));
        json!([
            it["id"],
            it["code"],
            format!("{workload} {direction}: {from} → {to}")
        ])
    };
    let newest: Vec<_> = refusals.iter().take(SHOWN).map(summary).collect();
    ensure!(
        shown == json!(newest),
        "the page shows {shown:#}, not {newest:#?}"
    );
    Ok(())
}

/// The lines of connections that ended, and those of refusals.
fn log(agent: &Agent) -> [Vec<Value>; 2] {
    let lines: Vec<Value> = agent
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    ["access", "refused"].map(|target| {
        let of_target = lines.iter().filter(|line| line["target"] == target);
        of_target.cloned().collect()
    })
}

/// What `/refusals` lists, newest first.
fn refusals(agent: &Agent) -> Result<Vec<Value>> {
    match Answer::fetch(agent.admin_port(), "/refusals")?.json()? {
        Value::Array(refusals) => Ok(refusals),
        other => anyhow::bail!("/refusals is no array: {other}"),
    }
}

/// How many refusals the page lists.
const SHOWN: usize = 100;
