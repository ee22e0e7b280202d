//! From what was written to what is meant, with every mistake reported at once.

use std::collections::BTreeSet;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::{Component, PathBuf};

use super::contrast::{At, EntryError};
use super::coordinator::CertificatesFrom;
use super::file::{Given, Origin, Source, WorkloadKeys};
use super::problem::{ConfigError, Finding, Place, Problem, Rule, Subject, WorkloadRef};
use super::{Enforcement, Workload};
use crate::policy::UdpMode;
use crate::policy::{PortError, WorkloadName};

/// Judges values and collects what is wrong. A judgement that finds a mistake still returns
/// something plausible where it can, so that one mistake does not cause reports of others.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    source: Option<&'a Source>,
    subject: Option<Subject>,
    findings: Vec<Finding>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(source: Option<&'a Source>) -> Self {
        Self {
            source,
            subject: None,
            findings: Vec::new(),
        }
    }

    /// Takes what was wrong when the file was read.
    pub(super) fn take(&mut self, mistakes: Vec<(usize, String)>) {
        for (byte, what) in mistakes {
            self.report(Origin::File { byte }, Problem::Toml(what));
        }
    }

    pub(super) fn has_found_nothing(&self) -> bool {
        self.findings.is_empty()
    }

    /// `Ok` if nothing was reported.
    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        if self.findings.is_empty() {
            return Ok(());
        }
        self.findings
            .sort_by(|one, other| one.place.cmp(&other.place));
        // What has the wrong type means nothing.
        let misread: BTreeSet<_> = self
            .findings
            .iter()
            .filter(|it| matches!(it.problem, Problem::Toml(_)))
            .filter_map(|it| it.place.clone())
            .collect();
        self.findings.retain(|it| {
            matches!(it.problem, Problem::Toml(_))
                || it.place.as_ref().is_none_or(|it| !misread.contains(it))
        });
        Err(ConfigError::Invalid(self.findings))
    }

    /// Where that is, for people.
    pub(super) fn place(&self, origin: Origin) -> Option<Place> {
        match origin {
            Origin::File { byte } => self.source.map(|source| source.place(byte)),
            Origin::Flag(name) => Some(Place::Flag(name)),
            Origin::Variable(name) => Some(Place::Variable(name)),
            Origin::Entry {
                variable,
                entry,
                column,
            } => Some(Place::Entry {
                variable,
                entry,
                column,
            }),
            Origin::Nowhere => None,
        }
    }

    pub(super) fn report(&mut self, origin: Origin, problem: Problem) {
        self.findings.push(Finding {
            place: self.place(origin),
            subject: self.subject.clone(),
            problem,
        });
    }

    /// Reports what is wrong in a string of Contrast's.
    pub(super) fn entries(&mut self, origin: Origin, mistakes: Vec<At<EntryError>>) {
        for mistake in mistakes {
            let origin = origin.entry(&mistake);
            self.report(origin, Problem::Entry(mistake.value));
        }
    }

    pub(super) fn workloads(
        &mut self,
        given: Vec<Given<WorkloadKeys>>,
        certificates: CertificatesFrom,
    ) -> Vec<Workload> {
        let mut accepted: Vec<(usize, Workload)> = Vec::new();
        for (index, given) in given.into_iter().enumerate() {
            let origins = Origins::of(&given);
            let workload = self.workload(index, given, certificates);
            if let Some(workload) = workload {
                for (other_index, other) in &accepted {
                    self.compare(&workload, &origins, other, *other_index);
                }
                accepted.push((index, workload));
            }
            self.within(None);
        }
        accepted.into_iter().map(|(_, workload)| workload).collect()
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        given: Option<Given<String>>,
        default: T,
        choices: &[T],
        as_str: fn(T) -> &'static str,
    ) -> T {
        let Some(Given { value: got, origin }) = given else {
            return default;
        };
        let found = choices
            .iter()
            .copied()
            .find(|&choice| as_str(choice) == got);
        if found.is_none() {
            let choices = choices.iter().copied().map(as_str).collect();
            self.report(origin, Problem::Word { key, got, choices });
        }
        found.unwrap_or(default)
    }

    pub(super) fn port(&mut self, key: &'static str, given: Given<String>) -> Option<NonZeroU16> {
        let Given { value: got, origin } = given;
        let digits_only = got.bytes().all(|byte| byte.is_ascii_digit());
        let port = digits_only.then(|| got.parse().ok()).flatten();
        if port.is_none() {
            self.report(
                origin,
                Problem::Port {
                    key,
                    got,
                    reason: PortError::NotAPort,
                },
            );
        }
        port
    }

    pub(super) fn path(&mut self, key: &'static str, given: Given<String>) -> PathBuf {
        let Given { value: got, origin } = given;
        let path = PathBuf::from(&got);
        // `components()` drops inner dots, which are harmless; the name of the root is not.
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(plain) {
            self.report(origin, Problem::Path { key, got });
        }
        path
    }

    pub(super) fn name(&mut self, key: &'static str, given: Given<String>) -> Option<WorkloadName> {
        let Given { value: got, origin } = given;
        match got.parse() {
            Ok(name) => Some(name),
            Err(reason) => {
                self.report(origin, Problem::Name { key, got, reason });
                None
            }
        }
    }

    pub(super) fn workers(&mut self, given: Given<String>) -> NonZeroUsize {
        let Given { value: got, origin } = given;
        let workers = got
            .parse()
            .ok()
            .filter(|workers: &NonZeroUsize| workers.get() <= MOST_WORKERS);
        workers.unwrap_or_else(|| {
            self.report(
                origin,
                Problem::Workers {
                    got,
                    most: MOST_WORKERS,
                },
            );
            NonZeroUsize::MIN
        })
    }

    pub(super) fn flow_table_entries(&mut self, given: Given<String>) -> Option<NonZeroU32> {
        let Given { value: got, origin } = given;
        let entries = got
            .parse()
            .ok()
            .filter(|entries: &NonZeroU32| entries.get() <= MOST_FLOWS);
        if entries.is_none() {
            self.report(
                origin,
                Problem::FlowTable {
                    got,
                    most: MOST_FLOWS,
                },
            );
        }
        entries
    }

    fn workload(
        &mut self,
        index: usize,
        given: Given<WorkloadKeys>,
        certificates: CertificatesFrom,
    ) -> Option<Workload> {
        let Given {
            value: keys,
            origin,
        } = given;
        let workload = match &keys.name {
            Some(name) => WorkloadRef::Name(name.value.clone()),
            None => WorkloadRef::Index(index),
        };
        self.within(Some(Subject {
            workload,
            rule: None,
        }));

        let name = self.required("name", ADD_NAME, keys.name, origin);
        let name = name.and_then(|name| self.name("name", name));
        let cgroup = self.required("cgroup", ADD_CGROUP, keys.cgroup, origin);
        let cgroup = cgroup.map(|cgroup| self.path("cgroup", cgroup));
        let netns = keys.netns.map(|netns| self.path("netns", netns));
        let shares_netns = keys.shares_netns.is_some_and(|shares| shares.value);
        let certificates = self.certificate_origin(
            certificates,
            name.as_ref().map_or("", WorkloadName::as_str),
            keys.tls_dir,
            keys.spiffe_id,
            origin,
        );
        let ingress = self.ingress_policy(keys.ingress_default, keys.ingress_peers, keys.ingress);
        let (egress, listeners) = self.egress_policy(
            keys.egress_default,
            keys.egress_peers,
            keys.egress,
            keys.listener,
        );
        if shares_netns && let Some(first) = listeners.first() {
            let listen = first.listen;
            self.report(origin, Problem::ListenerForOthers { listen });
        }

        Some(Workload {
            name: name?,
            cgroup: cgroup?,
            netns,
            shares_netns,
            certificates,
            ingress,
            egress,
            listeners,
            udp: self.word(
                "udp",
                keys.udp,
                UdpMode::Allow,
                &UdpMode::ALL,
                UdpMode::as_str,
            ),
            enforcement: if keys.dry_run.is_some_and(|dry_run| dry_run.value) {
                Enforcement::DryRun
            } else {
                Enforcement::Enforced
            },
        })
    }

    fn compare(&mut self, one: &Workload, at: &Origins, other: &Workload, other_index: usize) {
        if one.name == other.name {
            let got = one.name.to_string();
            self.report(
                at.name,
                Problem::DuplicateName {
                    got,
                    first: other_index,
                },
            );
        }
        if one.cgroup.starts_with(&other.cgroup) || other.cgroup.starts_with(&one.cgroup) {
            let problem = Problem::CgroupOverlap {
                got: one.cgroup.display().to_string(),
                other: other.name.to_string(),
                other_cgroup: other.cgroup.display().to_string(),
            };
            self.report(at.cgroup, problem);
        }
        if one.netns == other.netns && !(one.shares_netns && other.shares_netns) {
            let netns = match &one.netns {
                Some(path) => path.display().to_string(),
                None => "the agent's own".to_owned(),
            };
            self.report(
                at.netns,
                Problem::SharedNetns {
                    netns,
                    other: other.name.to_string(),
                },
            );
        }
    }

    /// What the following reports are about.
    pub(super) fn within(&mut self, subject: Option<Subject>) {
        self.subject = subject;
    }

    /// Which rule of the workload the following reports are about.
    pub(super) fn enter(&mut self, rule: Option<Rule>) {
        if let Some(subject) = &mut self.subject {
            subject.rule = rule;
        }
    }

    /// `place` is where the part begins that lacks the key.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        add: &'static str,
        given: Option<Given<T>>,
        place: Origin,
    ) -> Option<Given<T>> {
        if given.is_none() {
            self.report(place, Problem::Missing { key, add });
        }
        given
    }
}

/// Where the keys of a workload were given that are compared with those of others.
struct Origins {
    name: Origin,
    cgroup: Origin,
    netns: Origin,
}

impl Origins {
    fn of(given: &Given<WorkloadKeys>) -> Self {
        let origin =
            |key: &Option<Given<String>>| key.as_ref().map_or(given.origin, |key| key.origin);
        let WorkloadKeys {
            name,
            cgroup,
            netns,
            ..
        } = &given.value;
        Self {
            name: origin(name),
            cgroup: origin(cgroup),
            netns: origin(netns),
        }
    }
}

const ADD_NAME: &str = "add name = \"...\", or give --name NAME";
const ADD_CGROUP: &str = "add cgroup = \"/sys/fs/cgroup/...\", or give --cgroup PATH";

/// Far above any machine's cores; a typing mistake must not exhaust it.
const MOST_WORKERS: usize = ebpf_abi::MAX_WORKERS;
const MOST_FLOWS: u32 = 1 << 22;
