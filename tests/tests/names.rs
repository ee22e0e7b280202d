//! Egress rules by DNS name: the agent follows what the names lead to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use testbed::agent::WorkloadConfig;
use testbed::dns::NameServer;
use testbed::pair::PORT;
use testbed::{Client, EgressRule, End, Pair, Server, Testbed, require};

#[test]
fn without_an_agent_what_goes_to_a_name_is_in_clear() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn a_rule_by_name_is_for_the_addresses_that_the_name_has() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        let outsiders = ["10.77.0.0/16", "fd77::/16"];
        for network in outsiders {
            let rule = EgressRule::to_name(NAME, "plaintext").within(network);
            client.egress.push(rule);
        }
        let outsider = bed.host("outsider");
        vec![outsider.v4(), outsider.v6()]
    })?;
    for address in [scene.outsider(), scene.outsider_v6()] {
        scene.assert_in_clear(address)?;
    }
    let line = scene
        .pair
        .client_agent
        .access(|line| line["mode"] == "plaintext")?;
    assert_eq!(line["rule"], format!("egress[0] {NAME} in 10.77.0.0/16"));
    // Everything else is as it is without the rule.
    let sniffer = scene.pair.bed.sniff()?;
    scene.pair.assert_served()?;
    sniffer.finish()?.assert_only_ciphertext(10_000);
    let metrics = scene.pair.client_agent.metrics()?;
    let known = [("workload", "client"), ("state", "known")];
    assert_eq!(metrics.sum("sealwire_names", &known), 1);
    Ok(())
}

#[test]
fn a_record_that_changes_is_followed() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        client.egress.push(EgressRule::to_name(NAME, "deny"));
        vec![bed.host("outsider").v4()]
    })?;
    let server = scene.pair.server();
    scene.pair.assert_served()?;
    for (addresses, denied) in [
        (vec![server.v4()], server.at(PORT)),
        (vec![server.v6()], server.at_v6(PORT)),
    ] {
        scene.names.set(&dotted(NAME), &addresses);
        scene.wait_until_denied(denied)?;
    }
    let line = scene.pair.client_agent.refusal("denied-by-rule")?;
    assert_eq!(line["rule"], format!("egress[0] {NAME}"));
    Ok(())
}

#[test]
fn what_may_be_in_clear_is_so_no_longer_when_its_record_goes_elsewhere() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        let rule = EgressRule::to_name(NAME, "plaintext").within("10.77.0.0/16");
        client.egress.push(rule);
        vec![bed.host("outsider").v4()]
    })?;
    scene.assert_in_clear(scene.outsider())?;
    scene
        .names
        .set(&dotted(NAME), &["10.77.0.200".parse::<IpAddr>()?]);
    scene.wait_until_sealed(scene.outsider())?;

    // Nor when nobody can say any more.
    scene
        .names
        .set(&dotted(NAME), &[scene.pair.outsider().v4()]);
    scene.wait_until_in_clear(scene.outsider())?;
    scene.names.set_silent(true);
    scene.wait_until_sealed(scene.outsider())
}

#[test]
fn a_resolver_that_lies_turns_no_mtls_destination_into_plaintext() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        let outsider = bed.host("outsider").v4().to_string();
        client.egress = vec![
            // What the name may lead to, and what no name makes anything else.
            EgressRule::to_name(NAME, "plaintext").within(outsider),
            EgressRule::to_name(OTHER, "plaintext").within("10.77.0.0/16"),
            EgressRule::to(bed.host("server").v4().to_string(), "mtls"),
        ];
        vec![bed.host("outsider").v4()]
    })?;
    scene.assert_in_clear(scene.outsider())?;
    let server = scene.pair.server();
    for name in [NAME, OTHER] {
        scene.names.set(&dotted(name), &[server.v4(), server.v6()]);
    }
    // The lie has been taken up.
    scene.wait_until_sealed(scene.outsider())?;
    let sniffer = scene.pair.bed.sniff()?;
    scene.pair.assert_served()?;
    let serving = Server::start(server, &[server.at_v6(PORT)], "--echo")?;
    Client::run(scene.pair.client(), server.at_v6(PORT), "--send 5000")?.assert_exact(5000, 5000);
    drop(serving);
    sniffer.finish()?.assert_only_ciphertext(20_000);
    Ok(())
}

