//! What is there in place of a Coordinator.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use crate::bed::Bed;

#[test]
fn a_coordinator_that_does_not_answer_is_named() {
    let bed = Bed::new();
    for command in [
        "set",
        "verify",
        "status",
        "recover --seedshare-owner-key dora.pem",
    ] {
        bed.ask(command, "").fails(
            1,
            &[
                &format!("no answer from a Coordinator at {}", bed.address()),
                "refused",
                "--wait",
            ],
        );
    }
    for address in ["no-port", "", "[::1", "127.0.0.1:99999"] {
        let run = bed.sealwire(&format!("status --coordinator={address} -m manifest.json"));
        assert_eq!(run.code, 1, "{run:?}");
        assert!(
            run.stderr
                .contains("error: no answer from a Coordinator at "),
            "{run:?}"
        );
    }
    bed.sealwire("status -m manifest.json")
        .fails(2, &["--coordinator"]);
}

#[test]
fn wait_waits_for_a_coordinator_to_come() {
    let mut bed = Bed::new();
    thread::scope(|scope| {
        let address = bed.address();
        let line = format!("status -c {address} -m manifest.json --allow-simulated-tee --wait 20");
        let dir = bed.path("");
        let waiting = scope.spawn(move || {
            std::process::Command::new(env!("CARGO_BIN_EXE_sealwire"))
                .args(line.split_whitespace())
                .current_dir(dir)
                .output()
                .unwrap()
        });
        // It has asked in vain by then, or asks in a moment; it gets its answer either way.
        thread::sleep(Duration::from_millis(300));
        let has_started = bed.start_here();
        let output = waiting.join().unwrap();
        assert!(output.status.success() || !has_started, "{output:?}");
    });
}

#[test]
fn something_else_than_a_coordinator_is_told_from_one() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"",
        b"\x16\x03\x03\xff\xff",
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 1024];
            let _ = stream.read(&mut hello);
            let _ = stream.write_all(answer);
        });
        let bed = Bed::new();
        let run = bed.sealwire(&format!("status -c {address} -m manifest.json"));
        assert_eq!(run.code, 1, "{run:?}");
        assert!(
            run.stderr.contains(&format!("Coordinator at {address}: ")),
            "{run:?}"
        );
        assert!(run.stderr.contains("user API (port 1313)"), "{run:?}");
        server.join().unwrap();
    }
}
