//! `cargo xtask bench`: the benchmark harness, built for release.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{counted, kernel, packages, release};

#[derive(Args)]
pub(crate) struct Options {
    /// The suite, then what it takes, such as `--json FILE`; `counted` runs in a virtual machine
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "SUITE"
    )]
    arguments: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options
        .arguments
        .first()
        .is_some_and(|suite| suite == "counted")
    {
        return counted::run(&options.arguments);
    }
    kernel::require()?;
    packages::ensure(&["iproute2", "iperf3", "wrk", "nginx-light"])?;
    // The harness runs on the testbed and drives its binaries.
    release::build(&["testbed", "bench"])?;
    let bench = release::binary("bench");
    let error = Command::new(&bench).args(&options.arguments).exec();
    Err(error).with_context(|| format!("starting {}", bench.display()))
}