#[test]
fn what_a_name_that_is_not_known_may_be_for_is_refused() -> Result<()> {
    require!();
    let scene = Scene::start_silent(|bed, client| {
        client.egress = vec![
            EgressRule::to(bed.host("outsider").v4().to_string(), "plaintext"),
            EgressRule::to_name(NAME, "mtls").at(PORT),
        ];
    })?;
    let sniffer = scene.pair.bed.sniff()?;
    // In clear by one rule, but it may be what the other is for.
    let liar = Server::start(scene.pair.outsider(), &[scene.outsider()], "--send 5000")?;
    let said = Client::run(scene.pair.client(), scene.outsider(), "--send 5000")?;
    assert!(said.was_reset() || said.end == End::Reset, "{said:?}");
    sniffer
        .finish()?
        .assert_no_plaintext_from(scene.pair.client().v4());
    let line = scene.pair.client_agent.refusal("name-unknown")?;
    assert_eq!(line["rule"], format!("egress[1] {NAME}:{PORT}"));
    // No answer could make the other destination anything but what it is.
    scene.pair.assert_served()?;

    scene.names.set_silent(false);
    scene
        .names
        .set(&dotted(NAME), &["10.77.0.200".parse::<IpAddr>()?]);
    drop(liar);
    scene.wait_until_in_clear(scene.outsider())
}

#[test]
fn a_name_that_nobody_can_look_up_any_more_may_have_other_addresses() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        client.egress = vec![
            EgressRule::to(bed.host("outsider").v4().to_string(), "plaintext"),
            EgressRule::to_name(NAME, "mtls").at(PORT),
        ];
        vec![bed.host("server").v4()]
    })?;
    scene.assert_in_clear(scene.outsider())?;
    scene.names.set_silent(true);
    scene.wait_until_sealed(scene.outsider())?;
    scene.pair.client_agent.refusal("name-unknown")?;
    // What it had is under its rule as before.
    scene.pair.assert_served()?;
    scene.names.set_silent(false);
    scene.wait_until_in_clear(scene.outsider())
}

#[test]
fn a_name_that_comes_to_forbid_a_connection_ends_it() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        client.egress.push(EgressRule::to_name(NAME, "deny"));
        vec![bed.host("outsider").v4()]
    })?;
    let server = scene.pair.server();
    let serving = Server::start(server, &[server.at(PORT)], "--echo")?;
    let client = Client::start(
        scene.pair.client(),
        server.at(PORT),
        "--send 50000000 --chunk 10000 --write-pause 2000",
    )?;
    client.connected()?;
    serving.accepted(0)?;
    scene.names.set(&dotted(NAME), &[server.v4()]);
    assert!(client.closed()?.was_reset());
    serving.closed(0)?;
    scene
        .pair
        .client_agent
        .access(|line| line["close"] == "rule-changed")?;
    Ok(())
}

#[test]
fn all_of_a_thousand_addresses_are_under_the_rule_and_nothing_is_where_no_answer_holds_them()
-> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        client.egress.push(EgressRule::to_name(NAME, "deny"));
        many_addresses(10_000)
    })?;
    let server = scene.pair.server();
    assert!(Client::run(scene.pair.client(), server.at(PORT), "--send 10")?.was_reset());
    let line = scene.pair.client_agent.refusal("name-unknown")?;
    assert!(line["detail"].to_string().contains(NAME), "{line}");

    let mut addresses = many_addresses(1500);
    scene.names.set(&dotted(NAME), &addresses);
    let serving = Server::start(server, &[server.at(PORT)], "--echo")?;
    wait(|| Ok(Client::run(scene.pair.client(), server.at(PORT), "--send 10")?.received == 10))?;
    drop(serving);
    addresses.push(server.v4());
    scene.names.set(&dotted(NAME), &addresses);
    scene.wait_until_denied(server.at(PORT))
}

