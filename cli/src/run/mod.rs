//! `sealwire run`: one program of this machine, in a workload of its own, under an agent of its own.
//!
//! In this order, and undone in the other: the name, the cgroups, the agent, the program.

mod agent;
mod cgroup;
mod enter;
mod inherited;
mod place;
mod program;
mod signals;
mod supervise;

use std::ffi::OsString;

use agent_config::flags::CoordinatorFlags;
use agent_config::policy::WorkloadName;
use anyhow::anyhow;
use clap::Args;
use nix::unistd::geteuid;

use crate::failure::Failure;
use agent::AgentCommand;
use place::Place;
use program::Program;
use signals::Signals;

pub(crate) use enter::Enter;

/// Run a program of this machine, its TCP connections in mutual TLS.
///
/// The program gets a cgroup of its own and an agent beside it; it stays in the network namespace that
/// it would be in without. Connections that it opens, and those to ports that it listens on, are mutual
/// TLS or refused; those of other programs are left alone. It starts when the agent is ready.
///
/// Signals go to the program, and its exit code is the command's (128 + n where signal n ended it). When
/// it has ended, what it has left is told to end, then killed, and everything is taken away again. An
/// agent that dies is started again; until then new connections are refused.
///
/// The agent's options are those of `sealwire-agent`; a file's rules are for the one workload that it has.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Run {
    /// What logs and metrics call the workload; unique on this machine
    #[arg(long, value_name = "NAME")]
    name: WorkloadName,

    /// What the agent is given.
    #[command(flatten)]
    agent: AgentOptions,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Options that are passed on to the agent as they are.
#[derive(Args)]
struct AgentOptions {
    /// TOML file of the agent, with at most one workload
    #[arg(long, value_name = "FILE")]
    config: Option<String>,

    /// Directory with certChain.pem, key.pem and mesh-ca.pem [default: /etc/sealwire/NAME]
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<String>,

    /// Loopback port of the agent's /ready, /metrics, /connections and /config [default: off]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<String>,

    /// How the agent's log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,

    /// The least important level that the agent logs, to standard error [default: warn; with --config,
    /// what the file says]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Which directions the kernel's TLS may protect: auto, off, tx, rx or both [default: off]
    #[arg(long, value_name = "WHICH")]
    offload: Option<String>,

    /// The agent's worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<String>,

    /// Certificates from a Coordinator.
    #[command(flatten)]
    coordinator: CoordinatorFlags,
}

impl Run {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let program = Program::find(&self.program)?;
        inherited::refuse()?;
        if !geteuid().is_root() {
            return Err(Failure::NotRun {
                error: anyhow!(
                    "`sealwire run` must run as root, as the agent loads eBPF programs; for a program of \
                     another user: `-- setpriv --reuid USER --regid GROUP --init-groups PROGRAM`"
                ),
                code: LACKING,
            });
        }
        let signals = Signals::block()?;
        let agent = AgentCommand::find(&self.name, &self.agent)?;
        let place = Place::claim(&self.name, &agent)?;
        let outcome = supervise::run(&place, &agent, &program, &signals);
        let cleared = place.clear(&agent);
        let code = outcome?;
        cleared?;
        match code {
            0 => Ok(String::new()),
            code => Err(Failure::Ended(code)),
        }
    }
}

/// What this machine lacks, as the agent's exit code says it.
const LACKING: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  sealwire run --name web --tls-dir web-tls -- nginx -g \"daemon off;\"
  sealwire run --name job --tls-dir job-tls -- curl http://db.example:8080/
  sealwire run --name web --config web.toml --admin-port 9464 -- python3 -m http.server 8080
  sealwire run --name web --coordinator coordinator:7777 --coordinator-manifest manifest.json -- ./server
  sealwire run --name web --tls-dir web-tls -- setpriv --reuid www --regid www --init-groups ./server

Exit codes: the program's; 128 + n where signal n ended it; 127 there is no such program, 126 it can't be
executed; what the agent says where it can't start: 1 failed, 2 wrong usage or configuration, 3 the kernel or
platform lacks something required.";
