//! `sealwire connections`, as an operator meets it: beside agents of every kind, and in a terminal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What an agent answers for one connection, as far as it matters here.
const ONE: &str = r#"[{"id":7,"workload":"web","direction":"egress","mode":"mtls","from":"10.0.0.1:40000","to":"10.0.0.2:80","peer":"spiffe://mesh.local/ns/default/sa/db","datapath":"userspace","datapath_why":"few-bytes","sent":5,"received":6,"age_ms":250,"new-in-2027":true}]"#;

/// Something on a port of the loopback that says `answer` to whoever asks, again and again.
fn agent_at(listener: TcpListener, answer: &[u8]) -> u16 {
    let port = listener.local_addr().unwrap().port();
    let answer = answer.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = answer.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|it| it > 2) {
                    line.clear();
                }
                // Who has asked may have gone.
                let _ = stream.write_all(&answer);
            });
        }
    });
    port
}

fn agent(answer: &[u8]) -> u16 {
    agent_at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), answer)
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nsealwire-omitted: 0\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn command(port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealwire"));
    command
        .args(["connections", "--admin-port", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn connections(port: u16, arguments: &[&str]) -> Output {
    command(port, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

/// Waits for a program to end by itself, or fails.
fn ended(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it did not end");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_table_is_for_people_and_json_is_the_agents_own() {
    let port = agent(&ok(ONE));
    let table = connections(port, &[]);
    assert_eq!(table.status.code(), Some(0));
    let table = text(&table.stdout);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(
        table.contains("sa/db  mtls  userspace:few-bytes"),
        "{table}"
    );
    assert_eq!(
        text(&connections(port, &["--json"]).stdout),
        format!("{ONE}\n")
    );
    let filtered = connections(port, &["--json", "--direction", "ingress"]);
    assert_eq!(text(&filtered.stdout), "[]\n");
}

#[test]
fn an_agent_that_answers_on_ipv6_alone_is_found() {
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(listener) => {
            let port = agent_at(listener, &ok("[]"));
            assert_eq!(text(&connections(port, &[]).stdout), "no connections\n");
        }
        // A machine without IPv6 has no such agent.
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable),
    }
}

#[test]
fn the_port_is_taken_from_the_environment_too() {
    let port = agent(&ok(ONE)).to_string();
    let sealwire = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealwire"));
        command
            .arg("connections")
            .env_remove("SEALWIRE_ADMIN_PORT")
            .env_remove("CONTRAST_ADMIN_PORT");
        command
    };
    let named = sealwire()
        .env("CONTRAST_ADMIN_PORT", &port)
        .output()
        .unwrap();
    assert!(text(&named.stdout).contains("sa/db"));
    let unnamed = sealwire().output().unwrap();
    assert_eq!(unnamed.status.code(), Some(2));
    assert!(text(&unnamed.stderr).contains("--admin-port"));
}

#[test]
fn whatever_is_no_agent_is_an_error_that_says_so() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let nobody = gone.local_addr().unwrap().port();
    drop(gone);
    let output = connections(nobody, &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("--admin-port {nobody}")), "{error}");

    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "[".repeat(70 << 20));
    for answer in [
        b"".as_slice(),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[",
        &ok("<html>"),
        &ok("[{\"id\": 1}]"),
        endless.as_bytes(),
    ] {
        let output = connections(agent(answer), &[]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: ") && error.len() < 400, "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_watch() {
    let port = agent(&ok(ONE));
    let mut child = command(port, &["--watch", "0.1", "--json"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        assert_eq!(lines.next().unwrap().unwrap(), ONE);
    }
    drop(lines);
    assert_eq!(ended(&mut child), Some(0));
}

#[test]
fn signals_end_a_watch_with_the_codes_of_a_shell() {
    let port = agent(&ok(ONE));
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child = command(port, &["--watch"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert_eq!(first, "1 connection");
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(ended(&mut child), Some(code));
    }
}

#[test]
fn ctrl_c_gives_the_terminal_back() {
    let port = agent(&ok(ONE));
    let sealwire = env!("CARGO_BIN_EXE_sealwire");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command"])
        .arg(format!(
            "{sealwire} connections --admin-port {port} --watch 0.1"
        ))
        .arg("/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("userspace:few-bytes") {
        let count = stdout.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(ended(&mut child), Some(130));
    stdout.read_to_end(&mut seen).unwrap();
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.starts_with("\x1b[?1049h\x1b[?25l"), "{seen:?}");
    assert!(
        seen.trim_end().ends_with("\x1b[?25h\x1b[?1049l"),
        "{seen:?}"
    );
}
