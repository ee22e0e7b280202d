//! What the demonstration needs of this machine.

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use testbed::{agent, skip};

use crate::abort::Abort;

/// Fails with what is missing, in words.
///
/// What the kernel lacks for steering is not asked here: the agent knows, and says so when it
/// starts.
pub(crate) fn require() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Abort::PlatformLacks(
            "not run as root, which network namespaces and eBPF take: \
             `sudo env HOME=\"$HOME\" PATH=\"$PATH\" cargo xtask demo`"
                .to_owned(),
        )
        .into());
    }
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(name, _)| program(name).is_none())
        .map(|(name, package)| format!("{name} (package {package})"))
        .chain(
            [
                agent::binary(),
                agent::binary_of("sealwire"),
                agent::binary_of("sealwire-coordinator"),
            ]
            .into_iter()
            .filter(|path| !path.is_file())
            .map(|path| format!("{} (cargo build --release)", path.display())),
        )
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Abort::ProgramsMissing(format!("not installed: {missing}")).into());
    }
    skip::possible(&[]).map_err(|lack| Abort::PlatformLacks(lack).into())
}

/// The path of a program; also where only root's `PATH` leads.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

const PROGRAMS: [(&str, &str); 4] = [
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
];
