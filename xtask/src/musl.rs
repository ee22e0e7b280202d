//! Whether what talks to the kernel's TLS also compiles for musl, which static binaries are made for.

use anyhow::Result;

use crate::{ebpf::Compiler, process, workspace};

/// Compiles `kernel-tls` for musl, the standard library from its sources: no machine need have that
/// target installed. Nothing is linked, so that no C library for it is needed either.
pub(crate) fn check() -> Result<()> {
    let compiler = Compiler::ensure()?;
    process::run(
        compiler
            .cargo()
            .current_dir(workspace::root())
            .args(["check", "--package", "kernel-tls", "--target", TARGET])
            .args(["-Zbuild-std", "--target-dir"])
            .arg(workspace::target().join("musl")),
    )
}

const TARGET: &str = "x86_64-unknown-linux-musl";
