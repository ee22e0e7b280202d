//! A test that cannot run says so aloud; it never passes in silence.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::{env, thread};

use crate::cgroup;

/// Leaves a test that needs root, cgroup2, iproute2 and these programs, on a machine without them.
///
/// The test's function returns `anyhow::Result<()>`.
#[macro_export]
macro_rules! require {
    ($($program:expr),* $(,)?) => {
        if let Err(reason) = $crate::skip::possible(&[$($program),*]) {
            $crate::skip::report(&reason);
            return Ok(());
        }
    };
}

/// What this machine lacks for a test with these programs.
pub fn possible(programs: &[&str]) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it is not run as root".to_owned());
    }
    if cgroup::mount_point().is_none() {
        return Err("no cgroup2 is mounted".to_owned());
    }
    match ["ip"]
        .iter()
        .chain(programs)
        .find(|program| !is_installed(program))
    {
        Some(missing) => Err(format!("{missing} is not installed")),
        None => Ok(()),
    }
}

/// Says on standard error, and in the file that `SEALWIRE_SKIP_LOG` names, that the test of this
/// thread does not run.
pub fn report(reason: &str) {
    let thread = thread::current();
    let line = format!("SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
    // Not eprintln!, which libtest swallows when a test passes.
    let _ = writeln!(std::io::stderr(), "{line}");
    if let Some(path) = env::var_os("SEALWIRE_SKIP_LOG")
        && let Ok(mut log) = File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(log, "{line}");
    }
}

fn is_installed(program: &str) -> bool {
    let search = env::var_os("PATH").unwrap_or_default();
    Path::new(program).is_absolute() && Path::new(program).exists()
        || env::split_paths(&search).any(|directory| directory.join(program).exists())
}
