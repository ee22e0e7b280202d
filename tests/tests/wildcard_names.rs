//! Egress rules by the names below one: the agent overhears what the programs are told.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use testbed::agent::WorkloadConfig;
use testbed::dns::{NameServer, Spoil};
use testbed::pair::PORT;
use testbed::{Client, EgressRule, End, Pair, Server, Testbed, require};

#[test]
fn without_an_agent_what_goes_to_a_name_is_in_clear() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn a_connection_right_after_the_answer_has_its_rule() -> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        for network in ["10.77.0.0/16", "fd77::/16"] {
            let rule = EgressRule::to_name("*.pub.test", "plaintext").within(network);
            client.egress.push(rule);
        }
    })?;
    let outsider = scene.pair.outsider();
    // Of both families.
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let serving = Server::start(outsider, &[everywhere], "--echo")?;
    let sniffer = scene.pair.bed.sniff()?;
    // Of each address nothing was known before.
    let addresses = (1..=60).flat_map(|nth: u16| {
        let [_, low] = nth.to_be_bytes();
        let v4 = Ipv4Addr::new(10, 77, 0, 100 + low);
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, nth);
        [IpAddr::from(v4), v6.into()]
    });
    for (nth, address) in addresses.enumerate() {
        let prefix = if address.is_ipv4() { "24" } else { "64" };
        let is_used_at_once = if address.is_ipv4() { "" } else { "nodad" };
        outsider.ip(&format!(
            "addr add {address}/{prefix} dev eth0 {is_used_at_once}"
        ))?;
        let name = format!("a{nth}.pub.test");
        scene.names.set(&dotted(&name), &[address]);
        let said = scene.look_up_and_connect(&name, address)?;
        said.assert_exact(5000, 5000);
    }
    drop(serving);
    sniffer.finish()?.assert_saw_plaintext();

    let line = scene
        .pair
        .client_agent
        .access(|line| line["mode"] == "plaintext")?;
    let rule = line["rule"].as_str().context("no rule")?;
    assert_eq!(rule, "egress[0] *.pub.test in 10.77.0.0/16 (a0.pub.test)");
    let metrics = scene.pair.client_agent.metrics()?;
    let read = [("workload", "client"), ("result", "read")];
    assert!(metrics.sum("sealwire_dns_answers_total", &read) >= 120);
    assert_eq!(metrics.sum("sealwire_dns_answers_lost_total", &[]), 0);
    // Everything else is as it is without the rules.
    let sniffer = scene.pair.bed.sniff()?;
    scene.pair.assert_served()?;
    sniffer.finish()?.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn a_resolver_may_be_asked_over_ipv6() -> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        let rule = EgressRule::to_name("*.pub.test", "plaintext").within("10.77.0.0/16");
        client.egress.push(rule);
    })?;
    let outsider = scene.pair.outsider();
    scene.names.set("a.pub.test.", &[outsider.v4()]);
    let _serving = Server::start(outsider, &[scene.outsider()], "--echo")?;
    let resolver = outsider.at_v6(53);
    let options = format!("--send 5000 --look-up a.pub.test --name-server {resolver}");
    Client::run(scene.pair.client(), scene.outsider(), &options)?.assert_exact(5000, 5000);
    Ok(())
}

#[test]
fn an_answer_that_runs_out_is_no_longer_plaintext() -> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        let rule = EgressRule::to_name("*.pub.test", "plaintext").within("10.77.0.0/16");
        client.egress.push(rule);
    })?;
    scene
        .names
        .set("a.pub.test.", &[scene.pair.outsider().v4()]);
    let told = scene.fate(scene.outsider(), Some("a.pub.test"))?;
    assert_eq!(told, Fate::InClear);
    wait(|| Ok(scene.fate(scene.outsider(), None)? == Fate::NotInClear))
}

#[test]
fn an_address_never_looked_up_is_refused_where_a_stricter_wildcard_may_be_meant() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        client.egress = vec![
            EgressRule::to(bed.host("outsider").v4().to_string(), "plaintext"),
            EgressRule::to_name("*.db.test", "mtls").at(PORT),
        ];
    })?;
    let outsider = scene.pair.outsider().v4();
    assert_eq!(scene.fate(scene.outsider(), None)?, Fate::NotInClear);
    let line = scene.pair.client_agent.refusal("name-unknown")?;
    assert_eq!(line["rule"], format!("egress[1] *.db.test:{PORT}"));
    // No answer could make the other destination anything but what it is.
    scene.pair.assert_served()?;

    scene.names.set("else.test.", &[outsider]);
    let known = scene.fate(scene.outsider(), Some("else.test"))?;
    assert_eq!(known, Fate::InClear);
    // Of two names the stricter holds, also for who asked for the other.
    scene.names.set("a.db.test.", &[outsider]);
    let told = scene.fate(scene.outsider(), Some("a.db.test"))?;
    assert_eq!(told, Fate::NotInClear);
    let again = scene.fate(scene.outsider(), Some("else.test"))?;
    assert_eq!(again, Fate::NotInClear);
    Ok(())
}

