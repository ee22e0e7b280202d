//! Egress rules by workload: who answers proves who it is before anything is said to it.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;
use testbed::agent::WorkloadConfig;
use testbed::pair::PORT;
use testbed::pki::{Mesh, spiffe_id};
use testbed::{Agent, Client, EgressRule, Host, Server, Testbed, require};

#[test]
fn without_an_agent_what_goes_to_a_workload_is_in_clear() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn a_workload_is_reached_where_every_destination_is_denied() -> Result<()> {
    require!();
    let scene = Scene::start(|client| {
        client.egress_default = Some("deny");
        client.egress = vec![EgressRule::to_workload("cart", "mtls")];
    })?;
    scene.assert_reached("cart")?;
    for line in scene.accesses("cart")? {
        assert_eq!(line["rule"], "egress[0] workload cart", "{line}");
        assert_eq!(line["mode"], "mtls", "{line}");
    }
    for address in scene.addresses("shop") {
        scene.assert_denied("shop", address, "egress default")?;
    }
    // Nor is who proves nothing.
    let outsider = scene.bed.host("outsider").at(PORT);
    let said = scene.ask("outsider", outsider)?;
    assert!(said.is_none(), "{said:?}");
    let line = scene.client.refusal("peer-not-tls")?;
    assert_eq!(line["rule"], "egress default", "{line}");
    Ok(())
}

#[test]
fn a_denied_workload_is_refused_wherever_it_answers_and_others_are_reached() -> Result<()> {
    require!();
    let scene = Scene::start(|client| {
        client.egress = vec![
            EgressRule::to_workload("cart", "deny"),
            EgressRule::to("10.77.0.0/16", "mtls").at(PORT),
        ];
    })?;
    for address in scene.addresses("cart") {
        scene.assert_denied("cart", address, "egress[0] workload cart")?;
    }
    scene.assert_reached("shop")?;
    let [v4, v6] = scene.accesses("shop")?;
    assert_eq!(v4["rule"], format!("egress[1] 10.77.0.0/16:{PORT}"));
    assert_eq!(v6["rule"], "egress default");
    Ok(())
}

#[test]
fn a_reload_that_denies_a_workload_ends_its_connections_and_no_others() -> Result<()> {
    require!();
    let mut scene = Scene::start(|_| {})?;
    let mut serving = Vec::new();
    let mut running = Vec::new();
    let sniffer = scene.bed.sniff()?;
    for (name, options) in [("cart", ENDLESS), ("shop", SLOW)] {
        let address = scene.bed.host(name).at(PORT);
        let server = Server::start(scene.bed.host(name), &[address], "--echo")?;
        let client = Client::start(scene.bed.host("client"), address, options)?;
        server.accepted(0)?;
        serving.push(server);
        running.push(client);
    }
    let [to_cart, to_shop] = &running[..] else {
        anyhow::bail!("two run");
    };
    scene.client.reconfigure(|config| {
        let denied = EgressRule::to_workload("cart", "deny");
        config.workloads()[0].egress.push(denied);
    })?;
    let line = scene
        .client
        .access(|line| line["peer"] == spiffe_id("cart"))?;
    assert_eq!(line["close"], "rule-changed", "{line}");
    assert!(to_cart.closed()?.was_reset());
    to_shop.closed()?.assert_exact(SLOWLY, SLOWLY);
    drop(serving);
    sniffer.finish()?.assert_only_ciphertext(2 * SLOWLY);
    let cart = scene.bed.host("cart").at(PORT);
    scene.assert_denied("cart", cart, "egress[0] workload cart")
}

#[test]
fn a_reload_that_lets_a_workload_through_needs_no_address_of_it() -> Result<()> {
    require!();
    let mut scene = Scene::start(|client| client.egress_default = Some("deny"))?;
    let cart = scene.bed.host("cart").at(PORT);
    let said = scene.ask("cart", cart)?;
    assert!(said.is_none(), "{said:?}");
    scene.client.reconfigure(|config| {
        let allowed = EgressRule::to_workload(&spiffe_id("cart"), "mtls");
        config.workloads()[0].egress.push(allowed);
    })?;
    let address = scene.bed.host("cart").at_v6(PORT);
    let serving = Server::start(scene.bed.host("cart"), &[address], "--echo")?;
    let running = Client::start(scene.bed.host("client"), address, SLOW)?;
    serving.accepted(0)?;
    let rule = format!("egress[0] workload {}", spiffe_id("cart"));
    let open = scene.client.connections()?;
    assert!(open.iter().any(|it| it["rule"] == rule), "{open:#?}");
    running.closed()?.assert_exact(SLOWLY, SLOWLY);
    Ok(())
}

