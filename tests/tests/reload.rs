//! Another configuration while connections run.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use testbed::agent::{Agent, EgressRule, IngressRule, ListenerRule, WorkloadConfig};
use testbed::pair::PORT;
use testbed::pki::{Mesh, spiffe_id};
use testbed::{Client, Pair, Server, Testbed, peer, require};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn a_rule_that_comes_counts_for_new_connections_and_running_ones_go_on() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let running = Client::start(pair.client(), address, SLOW)?;
    running.connected()?;
    serving.accepted(0)?;

    for host in ["client", "server"] {
        let denied = deny(&format!("{}/32", pair.outsider().v4()), None);
        let rule = IngressRule {
            port: OTHER_PORT,
            mode: "tls",
            peers: Vec::new(),
        };
        // Without a signal.
        let agent = agent_of(&mut pair, host);
        agent.rewrite(|config| {
            let workload = &mut config.workloads()[0];
            workload.egress.push(denied);
            workload.ingress.push(rule);
        })?;
        agent.wait_for_generation(2)?;
    }
    let said = Client::run(pair.client(), pair.outsider().at(PORT), "--send 5000")?;
    assert!(said.was_reset(), "the new rule does not count: {said:?}");
    pair.client_agent.refusal("denied-by-rule")?;

    running.closed()?.assert_exact(SLOWLY, SLOWLY);
    sniffer.finish()?.assert_only_ciphertext(2 * SLOWLY);
    assert_eq!(metric(&pair.client_agent, "loaded")?, 1);
    assert_eq!(pair.client_agent.generation()?, 2);
    Ok(())
}

#[test]
fn a_connection_that_a_rule_denies_now_ends_within_two_seconds_and_says_so() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let denied = deny(&format!("{}/32", pair.server().v4()), Some(PORT));
    let ended = end_by(&mut pair, "client", |workload| workload.egress.push(denied))?;
    assert_eq!(ended, "rule-changed");
    pair.client_agent.refusal("denied-by-rule").map(|_| ())
}

#[test]
fn a_peer_that_is_not_listed_any_more_is_cut_off_within_two_seconds() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let ended = end_by(&mut pair, "server", |workload| {
        workload.ingress_peers = vec!["somebody-else".to_owned()];
    })?;
    assert_eq!(ended, "peer-not-allowed-any-more");
    pair.server_agent.refusal("peer-not-allowed").map(|_| ())
}

#[test]
fn a_dry_run_lets_through_and_tells_and_its_end_closes() -> Result<()> {
    require!();
    let mut pair = Pair::start_with(|_, server| {
        server.ingress_peers = vec!["any".to_owned(), "!client".to_owned()];
        server.dry_run = true;
    })?;
    pair.assert_served()?;
    let told = pair.server_agent.log_line("dry-run", |_| true)?;
    assert_eq!(told["peer"], spiffe_id("client"));
    let metrics = pair.server_agent.metrics()?;
    assert!(
        metrics.sum(
            "sealwire_dry_run_refusals_total",
            &[("direction", "ingress")]
        ) > 0
    );

    let ended = end_by(&mut pair, "server", |workload| workload.dry_run = false)?;
    assert_eq!(ended, "peer-not-allowed-any-more");
    pair.server_agent.refusal("peer-not-allowed").map(|_| ())
}

#[test]
fn a_namespace_is_let_in_and_one_of_it_is_not() -> Result<()> {
    require!();
    let mut pair = Pair::start_with(|_, server| {
        server.ingress_peers = vec!["ns/default".to_owned()];
    })?;
    pair.assert_served()?;
    let ended = end_by(&mut pair, "server", |workload| {
        workload.ingress_peers = vec!["ns/default".to_owned(), "!client".to_owned()];
    })?;
    assert_eq!(ended, "peer-not-allowed-any-more");
    Ok(())
}

#[test]
fn what_is_in_clear_ends_when_the_rules_ask_for_mutual_tls() -> Result<()> {
    require!();
    let mut pair = Pair::start_with(|client, server| {
        client.egress_default = Some("plaintext");
        server.ingress_default = Some("plaintext");
    })?;
    let ended = end_by(&mut pair, "client", |workload| {
        workload.egress_default = None;
    })?;
    assert_eq!(ended, "rule-changed");
    Ok(())
}