// === the scene ===

const NAME: &str = "public.test";
const OTHER: &str = "other.test";

/// Answers last for a second; look-ups that failed are tried again within a few.
const FOLLOWED: Duration = Duration::from_secs(40);

struct Scene {
    pair: Pair,
    names: NameServer,
}

impl Scene {
    /// `rules` changes what the client's agent has, and says what the name leads to.
    fn start(rules: impl FnOnce(&Testbed, &mut WorkloadConfig) -> Vec<IpAddr>) -> Result<Self> {
        Self::start_as(|bed, client, names| {
            let addresses = rules(bed, client);
            names.set(&dotted(NAME), &addresses);
        })
    }

    /// Nobody says what any name leads to.
    fn start_silent(rules: impl FnOnce(&Testbed, &mut WorkloadConfig)) -> Result<Self> {
        Self::start_as(|bed, client, names| {
            rules(bed, client);
            names.set_silent(true);
        })
    }

    fn start_as(tune: impl FnOnce(&Testbed, &mut WorkloadConfig, &NameServer)) -> Result<Self> {
        let mut names = None;
        let pair = Pair::start_tuned(
            |bed, client, _| {
                let started = NameServer::start(bed.host("outsider"), &[bed.host("client")]);
                if let Ok(started) = &started {
                    tune(bed, client, started);
                }
                names = Some(started);
            },
            |_, client, server| (client, server),
        )?;
        let names = names.ok_or_else(|| anyhow::anyhow!("no name server"))??;
        Ok(Self { pair, names })
    }

    fn outsider(&self) -> SocketAddr {
        self.pair.outsider().at(PORT)
    }

    fn outsider_v6(&self) -> SocketAddr {
        self.pair.outsider().at_v6(PORT)
    }

    /// How a program fares with the one at `address` of the outsider.
    fn is_in_clear(&self, address: SocketAddr) -> Result<bool> {
        let serving = Server::start(self.pair.outsider(), &[address], "--echo")?;
        let sniffer = self.pair.bed.sniff()?;
        let said = Client::run(self.pair.client(), address, "--send 5000")?;
        drop(serving);
        let capture = sniffer.finish()?;
        if said.received == 0 {
            capture.assert_no_plaintext_from(self.pair.client().v4());
            return Ok(false);
        }
        said.assert_exact(5000, 5000);
        capture.assert_saw_plaintext();
        Ok(true)
    }

    fn assert_in_clear(&self, address: SocketAddr) -> Result<()> {
        assert!(self.is_in_clear(address)?, "{address} is not in clear");
        Ok(())
    }

    fn wait_until_in_clear(&self, address: SocketAddr) -> Result<()> {
        wait(|| self.is_in_clear(address))
    }

    fn wait_until_sealed(&self, address: SocketAddr) -> Result<()> {
        wait(|| Ok(!self.is_in_clear(address)?))
    }

    fn wait_until_denied(&self, address: SocketAddr) -> Result<()> {
        let _serving = Server::start(self.pair.server(), &[address], "--echo")?;
        let agent = &self.pair.client_agent;
        let before = agent.refusals("denied-by-rule")?;
        wait(|| {
            let said = Client::run(self.pair.client(), address, "--send 10")?;
            let is_denied = agent.refusals("denied-by-rule")? > before;
            anyhow::ensure!(!is_denied || said.received == 0, "{said:?}");
            Ok(is_denied)
        })
    }
}

fn wait(is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        anyhow::ensure!(start.elapsed() < FOLLOWED, "it is not followed");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// As the name server has it.
fn dotted(name: &str) -> String {
    format!("{name}.")
}

/// Of nobody's.
fn many_addresses(number: u32) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(10, 88, 0, 0));
    let all = first..first + number;
    all.map(|bits| Ipv4Addr::from(bits).into()).collect()
}
