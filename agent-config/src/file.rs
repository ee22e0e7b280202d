//! The TOML file as it is written: every key, nothing judged yet.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::contrast::At;
use super::keys::{
    Boolean, Field, Key, Keys, List, Number, Reader, Table, Tables, Tell, Text, keys, with_hint,
};
use super::problem::{ConfigError, Finding, Place, Problem};

/// A configuration file that was read and is TOML. What its values mean is judged by
/// [`super::effective`], together with the command line.
#[derive(Debug)]
pub struct ConfigFile {
    pub(super) source: Source,
    pub(super) keys: FileKeys,
    /// Where a value has the wrong type or a key is unknown.
    pub(super) mistakes: Vec<(usize, String)>,
}

impl ConfigFile {
    /// Reads and parses the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        Self::from_reader(path, file)
    }

    /// Reads it from somewhere else; `path` is only for messages.
    pub fn from_reader(path: &Path, reader: impl Read) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let longest = LONGEST_FILE + 1;
        reader
            .take(longest)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if bytes.len() as u64 == longest {
            return Err(ConfigError::TooLong {
                path: path.to_owned(),
                most: LONGEST_FILE >> 20,
            });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(path, &text),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let source = Source::new(path, text);
                let what = "this is not UTF-8; save the file in that encoding";
                Err(ConfigError::Invalid(vec![source.finding(valid, what)]))
            }
        }
    }

    /// Parses `text`; `path` is only for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source::new(path, text.to_owned());
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What such a file means is guesswork.
            let findings = errors.iter().map(|error| {
                let start = error.span().map_or(0, |span| span.start);
                source.finding(start, with_hint(error.message()))
            });
            let mut findings: Vec<_> = findings.collect();
            findings.sort_by(|one, other| one.place.cmp(&other.place));
            return Err(ConfigError::Invalid(findings));
        }
        let span = table.span();
        let mut reader = Reader::default();
        let keys = reader.table(Spanned::new(span, DeValue::Table(table.into_inner())));
        let mistakes = reader.mistakes;
        Ok(Self {
            source,
            keys,
            mistakes,
        })
    }
}

/// What the places in messages refer to.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    text: String,
    /// The byte at which each line begins: a file may have as many mistakes as lines.
    lines: Vec<usize>,
}

impl Source {
    fn new(path: &Path, text: String) -> Self {
        let after = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self {
            path: path.to_owned(),
            lines: [0].into_iter().chain(after).collect(),
            text,
        }
    }

    pub(super) fn finding(&self, byte: usize, what: impl Into<String>) -> Finding {
        Finding {
            place: Some(self.place(byte)),
            subject: None,
            problem: Problem::Toml(what.into()),
        }
    }

    pub(super) fn place(&self, byte: usize) -> Place {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line = self.lines.partition_point(|start| *start <= before.len());
        let start = self.lines[line - 1];
        Place::File {
            path: self.path.clone(),
            line,
            column: before[start..].chars().count() + 1,
        }
    }
}

keys! {
    /// The keys at the top of the file.
    struct FileKeys {
        /// Loopback port of the admin interface; off unless given.
        admin_port: Number,
        /// `text` (default) or `json`.
        log_format: Text,
        /// `error`, `warn`, `info` (default), `debug` or `trace`.
        log_level: Text,
        /// Which directions of a connection the kernel's TLS may protect: `auto`, `off` (default),
        /// `tx`, `rx` or `both`.
        offload: Text,
        /// Whether bulk that the kernel protects is moved by splice(2): `auto` (default) or `off`.
        splice: Text,
        /// Whether small messages from programs to the agent pass the loopback's TCP by: `off` (default)
        /// or `sk-msg`.
        local_acceleration: Text,
        /// How many connections may be on their way to the agent at once; default: 65536. A new value
        /// takes effect after `--detach`.
        flow_table_entries: Number,
        /// `[coordinator]`: certificates from a Coordinator, in place of every `tls_dir`.
        coordinator: Table<CoordinatorKeys>,
        /// `[[workload]]`: the workloads of this machine.
        workload: Tables<WorkloadKeys>,
    }
}

keys! {
    /// The keys of `[coordinator]`.
    struct CoordinatorKeys {
        /// Mesh APIs (`host:port`) of the deployment's Coordinators, tried in turn. Required.
        addresses: List,
        /// A manifest of the deployment: what the Coordinator must prove. Required.
        manifest: Text,
        /// Where the latest transition is remembered; default: `/var/lib/sealwire/agent-<instance>`.
        state_dir: Text,
        /// Whether the simulated TEE is taken for one; default: no.
        allow_simulated_tee: Boolean,
        /// File that describes the simulated TEE that this machine runs on.
        simulated_tee: Text,
        /// SEV-SNP: file with the VCEK's or VLEK's certificate.
        vek: Text,
        /// SEV-SNP: file with AMD's revocation list.
        crl: Text,
        /// TDX: file with Intel's collateral.
        collateral: Text,
    }
}