#[test]
fn a_port_that_was_in_clear_is_sealed_from_the_reload_on() -> Result<()> {
    require!();
    let mut pair = Pair::start_with(|client, server| {
        client.egress_default = Some("plaintext");
        server.ingress_default = Some("plaintext");
    })?;
    pair.server_agent
        .reconfigure(|config| config.workloads()[0].ingress_default = None)?;
    // The client's agent still sends in clear: the server's refuses that.
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let said = Client::run(pair.client(), address, "--send 5000")?;
    assert_eq!((said.received, serving.connections()), (0, 0), "{said:?}");
    drop(serving);
    pair.client_agent
        .reconfigure(|config| config.workloads()[0].egress_default = None)?;
    let (said, heard, capture) = pair.converse("--send 5000", "--echo")?;
    said.assert_exact(5000, 5000);
    heard.assert_exact(5000, 5000);
    capture.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn what_came_straight_to_a_port_in_clear_ends_when_the_port_is_sealed() -> Result<()> {
    require!();
    let mut pair = Pair::start_with(|_, server| {
        server.ingress.push(IngressRule {
            port: PORT,
            mode: "plaintext",
            peers: Vec::new(),
        });
        server.ingress.push(IngressRule {
            port: OTHER_PORT,
            mode: "plaintext",
            peers: Vec::new(),
        });
    })?;
    // The outsider has no agent, so that nobody but the server's could end it.
    for address in [pair.server().at(PORT), pair.server().at_v6(PORT)] {
        let other = pair.server().at(OTHER_PORT);
        let _serving = Server::start(pair.server(), &[address, other], "--echo")?;
        let running = Client::start(pair.outsider(), address, ENDLESS)?;
        let stays = Client::start(pair.outsider(), other, SLOW)?;
        running.connected()?;
        stays.connected()?;
        pair.server_agent
            .reconfigure(|config| config.workloads()[0].ingress[0].mode = "mtls")?;
        assert!(running.closed()?.was_reset());
        stays.closed()?.assert_exact(SLOWLY, SLOWLY);
        pair.server_agent
            .reconfigure(|config| config.workloads()[0].ingress[0].mode = "plaintext")?;
    }
    Ok(())
}

#[test]
fn a_bad_configuration_is_refused_whole_and_named_everywhere() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let address = format!("{}/32", pair.server().v4());
    pair.client_agent.rewrite(|config| {
        let workload = &mut config.workloads()[0];
        // The first would do.
        workload.egress.push(deny(&address, None));
        workload.egress.push(deny("10.0.0.1/8", None));
    })?;
    let agent = &pair.client_agent;
    agent.wait_for("it does not say so in /ready", |agent| {
        let (is_ready, ready) = agent.ready()?;
        let why = ready["configuration"]["refused"].as_str();
        Ok(is_ready && why.is_some_and(|why| why.contains("10.0.0.1/8") && why.contains(".toml:")))
    })?;
    assert_eq!(agent.generation()?, 1);
    assert_eq!(metric(agent, "refused")?, 1);
    assert!(
        agent.log().contains("the new configuration is refused"),
        "{}",
        agent.log()
    );
    pair.assert_served()?;

    pair.client_agent.reconfigure(|config| {
        config.workloads()[0].egress = vec![deny("192.0.2.0/24", None)];
    })?;
    let (_, ready) = pair.client_agent.ready()?;
    assert!(ready["configuration"]["refused"].is_null(), "{ready}");
    pair.assert_served()
}

#[test]
fn a_file_that_is_gone_or_no_toml_changes_nothing() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    for (nth, text) in ["", "admin_port = ", "\u{0}", "workload = 7"]
        .iter()
        .enumerate()
    {
        pair.client_agent.rewrite_as(text)?;
        pair.client_agent.wait_for("it was not refused", |agent| {
            Ok(metric(agent, "refused")? == nth as u64 + 1)
        })?;
        pair.assert_served()?;
    }
    assert_eq!(pair.client_agent.generation()?, 1);
    Ok(())
}

#[test]
fn what_is_laid_down_at_the_start_is_refused_with_its_name() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    pair.client_agent.rewrite(|config| {
        *config = config.clone().with_local_acceleration();
    })?;
    pair.client_agent.wait_for("it does not say so", |agent| {
        let (_, ready) = agent.ready()?;
        let why = ready["configuration"]["refused"].as_str();
        Ok(why.is_some_and(|why| why.contains("local_acceleration") && why.contains("restart")))
    })?;
    pair.assert_served()
}

