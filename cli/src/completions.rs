//! `sealwire completions`: what a shell needs to complete command lines.

use clap::Args;
use clap_complete::Shell;

use crate::failure::Failure;
use crate::program::Program;

/// Print the completions of a program for a shell.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completions {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,

    /// Of which program
    #[arg(value_enum, default_value = "sealwire")]
    program: Program,
}

impl Completions {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let mut command = self.program.command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        Ok(String::from_utf8(script)?)
    }
}

const EXAMPLES: &str = "\
Examples:
  sealwire completions bash > /etc/bash_completion.d/sealwire
  sealwire completions bash sealwire-agent > /etc/bash_completion.d/sealwire-agent
  sealwire completions zsh > ~/.zfunc/_sealwire
  sealwire completions fish > ~/.config/fish/completions/sealwire.fish";
