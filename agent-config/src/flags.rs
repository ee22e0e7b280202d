//! The command line of `sealwire-agent`.
//!
//! Parses words; what they mean, and how they combine with the environment and the file, is
//! this crate's.

use std::collections::BTreeMap;

use clap::{Args, Parser, Subcommand};

/// What the operator wrote on the command line. Values are still text, so that their mistakes are
/// reported together with those of the environment and the file.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "sealwire-agent",
    version,
    about = "Wraps the TCP connections of unmodified programs in mutual TLS",
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
    args_conflicts_with_subcommands = true
)]
pub struct Flags {
    /// Something else than serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// TOML file with the workloads of this machine (node mode)
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,

    /// cgroup2 directory of the one workload (pod mode)
    #[arg(long, value_name = "PATH", help_heading = POD_MODE)]
    pub cgroup: Option<String>,

    /// The workload's short name [default: from the cgroup's last component]
    #[arg(long, value_name = "NAME", help_heading = POD_MODE)]
    pub name: Option<String>,

    /// The workload's network namespace [default: the agent's own]
    #[arg(long, value_name = "PATH", help_heading = POD_MODE)]
    pub netns: Option<String>,

    /// Other programs are in the network namespace as well: nothing is done to their connections
    ///
    /// Steered are connections that the workload's programs open, and those to ports that they listen on.
    /// Start the programs after the agent: what listened before is not reachable. `sealwire run`
    /// does all that for one program.
    #[arg(long, help_heading = POD_MODE)]
    pub shares_netns: bool,

    /// Directory with certChain.pem, key.pem and mesh-ca.pem [default: /etc/sealwire/NAME]
    #[arg(long, value_name = "DIR", help_heading = POD_MODE)]
    pub tls_dir: Option<String>,

    /// Certificates from a Coordinator.
    #[command(flatten)]
    pub coordinator: CoordinatorFlags,

    /// Loopback port of /ready, /metrics, /connections and /config [default: off]
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, help_heading = SEEN)]
    pub admin_port: Option<String>,

    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = SEEN)]
    pub log_format: Option<String>,

    /// The least important level that is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = SEEN)]
    pub log_level: Option<String>,

    /// Log what the eBPF programs do with each connection; slow
    #[arg(long, help_heading = SEEN)]
    pub ebpf_debug: bool,

    /// Which directions of a connection the kernel's TLS may protect: auto (bulk alone), off, tx, rx
    /// or both [default: off]
    #[arg(long, value_name = "WHICH", help_heading = KERNEL)]
    pub offload: Option<String>,

    /// Whether bulk that the kernel protects goes from socket to socket without a copy: auto (where that is
    /// sound) or off [default: auto]
    #[arg(long, value_name = "WHEN", help_heading = KERNEL)]
    pub splice: Option<String>,

    /// Whether small messages from programs to the agent pass the loopback's TCP by: off or sk-msg
    /// [default: off]
    #[arg(long, value_name = "HOW", help_heading = KERNEL)]
    pub local_acceleration: Option<String>,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = KERNEL)]
    pub workers: Option<String>,

    /// Names this agent's pins, so that several agents can share a machine
    /// [default: the workload's name in pod mode, "default" in node mode]
    #[arg(long, value_name = "NAME", help_heading = KERNEL)]
    pub instance: Option<String>,

    /// Where the BPF file system is mounted [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR", help_heading = KERNEL)]
    pub bpffs: Option<String>,

    /// Take the place of the agent that serves this instance, without refusing a connection
    ///
    /// It gets the listeners of the agent that runs, serves, and only then is that one told to go:
    /// it accepts nothing more and ends when its last connection does, or after SECONDS, when it
    /// resets what is left. If this agent can't start, the one that runs goes on. Where none runs, it
    /// starts as usual.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "600", conflicts_with = "detach",
          value_parser = clap::value_parser!(u64).range(0..=86_400), help_heading = KERNEL)]
    pub take_over: Option<u64>,

    /// Remove this instance's pins and exit: its workloads are then neither steered nor guarded
    ///
    /// An agent that stops or crashes leaves its pins, which refuse connections until the next
    /// agent adopts them. Only this option takes them away, and from then on the workloads'
    /// programs talk in clear. Stop the agent first.
    #[arg(long, help_heading = KERNEL)]
    pub detach: bool,
}

/// What the agent does instead of serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Fetch certificate, key and secret once, for a program that does TLS itself
    Init(Box<InitFlags>),
}

/// Where the Coordinator is, and what it and this machine prove.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = COORDINATOR)]
pub struct CoordinatorFlags {
    /// Mesh API of a Coordinator, which replaces --tls-dir; several, separated by commas, are tried
    /// in turn [default port: 7777]
    #[arg(long = "coordinator", value_name = "HOST:PORT", value_delimiter = ',')]
    pub addresses: Vec<String>,

    /// A manifest of the deployment: what the Coordinator must prove
    #[arg(long = "coordinator-manifest", value_name = "FILE")]
    pub manifest: Option<String>,

    /// Where the latest manifest change that was seen is remembered, so that no older one is taken
    /// [default: /var/lib/sealwire/agent-INSTANCE; init: nothing is remembered]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,

