//! The command line of `sealwire-agent`.
//!
//! Parses words; what they mean, and how they combine with the environment and the file, is
//! [`crate::config`]'s.

use std::collections::BTreeMap;

use clap::Parser;

/// What the operator wrote on the command line. Values are still text, so that their mistakes are
/// reported together with those of the environment and the file.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "sealwire-agent",
    version,
    about = "Wraps the TCP connections of unmodified programs in mutual TLS",
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP
)]
pub struct Flags {
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

    /// Directory with certChain.pem, key.pem and mesh-ca.pem [default: /etc/sealwire/NAME]
    #[arg(long, value_name = "DIR", help_heading = POD_MODE)]
    pub tls_dir: Option<String>,

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

    /// Remove this instance's pins and exit: its workloads are then neither steered nor guarded
    ///
    /// An agent that stops or crashes leaves its pins, which refuse connections until the next
    /// agent adopts them. Only this option takes them away, and from then on the workloads'
    /// programs talk in clear. Stop the agent first.
    #[arg(long, help_heading = KERNEL)]
    pub detach: bool,
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
    name.starts_with("SEALWIRE_") || name.starts_with("CONTRAST_")
}

const POD_MODE: &str = "One workload (pod mode)";
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
  sealwire-agent --config /etc/sealwire/agent.toml

`--help` says more.";

const AFTER_LONG_HELP: &str = r#"Examples:
  One workload, whose processes are in the cgroup `web`:
      sealwire-agent --cgroup /sys/fs/cgroup/web --tls-dir /etc/sealwire/web

  The same in its own network namespace, with metrics at http://127.0.0.1:9464/metrics:
      sealwire-agent --cgroup /sys/fs/cgroup/web --netns /run/netns/web --admin-port 9464

  Every workload of a machine:
      sealwire-agent --config /etc/sealwire/agent.toml

  Take the eBPF programs of the workload `web` away again:
      sealwire-agent --name web --detach

A configuration file:
  admin_port = 9464

  [[workload]]
  name = "web"
  cgroup = "/sys/fs/cgroup/web"
  netns = "/run/netns/web"
  tls_dir = "/etc/sealwire/web"

  [[workload.ingress]]           # every other port: mtls, any member of the mesh
  port = 8080
  peers = ["client"]

  [[workload.egress]]            # every other destination: mtls, any member of the mesh
  cidr = "10.0.0.0/8"
  port = 5432
  mode = "mtls"                  # or "plaintext", "deny"
  peers = ["spiffe://mesh.local/ns/default/sa/db"]

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
        assert_eq!(examples, 4);
        for argument in Flags::command().get_arguments() {
            let option = format!("--{}", argument.get_long().unwrap());
            assert!(help.contains(&option), "{option}");
        }
    }

    #[test]
    fn the_file_in_the_help_is_a_valid_configuration() {
        let (_, rest) = AFTER_LONG_HELP
            .split_once("A configuration file:\n")
            .unwrap();
        let (example, _) = rest.split_once("Environment:").unwrap();
        let file = crate::config::ConfigFile::parse("agent.toml".as_ref(), example).unwrap();
        let flags = Flags::default();
        let config = crate::config::effective(&flags, &Environment::default(), Some(file)).unwrap();
        assert_eq!(config.workloads.len(), 1);
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
