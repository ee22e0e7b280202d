//! A test that cannot run says so aloud; it never passes in silence.

use std::fs::File;
use std::io::Write;
use std::{env, thread};

/// Says on standard error, and in the file that `SEALWIRE_SKIP_LOG` names, that the test of this
/// thread does not run.
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

pub(crate) fn is_installed(program: &str) -> bool {
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search).any(|directory| directory.join(program).exists())
}
