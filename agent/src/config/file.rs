//! The TOML file as it is written: every key, nothing judged yet.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::{Spanned, Value};

use super::problem::{ConfigError, Finding, Place, Problem};

/// A configuration file that was read and is TOML with known keys. What its values mean is judged by
/// [`super::effective`], together with the command line.
#[derive(Debug)]
pub struct ConfigFile {
    pub(super) source: Source,
    pub(super) keys: FileKeys,
}

impl ConfigFile {
    /// Reads and parses the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(path, &text)
    }

    /// Parses `text`; `path` is only for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let keys = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let problem = Problem::Toml(with_hint(error.message()));
            let place = Some(source.place(start));
            ConfigError::Invalid(vec![Finding {
                place,
                subject: None,
                problem,
            }])
        })?;
        Ok(Self { source, keys })
    }
}

/// The parser says what it found; what to do is ours.
fn with_hint(message: &str) -> String {
    let hint = if message.starts_with("invalid type: map, expected a sequence") {
        "; write the header in double brackets, [[workload]]"
    } else if message.ends_with("expected a sequence") {
        "; write a list, [\"...\"]"
    } else if message.starts_with("duplicate key") {
        "; remove one"
    } else {
        ""
    };
    format!("{message}{hint}")
}

/// What the places in messages refer to.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    pub(super) fn place(&self, byte: usize) -> Place {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::File {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// The keys at the top of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileKeys {
    /// Loopback port of the admin interface; off unless given.
    pub(super) admin_port: Option<Given<Scalar>>,
    /// `text` (default) or `json`.
    pub(super) log_format: Option<Given<String>>,
    /// `error`, `warn`, `info` (default), `debug` or `trace`.
    pub(super) log_level: Option<Given<String>>,
    /// Which directions of a connection the kernel's TLS may protect: `auto`, `off` (default),
    /// `tx`, `rx` or `both`.
    pub(super) offload: Option<Given<String>>,
    /// Whether bulk that the kernel protects is moved by splice(2): `auto` (default) or `off`.
    pub(super) splice: Option<Given<String>>,
    /// Whether small messages from programs to the agent pass the loopback's TCP by: `off` (default)
    /// or `sk-msg`.
    pub(super) local_acceleration: Option<Given<String>>,
    /// How many connections may be on their way to the agent at once; default: 65536. A new value
    /// takes effect after `--detach`.
    pub(super) flow_table_entries: Option<Given<Scalar>>,
    /// `[coordinator]`: certificates from a Coordinator, in place of every `tls_dir`.
    pub(super) coordinator: Option<Given<CoordinatorKeys>>,
    /// `[[workload]]`: the workloads of this machine.
    #[serde(default)]
    pub(super) workload: Vec<Given<WorkloadKeys>>,
}

/// The keys of `[coordinator]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CoordinatorKeys {
    /// Mesh APIs (`host:port`) of the deployment's Coordinators, tried in turn. Required.
    pub(super) addresses: Option<Given<Vec<Given<String>>>>,
    /// A manifest of the deployment: what the Coordinator must prove. Required.
    pub(super) manifest: Option<Given<String>>,
    /// Where the latest transition is remembered; default: `/var/lib/sealwire/agent-<instance>`.
    pub(super) state_dir: Option<Given<String>>,
    /// Whether the simulated TEE is taken for one; default: no.
    pub(super) allow_simulated_tee: Option<Given<bool>>,
    /// File that describes the simulated TEE that this machine runs on.
    pub(super) simulated_tee: Option<Given<String>>,
    /// SEV-SNP: file with the VCEK's or VLEK's certificate.
    pub(super) vek: Option<Given<String>>,
    /// SEV-SNP: file with AMD's revocation list.
    pub(super) crl: Option<Given<String>>,
    /// TDX: file with Intel's collateral.
    pub(super) collateral: Option<Given<String>>,
}

/// The keys of a `[[workload]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkloadKeys {
    /// Short name, unique on this machine: 1 to 63 of `a-z`, `0-9` and dashes.
    pub(super) name: Option<Given<String>>,
    /// cgroup2 directory that holds the workload's processes, or whose descendants do.
    pub(super) cgroup: Option<Given<String>>,
    /// File of the network namespace, such as `/run/netns/web`; default: the agent's own.
    pub(super) netns: Option<Given<String>>,
    /// Directory with `certChain.pem`, `key.pem`, `mesh-ca.pem`; default: `/etc/sealwire/<name>`.
    /// Not with `[coordinator]`.
    pub(super) tls_dir: Option<Given<String>>,
    /// Identity to ask the Coordinator for; default: that of the agent's own policy. Required where
    /// there is more than one workload.
    pub(super) spiffe_id: Option<Given<String>>,
    /// `mtls` (default), `tls` or `plaintext`, for every port that no ingress rule names.
    pub(super) ingress_default: Option<Given<String>>,
    /// Who may connect where a rule does not say: `any` (default), SPIFFE IDs, workload names.
    /// An empty list lets nobody in.
    pub(super) ingress_peers: Option<Given<Vec<Given<String>>>>,
    /// `mtls` (default), `plaintext` or `deny`, for every destination that no egress rule names.
    pub(super) egress_default: Option<Given<String>>,
    /// Who may answer where a rule does not say: `any` (default), SPIFFE IDs, workload names.
    pub(super) egress_peers: Option<Given<Vec<Given<String>>>>,
    /// `[[workload.ingress]]`: what a client must bring, by port.
    #[serde(default)]
    pub(super) ingress: Vec<Given<IngressKeys>>,
    /// `[[workload.egress]]`: what happens to a connection, by destination.
    #[serde(default)]
    pub(super) egress: Vec<Given<EgressKeys>>,
}

/// The keys of a `[[workload.ingress]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IngressKeys {
    /// The port that the program listens on, 1 to 65535. Required.
    pub(super) port: Option<Given<Scalar>>,
    /// `mtls` (default), `tls` or `plaintext`.
    pub(super) mode: Option<Given<String>>,
    /// Who may connect; only with `mtls`. Default: `ingress_peers`.
    pub(super) peers: Option<Given<Vec<Given<String>>>>,
}

/// The keys of a `[[workload.egress]]`. The longest prefix wins, then the narrower range of ports.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EgressKeys {
    /// IPv4 or IPv6 network; a bare address is a network of one. Required.
    pub(super) cidr: Option<Given<String>>,
    /// A port, or a range such as `"8000-8100"`; default: every port.
    pub(super) port: Option<Given<Scalar>>,
    /// `mtls` (default), `plaintext` or `deny`.
    pub(super) mode: Option<Given<String>>,
    /// Who may answer; only with `mtls`. Default: `egress_peers`.
    pub(super) peers: Option<Given<Vec<Given<String>>>>,
}

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        let origin = Origin::File {
            byte: spanned.span().start,
        };
        Ok(Self {
            value: spanned.into_inner(),
            origin,
        })
    }
}

/// Where a value was given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// In the file, from this byte on.
    File { byte: usize },
    /// With this option.
    Flag(&'static str),
    /// In this environment variable.
    Variable(&'static str),
    /// Nowhere: it is missing.
    Nowhere,
}

/// A number or a word, kept as text so that `-1` and `"x"` are judged in one place.
#[derive(Clone, Debug)]
pub(super) struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::String(text) => Self(text),
            other => Self(other.to_string()),
        })
    }
}

impl From<Given<Scalar>> for Given<String> {
    fn from(given: Given<Scalar>) -> Self {
        Self {
            value: given.value.0,
            origin: given.origin,
        }
    }
}
