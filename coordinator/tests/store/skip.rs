//! A test that can't run says so aloud, as the workspace's other tests do.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::{env, thread};

/// Says on standard error, and in the file that `SEALWIRE_SKIP_LOG` names, that this test does
/// not run.
pub(crate) fn report(reason: &str) {
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

/// Whether `program` is there; reports the skip if not.
pub(crate) fn has(program: &str) -> bool {
    let is_there = Path::new(program).exists();
    if !is_there {
        report(&format!("{program} is not installed"));
    }
    is_there
}

/// Whether the test runs as root; reports the skip if not.
pub(crate) fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        report("it is not run as root");
    }
    is_root
}
