//! The demonstration, act by act.

use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use serde_json::Value;
use testbed::Coordinator;
use testbed::coordinator::spiffe_id;

use crate::agents::Agents;
use crate::curl::{Curl, Fetched};
use crate::report::{Proof, Report};
use crate::requests;
use crate::stage::Stage;
use crate::traces::Traces;
use crate::wire::Seen;

/// Plays all of it. Fails where it could not be played to its end.
pub(crate) fn play(report: &mut Report) -> Result<()> {
    report.say(PROGRAMME);
    let traces = {
        let stage = Stage::set()?;

        report.part("Without an agent")?;
        report.check("control: the sniffer reads the page", || in_clear(&stage))?;

        report.part("A Coordinator is started, and a manifest is set")?;
        report.warn(SIMULATED);
        let mut coordinator = stage.coordinator()?;
        report.check("the Coordinator proves what it runs", || {
            verified(&coordinator)
        })?;

        report.part("Two agents enrol; nginx runs on as it is")?;
        let mut agent = Agents::start(&stage, &coordinator)?;
        let visit = Visit::watched(&stage, &agent);
        let visit = || visit.as_ref().map_err(again);
        report.check("curl gets the page", || the_page(&stage, visit()?))?;
        report.check("both sides prove who they are", || {
            identities(&agent, visit()?)
        })?;
        report.check("nginx sees the client's own address", || {
            addresses(&stage, visit()?)
        })?;
        report.check("the wire carries nothing readable", || {
            ciphertext(visit()?.seen)
        })?;

        report.part("An outsider asks for the page")?;
        report.check("plaintext from outside is refused", || {
            let curl = Curl::http(stage.outsider(), stage.address())?;
            refused(&stage, &agent, curl, "peer-not-tls")
        })?;
        report.check("TLS without certificate is refused", || {
            let curl = Curl::https(stage.outsider(), stage.address())?;
            refused(&stage, &agent, curl, "peer-no-certificate")
        })?;
        report.check("a foreign certificate is refused", || {
            let curl = Curl::https(stage.outsider(), stage.address())?;
            let curl = curl.with_certificate(stage.foreign_certificate());
            refused(&stage, &agent, curl, "peer-unknown-issuer")
        })?;

        report.part("The manifest is updated while curl asks on")?;
        report.check("an update drops no request", || {
            updated(&stage, &mut coordinator)
        })?;

        report.part("The Coordinator is killed; its owners recover it while curl asks on")?;
        report.check("a recovery drops no request", || {
            recovered(&stage, &mut coordinator)
        })?;

        report.part("The agents are killed with SIGKILL while curl downloads")?;
        report.check("the agents killed: nothing passes", || {
            killed(&stage, &mut agent)
        })?;

        report.part("The agents are started again")?;
        agent.restart()?;
        report.check("the agents restarted: served again", || {
            let visit = Visit::watched(&stage, &agent)?;
            ciphertext(visit.seen)?;
            the_page(&stage, &visit)
        })?;

        traces(&stage, &coordinator, &agent)
    };
    report.part("The end")?;
    report.check("nothing is left behind", || gone(&traces?))
}

/// What was seen of a client that got the page over IPv4 and IPv6.
struct Visit {
    over_v4: Fetched,
    over_v6: Fetched,
    /// What the agent listed while curl was downloading.
    listed: Vec<Value>,
    seen: Seen,
}

impl Visit {
    fn watched(stage: &Stage, agent: &Agents) -> Result<Self> {
        let wire = stage.watch()?;
        let film = stage.slow_film()?;
        film.wait_until_it_flows()
            .map_err(|error| agent.explain(error))?;
        let listed = agent.connections()?;
        drop(film);
        Ok(Self {
            over_v4: stage.curl()?.run()?,
            over_v6: stage.curl_v6()?.run()?,
            listed,
            seen: wire.finish()?,
        })
    }
}

/// The positive control: the sniffer finds the marker, and the outsider is served.
fn in_clear(stage: &Stage) -> Result<Proof> {
    let wire = stage.watch()?;
    let outsider = Curl::http(stage.outsider(), stage.address())?;
    for curl in [stage.curl()?, stage.curl_v6()?, outsider] {
        curl.run()?.expect(stage.nginx().page())?;
    }
    let seen = wire.finish()?;
    ensure!(
        seen.markers > 0,
        "the sniffer found no marker, so it could not find one later"
    );
    Ok(Proof::new(format!(
        "it found the page's marker {} times; the outsider was served, too",
        grouped(seen.markers)
    )))
}

