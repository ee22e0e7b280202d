//! What is counted, in the vocabulary of Prometheus.
//!
//! Handles are resolved once for each workload and direction; a connection then costs a few atomic
//! additions and one look-up of a counter when it ends. Writes nothing to a log.

mod labels;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kernel_tls::{Capabilities, Cipher, NicOffload};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use labels::{
    BytesLabels, CapabilityLabels, ConfigReloadLabel, DatapathLabels, DirectionLabel, EndedLabels,
    EnrolmentLabel, Flow, Labelled, LaneLabels, LocalHopLabels, LookupLabels, MapLabel, NameLabels,
    ReasonLabel, RefusalLabels, ReloadLabels, VersionLabel, WorkloadLabel,
};

use crate::local_acceleration::LocalHop;
use crate::policy::{Direction, Mode, WorkloadName};
use crate::registry::Datapath;

/// Every metric of the agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    exposition: Registry,
    connections: Family<EndedLabels, Counter>,
    open: Family<LaneLabels, Gauge>,
    refusals: Family<RefusalLabels, Counter>,
    kernel_refusals: Family<ReasonLabel, Counter>,
    bytes: Family<BytesLabels, Counter>,
    spliced: Family<LaneLabels, Counter>,
    handshakes: Family<DirectionLabel, Histogram, fn() -> Histogram>,
    certificate_expiry: Family<WorkloadLabel, Gauge>,
    certificate_reloads: Family<ReloadLabels, Counter>,
    names: Family<NameLabels, Gauge>,
    name_lookups: Family<LookupLabels, Counter>,
    dns_answers: Family<LookupLabels, Counter>,
    dns_answers_lost: Counter,
    config_generation: Gauge,
    config_reloads: Family<ConfigReloadLabel, Counter>,
    coordinator: CoordinatorGauges,
    enrolments: Family<EnrolmentLabel, Counter>,
    map_entries: Family<MapLabel, Gauge>,
    map_capacity: Family<MapLabel, Gauge>,
    udp_datagrams: Counter,
    lost_log_lines: Counter,
    redirected: Counter,
    datapaths: Family<DatapathLabels, Counter>,
    local_hops: Family<LocalHopLabels, Counter>,
    key_limits: Family<LaneLabels, Counter>,
    dry_run: Family<LaneLabels, Counter>,
    kernel_tls: Family<CapabilityLabels, Gauge>,
    nic: NicGauges,
}

