//! Whether what talks to the kernel's TLS also compiles for musl, which static binaries are made for.

use anyhow::Result;

use crate::{ebpf::Compiler, packages, process, workspace};

/// Compiles `kernel-tls` for musl, the standard library from its sources: no machine need have that
/// target installed. Nothing is linked, but aws-lc-sys compiles C for it.
pub(crate) fn check() -> Result<()> {
    packages::ensure(&["musl-tools"])?;
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