keys! {
    /// The keys of a `[[workload]]`.
    struct WorkloadKeys {
        /// Short name, unique on this machine: 1 to 63 of `a-z`, `0-9` and dashes.
        name: Text,
        /// cgroup2 directory that holds the workload's processes, or whose descendants do.
        cgroup: Text,
        /// File of the network namespace, such as `/run/netns/web`; default: the agent's own.
        netns: Text,
        /// Whether other programs are in the namespace as well: then nothing is done to connections but
        /// those that the workload's programs open and those to ports that they listen on; default: no.
        shares_netns: Boolean,
        /// Directory with `certChain.pem`, `key.pem`, `mesh-ca.pem`; default: `/etc/sealwire/<name>`.
        /// Not with `[coordinator]`.
        tls_dir: Text,
        /// Identity to ask the Coordinator for; default: that of the agent's own policy. Required where
        /// there is more than one workload.
        spiffe_id: Text,
        /// `mtls` (default), `tls` or `plaintext`, for every port that no ingress rule names.
        ingress_default: Text,
        /// Who may connect where a rule does not say: `any` (default), SPIFFE IDs, workload names,
        /// `ns/` and a namespace; `!` before one denies.
        /// An empty list lets nobody in.
        ingress_peers: List,
        /// `mtls` (default), `plaintext` or `deny`, for every destination that no egress rule names.
        egress_default: Text,
        /// Who may answer where a rule does not say: `any` (default), SPIFFE IDs, workload names,
        /// `ns/` and a namespace; `!` before one denies.
        egress_peers: List,
        /// `allow` (default) or `deny`: whether programs may send datagrams out of the namespace, which are
        /// not protected. `deny` drops them, those to resolvers too; what stays on the loopback is let
        /// through.
        udp: Text,
        /// Peers that rules do not list, or deny as a workload, are let through, told and counted; default:
        /// no. They must be of the mesh all the same.
        dry_run: Boolean,
        /// `[[workload.ingress]]`: what a client must bring, by port.
        ingress: Tables<IngressKeys>,
        /// `[[workload.egress]]`: what happens to a connection, by destination.
        egress: Tables<EgressKeys>,
        /// `[[workload.listener]]`: addresses of the loopback that lead to a host by name.
        listener: Tables<ListenerKeys>,
    }
}

keys! {
    /// The keys of a `[[workload.ingress]]`.
    struct IngressKeys {
        /// The port that the program listens on, 1 to 65535. Required.
        port: Number,
        /// `mtls` (default), `tls` or `plaintext`.
        mode: Text,
        /// Who may connect; only with `mtls`. Default: `ingress_peers`.
        peers: List,
    }
}

keys! {
    /// The keys of a `[[workload.egress]]`. The longest prefix wins, what has no `cidr` before all; then
    /// a workload before none, a name before none, then the narrower range of ports.
    struct EgressKeys {
        /// IPv4 or IPv6 network; a bare address is a network of one. Required without `name` and `workload`.
        cidr: Text,
        /// DNS name such as `db.example.com`: the rule is for the addresses that it has, and that lie in
        /// `cidr` if there is one. `*.example.com` stands for every name below `example.com`, at any depth.
        /// With `plaintext`, `cidr` is required.
        name: Text,
        /// The rule is for who proves to be this workload when it answers: a workload name, a SPIFFE ID, or
        /// `ns/` and a namespace. Not with `plaintext`, nor with `peers`.
        workload: Text,
        /// A port, or a range such as `"8000-8100"`; default: every port.
        port: Number,
        /// `mtls` (default), `plaintext` or `deny`.
        mode: Text,
        /// Who may answer; only with `mtls`. Default: `egress_peers`.
        peers: List,
    }
}

keys! {
    /// The keys of a `[[workload.listener]]`: what the program dials, and where that leads, with mutual
    /// TLS.
    struct ListenerKeys {
        /// An address in 127.0.0.0/8 with a port, such as `127.137.0.1:5432`. Required.
        listen: Text,
        /// Host and port; a name is looked up for each connection. Required.
        remote: Text,
        /// Who may answer. Default: `egress_peers`.
        peers: List,
    }
}

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<T> Given<T> {
    /// Another value at the same place.
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Given<U> {
        Given {
            value: map(self.value),
            origin: self.origin,
        }
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
    /// In a string of Contrast's; see [`Place::Entry`].
    Entry {
        variable: &'static str,
        entry: usize,
        column: usize,
    },
    /// Nowhere: it is missing.
    Nowhere,
}

impl Origin {
    /// Something in the string that a variable holds.
    pub(super) fn entry<T>(self, at: &At<T>) -> Self {
        match self {
            Self::Variable(variable) => Self::Entry {
                variable,
                entry: at.entry,
                column: at.column,
            },
            elsewhere => elsewhere,
        }
    }
}

/// A number or a word, kept as text so that `-1` and `"x"` are judged in one place.
#[derive(Clone, Debug)]
pub(super) struct Scalar(pub(super) String);

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

/// Far above what 10,000 rules take; a device or a mistaken path must not fill the memory. In bytes.
const LONGEST_FILE: u64 = 16 << 20;