impl Metrics {
    /// Metrics that are all zero, for the agent of this version.
    pub(crate) fn new(version: &'static str) -> Self {
        let handshakes = Family::new_with_constructor((|| Histogram::new(HANDSHAKE_BUCKETS)) as _);
        let mut metrics = Self {
            exposition: Registry::with_prefix("sealwire"),
            connections: Family::default(),
            open: Family::default(),
            refusals: Family::default(),
            kernel_refusals: Family::default(),
            bytes: Family::default(),
            spliced: Family::default(),
            handshakes,
            certificate_expiry: Family::default(),
            certificate_reloads: Family::default(),
            names: Family::default(),
            name_lookups: Family::default(),
            dns_answers: Family::default(),
            dns_answers_lost: Counter::default(),
            config_generation: Gauge::default(),
            config_reloads: Family::default(),
            coordinator: CoordinatorGauges::default(),
            enrolments: Family::default(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            udp_datagrams: Counter::default(),
            lost_log_lines: Counter::default(),
            redirected: Counter::default(),
            datapaths: Family::default(),
            local_hops: Family::default(),
            key_limits: Family::default(),
            dry_run: Family::default(),
            kernel_tls: Family::default(),
            nic: NicGauges::default(),
        };
        metrics.register(version);
        metrics
    }

    /// The handles of one workload; its series exist, with zeroes, from now on.
    pub(crate) fn workload(&self, name: &WorkloadName) -> WorkloadMetrics {
        let workload = name.shared();
        let lane = |direction| Arc::new(self.lane(&workload, direction));
        let reloads = |result| {
            let labels = ReloadLabels {
                workload: Arc::clone(&workload),
                result,
            };
            self.certificate_reloads.get_or_create_owned(&labels)
        };
        WorkloadMetrics {
            ingress: lane(Direction::Ingress),
            egress: lane(Direction::Egress),
            certificate_expiry: self.certificate_expiry.get_or_create_owned(&WorkloadLabel {
                workload: Arc::clone(&workload),
            }),
            reloads_loaded: reloads(ReloadResult::Loaded),
            reloads_refused: reloads(ReloadResult::Refused),
            names: self.names_of(&workload),
        }
    }

    fn names_of(&self, workload: &Arc<str>) -> NameMetrics {
        let names = |state| {
            let workload = Arc::clone(workload);
            self.names
                .get_or_create_owned(&NameLabels { workload, state })
        };
        let counted = |family: &Family<LookupLabels, Counter>, result| {
            let workload = Arc::clone(workload);
            family.get_or_create_owned(&LookupLabels { workload, result })
        };
        let lookups = |result| counted(&self.name_lookups, result);
        let answers = |result| counted(&self.dns_answers, result);
        NameMetrics {
            known: names("known"),
            unknown: names("unknown"),
            answered: lookups("answered"),
            failed: lookups("failed"),
            read: answers("read"),
            unreadable: answers("unreadable"),
        }
    }

    /// This configuration is in force, counted from 1.
    pub(crate) fn set_config_generation(&self, generation: u64) {
        self.config_generation
            .set(generation.try_into().unwrap_or(i64::MAX));
    }

    /// The configuration was read again.
    pub(crate) fn config_reloaded(&self, result: ReloadResult) {
        self.config_reloads
            .get_or_create(&ConfigReloadLabel { result })
            .inc();
    }

    /// The handles of who asks the Coordinator; the series exist from now on, and without a
    /// Coordinator they do not.
    pub(crate) fn coordinator(&self) -> CoordinatorMetrics {
        let enrolments = |result| {
            self.enrolments
                .get_or_create_owned(&EnrolmentLabel { result })
        };
        let Reachability {
            reachable,
            unreachable_seconds,
            unsaved,
        } = self
            .coordinator
            .0
            .get_or_init(Reachability::default)
            .clone();
        let metrics = CoordinatorMetrics {
            reachable,
            unreachable_seconds,
            unsaved,
            issued: enrolments("issued"),
            failed: enrolments("failed"),
        };
        metrics.set_unreachable(Some(Duration::ZERO));
        metrics
    }

    /// What the eBPF programs have refused so far for `reason`.
    pub(crate) fn set_kernel_refusals(&self, reason: &'static str, total: u64) {
        let counter = self.kernel_refusals.get_or_create(&ReasonLabel { reason });
        counter.inner().store(total, Ordering::Relaxed);
    }

    /// How many UDP datagrams the eBPF programs have seen so far, which are never protected.
    pub(crate) fn set_udp_datagrams(&self, total: u64) {
        self.udp_datagrams.inner().store(total, Ordering::Relaxed);
    }

    /// How many answers of resolvers could not be overheard so far.
    pub(crate) fn set_dns_answers_lost(&self, total: u64) {
        self.dns_answers_lost
            .inner()
            .store(total, Ordering::Relaxed);
    }

    /// How many log lines were lost so far.
    pub(crate) fn set_lost_log_lines(&self, total: u64) {
        self.lost_log_lines.inner().store(total, Ordering::Relaxed);
    }

    /// How many messages of programs the eBPF programs have handed to the agent past TCP so far.
    pub(crate) fn set_redirected(&self, total: u64) {
        self.redirected.inner().store(total, Ordering::Relaxed);
    }

    /// How full an eBPF map is. A full map refuses connections.
    pub(crate) fn set_map(&self, map: &'static str, entries: u64, capacity: u64) {
        for (family, value) in [(&self.map_entries, entries), (&self.map_capacity, capacity)] {
            family
                .get_or_create(&MapLabel { map })
                .set(value.try_into().unwrap_or(i64::MAX));
        }
    }

    /// What the kernel's TLS can be trusted with.
    pub(crate) fn set_kernel_tls(&self, capabilities: &Capabilities) {
        for (feature, cipher, ability) in capabilities.each() {
            let cipher = cipher.map_or("any", Cipher::as_str);
            self.kernel_tls
                .get_or_create(&CapabilityLabels { feature, cipher })
                .set(ability.is_ok().into());
        }
    }

    /// What network cards protect, over the namespaces of all workloads; `None` without the kernel's
    /// TLS.
    pub(crate) fn set_nic_offload(&self, offload: Option<NicOffload>) {
        *self.nic.0.lock().unwrap_or_else(PoisonError::into_inner) = offload;
    }

    /// Everything in the `OpenMetrics` text format.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Only a writer can fail, and a `String` does not.
        let _ = text::encode(&mut text, &self.exposition);
        text
    }

