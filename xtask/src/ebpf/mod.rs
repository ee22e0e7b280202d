//! `cargo xtask ebpf`: builds the eBPF object that is committed beside the agent's loader.
//!
//! With the pinned tools the object is the same byte for byte wherever the checkout lies, which is
//! what `--check` shows. It does not load the object; the agent's tests do.

mod record;
mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::{record::Record, tools::Tools};

pub(crate) use self::tools::Compiler;
use crate::{process, skipped::Log, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Build into a temporary place and compare with the committed object; change nothing
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.check {
        return check(&Log::open()?);
    }
    let (object, record) = build()?;
    commit(&record, &object)
}

/// Rebuilds, and fails if the committed object is not what comes out.
///
/// With other tools than those that built it the bytes say nothing: then this notes in `log` that
/// they were not compared, and succeeds if the sources build.
pub(crate) fn check(log: &Log) -> Result<()> {
    let committed = committed();
    let expected = Record::read(&record_path())
        .with_context(|| "no record of the committed object: run `cargo xtask ebpf`")?;
    ensure!(
        tools::sha256(&committed)? == expected.sha256,
        "{} is not the object that its record describes: run `cargo xtask ebpf` and commit both",
        committed.display()
    );
    let (_, built) = build()?;
    let differences = built.differences_from(&expected);
    if !differences.is_empty() {
        return log.note(
            "comparison of the eBPF object with the committed one",
            format!(
                "it builds, but the tools differ: {}",
                differences.join("; ")
            ),
        );
    }
    ensure!(
        built.sha256 == expected.sha256,
        "the sources of the eBPF object build something else than what is committed \
         (built {}, committed {}): run `cargo xtask ebpf` and commit the object",
        built.sha256,
        expected.sha256
    );
    process::step("the committed eBPF object is what its sources build, byte for byte");
    Ok(())
}

/// Compiles, links and strips; answers where the object lies, and what built it.
fn build() -> Result<(PathBuf, Record)> {
    let tools = Tools::ensure()?;
    process::step(format!("building the eBPF object with {}", tools.compiler));
    let target_dir = workspace::target().join("ebpf");
    process::run(
        tools
            .cargo()
            .current_dir(workspace::root())
            .args([
                "build",
                "--package",
                "ebpf",
                "--profile",
                "ebpf",
                "-Zbuild-std=core",
            ])
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&tools, &target_dir)?)
            // Cargo's choice by profile; a value from outside would change the bytes.
            .env("CARGO_INCREMENTAL", "0"),
    )?;
    let linked = target_dir.join(TARGET).join("ebpf/sealwire-ebpf");
    let stripped = target_dir.join("sealwire.bpf.o");
    // `-g` drops DWARF (most of the size) and keeps .BTF and .BTF.ext, which loading needs.
    process::run(
        Command::new(&tools.llvm_strip)
            .arg("-g")
            .arg("-o")
            .args([&stripped, &linked]),
    )?;
    let record = Record::of(&tools, &stripped)?;
    Ok((stripped, record))
}

/// Debug information for BTF, and no trace of where this machine keeps its files.
fn rustflags(tools: &Tools, target_dir: &Path) -> Result<String> {
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    let places = [
        (workspace::root(), "/sealwire"),
        (target_dir.to_path_buf(), "/target"),
        (workspace::cargo_home(), "/cargo"),
        (tools.sysroot()?, "/rust"),
    ];
    for (place, name) in places {
        ensure!(
            place.is_absolute(),
            "`{}` should be an absolute path",
            place.display()
        );
        flags.push(format!("--remap-path-prefix={}={name}", place.display()));
        // rustc sees some paths as given and others resolved.
        if let Ok(resolved) = place.canonicalize()
            && resolved != place
        {
            flags.push(format!("--remap-path-prefix={}={name}", resolved.display()));
        }
    }
    Ok(flags.join("\u{1f}"))
}

fn commit(record: &Record, object: &Path) -> Result<()> {
    if !record.is_of_pinned_compiler() {
        eprintln!("warning: this is not the pinned compiler, so don't commit this object");
    }
    let committed = committed();
    copy(object, &committed)?;
    record.write(&record_path())?;
    process::step(format!(
        "wrote {} ({} bytes)",
        committed.display(),
        size(&committed)?
    ));
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    // Bytes, not `fs::copy`: a linker marks its output executable.
    let object = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    fs::write(to, object).with_context(|| format!("writing {}", to.display()))
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)
        .with_context(|| format!("looking at {}", path.display()))?
        .len())
}

fn committed() -> PathBuf {
    workspace::root().join("agent/src/bpf/sealwire.bpf.o")
}

fn record_path() -> PathBuf {
    workspace::root().join("agent/src/bpf/sealwire.bpf.o.toml")
}

const TARGET: &str = "bpfel-unknown-none";