#[test]
fn a_forged_answer_makes_nothing_plaintext_outside_the_network() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        let outsider = bed.host("outsider").v4().to_string();
        client.egress = vec![
            EgressRule::to_name("*.pub.test", "plaintext").within(outsider),
            EgressRule::to_name("*.lie.test", "plaintext").within("10.77.0.0/16"),
            // What no answer makes anything else.
            EgressRule::to(bed.host("server").v4().to_string(), "mtls"),
        ];
    })?;
    let server = scene.pair.server();
    let sniffer = scene.pair.bed.sniff()?;
    for (name, address) in [
        ("a.pub.test", server.at(PORT)),
        ("a.lie.test", server.at(PORT)),
        ("a.pub.test", server.at_v6(PORT)),
    ] {
        scene.names.set(&dotted(name), &[address.ip()]);
        let _serving = Server::start(server, &[address], "--echo")?;
        let said = scene.look_up_and_connect(name, address.ip())?;
        said.assert_exact(5000, 5000);
    }
    sniffer.finish()?.assert_only_ciphertext(20_000);
    Ok(())
}

#[test]
fn an_answer_to_no_question_of_the_programs_is_not_heard() -> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        let rule = EgressRule::to_name("*.pub.test", "plaintext").within("10.77.0.0/16");
        client.egress.push(rule);
    })?;
    let outsider = scene.pair.outsider().v4();
    scene.names.set("a.pub.test.", &["10.77.0.200".parse()?]);
    scene.names.spoil(Some(Spoil::Forged(outsider)));
    let options = format!("{} --patience 300", scene.look_up("a.pub.test"));
    let client = Client::start(scene.pair.client(), scene.outsider(), &options)?;
    // To nobody, whose address it was told.
    let _ = client.outcome()?;
    assert_eq!(scene.fate(scene.outsider(), None)?, Fate::NotInClear);
    // The true answer was.
    let metrics = scene.pair.client_agent.metrics()?;
    assert_eq!(metrics.sum("sealwire_dns_answers_total", &[]), 1);
    Ok(())
}

#[test]
fn an_alias_is_under_the_rules_of_its_target_and_is_not_in_clear_by_them() -> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        client.egress = vec![
            EgressRule::to_name("*.pub.test", "plaintext").within("10.77.0.0/16"),
            EgressRule::to_name("*.bad.test", "deny"),
        ];
    })?;
    let outsider = scene.pair.outsider().v4();
    scene.names.set_alias("www.evil.test.", "a.pub.test.");
    scene.names.set("a.pub.test.", &[outsider]);
    let alias = scene.fate(scene.outsider(), Some("www.evil.test"))?;
    assert_eq!(alias, Fate::NotInClear);
    let target = scene.fate(scene.outsider(), Some("a.pub.test"))?;
    assert_eq!(target, Fate::InClear);

    let server = scene.pair.server();
    scene.names.set_alias("www.good.test.", "a.bad.test.");
    scene.names.set("a.bad.test.", &[server.v4()]);
    let said = scene.look_up_and_connect("www.good.test", server.v4())?;
    assert!(said.was_reset(), "{said:?}");
    let line = scene.pair.client_agent.refusal("denied-by-rule")?;
    assert_eq!(line["rule"], "egress[1] *.bad.test (a.bad.test)");
    Ok(())
}

#[test]
fn a_connection_that_an_answer_comes_to_forbid_ends() -> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        client
            .egress
            .push(EgressRule::to_name("*.bad.test", "deny"));
    })?;
    let server = scene.pair.server();
    let serving = Server::start(server, &[server.at(PORT)], "--echo")?;
    scene.names.set("good.test.", &[server.v4()]);
    scene.names.set("a.bad.test.", &[server.v4()]);
    let options = "--send 50000000 --chunk 10000 --write-pause 2000";
    let options = format!("{} {options}", scene.look_up("good.test"));
    let client = Client::start(scene.pair.client(), server.at(PORT), &options)?;
    client.connected()?;
    serving.accepted(0)?;
    let said = scene.look_up_and_connect("a.bad.test", server.v4())?;
    assert!(said.was_reset(), "{said:?}");
    assert!(client.closed()?.was_reset());
    scene
        .pair
        .client_agent
        .access(|line| line["close"] == "rule-changed")?;
    Ok(())
}