    fn lane(&self, workload: &Arc<str>, direction: Direction) -> LaneMetrics {
        let direction = Labelled(direction);
        let labels = LaneLabels {
            workload: Arc::clone(workload),
            direction,
        };
        let bytes = |flow| {
            let workload = Arc::clone(workload);
            self.bytes.get_or_create_owned(&BytesLabels {
                workload,
                direction,
                flow,
            })
        };
        LaneMetrics {
            open: self.open.get_or_create_owned(&labels),
            spliced: self.spliced.get_or_create_owned(&labels),
            labels,
            sent: bytes(Flow::Sent),
            received: bytes(Flow::Received),
            handshakes: self
                .handshakes
                .get_or_create_owned(&DirectionLabel { direction }),
            connections: self.connections.clone(),
            refusals: self.refusals.clone(),
            datapaths: self.datapaths.clone(),
            local_hops: self.local_hops.clone(),
            key_limits: self.key_limits.clone(),
            dry_run: self.dry_run.clone(),
        }
    }

    fn register(&mut self, version: &'static str) {
        let Self {
            exposition,
            connections,
            open,
            refusals,
            kernel_refusals,
            bytes,
            spliced,
            handshakes,
            certificate_expiry,
            certificate_reloads,
            names,
            name_lookups,
            dns_answers,
            dns_answers_lost,
            config_generation,
            config_reloads,
            coordinator,
            enrolments,
            map_entries,
            map_capacity,
            udp_datagrams,
            lost_log_lines,
            redirected,
            datapaths,
            local_hops,
            key_limits,
            dry_run,
            kernel_tls,
            nic,
        } = self;
        exposition.register(
            "build",
            "The agent's version",
            Info::new(VersionLabel { version }),
        );
        exposition.register(
            "connections",
            "Connections that were let through and have ended, by the reason of their end",
            connections.clone(),
        );
        exposition.register(
            "connections_open",
            "Connections that are open or in their handshake",
            open.clone(),
        );
        exposition.register(
            "refusals",
            "Connections that the agent refused, by reason",
            refusals.clone(),
        );
        exposition.register(
            "kernel_refusals",
            "Connections and packets that the eBPF programs refused, by reason",
            kernel_refusals.clone(),
        );
        exposition.register("bytes", "Bytes of the programs, without TLS", bytes.clone());
        exposition.register(
            "spliced_bytes",
            "Of those, bytes that went from socket to socket in the kernel",
            spliced.clone(),
        );
        exposition.register(
            "handshake_seconds",
            "TLS handshakes, from the first step to the peer's verified identity",
            handshakes.clone(),
        );
        exposition.register(
            "certificate_expiry_timestamp_seconds",
            "When the workload's certificate expires, in Unix time; 0 if it has none",
            certificate_expiry.clone(),
        );
        exposition.register(
            "certificate_reloads",
            "Attempts to load the workload's certificate, by result",
            certificate_reloads.clone(),
        );
        exposition.register(
            "names",
            "Names in the workload's rules, by whether their addresses are known",
            names.clone(),
        );
        exposition.register(
            "name_lookups",
            "Times that a name of a rule was looked up, by result",
            name_lookups.clone(),
        );
        exposition.register(
            "dns_answers",
            "Answers of resolvers to the workload's programs that were overheard for wildcard rules",
            dns_answers.clone(),
        );
        exposition.register(
            "dns_answers_lost",
            "Such answers that could not be overheard",
            dns_answers_lost.clone(),
        );
        for result in [ReloadResult::Loaded, ReloadResult::Refused] {
            // There from the start, so that the first is a rise.
            config_reloads.get_or_create_owned(&ConfigReloadLabel { result });
        }
        exposition.register(
            "config_generation",
            "Which configuration of this agent's life is in force",
            config_generation.clone(),
        );
        exposition.register(
            "config_reloads",
            "Times that the configuration was read again, by result",
            config_reloads.clone(),
        );
        exposition.register_collector(Box::new(coordinator.clone()));
        exposition.register(
            "enrolments",
            "Attempts to get certificates from a Coordinator, by result",
            enrolments.clone(),
        );
        exposition.register("map_entries", "Entries of an eBPF map", map_entries.clone());
        exposition.register(
            "map_capacity",
            "Most entries of an eBPF map",
            map_capacity.clone(),
        );
        exposition.register(
            "udp_datagrams",
            "UDP datagrams of the workloads, which are not protected",
            udp_datagrams.clone(),
        );
        exposition.register(
            "log_lines_lost",
            "Log lines that nobody took in time, or that there was no space for",
            lost_log_lines.clone(),
        );
        exposition.register(
            "redirected_messages",
            "Messages from programs to the agent that passed the loopback's TCP by",
            redirected.clone(),
        );
        exposition.register(
            "datapaths",
            "Times that a connection began to use a datapath, by the reason for it",
            datapaths.clone(),
        );
        exposition.register(
            "local_hops",
            "Times that bytes began to pass this way between a program and the agent, by the reason for it",
            local_hops.clone(),
        );
        exposition.register(
            "key_limits_near",
            "Connections that have nearly used up a key that the kernel can't replace",
            key_limits.clone(),
        );
        exposition.register(
            "dry_run_refusals",
            "Connections that would have been refused for their peer, were it not for dry_run",
            dry_run.clone(),
        );
        exposition.register(
            "kernel_tls_capability",
            "What the kernel's TLS can be trusted with: 1 or 0",
            kernel_tls.clone(),
        );
        exposition.register_collector(Box::new(nic.clone()));
    }
}

