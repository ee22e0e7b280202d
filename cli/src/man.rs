//! `sealwire man`: manual pages of every program and command, made from their `--help`.

use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command, ValueEnum as _};
use clap_mangen::Man;

use crate::failure::Failure;
use crate::program::Program;

/// Write manual pages: one for each program and command of Sealwire.
///
/// They say what `--help` says.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Manual {
    /// The directory for the pages, such as /usr/local/share/man/man1 [default: print sealwire(1)]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Manual {
    pub(crate) fn run(self) -> Result<String, Failure> {
        if let Some(directory) = self.out {
            return Ok(write_all(&directory)?);
        }
        Ok(text(&page(Program::Sealwire.command()))?)
    }
}

/// Writes every page and lists them.
fn write_all(directory: &Path) -> anyhow::Result<String> {
    let failed = || format!("writing into {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    let mut list = String::new();
    for program in Program::value_variants() {
        for page in pages(program.command()) {
            let path = directory.join(page.get_filename());
            fs::write(&path, text(&page)?).with_context(failed)?;
            writeln!(list, "{}", path.display())?;
        }
    }
    Ok(list)
}

/// The pages of a program and of every command of it.
fn pages(program: Command) -> Vec<Man> {
    // A page about `help` would say nothing.
    let mut program = program.disable_help_subcommand(true);
    // Gives each command its whole name, such as sealwire-pki-init.
    program.build();
    with_those_below(program)
}

fn with_those_below(command: Command) -> Vec<Man> {
    let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
    let below = shown.cloned();
    let below: Vec<Man> = below.flat_map(with_those_below).collect();
    iter::once(page(command)).chain(below).collect()
}

/// The page in roff. What `--help` says after the options is examples above all, whose lines must not
/// be filled.
fn text(page: &Man) -> anyhow::Result<String> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8(text)?;
    Ok(text.replace(".SH EXTRA\n", ".SH NOTES\n.nf\n"))
}

fn page(command: Command) -> Man {
    let source = concat!("Sealwire ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).manual("Sealwire")
}

const EXAMPLES: &str = "\
Examples:
  sealwire man --out /usr/local/share/man/man1
  sealwire man | man -l -";
