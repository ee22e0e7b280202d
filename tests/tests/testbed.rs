//! The testbed itself, without an agent: hosts reach each other, the sniffer finds plaintext, and
//! nothing is left behind.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use testbed::{Client, Server, Testbed, peer, require};

#[test]
fn the_sniffer_finds_plaintext_in_both_directions() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let (client, server) = (bed.host("client"), bed.host("server"));
    for address in [server.at(80), server.at_v6(80)] {
        let sniffer = bed.sniff()?;
        let serving = Server::start(server, &[address], "--send 5000 --seed 2 --expect-seed 1")?;
        let said = Client::run(client, address, "--send 7000 --seed 1 --expect-seed 2")?;
        let capture = sniffer.finish()?;

        said.assert_exact(7000, 5000);
        serving.closed(0)?.assert_exact(5000, 7000);
        capture.assert_saw_plaintext();
        assert_eq!(
            capture.markers,
            5 + 7,
            "each marker is seen once: {capture:?}"
        );
        let (from, to) = if address.is_ipv4() {
            (client.v4(), server.v4())
        } else {
            (client.v6(), server.v6())
        };
        assert_eq!(
            (capture.tcp_bytes_from(from), capture.tcp_bytes_from(to)),
            (7000, 5000)
        );
    }
    Ok(())
}

#[test]
fn the_sniffer_loses_nothing_of_256_mebibytes() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(80);
    let serving = Server::start(bed.host("server"), &[address], "")?;
    let sniffer = bed.sniff()?;
    Client::run(bed.host("client"), address, "--send 268435456")?.assert_exact(1 << 28, 0);
    serving.closed(0)?.assert_exact(0, 1 << 28);
    let capture = sniffer.finish()?;
    assert!(capture.markers >= 1 << 18, "{} markers", capture.markers);
    Ok(())
}

#[test]
fn an_echo_gives_back_every_byte_in_tiny_buffers() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(7);
    let slow = "--echo --rcvbuf 2048 --read-size 700";
    let _serving = Server::start(bed.host("server"), &[address], slow)?;
    let options = "--send 300000 --chunk 3000 --sndbuf 2048 --rcvbuf 2048";
    Client::run(bed.host("client"), address, options)?.assert_exact(300_000, 300_000);
    Ok(())
}

#[test]
fn a_reset_is_told_from_an_end() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let (to_reset, to_end) = (bed.host("server").at(1), bed.host("server").at(2));
    let options = "--send 1000 --no-half-close --stop-after 10";
    let resetting = Server::start(
        bed.host("server"),
        &[to_reset],
        &format!("{options} --reset"),
    )?;
    let ending = Server::start(bed.host("server"), &[to_end], options)?;
    let talk = |to| Client::run(bed.host("client"), to, "--send 10 --no-half-close");
    let (reset, end) = (talk(to_reset)?, talk(to_end)?);
    drop((resetting, ending));
    assert!(reset.was_reset(), "{reset:?}");
    end.assert_exact(10, 1000);
    Ok(())
}

#[test]
fn a_port_where_nobody_listens_refuses_at_once() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    for options in ["", "--nonblocking", "--v4-mapped"] {
        let outcome = Client::try_connect(bed.host("client"), bed.host("server").at(9), options)?;
        let (errno, after) = outcome.expect_err("nobody listens");
        assert_eq!(errno, "ECONNREFUSED");
        assert!(after < Duration::from_millis(500), "{after:?}");
    }
    Ok(())
}

#[test]
fn hundreds_of_connections_are_open_at_once() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    let address = bed.host("server").at(7);
    let _serving = Server::start(bed.host("server"), &[address], "--echo --quiet")?;
    let together = peer::many(bed.host("client"), address, "--connections 500")?;
    assert_eq!(
        (together.exact, together.open_at_once),
        (500, 500),
        "{together:?}"
    );
    let churned = peer::many(bed.host("client"), address, "--connections 4 --churn 1")?;
    assert!(
        churned.exact > 100 && churned.failures.is_empty(),
        "{churned:?}"
    );
    Ok(())
}

#[test]
fn a_program_runs_in_the_namespace_and_the_cgroup_of_its_host() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client"])?;
    let client = bed.host("client");
    let script = "cat /proc/self/cgroup; ip -o addr show dev eth0";
    let said = client
        .command("sh")
        .args(["-c", script])
        .run(Duration::from_secs(5))?
        .success()?;
    let name = client
        .cgroup()
        .file_name()
        .expect("it has a name")
        .to_string_lossy()
        .into_owned();
    assert!(
        said.text().contains(&format!("/{name}\n")),
        "{}",
        said.text()
    );
    assert!(said.text().contains("10.77.0.1/24"), "{}", said.text());
    Ok(())
}

#[test]
fn nothing_is_left_when_a_testbed_is_dropped() -> Result<()> {
    require!();
    let bed = Testbed::new(&["client", "server"])?;
    // Outlives its guard: only the cgroup still holds it.
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
    let shell = bed.host("client").command("sh").args(["-c", script]);
    let orphan = shell.run(Duration::from_secs(5))?.success()?.text();
    let (id, places) = (bed.id(), places(&bed));
    assert!(places.iter().all(|place| place.exists()), "{places:?}");
    drop(bed);
    // One that is dead but not buried yet has an empty command line.
    let command = fs::read(Path::new("/proc").join(orphan.trim()).join("cmdline"));
    assert_eq!(
        command.unwrap_or_default(),
        b"",
        "process {orphan} still runs"
    );
    assert_nothing_is_left(&id, &places);
    Ok(())
}

#[test]
fn nothing_is_left_when_a_test_panics() -> Result<()> {
    require!();
    let mut left = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let bed = Testbed::new(&["client", "server"]).expect("a testbed");
        let _server = Server::start(bed.host("server"), &[bed.host("server").at(80)], "");
        left = Some((bed.id(), places(&bed)));
        std::panic::resume_unwind(Box::new("as a failed assertion does, but quietly"));
    }));
    assert!(panicked.is_err());
    let (id, places) = left.expect("it was made");
    assert_nothing_is_left(&id, &places);
    Ok(())
}

#[test]
fn a_testbed_is_there_in_a_fifth_of_a_second() -> Result<()> {
    require!();
    let fastest = (0..3)
        .map(|_| -> Result<Duration> {
            let started = Instant::now();
            let bed = Testbed::new(&["client", "server"])?;
            let took = started.elapsed();
            drop(bed);
            Ok(took)
        })
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .min();
    assert!(fastest < Some(Duration::from_millis(200)), "{fastest:?}");
    Ok(())
}

fn places(bed: &Testbed) -> Vec<PathBuf> {
    let host = bed.host("client");
    vec![
        host.netns(),
        host.cgroup().to_owned(),
        bed.directory().to_owned(),
    ]
}

fn assert_nothing_is_left(id: &str, places: &[PathBuf]) {
    assert!(places.iter().all(|place| !place.exists()), "{places:?}");
    for directory in places.iter().filter_map(|place| place.parent()) {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        assert_eq!(names.find(|name| name.contains(&format!("{id}-"))), None);
    }
}