fn the_page(stage: &Stage, visit: &Visit) -> Result<Proof> {
    let page = stage.nginx().page();
    visit.over_v4.expect(page).context("over IPv4")?;
    visit.over_v6.expect(page).context("over IPv6")?;
    let length = grouped(page.len() as u64);
    Ok(Proof::new(format!(
        "{length} bytes over IPv4, {length} over IPv6, each the same as nginx has"
    )))
}

fn identities(agent: &Agents, visit: &Visit) -> Result<Proof> {
    let from = visit.over_v4.from()?;
    let (client, server) = (spiffe_id("client"), spiffe_id("server"));
    let egress = agent.access("client", from)?;
    let ingress = agent.access("server", from)?;
    let both = [
        ("client", &client, &server, &egress),
        ("server", &server, &client, &ingress),
    ];
    for (workload, own, peer, logged) in both {
        let listed = visit
            .listed
            .iter()
            .find(|line| line["workload"] == workload)
            .with_context(|| format!("/connections lists none of the {workload}"))?;
        for line in [logged, listed] {
            ensure!(
                line["identity"] == **own && line["peer"] == **peer,
                "others met: {line}"
            );
        }
    }
    for what in ["key_exchange", "cipher"] {
        ensure!(
            egress[what] == ingress[what] && egress[what].is_string(),
            "the sides name different ones: {egress}, {ingress}"
        );
    }
    let (sent, received) = (count(&egress["sent"])?, count(&egress["received"])?);
    Ok(
        Proof::new("as the agent's log and /connections say, for both workloads")
            .with("client", client)
            .with("server", server)
            .with("key exchange", word(&egress["key_exchange"]))
            .with("cipher", word(&egress["cipher"]))
            .with("datapath", word(&egress["datapath"]))
            .with(
                "bytes",
                format!("{} up, {} down", grouped(sent), grouped(received)),
            ),
    )
}

fn addresses(stage: &Stage, visit: &Visit) -> Result<Proof> {
    let clients = [visit.over_v4.from()?, visit.over_v6.from()?];
    let own = [stage.client().v4(), stage.client().v6()];
    ensure!(
        clients.map(|client| client.ip()) == own,
        "curl says it came from {clients:?}"
    );
    for client in clients {
        stage.nginx().wait_for_client(client)?;
    }
    let [v4, v6] = clients;
    Ok(Proof::new(format!(
        "its log has {v4} and {v6}, which curl says it came from"
    )))
}

fn ciphertext(seen: Seen) -> Result<Proof> {
    let Seen { records, bytes, .. } = seen.unreadable()?;
    ensure!(records > 0, "no TLS record was on the wire");
    Ok(Proof::new(format!(
        "the sniffer found no marker in {} bytes, but {} TLS records",
        grouped(bytes),
        grouped(records)
    )))
}

/// What happens to a curl of the outsider, and which reason the agent logs.
fn refused(stage: &Stage, agent: &Agents, curl: Curl, reason: &str) -> Result<Proof> {
    let wire = stage.watch()?;
    let served = stage.nginx().clients()?.len();
    let outsider = curl.run()?;
    let said = outsider.refusal()?;
    let line = agent.refused(outsider.from()?)?;
    ensure!(
        line["reason"] == reason,
        "refused for {} in place of {reason}: {}",
        line["reason"],
        line["detail"]
    );
    ensure!(outsider.body.is_empty(), "though some of the page came");
    ensure!(
        stage.nginx().clients()?.len() == served,
        "though nginx saw the request"
    );
    wire.finish()?.unreadable()?;
    Ok(
        Proof::new("no byte of the page, and nginx was not even asked")
            .with("curl", said.trim_start_matches("curl: "))
            .with("agent", format!("{reason}: {}", word(&line["detail"]))),
    )
}

fn killed(stage: &Stage, agent: &mut Agents) -> Result<Proof> {
    let wire = stage.watch()?;
    let download = stage.slow_film()?;
    download.wait_until_it_flows()?;
    agent.kill()?;

    let next = [stage.curl()?.run()?, stage.curl_v6()?.run()?];
    let inbound = Curl::http(stage.outsider(), stage.address())?.run()?;
    for curl in next.iter().chain([&inbound]) {
        let said = curl.refusal()?;
        ensure!(
            curl.body.is_empty() && curl.took < AT_ONCE,
            "not at once: after {} ms and {} bytes, {said}",
            curl.took.as_millis(),
            curl.body.len()
        );
    }
    let cut_off = download.wait()?;
    let end = cut_off.refusal()?;
    let seen = wire.finish()?.unreadable()?;
    Ok(Proof::new(format!(
        "the next curl was refused within {} ms, and the outsider's, too",
        next[0].took.as_millis()
    ))
    .with("next curl", next[0].refusal()?.trim_start_matches("curl: "))
    .with("download", end.trim_start_matches("curl: "))
    .with(
        "wire",
        format!("no marker in {} bytes", grouped(seen.bytes)),
    ))
}

