//! No space is left on the disk of a running agent, or of the Coordinator: what was seen or
//! acknowledged is not lost, what can't be kept is said, and all is well when there is space.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use testbed::pair::{EnrolledPair, enrolled};
use testbed::{Agent, Coordinator, SmallDisk, Testbed, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn an_agent_without_space_follows_history_and_forgets_none_of_it_while_it_lives() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let coordinator = Coordinator::start(&bed, &["client", "server", "bystander"])?;
    let disk = SmallDisk::mount(coordinator.file("client-state"), 64 << 10)?;
    let mut pair = EnrolledPair {
        client_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "client")?)?,
        server_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "server")?)?,
        coordinator,
        bed,
    };
    let memory = disk.path().join("deployment.json");
    let remembered = fs::read(&memory)?;
    // What the disk has is not to be cut off by what has no space on it.
    disk.fill()?;
    let store = pair.coordinator.file("history.redb");
    let copy = pair.coordinator.file("history.copy");
    pair.coordinator.kill()?;
    fs::copy(&store, &copy)?;
    pair.coordinator.restart()?;
    pair.coordinator.recover()?;
    pair.coordinator.wait_until_rotated()?;
    pair.client_agent.wait_for("it does not say so", |agent| {
        let (ready, body) = agent.ready()?;
        let says = |value: &Value| {
            value
                .as_str()
                .is_some_and(|it| it.contains("No space left"))
        };
        Ok(ready && says(&body["unsaved"]))
    })?;
    assert_eq!(unsaved(&pair.client_agent)?, 1);
    assert_eq!(unsaved(&pair.server_agent)?, 0);
    let log = pair.client_agent.log();
    assert_eq!(
        log.matches("does not outlive this agent").count(),
        1,
        "{log}"
    );
    assert_eq!(fs::read(&memory)?, remembered);
    pair.assert_served()?;

    // Rolled back to what the disk has; the agent knows better.
    pair.coordinator.kill()?;
    fs::copy(&copy, &store)?;
    pair.coordinator.restart()?;
    pair.coordinator.recover()?;
    pair.client_agent.wait_for("it does not notice", |agent| {
        let log = agent.log();
        Ok(log.contains("fork") || log.contains("older") || log.contains("rolled back"))
    })?;
    pair.assert_served()?;

    disk.free()?;
    pair.client_agent.wait_for("it does not recover", |agent| {
        Ok(agent.ready()?.1.get("unsaved").is_none())
    })?;
    assert_eq!(unsaved(&pair.client_agent)?, 0);
    assert_ne!(fs::read(&memory)?, remembered);
    let left: Vec<_> = fs::read_dir(disk.path())?.flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    Ok(())
}

#[test]
fn a_coordinator_without_space_issues_and_loses_nothing_and_sets_when_there_is_some() -> Result<()>
{
    require!();
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let disk = SmallDisk::mount(bed.directory().join("disk"), 4 << 20)?;
    let workloads = ["client", "server", "bystander"];
    let coordinator = Coordinator::start_with_disk(&bed, &workloads, &disk)?;
    let mut pair = EnrolledPair {
        client_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "client")?)?,
        server_agent: Agent::start_with(&bed, enrolled(&bed, &coordinator, "server")?)?,
        coordinator,
        bed,
    };
    pair.coordinator.wait_until_rotated()?;
    let mut acknowledged = pair.coordinator.status()?["manifest"].clone();
    disk.fill()?;
    let policy = pair.coordinator.policy("bystander")?;
    // Until what the store has in reserve is used up.
    let mut updates = 0;
    let refused = loop {
        updates += 1;
        let update = pair.coordinator.try_update(|manifest| {
            let names = (0..1000).map(|n| format!("name-{n}.of.update-{updates}"));
            let names = ["bystander".to_owned()].into_iter().chain(names);
            manifest["Policies"][&policy]["SANs"] = names.collect::<Vec<_>>().into();
        })?;
        if !update.status.success() {
            break update.stderr_text();
        }
        acknowledged = pair.coordinator.status()?["manifest"].clone();
    };
    assert!(refused.contains("store-full"), "{refused}");
    assert!(refused.contains("make space"), "{refused}");
    assert_eq!(pair.coordinator.status()?["manifest"], acknowledged);

    // Certificates go on; what the audit log lacks is counted, and in the log.
    pair.client_agent.kill()?;
    pair.client_agent.restart()?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()?;
    // Each refusal is a line, and the file's last page has room for some.
    while !pair
        .coordinator
        .ready()?
        .body
        .contains("audit-log-not-written")
    {
        let refused = pair.coordinator.try_update(|_| {})?;
        assert_eq!(refused.status.code(), Some(1));
    }
    assert_eq!(pair.coordinator.ready()?.status, 200);
    let name = "sealwire_coordinator_audit_lines_lost_total";
    let lost = pair.coordinator.metrics()?.sum(name, &[]);
    assert!(lost > 0);

    disk.free()?;
    pair.coordinator.update(|manifest| {
        manifest["Policies"][&policy]["SANs"] = vec!["bystander", "passer-by"].into();
    })?;
    pair.coordinator.wait_until_rotated()?;
    pair.coordinator.wait_until_ready()?;
    let after = pair.coordinator.status()?;
    assert_ne!(after["manifest"], acknowledged);
    // Every line is whole, and one says how many are not there.
    let audit = fs::read_to_string(disk.path().join("audit.jsonl"))?;
    let lines: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).context(line.to_owned()))
        .collect::<Result<_>>()?;
    let counts = lines.iter().filter(|line| line["event"] == "lines-lost");
    assert!(counts.count() > 0, "{audit}");

    pair.coordinator.kill()?;
    pair.coordinator.restart()?;
    pair.coordinator.recover()?;
    let recovered = pair.coordinator.status()?;
    assert_eq!(recovered["manifest"], after["manifest"]);
    assert!(
        recovered["seq"].as_u64() > after["seq"].as_u64(),
        "{recovered}"
    );
    pair.assert_served()
}

fn unsaved(agent: &Agent) -> Result<u64> {
    Ok(agent.metrics()?.sum("sealwire_coordinator_unsaved", &[]))
}