#[test]
fn sighup_reads_the_file_at_once_and_the_same_file_changes_nothing() -> Result<()> {
    require!();
    let pair = Pair::start()?;
    pair.client_agent.signal(Signal::SIGHUP)?;
    pair.client_agent
        .wait_for("it was not read", |agent| Ok(metric(agent, "loaded")? == 1))?;
    assert_eq!(pair.client_agent.generation()?, 1);
    pair.assert_served()
}

#[test]
fn a_workload_comes_and_goes_beside_another() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server", "outsider"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let of = |name| anyhow::Ok(WorkloadConfig::of(bed.host(name), &mesh.issue(name)?));
    let mut agent = Agent::start(&bed, vec![of("client")?, of("server")?])?;
    let address = bed.host("server").at(PORT);
    let serving = Server::start(bed.host("server"), &[address], "--echo")?;
    let sniffer = bed.sniff()?;
    let running = Client::start(bed.host("client"), address, SLOW)?;
    running.connected()?;
    serving.accepted(0)?;

    let third = of("outsider")?;
    agent.reconfigure(|config| config.workloads().push(third))?;
    agent.wait_until_ready()?;
    Client::run(bed.host("outsider"), address, "--send 5000")?.assert_exact(5000, 5000);
    let endless = Client::start(bed.host("outsider"), address, ENDLESS)?;
    endless.connected()?;
    serving.accepted(2)?;

    let began = Instant::now();
    agent.reconfigure(|config| drop(config.workloads().pop()))?;
    assert!(endless.closed()?.was_reset());
    assert!(began.elapsed() < Duration::from_secs(10), "{began:?}");
    agent.access(|line| line["workload"] == "outsider" && line["close"] == "workload-removed")?;
    let refused = Client::try_connect(bed.host("outsider"), address, "--send 1")?;
    assert_eq!(
        refused.err().map(|(errno, _)| errno).as_deref(),
        Some("ECONNREFUSED"),
        "what is not served any more may not go out in clear"
    );
    let (_, ready) = agent.ready()?;
    assert_eq!(
        ready["workloads"].as_array().map(Vec::len),
        Some(2),
        "{ready}"
    );

    running.closed()?.assert_exact(SLOWLY, SLOWLY);
    sniffer.finish()?.assert_only_ciphertext(2 * SLOWLY);
    Ok(())
}

#[test]
fn a_workload_with_another_certificate_directory_is_replaced() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let other = pair.mesh.issue("renamed")?;
    pair.client_agent
        .reconfigure(|config| config.workloads()[0].tls_dir = Some(other))?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()?;
    let seen = pair
        .server_agent
        .access(|line| line["peer"] == spiffe_id("renamed"))?;
    assert_eq!(seen["close"], "orderly");
    Ok(())
}

#[test]
fn a_workload_that_can_not_be_replaced_is_refused_until_it_can() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    // Under its name another group of processes, to which no agent has been attached so far.
    let old = WorkloadConfig::of(pair.client(), &pair.mesh.issue("client")?);
    let mut new = WorkloadConfig::of(pair.outsider(), &pair.mesh.issue("renamed")?);
    new.name.clone_from(&old.name);
    // What only shows once the old one is gone: somebody listens where the new one should.
    let listen: SocketAddrV4 = "127.137.0.1:5432".parse()?;
    let squatter = Server::start(pair.outsider(), &[listen.into()], "--echo")?;
    let remote = pair.server().at(PORT).to_string();
    let sniffer = pair.bed.sniff()?;
    new.listener = vec![ListenerRule { listen, remote }];
    pair.client_agent
        .reconfigure(|config| config.workloads()[0] = new)?;
    let (is_ready, ready) = pair.client_agent.ready()?;
    assert!(!is_ready, "{ready}");
    let why = ready["workloads"][0]["why"].as_str();
    assert!(
        why.is_some_and(|why| why.contains("127.137.0.1:5432")),
        "{ready}"
    );
    let address = pair.server().at(PORT);
    for host in [pair.client(), pair.outsider()] {
        let refused = Client::try_connect(host, address, "--send 1")?;
        assert_eq!(
            refused.err().map(|(errno, _)| errno).as_deref(),
            Some("ECONNREFUSED"),
            "{host:?}"
        );
    }

    drop(squatter);
    pair.client_agent
        .reconfigure(|config| config.workloads()[0] = old)?;
    pair.client_agent.wait_until_ready()?;
    pair.assert_served()?;
    sniffer.finish()?.assert_only_ciphertext(1000);
    Ok(())
}