/// The handles of one workload. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadMetrics {
    ingress: Arc<LaneMetrics>,
    egress: Arc<LaneMetrics>,
    certificate_expiry: Gauge,
    reloads_loaded: Counter,
    reloads_refused: Counter,
    names: NameMetrics,
}

/// The handles for the names in a workload's rules. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct NameMetrics {
    known: Gauge,
    unknown: Gauge,
    answered: Counter,
    failed: Counter,
    read: Counter,
    unreadable: Counter,
}

impl NameMetrics {
    /// How many names have addresses that are known, and how many have not.
    pub(crate) fn set_known(&self, known: usize, unknown: usize) {
        for (gauge, number) in [(&self.known, known), (&self.unknown, unknown)] {
            gauge.set(number.try_into().unwrap_or(i64::MAX));
        }
    }

    /// A look-up ended.
    pub(crate) fn looked_up(&self, is_answered: bool) {
        let counter = if is_answered {
            &self.answered
        } else {
            &self.failed
        };
        counter.inc();
    }

    /// An answer to a program was overheard.
    pub(crate) fn overheard(&self, is_readable: bool) {
        let counter = if is_readable {
            &self.read
        } else {
            &self.unreadable
        };
        counter.inc();
    }
}

impl WorkloadMetrics {
    /// The handles of the workload's connections in one direction.
    pub(crate) fn lane(&self, direction: Direction) -> &Arc<LaneMetrics> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The handles for the names in its rules.
    pub(crate) fn names(&self) -> &NameMetrics {
        &self.names
    }