    /// The certificate of this machine's VCEK or VLEK (SEV-SNP), where the host gives none
    #[arg(long, value_name = "FILE")]
    pub vek: Option<String>,

    /// AMD's revocation list (SEV-SNP)
    #[arg(long, value_name = "FILE")]
    pub crl: Option<String>,

    /// Intel's collateral of this machine, JSON (TDX)
    #[arg(long, value_name = "FILE")]
    pub collateral: Option<String>,

    /// Take certificates that rest on the simulated TEE: protects nothing
    #[arg(long)]
    pub allow_simulated_tee: bool,

    /// Run on the simulated TEE that this file describes (`sealwire evidence simulate`)
    #[arg(long, value_name = "FILE")]
    pub simulated_tee: Option<String>,
}

/// `sealwire-agent init`: what the operator wrote.
#[derive(Clone, Debug, Default, Args)]
#[command(long_about = INIT_LONG_ABOUT, after_help = INIT_AFTER_HELP)]
pub struct InitFlags {
    /// TOML file whose `[coordinator]` counts
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,

    /// Where certChain.pem, key.pem, mesh-ca.pem and coordinator-root-ca.pem go
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,

    /// Where workload-secret-seed goes, if the workload has a secret [default: as --out]
    #[arg(long, value_name = "DIR")]
    pub secrets: Option<String>,

    /// Give up after this many seconds [default: never]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout: Option<String>,

    /// Where the Coordinator is.
    #[command(flatten)]
    pub coordinator: CoordinatorFlags,

    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = SEEN)]
    pub log_format: Option<String>,

    /// The least important level that is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = SEEN)]
    pub log_level: Option<String>,
}

impl InitFlags {
    /// The options that the serving agent has too.
    pub(crate) fn shared(&self) -> Flags {
        let Self {
            config,
            coordinator,
            log_format,
            log_level,
            out: _,
            secrets: _,
            timeout: _,
        } = self.clone();
        Flags {
            config,
            coordinator,
            log_format,
            log_level,
            ..Flags::default()
        }
    }
}

/// The environment variables that the agent reads.
///
/// A value so that the configuration is a function of its arguments.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        };
        std::env::vars_os().map(text).collect()
    }

    /// The value of the variable `name`; an empty one counts as absent.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .filter(|(name, _)| is_ours(name))
                .collect(),
        )
    }
}

