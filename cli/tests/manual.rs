//! Completions and manual pages, as shells and `man` take them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

#[path = "coordinator/skip.rs"]
mod skip;

fn sealwire(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealwire"));
    command.args(arguments).output().unwrap()
}

#[test]
fn completions_of_every_program_are_scripts_that_their_shell_takes() {
    for shell in ["bash", "zsh", "fish"] {
        if !skip::is_installed(shell) {
            skip::report(&format!("{shell} is not installed"));
            continue;
        }
        for program in ["sealwire", "sealwire-agent", "sealwire-coordinator"] {
            let output = sealwire(&["completions", shell, program]);
            assert!(output.status.success());
            let directory = TempDir::new().unwrap();
            let script = directory.path().join("script");
            fs::write(&script, output.stdout).unwrap();
            let checked = Command::new(shell).arg("-n").arg(&script).output().unwrap();
            let complaints = String::from_utf8_lossy(&checked.stderr);
            assert!(
                checked.status.success() && complaints.is_empty(),
                "{shell} {program}: {complaints}"
            );
        }
    }
}

#[test]
fn bash_completes_the_names_of_commands() {
    if !skip::is_installed("bash") {
        skip::report("bash is not installed");
        return;
    }
    let directory = TempDir::new().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, sealwire(&["completions", "bash"]).stdout).unwrap();
    let ask = "source \"$1\"; COMP_WORDS=(sealwire conn); COMP_CWORD=1; \
               _sealwire sealwire conn sealwire; echo \"${COMPREPLY[@]}\"";
    let answer = Command::new("bash")
        .args(["-c", ask, "bash"])
        .arg(&script)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "connections\n");
}

#[test]
fn every_program_and_command_has_a_page() {
    let directory = TempDir::new().unwrap();
    let pages = pages_in(&directory);
    let names: Vec<_> = pages
        .iter()
        .map(|page| page.file_name().unwrap().to_str().unwrap())
        .collect();
    for name in [
        "sealwire.1",
        "sealwire-connections.1",
        "sealwire-pki-init.1",
        "sealwire-agent.1",
        "sealwire-agent-init.1",
        "sealwire-coordinator.1",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("help")), "{names:?}");
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        assert!(text.contains("\n.SH SYNOPSIS\n"), "{}", page.display());
    }
}

#[test]
fn pages_are_without_a_mistake_for_man() {
    if !skip::is_installed("man") || !skip::is_installed("groff") {
        skip::report("man and groff are not installed");
        return;
    }
    let directory = TempDir::new().unwrap();
    for page in pages_in(&directory) {
        let output = Command::new("man")
            .args(["--warnings", "--local-file"])
            .arg(&page)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && complaints.is_empty(),
            "{}: {complaints}",
            page.display()
        );
        assert!(!output.stdout.is_empty());
    }
}

/// The pages, written there.
fn pages_in(directory: &TempDir) -> Vec<PathBuf> {
    let out = directory.path().join("man1");
    let output = sealwire(&["man", "--out", out.to_str().unwrap()]);
    assert!(output.status.success());
    let list = String::from_utf8(output.stdout).unwrap();
    let pages: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
    assert_eq!(pages.len(), fs::read_dir(out).unwrap().count());
    pages
}