/// What `sealwire verify` finds.
fn verified(coordinator: &Coordinator) -> Result<Proof> {
    let said = coordinator.verify()?.success()?.text();
    ensure!(said.contains("VERIFIED"), "`sealwire verify` says {said}");
    let status = coordinator.status()?;
    Ok(
        Proof::new("`sealwire verify` checked its evidence and its whole history")
            .with("manifest", short(&status["manifest"]))
            .with("transition", short(&status["transition"])),
    )
}

/// A new manifest takes over: trusted first, then issued under, then alone.
fn updated(stage: &Stage, coordinator: &mut Coordinator) -> Result<Proof> {
    let before = coordinator.status()?;
    let ((), served) = requests::during(stage, || {
        coordinator.update(|manifest| manifest["CertificateLifetime"] = "12h".into())?;
        coordinator.wait_until_rotated()
    })?;
    let after = coordinator.status()?;
    ensure!(
        before["manifest"] != after["manifest"],
        "the manifest is the same"
    );
    Ok(Proof::new(format!(
        "{} requests in {:.1} s, each answered; both agents changed certificate and CA meanwhile",
        grouped(served.requests),
        served.took.as_secs_f32()
    ))
    .with("manifest", short(&after["manifest"]))
    .with(
        "mesh CA",
        format!(
            "generation {} to {}",
            before["rotation"]["generation"], after["rotation"]["generation"]
        ),
    ))
}

/// The secrets were in the memory of the process that is gone; two owners' shares bring them back.
fn recovered(stage: &Stage, coordinator: &mut Coordinator) -> Result<Proof> {
    let before = coordinator.status()?;
    let (waited, served) = requests::during(stage, || {
        coordinator.kill()?;
        coordinator.restart()?;
        let waited = coordinator.status()?;
        coordinator.recover()?;
        coordinator.wait_until_rotated()?;
        Ok(waited)
    })?;
    let after = coordinator.status()?;
    ensure!(
        waited["phase"] == "recovery" && after["phase"] == "ready",
        "it was {waited}, then {after}"
    );
    ensure!(
        before["manifest"] == after["manifest"],
        "the manifest is another"
    );
    Ok(Proof::new(format!(
        "{} requests in {:.1} s, each answered; two owners gave their shares",
        grouped(served.requests),
        served.took.as_secs_f32()
    ))
    .with("manifest", "as before"))
}

fn traces(stage: &Stage, coordinator: &Coordinator, agent: &Agents) -> Result<Traces> {
    let paths = stage.paths()?.into_iter().chain(agent.files());
    let processes = agent
        .pids()
        .chain(coordinator.pid())
        .chain([stage.nginx().pid()]);
    Traces::find(paths, processes)
}

/// The beginning of a hash.
fn short(hash: &Value) -> String {
    word(hash).chars().take(16).collect()
}

fn gone(traces: &Traces) -> Result<Proof> {
    let number = traces.assert_gone()?;
    Ok(Proof::new(format!(
        "namespaces, cgroups, pins, processes, files: all {number} that were there are gone"
    )))
}

/// The same error for every check that builds on what failed.
fn again(error: &Error) -> Error {
    anyhow!("{error:#}")
}

fn count(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("no number of bytes: {value}"))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}

/// A number as people read it, 1234567 as "1,234,567".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const PROGRAMME: &str = "\
Sealwire: an unmodified nginx and curl in mutual TLS

  client ──────── the wire, watched ──────── server
  curl                     │                 nginx, plain HTTP
                        outsider
  a Coordinator gives the agents of both their certificates";

const SIMULATED: &str = "\
The TEE is SIMULATED: this shows how Sealwire works, and protects nothing from whoever runs this \
machine. With SEV-SNP or TDX the same evidence comes from the processor.";

/// Much more than a refusal takes, much less than a timeout.
const AT_ONCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        let numbers = [0, 999, 1000, 1_234_567];
        assert_eq!(numbers.map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