#[test]
fn a_dry_run_lets_a_denied_workload_through_and_tells_and_counts_it() -> Result<()> {
    require!();
    let scene = Scene::start(|client| {
        client.egress = vec![EgressRule::to_workload("cart", "deny")];
        client.dry_run = true;
    })?;
    scene.assert_reached("cart")?;
    let told = scene.client.log_line("dry-run", |_| true)?;
    assert_eq!(told["peer"], spiffe_id("cart"), "{told}");
    assert_eq!(told["rule"], "egress[0] workload cart", "{told}");
    let metrics = scene.client.metrics()?;
    let counted = metrics.sum(
        "sealwire_dry_run_refusals_total",
        &[("direction", "egress")],
    );
    assert_eq!(counted, 2);
    assert_eq!(scene.client.refusals("denied-by-rule")?, 0);
    Ok(())
}

// === the scene ===

const ENDLESS: &str = "--send 4000000000 --chunk 3000 --write-pause 2000";

/// Some seconds, and the bytes of it.
const SLOW: &str = "--send 400000 --chunk 4000 --write-pause 60000";
const SLOWLY: u64 = 400_000;

/// The workloads `client`, `cart` and `shop`, each with an agent, and `outsider`, which has none.
struct Scene {
    client: Agent,
    cart: Agent,
    shop: Agent,
    bed: Testbed,
}

impl Scene {
    fn start(rules: impl FnOnce(&mut WorkloadConfig)) -> Result<Self> {
        let bed = Testbed::new(&["client", "cart", "shop", "outsider"])?;
        let mesh = Mesh::new(&bed.directory().join("mesh"))?;
        let workload = |name| anyhow::Ok(WorkloadConfig::of(bed.host(name), &mesh.issue(name)?));
        let mut client = workload("client")?;
        rules(&mut client);
        Ok(Self {
            client: Agent::start(&bed, vec![client])?,
            cart: Agent::start(&bed, vec![workload("cart")?])?,
            shop: Agent::start(&bed, vec![workload("shop")?])?,
            bed,
        })
    }

    fn addresses(&self, name: &str) -> [SocketAddr; 2] {
        let host = self.bed.host(name);
        [host.at(PORT), host.at_v6(PORT)]
    }

    /// Every byte gets there and back, by both families, and none in clear.
    fn assert_reached(&self, name: &str) -> Result<()> {
        for address in self.addresses(name) {
            let _serving = Server::start(self.bed.host(name), &[address], "--echo")?;
            let sniffer = self.bed.sniff()?;
            let said = Client::run(self.bed.host("client"), address, "--send 5000")?;
            said.assert_exact(5000, 5000);
            sniffer.finish()?.assert_only_ciphertext(10_000);
        }
        Ok(())
    }

    /// The log's lines about the connections that reached it, in the order of its addresses.
    fn accesses(&self, name: &str) -> Result<[Value; 2]> {
        let [v4, v6] = self.addresses(name);
        let line = |to: SocketAddr| {
            self.client
                .access(|line| line["to"] == to.to_string() && line["peer"] == spiffe_id(name))
        };
        Ok([line(v4)?, line(v6)?])
    }

    /// It proves who it is and hears nothing more: not its program, nor who listens on the wire. The next
    /// programs are refused by the kernel, as long as it knows.
    fn assert_denied(&self, name: &str, address: SocketAddr, rule: &str) -> Result<()> {
        let before = self.client.refusals("denied-by-rule")?;
        let carried = self.carried(name)?;
        let said = self.ask(name, address)?;
        assert!(said.is_none(), "{said:?}");
        let line = self
            .client
            .refused(|line| line["to"] == address.to_string() && line["rule"] == rule)?;
        assert_eq!(line["reason"], "denied-by-rule", "{line}");
        let detail = format!("{} has answered, and {rule} says deny", spiffe_id(name));
        assert_eq!(line["detail"], detail, "{line}");
        assert!(self.client.refusals("denied-by-rule")? > before);
        assert_eq!(
            self.carried(name)?,
            carried,
            "its program was told something"
        );
        // The kernel forgets within a second, and is told again by the next that is let go.
        self.client.wait_for("connect() does not say so", |_| {
            let outcome = Client::try_connect(self.bed.host("client"), address, "--send 5000")?;
            Ok(outcome.is_err_and(|(errno, _)| errno == "ECONNREFUSED"))
        })?;
        self.client.wait_for("it is not counted", |agent| {
            Ok(agent.refusals("refused-recently")? > 0)
        })
    }

    /// What a program of the client's hears of one at `address`, if anything.
    fn ask(&self, name: &str, address: SocketAddr) -> Result<Option<u64>> {
        let serving = Server::start(self.bed.host(name), &[address], "--send 4000")?;
        let sniffer = self.bed.sniff()?;
        let client: &Host = self.bed.host("client");
        let said = Client::run(client, address, "--send 5000")?;
        drop(serving);
        sniffer.finish()?.assert_no_plaintext_from(client.v4());
        Ok((!said.was_reset()).then_some(said.received))
    }

    /// Bytes that the agent at the other end has passed on to its program.
    fn carried(&self, name: &str) -> Result<u64> {
        let agent = match name {
            "cart" => &self.cart,
            _ => &self.shop,
        };
        agent.wait_until_idle()?;
        let received = [("direction", "ingress"), ("flow", "received")];
        Ok(agent.metrics()?.sum("sealwire_bytes_total", &received))
    }
}
