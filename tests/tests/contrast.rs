//! Contrast's strings, as its users have them: they mean what they mean there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use testbed::agent::WorkloadConfig;
use testbed::dns::NameServer;
use testbed::pair::PORT;
use testbed::pki::{Mesh, spiffe_id};
use testbed::{Capture, Client, End, Pair, Server, Testbed, require};

#[test]
fn without_an_agent_what_the_strings_would_protect_is_in_clear() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

// === egress ===

#[test]
fn a_listener_leads_to_its_address_by_mutual_tls() -> Result<()> {
    require!();
    let pair = with_egress(|bed| format!("db#{LISTEN}#{}", bed.host("server").at(PORT)))?;
    let capture = assert_forwarded(&pair, pair.server().at(PORT))?;
    capture.assert_only_ciphertext(10_000);
    let line = pair
        .client_agent
        .access(|line| line["rule"] == format!("listener[0] {LISTEN}"))?;
    assert_eq!(line["to"], pair.server().at(PORT).to_string());
    assert_eq!(line["peer"], spiffe_id("server"));
    assert_eq!(line["mode"], "mtls");
    Ok(())
}

#[test]
fn a_listener_leads_to_an_ipv6_address() -> Result<()> {
    require!();
    let pair = with_egress(|bed| format!("db#{LISTEN}#{}", bed.host("server").at_v6(PORT)))?;
    let capture = assert_forwarded(&pair, pair.server().at_v6(PORT))?;
    capture.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn the_older_names_of_the_variables_count_too() -> Result<()> {
    require!();
    let pair = with_strings("EDG", |bed| {
        format!("db#{LISTEN}#{}", bed.host("server").at(PORT))
    })?;
    assert_forwarded(&pair, pair.server().at(PORT))?.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn a_name_is_looked_up_anew_when_its_answer_has_expired() -> Result<()> {
    require!();
    let pair = with_name()?;
    let names = NameServer::start(pair.outsider(), &[pair.client()])?;
    names.set(NAME, &[pair.server().v4()]);
    assert_forwarded(&pair, pair.server().at(PORT))?.assert_only_ciphertext(10_000);

    names.set(NAME, &[pair.server().v6()]);
    std::thread::sleep(EXPIRED);
    assert_forwarded(&pair, pair.server().at_v6(PORT))?.assert_only_ciphertext(10_000);
    assert!(
        names.queries() >= 4,
        "it was asked {} times",
        names.queries()
    );
    Ok(())
}

#[test]
fn addresses_are_tried_in_turn() -> Result<()> {
    require!();
    let pair = with_name()?;
    let names = NameServer::start(pair.outsider(), &[pair.client()])?;
    // One refuses, one has nobody, the last one serves.
    let nobody: IpAddr = "10.77.0.200".parse()?;
    names.set(NAME, &[pair.outsider().v4(), nobody, pair.server().v4()]);
    assert_forwarded(&pair, pair.server().at(PORT))?.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn a_name_with_more_addresses_than_fit_a_datagram_is_served_by_one_of_them() -> Result<()> {
    require!();
    let pair = with_name()?;
    let names = NameServer::start(pair.outsider(), &[pair.client()])?;
    names.set(NAME, &vec![pair.server().v4(); 2000]);
    assert_forwarded(&pair, pair.server().at(PORT))?.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn a_resolver_that_lies_turns_nothing_into_plaintext() -> Result<()> {
    require!();
    // A rule lets the workload talk to the outsider in clear, but not by this listener.
    let pair = with_strings_and(
        "CONTRAST",
        |_| format!("db#{LISTEN}#{NAME}:{PORT}"),
        |bed, client| {
            let outsider = bed.host("outsider").v4().to_string();
            client
                .egress
                .push(testbed::EgressRule::to(outsider, "plaintext"));
        },
    )?;
    let names = NameServer::start(pair.outsider(), &[pair.client()])?;
    names.set(NAME, &[pair.outsider().v4()]);
    let _liar = Server::start(pair.outsider(), &[pair.outsider().at(PORT)], "--send 5000")?;
    let sniffer = pair.bed.sniff()?;
    let said = Client::run(pair.client(), LISTEN.parse()?, "--send 5000")?;
    assert_eq!(said.received, 0);
    assert!(said.was_reset() || said.end == End::Reset, "{said:?}");
    let capture = sniffer.finish()?;
    capture.assert_no_plaintext_from(pair.client().v4());
    // What the liar says in clear is seen.
    capture.assert_saw_plaintext();
    pair.client_agent.refusal("peer-not-tls")?;
    Ok(())
}

#[test]
fn a_name_that_nobody_knows_is_refused_and_says_so() -> Result<()> {
    require!();
    let pair = with_name()?;
    let names = NameServer::start(pair.outsider(), &[pair.client()])?;
    assert!(Client::run(pair.client(), LISTEN.parse()?, "--send 1")?.was_reset());
    let line = pair.client_agent.refusal("name-lookup")?;
    assert!(line["detail"].to_string().contains(NAME), "{line}");
    // A resolver that never answers keeps nothing else.
    names.set_silent(true);
    let waiting = Client::start(pair.client(), LISTEN.parse()?, "--send 1")?;
    pair.assert_served()?;
    assert!(waiting.closed()?.was_reset());
    names.set_silent(false);
    names.set(NAME, &[pair.server().v4()]);
    std::thread::sleep(EXPIRED);
    assert_forwarded(&pair, pair.server().at(PORT))?.assert_only_ciphertext(10_000);
    Ok(())
}

#[test]
fn what_the_program_dials_itself_is_protected_as_well() -> Result<()> {
    require!();
    let pair = with_egress(|bed| format!("db#{LISTEN}#{}", bed.host("server").at(PORT)))?;
    pair.assert_served()
}

#[test]
fn a_listener_whose_address_is_taken_is_a_mistake() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let mesh = Mesh::new(&bed.directory().join("mesh"))?;
    let client = bed.host("client");
    let _taken = Server::start(client, &[LISTEN.parse()?], "--echo")?;
    let finished = testbed::agent::command(None)?
        .arg("--cgroup")
        .arg(client.cgroup())
        .arg("--netns")
        .arg(client.netns())
        .arg("--tls-dir")
        .arg(mesh.issue("client")?)
        .args(["--instance", &format!("{}-taken", bed.id())])
        .env(
            "CONTRAST_EGRESS_PROXY_CONFIG",
            format!("db#{LISTEN}#10.0.0.1:1"),
        )
        .run(Duration::from_secs(10))?;
    assert_eq!(finished.status.code(), Some(2));
    let said = finished.stderr_text();
    assert!(said.contains(LISTEN) && said.contains("is taken"), "{said}");
    Ok(())
}

// === ingress ===

#[test]
fn an_entry_that_ends_in_true_leaves_its_port_alone_and_no_other() -> Result<()> {
    require!();
    let pair = with_ingress(&format!("metrics#{}#true", PORT + 1))?;
    let [protected, open] = [PORT, PORT + 1].map(|port| pair.server().at(port));
    let serving = Server::start(pair.server(), &[protected, open], "--echo")?;
    Client::run(pair.outsider(), open, "--send 5000")?.assert_exact(5000, 5000);
    assert!(!is_served(&pair, protected)?);
    pair.server_agent.refusal("peer-not-tls")?;
    drop(serving);
    pair.assert_served()
}

#[test]
fn an_entry_that_ends_in_false_asks_for_no_certificate() -> Result<()> {
    require!("openssl");
    let pair = with_ingress(&format!("web#{PORT}#false"))?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--send 5000 --seed 3")?;
    let mut client = pair
        .outsider()
        .command("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-connect"])
        .arg(address.to_string())
        .arg("-CAfile")
        .arg(pair.mesh.ca_file())
        .with_stdin()
        .spawn()?;
    client.write_line("hello")?;
    let line = pair.server_agent.access(|line| line["mode"] == "tls")?;
    assert_eq!(line["rule"], format!("ingress[0] {PORT}"));
    assert_eq!(line["sent"], 5000);
    // In clear it is still refused.
    assert!(!is_served(&pair, address)?);
    Ok(())
}

#[test]
fn disabled_protects_egress_alone() -> Result<()> {
    require!();
    let pair = with_ingress("DISABLED")?;
    let address = pair.server().at(PORT);
    let _serving = Server::start(pair.server(), &[address], "--echo")?;
    assert!(is_served(&pair, address)?);
    // What the server itself opens is as protected as ever.
    let address = pair.client().at(PORT);
    let _serving = Server::start(pair.client(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    Client::run(pair.server(), address, "--send 5000")?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_only_ciphertext(10_000);
    Ok(())
}

// === the scene ===

/// What the client's program dials.
const LISTEN: &str = "127.137.0.1:5432";

/// What that leads to, where it is a name.
const NAME: &str = "db.test.";

/// Longer than the name server's answers are good for.
const EXPIRED: Duration = Duration::from_millis(1500);

fn with_egress(string: impl Fn(&Testbed) -> String) -> Result<Pair> {
    with_strings("CONTRAST", string)
}

fn with_name() -> Result<Pair> {
    with_egress(|_| format!("db#{LISTEN}#{NAME}:{PORT}"))
}

fn with_strings(prefix: &str, string: impl Fn(&Testbed) -> String) -> Result<Pair> {
    with_strings_and(prefix, string, |_, _| {})
}

fn with_strings_and(
    prefix: &str,
    string: impl Fn(&Testbed) -> String,
    change: impl FnOnce(&Testbed, &mut WorkloadConfig),
) -> Result<Pair> {
    let variable = format!("{prefix}_EGRESS_PROXY_CONFIG");
    Pair::start_tuned(
        |bed, client, _| change(bed, client),
        |bed, client, server| (client.with_variable(&variable, &string(bed)), server),
    )
}

fn with_ingress(string: &str) -> Result<Pair> {
    let variable = "CONTRAST_INGRESS_PROXY_CONFIG";
    Pair::start_tuned(
        |_, _, _| {},
        |_, client, server| (client, server.with_variable(variable, string)),
    )
}

/// A program that dials the listener talks with one that listens at `address`.
fn assert_forwarded(pair: &Pair, address: SocketAddr) -> Result<Capture> {
    let serving = Server::start(pair.server(), &[address], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    let said = Client::run(pair.client(), LISTEN.parse()?, "--send 5000")?;
    said.assert_exact(5000, 5000);
    serving.closed(0)?.assert_exact(5000, 5000);
    assert_eq!(serving.connections(), 1);
    sniffer.finish()
}

/// Whether the outsider, who has no certificate, gets an answer in clear.
fn is_served(pair: &Pair, address: SocketAddr) -> Result<bool> {
    Ok(Client::run(pair.outsider(), address, "--send 5000")?.received > 0)
}
