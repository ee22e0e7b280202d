//! The build with instrumentation, by the compiler that everything is built with: no sanitizer takes
//! part, since the product's own code has no `unsafe` for one to watch, and without one the targets
//! run several times faster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{directory, targets::Target};
use crate::{process, workspace};

/// Builds the targets; answers in which directory they lie.
pub(super) fn build(chosen: &[&Target]) -> Result<PathBuf> {
    ensure_lock()?;
    process::step("building the fuzz targets (takes some minutes the first time)");
    let target_dir = directory().join("build");
    let host = host()?;
    process::run(
        workspace::cargo()
            .args(["build", "--release", "--quiet", "--manifest-path", MANIFEST])
            .args(chosen.iter().flat_map(|it| ["--bin", it.name]))
            // With a target named, even the host's, build scripts get no instrumentation.
            .args(["--target", &host])
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")),
    )?;
    Ok(target_dir.join(host).join("release"))
}

/// Makes `fuzz/Cargo.lock` of the product's, so that the versions that are fuzzed are those that
/// ship. What the targets need besides is pinned in their `Cargo.toml`.
pub(crate) fn ensure_lock() -> Result<()> {
    let product = read(&workspace::root().join("Cargo.lock"))?;
    let lock = workspace::root().join("fuzz/Cargo.lock");
    let made_of = directory().join("Cargo.lock");
    if lock.exists() && read(&made_of).is_ok_and(|it| it == product) {
        return Ok(());
    }
    fs::create_dir_all(directory())
        .and_then(|()| fs::write(&lock, &product))
        .and_then(|()| fs::write(&made_of, &product))
        .context("writing fuzz/Cargo.lock")
}

/// The triple of this machine.
fn host() -> Result<String> {
    process::stdout_of(Command::new("rustc").arg("-vV"))?
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .context("rustc names no host")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

const MANIFEST: &str = "fuzz/Cargo.toml";

/// What cargo-fuzz sets: counters on every edge, and what comparisons compare, so that libFuzzer
/// knows what an input reached and what would have led on.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];