#[test]
fn the_hook_is_attached_only_while_a_wildcard_rule_is_there() -> Result<()> {
    require!();
    let mut scene = Scene::start(|_, _| {})?;
    assert_eq!(scene.hooks()?, 0);
    for (name, hooks) in [("*.bad.test", 2), ("one.test", 0), ("*.bad.test", 2)] {
        scene.pair.client_agent.reconfigure(|config| {
            config.workloads()[0].egress = vec![EgressRule::to_name(name, "deny")];
        })?;
        wait(|| Ok(scene.hooks()? == hooks))?;
    }
    // By an agent that has just begun to overhear.
    let server = scene.pair.server();
    scene.names.set("a.bad.test.", &[server.v4()]);
    let said = scene.look_up_and_connect("a.bad.test", server.v4())?;
    assert!(said.was_reset(), "{said:?}");
    scene.pair.client_agent.refusal("denied-by-rule")?;
    Ok(())
}

#[test]
fn an_agent_that_takes_over_knows_nothing_and_lets_nothing_through_for_that() -> Result<()> {
    require!();
    let mut scene = Scene::start(|bed, client| {
        client.egress = vec![
            EgressRule::to(bed.host("outsider").v4().to_string(), "plaintext"),
            EgressRule::to_name("*.db.test", "mtls"),
        ];
    })?;
    let outsider = scene.pair.outsider().v4();
    scene.names.set("else.test.", &[outsider]);
    let before = scene.fate(scene.outsider(), Some("else.test"))?;
    assert_eq!(before, Fate::InClear);
    let old = scene.pair.client_agent.take_over(Duration::from_secs(5))?;
    assert_eq!(scene.fate(scene.outsider(), None)?, Fate::NotInClear);
    scene.pair.client_agent.refusal("name-unknown")?;
    let after = scene.fate(scene.outsider(), Some("else.test"))?;
    assert_eq!(after, Fate::InClear);
    drop(old);
    Ok(())
}

#[test]
fn a_flood_of_answers_harms_no_traffic() -> Result<()> {
    require!();
    let scene = Scene::start(|bed, client| {
        client.egress = vec![
            EgressRule::to(bed.host("outsider").v4().to_string(), "plaintext"),
            EgressRule::to_name("*.db.test", "mtls"),
        ];
    })?;
    let outsider = scene.pair.outsider().v4();
    // Long enough that the ring buffer holds fewer of them than there will be.
    let name = format!("{}.else.test", "a".repeat(60));
    scene.names.set(&dotted(&name), &[outsider]);
    for nth in 1..FLOOD {
        scene.names.set(&format!("{nth}.{name}."), &[outsider]);
    }
    let known = scene.fate(scene.outsider(), Some(&name))?;
    assert_eq!(known, Fate::InClear);

    // While bytes flow, and with nobody to read the answers for a while.
    let server = scene.pair.server();
    let serving = Server::start(server, &[server.at(PORT)], "--echo")?;
    let options = "--send 3000000 --chunk 10000 --write-pause 2000";
    let busy = Client::start(scene.pair.client(), server.at(PORT), options)?;
    busy.connected()?;
    let options = format!("{} --look-ups {FLOOD}", scene.look_up(&name));
    let agent = &scene.pair.client_agent;
    agent.signal(Signal::SIGSTOP)?;
    let flood = Client::start(scene.pair.client(), scene.outsider(), &options)?;
    let asked = flood.outcome();
    agent.signal(Signal::SIGCONT)?;
    // Whether it was refused depends on how long the agent stood still.
    let _ = asked?;
    busy.closed()?.assert_exact(3_000_000, 3_000_000);
    serving.closed(0)?.assert_exact(3_000_000, 3_000_000);

    agent.wait_for("no answers are lost", |agent| {
        let lost = agent.metrics()?.sum("sealwire_dns_answers_lost_total", &[]);
        Ok(lost > 0)
    })?;
    // What was known is known no more, as what was lost may have been more.
    wait(|| Ok(scene.fate(scene.outsider(), None)? == Fate::NotInClear))?;
    agent.refusal("name-unknown")?;
    let again = scene.fate(scene.outsider(), Some(&name))?;
    assert_eq!(again, Fate::InClear);
    drop(serving);
    scene.pair.assert_served()
}

