//! What can be wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use attestation::identity::SpiffeIdError;

use super::address::AddressError;
use super::contrast::EntryError;
use crate::policy::{
    CidrError, DnsNameError, NameError, PeerMatchError, PortError, PortRange, WorkloadMatch,
    WorkloadMatchError,
};

/// Why there is no configuration. The agent exits with code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading the configuration {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is longer than any that was meant.
    #[error("the configuration {} is longer than {most} MiB; is it the right file?", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most, in MiB.
        most: u64,
    },
    /// Everything that is wrong, in the order of the file, one a line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Finding>),
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// Where it was written; `None` if it concerns the machine, or something that is missing.
    pub place: Option<Place>,
    /// The part of the configuration that it is about; `None` if it is about the whole.
    pub subject: Option<Subject>,
    /// What is wrong, and what to do.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// With this option.
    Flag(&'static str),
    /// In this environment variable.
    Variable(&'static str),
    /// In a string of Contrast's; both count from 1, the column in characters of the whole string.
    Entry {
        /// The environment variable.
        variable: &'static str,
        /// Which of the entries that are not empty.
        entry: usize,
        /// The character in the string.
        column: usize,
    },
    /// In the file; line and column count from 1, the column in characters.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The character in the line.
        column: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::Entry {
                variable,
                entry,
                column,
            } => write!(f, "{variable}: entry {entry}, column {column}"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
        }
    }
}

/// A part of the configuration. Indices count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which workload.
    pub workload: WorkloadRef,
    /// The rule within the workload.
    pub rule: Option<Rule>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workload {
            WorkloadRef::Name(name) => write!(f, "workload {name:?}")?,
            WorkloadRef::Index(index) => write!(f, "workload[{index}]")?,
        }
        match self.rule {
            None => Ok(()),
            Some(Rule::Ingress(index)) => write!(f, ", ingress[{index}]"),
            Some(Rule::Egress(index)) => write!(f, ", egress[{index}]"),
            Some(Rule::Listener(index)) => write!(f, ", listener[{index}]"),
        }
    }
}

/// Which workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadRef {
    /// The one that says it has this name.
    Name(String),
    /// The one with this index, which has no name.
    Index(usize),
}

/// Which rule of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The `[[workload.ingress]]` with this index.
    Ingress(usize),
    /// The `[[workload.egress]]` with this index.
    Egress(usize),
    /// The `[[workload.listener]]` with this index.
    Listener(usize),
}