    /// When the certificate in use expires, in seconds of Unix time.
    pub(crate) fn set_certificate_expiry(&self, unix_seconds: i64) {
        self.certificate_expiry.set(unix_seconds);
    }

    /// An attempt to load the certificate ended.
    pub(crate) fn certificate_reloaded(&self, result: ReloadResult) {
        match result {
            ReloadResult::Loaded => self.reloads_loaded.inc(),
            ReloadResult::Refused => self.reloads_refused.inc(),
        };
    }
}

/// Gauges that are absent with certificates from files.
#[derive(Clone, Debug, Default)]
struct CoordinatorGauges(Arc<OnceLock<Reachability>>);

#[derive(Clone, Debug, Default)]
struct Reachability {
    reachable: Gauge,
    unreachable_seconds: Gauge,
    unsaved: Gauge,
}

impl Collector for CoordinatorGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(Reachability {
            reachable,
            unreachable_seconds,
            unsaved,
        }) = self.0.get()
        else {
            return Ok(());
        };
        for (name, help, gauge) in [
            (
                "coordinator_reachable",
                "Whether a Coordinator answers: 1 or 0; absent with certificates from files",
                reachable,
            ),
            (
                "coordinator_unreachable_seconds",
                "For how long no Coordinator has answered; 0 while one does",
                unreachable_seconds,
            ),
            (
                "coordinator_unsaved",
                "1 while the disk does not have what is remembered of the deployment",
                unsaved,
            ),
        ] {
            let series = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(series)?;
        }
        Ok(())
    }
}

/// What network cards protect; absent without the kernel's TLS.
#[derive(Clone, Debug, Default)]
struct NicGauges(Arc<Mutex<Option<NicOffload>>>);

impl Collector for NicGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let offload = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(NicOffload {
            tx_now,
            rx_now,
            tx,
            rx,
        }) = offload
        else {
            return Ok(());
        };
        for (name, help, values, kind) in [
            (
                "kernel_tls_nic_open",
                "Directions of connections that a network card protects now",
                [tx_now, rx_now],
                MetricType::Gauge,
            ),
            (
                "kernel_tls_nic",
                "Directions of connections that a network card has protected",
                [tx, rx],
                MetricType::Counter,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (flow, value) in [Flow::Sent, Flow::Received].into_iter().zip(values) {
                let label = [("flow", flow)];
                let mut series = family.encode_family(&label)?;
                match kind {
                    MetricType::Counter => {
                        series.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                    }
                    _ => series.encode_gauge(&value)?,
                }
            }
        }
        Ok(())
    }
}

/// The handles of who asks the Coordinator.
#[derive(Clone, Debug)]
pub(crate) struct CoordinatorMetrics {
    reachable: Gauge,
    unreachable_seconds: Gauge,
    unsaved: Gauge,
    issued: Counter,
    failed: Counter,
}

impl CoordinatorMetrics {
    /// For how long no Coordinator has answered; `None` while one does.
    pub(crate) fn set_unreachable(&self, duration: Option<Duration>) {
        self.reachable.set(duration.is_none().into());
        let seconds = duration.unwrap_or_default().as_secs();
        self.unreachable_seconds
            .set(seconds.try_into().unwrap_or(i64::MAX));
    }