fn is_ours(name: &str) -> bool {
    ["SEALWIRE_", "CONTRAST_", "EDG_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || name == "COORDINATOR_HOST"
}

const POD_MODE: &str = "One workload (pod mode)";
const COORDINATOR: &str = "Certificates from a Coordinator";
const SEEN: &str = "Seen from outside";
const KERNEL: &str = "Kernel and threads";

const LONG_ABOUT: &str = "\
Wraps the TCP connections of unmodified programs in mutual TLS.

eBPF programs steer every TCP connection of a workload (a cgroup and its network namespace) to \
this agent, which talks TLS 1.3 to the agent or the TLS program on the other side; both sides prove \
who they are with a certificate of the mesh. What cannot be protected is refused. Without a running \
agent the workload's connections are refused, not sent in clear.";

const AFTER_HELP: &str = "\
Examples:
  sealwire-agent --cgroup /sys/fs/cgroup/web --tls-dir /etc/sealwire/web
  sealwire-agent --cgroup /sys/fs/cgroup/web --coordinator coordinator:7777 --coordinator-manifest manifest.json
  sealwire-agent --config /etc/sealwire/agent.toml

`--help` says more.";

const INIT_LONG_ABOUT: &str = "\
Fetch certificate, key and secret once, for a program that does TLS itself.

The Coordinator proves itself first; then this machine does. Written are certChain.pem, key.pem \
(mode 0400), mesh-ca.pem and coordinator-root-ca.pem and, if the workload's policy names a secret, \
workload-secret-seed (mode 0400, 128 hexadecimal digits). Each file appears whole or not at all. It \
tries until it has them; the certificate is not renewed, so run it again before the certificate \
expires.";

const INIT_AFTER_HELP: &str = "\
Examples:
  sealwire-agent init --coordinator coordinator:7777 --coordinator-manifest manifest.json --out /contrast/tls-config --secrets /contrast/secrets

Environment:
  SEALWIRE_ and an option's name, such as SEALWIRE_OUT; COORDINATOR_HOST for --coordinator.

Exit codes:
  0 done   1 failed or told to stop   2 wrong usage or configuration
  3 the platform lacks something required";

const AFTER_LONG_HELP: &str = r#"Examples:
  One workload, whose processes are in the cgroup `web`:
      sealwire-agent --cgroup /sys/fs/cgroup/web --tls-dir /etc/sealwire/web

  The same in its own network namespace, with metrics at http://127.0.0.1:9464/metrics:
      sealwire-agent --cgroup /sys/fs/cgroup/web --netns /run/netns/web --admin-port 9464

  Every workload of a machine:
      sealwire-agent --config /etc/sealwire/agent.toml

  One workload with certificates from a Coordinator, of which there are two:
      sealwire-agent --cgroup /sys/fs/cgroup/web --coordinator coordinator:7777,coordinator-2:7777 --coordinator-manifest manifest.json

  Take over from the agent that runs, an older version say, and give it an hour for its connections:
      sealwire-agent --config /etc/sealwire/agent.toml --take-over=3600

  Take the eBPF programs of the workload `web` away again:
      sealwire-agent --name web --detach

A configuration file:
  admin_port = 9464

  [[workload]]
  name = "web"
  cgroup = "/sys/fs/cgroup/web"
  netns = "/run/netns/web"
  tls_dir = "/etc/sealwire/web"  # not with [coordinator]

  [[workload.ingress]]           # every other port: mtls, any member of the mesh
  port = 8080
  peers = ["client"]

  [[workload.egress]]            # every other destination: mtls, any member of the mesh
  cidr = "10.0.0.0/8"
  port = 5432
  mode = "mtls"                  # or "plaintext", "deny"
  peers = ["spiffe://mesh.local/ns/default/sa/db"]

Certificates from a Coordinator, in the configuration file:
  [coordinator]
  addresses = ["coordinator:7777", "coordinator-2:7777"]
  manifest = "/etc/sealwire/manifest.json"     # any manifest of the deployment
  state_dir = "/var/lib/sealwire/agent-default"

  [[workload]]
  name = "web"
  cgroup = "/sys/fs/cgroup/web"
  netns = "/run/netns/web"
  spiffe_id = "spiffe://mesh.local/ns/default/sa/web"   # this node hosts it

Environment:
  Every option with a value can be given as SEALWIRE_ and its name, such as
  SEALWIRE_ADMIN_PORT=9464, after which CONTRAST_ADMIN_PORT counts. An option wins
  over the environment, the environment over the file. NO_COLOR=1 turns colours off.

Exit codes:
  0 done   1 failed   2 wrong usage or configuration
  3 the kernel or platform lacks something required"#;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_option_and_its_examples_parse() {
        let help = Flags::command().render_long_help().to_string();
        let mut examples = 0;
        for line in help
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("sealwire-agent --"))
        {
            Flags::try_parse_from(line.split_whitespace()).unwrap();
            examples += 1;
        }
        assert_eq!(examples, 6);
        for argument in Flags::command().get_arguments() {
            let option = format!("--{}", argument.get_long().unwrap());
            assert!(help.contains(&option), "{option}");
        }
    }

    #[test]
    fn the_help_of_init_names_every_option_and_its_example_parses() {
        let mut command = Flags::command();
        let init = command.find_subcommand_mut("init").unwrap();
        let help = init.render_long_help().to_string();
        for argument in init.get_arguments() {
            let option = format!("--{}", argument.get_long().unwrap());
            assert!(help.contains(&option), "{option}");
        }
        let example = INIT_AFTER_HELP.lines().nth(1).unwrap();
        let flags = Flags::try_parse_from(example.split_whitespace()).unwrap();
        let Some(Command::Init(init)) = flags.command else {
            panic!("no subcommand");
        };
        assert_eq!(init.out.as_deref(), Some("/contrast/tls-config"));
        assert_eq!(init.shared().coordinator.addresses, ["coordinator:7777"]);
    }

    #[test]
    fn an_option_of_the_serving_agent_is_not_one_of_init() {
        for words in [
            &["sealwire-agent", "--cgroup", "/c", "init", "--out", "/o"][..],
            &["sealwire-agent", "init", "--cgroup", "/c"],
        ] {
            Flags::try_parse_from(words).unwrap_err();
        }
    }

    #[test]
    fn the_files_in_the_help_are_valid_configurations() {
        let (_, rest) = AFTER_LONG_HELP
            .split_once("A configuration file:\n")
            .unwrap();
        let (with_files, rest) = rest
            .split_once("Certificates from a Coordinator, in the configuration file:\n")
            .unwrap();
        let (with_coordinator, _) = rest.split_once("Environment:").unwrap();
        for (example, has_coordinator) in [(with_files, false), (with_coordinator, true)] {
            let file = crate::ConfigFile::parse("agent.toml".as_ref(), example).unwrap();
            let (flags, environment) = (Flags::default(), Environment::default());
            let config = crate::effective(&flags, &environment, Some(file)).unwrap();
            assert_eq!(config.workloads.len(), 1);
            assert_eq!(config.coordinator.is_some(), has_coordinator);
        }
    }

    #[test]
    fn a_negative_number_is_a_value_and_not_an_option() {
        let flags = Flags::try_parse_from(["sealwire-agent", "--admin-port", "-1"]).unwrap();
        assert_eq!(flags.admin_port.as_deref(), Some("-1"));
    }

    #[test]
    fn an_empty_variable_counts_as_absent() {
        let variables = [
            ("SEALWIRE_NAME", ""),
            ("SEALWIRE_CGROUP", "/c"),
            ("HOME", "/root"),
        ];
        let environment: Environment = variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(environment.value("SEALWIRE_NAME"), None);
        assert_eq!(environment.value("SEALWIRE_CGROUP"), Some("/c"));
        assert_eq!(environment.value("HOME"), None);
    }
}