/// What is wrong, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages are the documentation, and name every field"
)]
pub enum Problem {
    #[error("{0}")]
    Toml(String),
    #[error("{key} is missing; {add}")]
    Missing {
        key: &'static str,
        add: &'static str,
    },
    #[error("{key} `{got}` is unknown; write {}", alternatives(choices))]
    Word {
        key: &'static str,
        got: String,
        choices: Vec<&'static str>,
    },
    #[error("{key} `{got}` {reason}")]
    Port {
        key: &'static str,
        got: String,
        reason: PortError,
    },
    #[error("cidr `{got}` {reason}")]
    Cidr { got: String, reason: CidrError },
    #[error("name `{got}` {reason}")]
    DnsName { got: String, reason: DnsNameError },
    #[error(
        "mode plaintext with a name alone lets whoever answers for {name} choose what goes out in \
         clear; add cidr, the network that its addresses lie in"
    )]
    PlaintextName { name: String },
    #[error("none of cidr, name and workload is given; {add}")]
    NoDestination { add: &'static str },
    #[error("workload `{got}` {reason}")]
    Workload {
        got: String,
        reason: WorkloadMatchError,
    },
    #[error(
        "mode plaintext can't be by workload, as nobody proves who answers in clear; name the addresses \
         by cidr, and leave workload out"
    )]
    PlaintextWorkload,
    #[error(
        "nobody proves to be workload {workload} where egress[{in_clear}] sends in clear; give this rule \
         a cidr with a shorter prefix, which egress[{in_clear}] is an exception to, or other ports"
    )]
    WorkloadInClear {
        workload: WorkloadMatch,
        in_clear: usize,
    },
    #[error(
        "nobody proves to be workload {workload} where egress_default sends in clear; give cidr, and add \
         a rule for the same cidr without workload: mtls or deny, for who else may be there"
    )]
    WorkloadInClearByDefault { workload: WorkloadMatch },
    #[error("{key} `{got}` {reason}")]
    Name {
        key: &'static str,
        got: String,
        reason: NameError,
    },
    #[error("peer `{got}` {reason}")]
    Peer { got: String, reason: PeerMatchError },
    #[error("{key} `{got}` is not an absolute path without `.` and `..`; write it from / on")]
    Path { key: &'static str, got: String },
    #[error("workers `{got}` is not a number of threads; write 1 to {most}, or leave it out")]
    Workers { got: String, most: usize },
    #[error("flow_table_entries `{got}` is not a table's size; write 1 to {most}, or leave it out")]
    FlowTable { got: String, most: u32 },

    #[error("address `{got}` {reason}")]
    Address { got: String, reason: AddressError },
    #[error("coordinator.addresses lists `{got}` twice; remove one")]
    DuplicateAddress { got: String },
    #[error("{key} is empty; name the file")]
    NoFile { key: &'static str },
    #[error(
        "coordinator.simulated_tee protects nothing; if that is meant, add allow_simulated_tee = \
         true, or give --allow-simulated-tee"
    )]
    SimulatedTeeNotAllowed,
    #[error("{key} has no effect beside coordinator.simulated_tee; remove one of the two")]
    UnusedEndorsement { key: &'static str },
    #[error(
        "tls_dir has no effect, as certificates come from the Coordinator; remove tls_dir, or \
         [coordinator] and its options"
    )]
    TlsDirWithCoordinator,
    #[error(
        "spiffe_id has no effect, as certificates come from files; remove it, or add [coordinator]"
    )]
    SpiffeIdWithoutCoordinator,
    #[error("spiffe_id `{got}` is not a SPIFFE ID ({reason}); write the one that the manifest has")]
    SpiffeId { got: String, reason: SpiffeIdError },
    #[error("spiffe_id `{got}` names a trust domain, not a workload; write the workload's")]
    TrustDomainAlone { got: String },
    #[error("timeout `{got}` is not a number of seconds; write 1 to {most}, or leave it out")]
    Timeout { got: String, most: u32 },

    #[error("name `{got}` is already the name of workload[{first}]; names must be unique")]
    DuplicateName { got: String, first: usize },
    #[error(
        "cgroup `{got}` and `{other_cgroup}` of workload {other:?} hold the same processes; \
         give each workload a cgroup of its own, beside the other"
    )]
    CgroupOverlap {
        got: String,
        other: String,
        other_cgroup: String,
    },
    #[error(
        "shares its network namespace ({netns}) with workload {other:?}, so a connection to a port \
         could be meant for either; give each workload a netns of its own, or say shares_netns = true \
         for both"
    )]
    SharedNetns { netns: String, other: String },
    #[error(
        "listener {listen} would serve every program of a network namespace that is shared; remove it, \
         and let the program dial the destination itself"
    )]
    ListenerForOthers { listen: SocketAddrV4 },
    #[error("port {port} already has the rule ingress[{first}]; keep one of the two")]
    DuplicatePort { port: u16, first: usize },
    #[error(
        "{to} with ports {ports} overlaps egress[{first}] with ports {first_ports}, and neither \
         is narrower; split the ranges"
    )]
    EgressOverlap {
        to: String,
        ports: PortRange,
        first: usize,
        first_ports: PortRange,
    },
    #[error("{to} with the same ports already has the rule egress[{first}]; keep one of the two")]
    DuplicateEgress { to: String, first: usize },
    #[error(
        "workload {workload} may be {other} of egress[{first}], and neither is narrower; write SPIFFE \
         IDs, or split the ranges of ports"
    )]
    WorkloadOverlap {
        workload: WorkloadMatch,
        other: WorkloadMatch,
        first: usize,
    },

    #[error("{0}")]
    Entry(EntryError),
    #[error("{listen} already has listener[{first}]; keep one of the two")]
    DuplicateListener { listen: SocketAddrV4, first: usize },
    #[error(
        "the file has {count} workloads, so Contrast's strings cannot say which one they are for; \
         write rules into the file instead"
    )]
    StringsForSeveral { count: usize },

    #[error("peers has no effect where mode is {mode}; remove peers, or set mode = \"mtls\"")]
    PeersNeedMtls { mode: &'static str },
    #[error("peers has no effect beside workload, which says who answers; remove one of the two")]
    PeersWithWorkload,
    #[error(
        "{key} has no effect, as every {direction} rule and {direction}_default has another \
             mode than mtls or its own peers; remove it"
    )]
    UnusedPeers {
        key: &'static str,
        direction: &'static str,
    },
    #[error("{key} is empty, so nothing could be reached; name the peers, or use mode \"deny\"")]
    NoPeers { key: &'static str },
    #[error("{key} lists `any` beside others, which then have no effect; keep one or the others")]
    AnyAmongPeers { key: &'static str },
    #[error("{key} says only who is not allowed; add \"any\", or who is")]
    OnlyDenied { key: &'static str },
    #[error("{key} lists `!any`, which denies everybody; name who is not allowed")]
    NotAny { key: &'static str },
    #[error("{key} lists `{got}` and `{opposite}`; remove one")]
    PeerContradiction {
        key: &'static str,
        got: String,
        opposite: String,
    },
    #[error("{key} lists `{got}` twice; remove one")]
    DuplicatePeer { key: &'static str, got: String },

    #[error("no workload is configured; give --cgroup PATH, or --config FILE with a [[workload]]")]
    NoWorkload,
    #[error(
        "the file has {count} workloads, so an option cannot say which one it changes; \
         leave --cgroup, --name, --netns, --shares-netns and --tls-dir out, or keep one workload in the file"
    )]
    SeveralWorkloads { count: usize },

    #[error("{key} {path} does not exist; {create}")]
    Absent {
        key: &'static str,
        path: String,
        create: &'static str,
    },
    #[error("{key} {path} could not be inspected ({call}: {error}); run the agent as root")]
    Uninspected {
        key: &'static str,
        path: String,
        call: &'static str,
        error: String,
    },
    #[error("{key} {path} is not a directory; name the directory")]
    NotADirectory { key: &'static str, path: String },
    #[error("{key} {path} is not a file; name the file")]
    NotAFile { key: &'static str, path: String },
    #[error(
        "cgroup {path} is not in a cgroup2 file system; name a directory below the mount of type \
         cgroup2 (see `findmnt -t cgroup2`)"
    )]
    NotCgroup2 { path: String },
    #[error(
        "netns {path} is not a network namespace; name a file such as /run/netns/NAME (made by \
         `ip netns add NAME`) or /proc/PID/ns/net"
    )]
    NotANetns { path: String },
}

fn lines(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn alternatives(choices: &[&str]) -> String {
    match choices {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