    /// Whether the disk lacks what is remembered of the deployment.
    pub(crate) fn set_unsaved(&self, is_unsaved: bool) {
        self.unsaved.set(is_unsaved.into());
    }

    /// Certificates were issued.
    pub(crate) fn enrolled(&self) {
        self.issued.inc();
    }

    /// They were not.
    pub(crate) fn enrolment_failed(&self) {
        self.failed.inc();
    }
}

/// The handles of one workload's connections in one direction.
#[derive(Debug)]
pub(crate) struct LaneMetrics {
    labels: LaneLabels,
    open: Gauge,
    sent: Counter,
    received: Counter,
    spliced: Counter,
    handshakes: Histogram,
    connections: Family<EndedLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    datapaths: Family<DatapathLabels, Counter>,
    local_hops: Family<LocalHopLabels, Counter>,
    key_limits: Family<LaneLabels, Counter>,
    dry_run: Family<LaneLabels, Counter>,
}

impl LaneMetrics {
    /// The workload's name.
    pub(crate) fn workload(&self) -> &Arc<str> {
        &self.labels.workload
    }

    /// Which direction.
    pub(crate) fn direction(&self) -> Direction {
        self.labels.direction.0
    }

    /// A handshake succeeded and took `duration`.
    pub(crate) fn handshake(&self, duration: Duration) {
        self.handshakes.observe(duration.as_secs_f64());
    }

    /// A connection that was let through has ended for the reason `close`.
    pub(crate) fn ended(&self, mode: Mode, close: &'static str) {
        let LaneLabels {
            workload,
            direction,
        } = self.labels.clone();
        self.connections
            .get_or_create(&EndedLabels {
                workload,
                direction,
                mode: Labelled(mode),
                close,
            })
            .inc();
    }

    /// A connection was refused.
    pub(crate) fn refused(&self, reason: &'static str) {
        let LaneLabels {
            workload,
            direction,
        } = self.labels.clone();
        self.refusals
            .get_or_create(&RefusalLabels {
                workload,
                direction,
                reason,
            })
            .inc();
    }

    /// A connection began to use this datapath.
    pub(crate) fn entered(&self, datapath: Datapath) {
        let LaneLabels {
            workload,
            direction,
        } = self.labels.clone();
        let Datapath { name, why, .. } = datapath;
        self.datapaths
            .get_or_create(&DatapathLabels {
                workload,
                direction,
                datapath: name,
                why,
            })
            .inc();
    }

    /// Bytes began to pass this way between a connection's program and the agent.
    pub(crate) fn local_hop(&self, hop: LocalHop) {
        let LaneLabels {
            workload,
            direction,
        } = self.labels.clone();
        self.local_hops
            .get_or_create(&LocalHopLabels {
                workload,
                direction,
                hop: hop.name(),
                why: hop.why(),
            })
            .inc();
    }

    /// A peer was let through that no list of the rule has.
    pub(crate) fn let_through(&self) {
        self.dry_run.get_or_create(&self.labels).inc();
    }

    /// A connection has nearly used up a key that the kernel can't replace.
    pub(crate) fn key_limit_near(&self) {
        self.key_limits.get_or_create(&self.labels).inc();
    }

    pub(crate) fn opened(&self) {
        self.open.inc();
    }

    pub(crate) fn closed(&self) {
        self.open.dec();
    }

    pub(crate) fn moved(&self, sent: u64, received: u64) {
        self.sent.inc_by(sent);
        self.received.inc_by(received);
    }

    /// Of those, bytes that userspace never had.
    pub(crate) fn spliced(&self, bytes: u64) {
        self.spliced.inc_by(bytes);
    }
}

/// How an attempt to load something anew ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ReloadResult {
    /// It is in force.
    Loaded,
    /// It was not usable; what was there before stays in force.
    Refused,
}

/// Seconds: from a handshake on loopback to the deadline of 10 s.
const HANDSHAKE_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[cfg(test)]
mod tests;
