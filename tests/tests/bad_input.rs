//! Bad input from those who run the agent: whoever asks and never reads, logs that nobody takes, files
//! that lead to themselves, clocks that jump. Traffic and everybody else are as well as before.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testbed::agent::{Agent, EgressRule};
use testbed::clock::{self, DAY};
use testbed::pair::PORT;
use testbed::{Client, Clock, Pair, Server, SmallDisk, peer, require, skip};

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn twenty_admin_clients_that_never_read_harm_neither_traffic_nor_a_reload_nor_others() -> Result<()>
{
    require!();
    let mut pair = Pair::start()?;
    let (v4, v6) = (
        pair.server().at(OTHER_PORT),
        pair.server().at_v6(OTHER_PORT),
    );
    let _serving = Server::start(pair.server(), &[v4, v6], "--echo --quiet")?;
    let sniffer = pair.bed.sniff()?;
    let running = [v4, v6].map(|to| peer::start_many(pair.client(), to, CHURN));
    let port = pair.client_agent.admin_port();
    // Each has been asked for more than the kernel keeps for it.
    let stuck = ["/connections", "/metrics"]
        .iter()
        .cycle()
        .take(20)
        .map(|path| ask_and_never_read(port, path))
        .collect::<Result<Vec<_>>>()?;
    let before = pair.client_agent.resident_bytes()?;

    for generation in 2..6 {
        pair.client_agent.reconfigure(|config| {
            let nowhere = format!("192.0.2.{generation}/32");
            config.workloads()[0].egress = vec![EgressRule::to(nowhere, "deny")];
        })?;
        assert_eq!(pair.client_agent.generation()?, generation);
        assert!(pair.client_agent.ready()?.0);
        // Those of the churn are short, so that none may be open at some moment.
        pair.client_agent
            .wait_for("no connection is listed", |agent| {
                Ok(!agent.connections()?.is_empty())
            })?;
    }
    let mut sent = 0;
    for running in running {
        let many = running?.stop()?;
        assert_eq!(many.failures.len(), 0, "{many:?}");
        ensure!(many.exact > 0, "there was no traffic");
        sent += many.exact * SENT;
    }
    sniffer.finish()?.assert_only_ciphertext(2 * sent);
    let grown = pair.client_agent.resident_bytes()?.saturating_sub(before);
    assert!(grown < 32 << 20, "it has grown by {grown} bytes");
    // They do not keep their places for ever either.
    for client in stuck {
        wait_until_cut_off(client)?;
    }
    pair.assert_exact(3000, 2000, "", "")
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_connection_and_what_it_lacks_is_counted() -> Result<()> {
    require!();
    let (unread, log) = io::pipe()?;
    let mut pair = start_with_log(log)?;
    let _serving = Server::start(
        pair.server(),
        &[pair.server().at(OTHER_PORT)],
        "--echo --quiet",
    )?;
    let sniffer = pair.bed.sniff()?;
    let mut exact = 0;
    // More lines than pipe and queue have room for.
    while lost(&pair.client_agent)? == 0 {
        let many = peer::many(pair.client(), pair.server().at(OTHER_PORT), SHORT)?;
        assert_eq!(many.failures.len(), 0, "{many:?}");
        exact += many.exact;
        ensure!(exact < 20_000, "nothing is lost of {exact} lines");
    }
    sniffer.finish()?.assert_only_ciphertext(2 * SENT * exact);
    assert_serves_and_reloads(&mut pair)?;
    // It ends as well.
    let ended = pair.client_agent.stop()?;
    assert!(ended.success(), "{ended}");
    drop(unread);
    Ok(())
}

#[test]
fn a_log_without_space_holds_up_no_connection_and_says_later_what_it_lacks() -> Result<()> {
    require!();
    let directory = tempfile::tempdir()?;
    let disk = SmallDisk::mount(directory.path().join("log"), 64 << 10)?;
    let path = disk.path().join("agent.log");
    let log = File::options().create(true).append(true).open(&path)?;
    let mut pair = start_with_log(log)?;
    assert_serves_and_reloads(&mut pair)?;
    assert_eq!(lost(&pair.client_agent)?, 0);
    disk.fill()?;
    pair.client_agent.wait_for("no line was lost", |agent| {
        pair.assert_served()?;
        Ok(lost(agent)? > 0)
    })?;
    assert_serves_and_reloads(&mut pair)?;

    disk.free()?;
    pair.client_agent.wait_for("it does not say so", |_| {
        pair.assert_served()?;
        Ok(fs::read_to_string(&path)?.contains("log lines were lost"))
    })?;
    // A line that was cut off is joined with none.
    let text = fs::read_to_string(&path)?;
    let is_broken = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_err();
    let broken: Vec<_> = text.lines().filter(is_broken).collect();
    assert!(broken.len() <= 1, "{broken:#?}");
    assert!(
        broken.iter().all(|it| !it[1..].contains("{\"timestamp\"")),
        "{broken:#?}"
    );
    Ok(())
}

#[test]
fn a_log_that_refuses_every_line_holds_up_no_connection() -> Result<()> {
    require!();
    let full = File::options().write(true).open("/dev/full")?;
    let mut pair = start_with_log(full)?;
    assert_serves_and_reloads(&mut pair)?;
    pair.client_agent
        .wait_for("they are not counted", |agent| Ok(lost(agent)? > 0))
}

#[test]
fn files_that_lead_to_themselves_are_refused_whole_and_named() -> Result<()> {
    require!();
    let mut pair = Pair::start()?;
    let file = pair.client_agent.config_file().to_owned();
    let text = fs::read_to_string(&file)?;
    lead_to_itself(&file)?;
    assert_refused(&pair, "Too many levels of symbolic links", &file)?;
    fs::remove_file(&file)?;
    pair.client_agent.rewrite_as(&text)?;
    pair.client_agent.wait_for("it still complains", |agent| {
        Ok(agent.ready()?.1["configuration"]["refused"].is_null())
    })?;

    // So is a directory of certificates that does.
    let certificates = pair.bed.directory().join("certificates");
    lead_to_itself(&certificates)?;
    pair.client_agent.rewrite(|config| {
        let another = testbed::WorkloadConfig {
            name: "another".to_owned(),
            ..testbed::WorkloadConfig::of(pair.bed.host("outsider"), &certificates)
        };
        config.workloads().push(another);
    })?;
    assert_refused(&pair, "Too many levels of symbolic links", &certificates)?;
    assert_eq!(pair.client_agent.generation()?, 1);
    Ok(())
}

#[test]
fn a_reload_after_the_clock_jumped_a_day_is_in_force_and_running_connections_go_on() -> Result<()> {
    require!();
    if let Some(reason) = clock::lacking() {
        skip::report(reason);
        return Ok(());
    }
    let mut clock = None;
    let mut pair = Pair::start_tuned(
        |_, _, _| {},
        |bed, client, server| {
            let of_client = Clock::new(bed.directory(), "clock").expect("it is not lacking");
            clock = Some(of_client.clone());
            (client.with_clock(of_client), server)
        },
    )?;
    let clock = clock.context("no clock")?;
    let to = pair.server().at_v6(OTHER_PORT);
    let serving = Server::start(pair.server(), &[to], "--echo")?;
    let denied = pair.outsider().at(PORT);
    for (number, jump) in [Clock::ahead, Clock::behind].into_iter().enumerate() {
        let running = Client::start(pair.client(), to, SLOW)?;
        running.connected()?;
        serving.accepted(number)?;
        jump(&clock, DAY + HOUR)?;
        pair.client_agent
            .wait_for("its certificate is valid", |agent| Ok(!agent.ready()?.0))?;
        pair.client_agent.reconfigure(|config| {
            let rule = EgressRule::to(format!("{}/32", denied.ip()), "deny");
            config.workloads()[0].egress = if number == 0 { vec![rule] } else { Vec::new() };
        })?;
        // Nothing is let through that can't be protected.
        let sniffer = pair.bed.sniff()?;
        let refused = Client::try_connect(pair.client(), pair.server().at(PORT), "")?;
        assert!(refused.is_err(), "{refused:?}");
        running.closed()?.assert_exact(SLOWLY, SLOWLY);
        sniffer.finish()?.assert_no_plaintext();

        clock.right()?;
        pair.client_agent.wait_until_ready()?;
        pair.assert_exact(3000, 2000, "", "")?;
    }
    Ok(())
}

/// The server's agent is as usual; the log of the client's goes there.
fn start_with_log(log: impl Into<std::os::fd::OwnedFd>) -> Result<Pair> {
    Pair::start_tuned(
        |_, _, _| {},
        |_, client, server| (client.with_log(log), server),
    )
}

/// Both families are served, a reload comes into force, and the admin interface answers.
fn assert_serves_and_reloads(pair: &mut Pair) -> Result<()> {
    pair.assert_served()?;
    let generation = pair.client_agent.generation()?;
    pair.client_agent.reconfigure(|config| {
        let nowhere = format!("192.0.2.{generation}/32");
        config.workloads()[0].egress = vec![EgressRule::to(nowhere, "deny")];
    })?;
    let to = pair.server().at_v6(PORT);
    let serving = Server::start(pair.server(), &[to], "--echo")?;
    let sniffer = pair.bed.sniff()?;
    Client::run(pair.client(), to, "--send 5000")?.assert_exact(5000, 5000);
    serving.closed(0)?.assert_exact(5000, 5000);
    sniffer.finish()?.assert_only_ciphertext(10_000);
    assert!(pair.client_agent.ready()?.0);
    Ok(())
}

/// The reload is refused for this reason, which names the file; what was there before serves.
fn assert_refused(pair: &Pair, why: &str, file: &Path) -> Result<()> {
    let named = file.display().to_string();
    pair.client_agent.wait_for("it does not say so", |agent| {
        let (is_ready, ready) = agent.ready()?;
        let refused = ready["configuration"]["refused"].as_str().unwrap_or("");
        ensure!(
            is_ready && refused.contains(why) && refused.contains(&named),
            "{ready}"
        );
        Ok(true)
    })?;
    pair.assert_served()
}

/// A path that is a link to a link to it.
fn lead_to_itself(path: &Path) -> Result<()> {
    let back = path.with_extension("back");
    symlink(path, &back)?;
    if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(symlink(&back, path)?)
}

/// Asks for `path` again and again, until neither side takes a byte more.
fn ask_and_never_read(port: u16, path: &str) -> Result<TcpStream> {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(100);
    let mut asked = 0;
    loop {
        match client.write_all(request.as_bytes()) {
            Ok(()) => asked += request.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(client),
            Err(error) => bail!("after {asked} bytes: {error}"),
        }
        ensure!(asked < 64 << 20, "the agent keeps all that it is asked");
    }
}

/// What was sent to it can be read, and then there is an end.
fn wait_until_cut_off(mut client: TcpStream) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    client.set_read_timeout(Some(Duration::from_secs(90)))?;
    // Reading would let it go on; its end comes first.
    loop {
        let is_open = nix::poll::poll(
            &mut [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&client),
                nix::poll::PollFlags::empty(),
            )],
            1000_u16,
        )? == 0;
        if !is_open {
            break;
        }
        ensure!(Instant::now() < deadline, "it is still served");
    }
    let mut rest = vec![0; 64 << 10];
    while matches!(client.read(&mut rest), Ok(read) if read > 0) {}
    Ok(())
}

fn lost(agent: &Agent) -> Result<u64> {
    Ok(agent.metrics()?.sum("sealwire_log_lines_lost_total", &[]))
}

const SENT: u64 = 2000;
// Paced: a machine at its limit makes an agent late for its heartbeat.
const CHURN: &str = "--connections 4 --until-told --every 20000 --send 2000";
const SHORT: &str = "--connections 1000 --in-turn 8 --send 2000";
const SLOWLY: u64 = 1_000_000;
const SLOW: &str = "--send 1000000 --chunk 4000 --write-pause 20000";
const OTHER_PORT: u16 = 4010;
const HOUR: Duration = Duration::from_hours(1);