#[test]
fn a_listener_comes_leads_elsewhere_and_goes() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let listen: SocketAddrV4 = "127.137.0.1:5432".parse()?;
    for port in [PORT, OTHER_PORT] {
        let to = pair.server().at(port);
        pair.client_agent.reconfigure(|config| {
            config.workloads()[0].listener = vec![ListenerRule {
                listen,
                remote: to.to_string(),
            }];
        })?;
        let serving = Server::start(pair.server(), &[to], "--echo")?;
        let sniffer = pair.bed.sniff()?;
        Client::run(pair.client(), listen.into(), "--send 5000")?.assert_exact(5000, 5000);
        serving.closed(0)?.assert_exact(5000, 5000);
        sniffer.finish()?.assert_only_ciphertext(10_000);
    }
    pair.client_agent
        .reconfigure(|config| config.workloads()[0].listener.clear())?;
    let refused = Client::try_connect(pair.client(), listen.into(), "--send 1")?;
    assert_eq!(
        refused.err().map(|(errno, _)| errno).as_deref(),
        Some("ECONNREFUSED")
    );
    pair.assert_served()
}

#[test]
fn reloads_under_load_drop_no_connection() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo --quiet")?;
    let sniffer = pair.bed.sniff()?;
    let churn = "--connections 8 --churn 8";
    let many = peer::start_many(pair.client(), address, churn)?;
    let until = Instant::now() + Duration::from_secs(7);
    for nth in 0.. {
        if Instant::now() > until {
            assert!(nth > 10, "{nth} reloads");
            break;
        }
        for host in ["client", "server"] {
            let rule = deny(&format!("192.0.{}.{}/32", nth / 256, nth % 256), None);
            agent_of(&mut pair, host)
                .reconfigure(|config| config.workloads()[0].egress.push(rule))?;
        }
    }
    let many = many.finish()?;
    assert!(many.failures.is_empty() && many.exact > 100, "{many:?}");
    sniffer
        .finish()?
        .assert_only_ciphertext(many.exact * 2 * 1024);
    Ok(())
}

/// Half a second or more, and the bytes of it.
const SLOW: &str = "--send 400000 --chunk 4000 --write-pause 60000";
const SLOWLY: u64 = 400_000;
const ENDLESS: &str = "--send 4000000000 --chunk 3000 --write-pause 2000";

const OTHER_PORT: u16 = PORT + 1;

fn agent_of<'a>(pair: &'a mut Pair, host: &str) -> &'a mut Agent {
    if host == "client" {
        &mut pair.client_agent
    } else {
        &mut pair.server_agent
    }
}

fn deny(cidr: &str, port: Option<u16>) -> EgressRule {
    EgressRule {
        port,
        ..EgressRule::to(cidr, "deny")
    }
}

/// Changes a host's workload while a connection between both is open; how that is said to have
/// ended. A new one is tried afterwards.
fn end_by(pair: &mut Pair, host: &str, change: impl FnOnce(&mut WorkloadConfig)) -> Result<String> {
    let address = pair.server().at(PORT);
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let running = Client::start(pair.client(), address, ENDLESS)?;
    running.connected()?;
    serving.accepted(0)?;
    let agent = agent_of(pair, host);
    agent.reconfigure(|config| change(&mut config.workloads()[0]))?;
    let in_force = Instant::now();
    let line = agent.access(|line| line["close"] != "orderly")?;
    let took = in_force.elapsed();
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert!(running.closed()?.was_reset());
    // Refused by the rule, or at once by the kernel, which has heard of it.
    let _ = Client::try_connect(pair.client(), address, "--send 1")?;
    let close = line["close"].as_str();
    Ok(close.context("a line without a close")?.to_owned())
}

/// How often the configuration was read again with this result.
fn metric(agent: &Agent, result: &str) -> Result<u64> {
    let metrics = agent.metrics()?;
    Ok(metrics.sum("sealwire_config_reloads_total", &[("result", result)]))
}