#[test]
fn an_answer_that_is_noise_says_nothing_and_harms_nothing() -> Result<()> {
    require!();
    let scene = Scene::start(|_, client| {
        let rule = EgressRule::to_name("*.pub.test", "plaintext").within("10.77.0.0/16");
        client.egress.push(rule);
    })?;
    let outsider = scene.pair.outsider().v4();
    scene.names.set("a.pub.test.", &[outsider]);
    scene.names.spoil(Some(Spoil::Noise));
    let options = scene.look_up("a.pub.test");
    let client = Client::start(scene.pair.client(), scene.outsider(), &options)?;
    let unreadable = [("workload", "client"), ("result", "unreadable")];
    scene.pair.client_agent.wait_for("it is read", |agent| {
        let metrics = agent.metrics()?;
        Ok(metrics.sum("sealwire_dns_answers_total", &unreadable) > 0)
    })?;
    drop(client);
    assert_eq!(scene.fate(scene.outsider(), None)?, Fate::NotInClear);
    scene.names.spoil(None);
    let told = scene.fate(scene.outsider(), Some("a.pub.test"))?;
    assert_eq!(told, Fate::InClear);
    scene.pair.assert_served()
}

// === the scene ===

/// How a connection to somebody without an agent fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InClear,
    NotInClear,
}

struct Scene {
    pair: Pair,
    names: NameServer,
}

impl Scene {
    /// `rules` changes what the client's agent has.
    fn start(rules: impl FnOnce(&Testbed, &mut WorkloadConfig)) -> Result<Self> {
        let pair = Pair::start_tuned(
            |bed, client, _| rules(bed, client),
            |_, client, server| (client, server),
        )?;
        let names = NameServer::start(pair.outsider(), &[pair.client()])?;
        Ok(Self { pair, names })
    }

    fn outsider(&self) -> SocketAddr {
        self.pair.outsider().at(PORT)
    }

    /// Options for a program that asks for `name` first.
    fn look_up(&self, name: &str) -> String {
        let resolver = self.pair.outsider().at(53);
        format!("--look-up {name} --name-server {resolver}")
    }

    /// A program looks `name` up and connects to what it is told, of the family of `like`.
    fn look_up_and_connect(&self, name: &str, like: IpAddr) -> Result<testbed::Closed> {
        let options = format!("--send 5000 {}", self.look_up(name));
        Client::run(self.pair.client(), (like, PORT).into(), &options)
    }

    /// How a program fares with the one at `address` of the outsider, whether it has asked for its name or
    /// not.
    fn fate(&self, address: SocketAddr, name: Option<&str>) -> Result<Fate> {
        let serving = Server::start(self.pair.outsider(), &[address], "--echo")?;
        let sniffer = self.pair.bed.sniff()?;
        let said = match name {
            Some(name) => self.look_up_and_connect(name, address.ip())?,
            None => Client::run(self.pair.client(), address, "--send 5000")?,
        };
        drop(serving);
        let capture = sniffer.finish()?;
        if said.received == 0 {
            assert_ne!(said.end, End::Stopped, "{said:?}");
            capture.assert_no_plaintext_from(self.pair.client().v4());
            return Ok(Fate::NotInClear);
        }
        said.assert_exact(5000, 5000);
        capture.assert_saw_plaintext();
        Ok(Fate::InClear)
    }

    /// How many programs the client's agent holds at its workload's cgroup that go with it: those that
    /// steer are pinned, and it keeps no descriptor of them.
    fn hooks(&self) -> Result<usize> {
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", self.pair.client_agent.pid()?))?;
        let is_hook = |info: &String| {
            let is = |line: &str, of: &str| line.split_whitespace().eq(["link_type:", of]);
            info.lines().any(|line| is(line, "cgroup"))
        };
        let infos = descriptors.flatten();
        let infos = infos.filter_map(|file| fs::read_to_string(file.path()).ok());
        Ok(infos.filter(is_hook).count())
    }
}

fn wait(is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        anyhow::ensure!(start.elapsed() < HEARD, "it is not heard");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

const FLOOD: u32 = 4000;

/// Answers last for seconds.
const HEARD: Duration = Duration::from_secs(40);

/// As the name server has it.
fn dotted(name: &str) -> String {
    format!("{name}.")
}
