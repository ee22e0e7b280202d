//! The compiler, linker and stripper of the eBPF object, installed where they are missing.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cargo_tool::CargoTool,
    packages,
    process::{self, PlatformLacks},
};

/// The compiler whose output is committed, as `rustc --version` calls it.
pub(crate) const PINNED_RUSTC: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)";
/// The linker whose output is committed.
pub(crate) const PINNED_BPF_LINKER: &str = "0.13.0";

/// Everything that an object is built with.
pub(crate) struct Tools {
    pub(crate) compiler: Compiler,
    pub(crate) llvm_version: String,
    pub(crate) llvm_strip: PathBuf,
    bpf_linker: PathBuf,
}

impl Tools {
    /// Finds the tools, or installs them.
    pub(crate) fn ensure() -> Result<Self> {
        let llvm_strip = Path::new(LLVM_PREFIX).join("bin/llvm-strip");
        if !llvm_strip.exists() {
            packages::ensure(&["llvm-22"])?;
        }
        let bpf_linker = ensure_bpf_linker()?;
        Ok(Self {
            compiler: Compiler::ensure()?,
            llvm_version: llvm_version(&llvm_strip)?,
            llvm_strip,
            bpf_linker,
        })
    }

    /// The compiler's own cargo, told to use our linker.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = self.compiler.cargo();
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.bpf_linker);
        cargo
    }

    /// Where the compiler keeps the sources of `core`.
    pub(crate) fn sysroot(&self) -> Result<PathBuf> {
        let rustc = &self.compiler.rustc;
        Ok(process::stdout_of(self.compiler.command(rustc).args(["--print", "sysroot"]))?.into())
    }
}

/// A compiler that can build its own library, for eBPF and for musl.
pub(crate) struct Compiler {
    pub(crate) version: String,
    cargo: PathBuf,
    rustc: PathBuf,
    /// Let a stable compiler take unstable options.
    bootstrap: bool,
}

impl Compiler {
    /// The pinned nightly if it can be had, else another nightly, else Debian's compiler.
    pub(crate) fn ensure() -> Result<Self> {
        let of_rustup = || -> Result<Self> {
            if let Some(pinned) = ["nightly", PINNED_TOOLCHAIN]
                .into_iter()
                .filter_map(Self::nightly)
                .find(|compiler| compiler.version == PINNED_RUSTC)
            {
                return pinned.with_sources();
            }
            process::step(format!("installing {PINNED_TOOLCHAIN}"));
            let installed = process::run(
                process::quiet_stdout("rustup")
                    .args(["toolchain", "install", PINNED_TOOLCHAIN, "--no-self-update"])
                    .args(["--profile", "minimal", "--component", "rust-src"]),
            );
            match (
                installed,
                Self::nightly(PINNED_TOOLCHAIN),
                Self::nightly("nightly"),
            ) {
                (Ok(()), Some(pinned), _) => Ok(pinned),
                (_, _, Some(other)) => other.with_sources(),
                (installed, ..) => Err(installed.err().context("there is no nightly toolchain")?),
            }
        };
        of_rustup().or_else(|error| {
            eprintln!("warning: no nightly compiler with sources ({error:#}); trying Debian's");
            Self::debian()
        })
    }

    /// A toolchain that rustup has.
    fn nightly(toolchain: &str) -> Option<Self> {
        let which = |program| {
            let mut rustup = Command::new("rustup");
            rustup
                .args(["which", "--toolchain", toolchain, program])
                // Only look: by itself it would install a toolchain with all that we don't need.
                .env("RUSTUP_AUTO_INSTALL", "0");
            process::stdout_of(&mut rustup).ok().map(PathBuf::from)
        };
        let (cargo, rustc) = (which("cargo")?, which("rustc")?);
        let version = process::stdout_of(Command::new(&rustc).arg("--version")).ok()?;
        Some(Self {
            version,
            cargo,
            rustc,
            bootstrap: false,
        })
    }

    /// Adds the sources of `core`, if they are missing.
    fn with_sources(self) -> Result<Self> {
        let sysroot = self
            .rustc
            .ancestors()
            .nth(2)
            .context("rustc lies in no toolchain")?;
        if !sysroot.join("lib/rustlib/src/rust/library/core").exists() {
            let toolchain = sysroot.file_name().context("a toolchain without a name")?;
            process::step("installing the sources of the nightly compiler's library");
            process::run(
                process::quiet_stdout("rustup")
                    .args(["component", "add", "rust-src", "--toolchain"])
                    .arg(toolchain),
            )?;
        }
        Ok(self)
    }

    fn debian() -> Result<Self> {
        packages::ensure(&["rustc-web", "cargo-web", "rust-web-src"])?;
        let rustc = PathBuf::from("/usr/bin/rustc");
        let version = process::stdout_of(Command::new(&rustc).arg("--version"))?;
        Ok(Self {
            version,
            cargo: "/usr/bin/cargo".into(),
            rustc,
            bootstrap: true,
        })
    }

    /// Its own cargo, told to use it.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = self.command(&self.cargo);
        cargo.env("RUSTC", &self.rustc);
        cargo
    }

    /// A program of this toolchain, without what the stable toolchain that runs us has set.
    fn command(&self, program: &Path) -> Command {
        let mut command = process::quiet_stdout(program);
        command
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("LD_LIBRARY_PATH");
        if self.bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version)
    }
}

/// The lower-case hexadecimal SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let line = process::stdout_of(Command::new("sha256sum").arg("--").arg(path))?;
    Ok(line
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// The pinned bpf-linker, linked with Debian's LLVM.
fn ensure_bpf_linker() -> Result<PathBuf> {
    let linker = CargoTool {
        name: "bpf-linker",
        version: PINNED_BPF_LINKER,
        options: &["--no-default-features", "--features", "llvm-22"],
    };
    if let Some(installed) = linker.find() {
        return Ok(installed);
    }
    packages::ensure(&["llvm-22-dev", "libzstd-dev", "zlib1g-dev", "g++"])?;
    let mut path = OsString::from(format!("{LLVM_PREFIX}/bin:"));
    path.push(env::var_os("PATH").unwrap_or_default());
    linker.install(|install| install.env("LLVM_PREFIX", LLVM_PREFIX).env("PATH", path))
}

/// `22.1.8` of `Debian LLVM version 22.1.8`. bpf-linker links with the LLVM of the same packages.
fn llvm_version(llvm_strip: &Path) -> Result<String> {
    let text = process::stdout_of(Command::new(llvm_strip).arg("--version"))?;
    text.split_once("LLVM version ")
        .and_then(|(_, version)| version.split_whitespace().next())
        .map(str::to_owned)
        .ok_or_else(|| PlatformLacks(format!("{} names no version", llvm_strip.display())).into())
}

/// rustup's name of [`PINNED_RUSTC`]: nightlies are named a day after their commit.
const PINNED_TOOLCHAIN: &str = "nightly-2026-05-20";
/// Where Debian's llvm-22 packages lie.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
