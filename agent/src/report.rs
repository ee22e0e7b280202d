//! Tells the operator how connections fared: log lines and metrics from the same facts.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ebpf_abi::{Counter, KernelRefusal, RefusalEvent};
use userspace_tls::{Alpn, Validity};

use crate::{
    access_log::{ConnectionLine, RefusalLog, report_lost},
    bpf::monotonic_ns,
    connection::{CloseReason, Refusal},
    loader::Readings,
    log_queue::LogQueue,
    metrics::{LaneMetrics, Metrics, ReloadResult, WorkloadMetrics},
    policy::{Direction, WorkloadName},
    refusals::{History, Occurrence, RefusalCode},
    registry::Connection,
    spans::Spans,
};

/// What is told of all workloads. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Telemetry {
    metrics: Arc<Metrics>,
    lines: LogQueue,
    log: RefusalLog,
    refusals: Arc<History>,
    spans: Option<Spans>,
}

impl Telemetry {
    /// Of an agent whose log lines go by the queue `lines`, with `spans` where those are wanted.
    pub(crate) fn new(lines: LogQueue, spans: Option<Spans>) -> Self {
        Self {
            spans,
            metrics: Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))),
            lines,
            log: RefusalLog::default(),
            refusals: Arc::new(History::new()),
        }
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The refusals of late.
    pub(crate) fn refusals(&self) -> &Arc<History> {
        &self.refusals
    }

    /// The series of one workload.
    pub(crate) fn workload(&self, name: &WorkloadName) -> WorkloadMetrics {
        self.metrics.workload(name)
    }

    /// One refusal that the kernel side tells of; `why` is what the agent knows of the reason.
    pub(crate) fn refused_by_kernel(
        &self,
        workload: &str,
        direction: Direction,
        event: &RefusalEvent,
        reason: KernelRefusal,
        why: Option<&str>,
    ) {
        // What was refused while no agent was there is told when one is.
        let age = Duration::from_nanos(monotonic_ns().saturating_sub(event.at));
        let from = SocketAddr::from(event.from);
        self.refused(Occurrence {
            at: SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH),
            workload: workload.into(),
            direction,
            from: (!from.ip().is_unspecified()).then_some(from),
            to: Some(event.to.into()),
            code: RefusalCode::Kernel(reason),
            rule: None,
            detail: why.unwrap_or_else(|| kernel_detail(reason)).to_owned(),
        });
    }

    fn refused(&self, what: Occurrence) {
        let refused = self.refusals.add(what);
        self.log.log(&refused, Instant::now());
        if let Some(spans) = &self.spans {
            spans.refused(&refused);
        }
    }

    /// Takes over the kernel side's counters; to be called about every second.
    pub(crate) fn kernel(&self, readings: &Readings) {
        let counter = |counter: Counter| {
            let value = readings.counters.get(counter.index() as usize);
            value.copied().unwrap_or_default()
        };
        for reason in KernelRefusal::ALL {
            let total = counter(Counter::Refused(reason));
            self.metrics.set_kernel_refusals(reason.as_str(), total);
        }
        self.metrics
            .set_udp_datagrams(counter(Counter::UdpDatagrams));
        self.metrics.set_redirected(counter(Counter::Redirected));
        self.metrics
            .set_dns_answers_lost(counter(Counter::LostDnsAnswers));
        for table in readings.tables {
            self.metrics
                .set_map(table.name.as_str(), table.entries, table.capacity);
        }
        self.log.flush(Instant::now());
    }

    /// Counts the log lines that were lost, and says so; to be called about every second.
    pub(crate) fn lost_lines(&self) {
        self.metrics.set_lost_log_lines(self.lines.lost());
        let untold = self.lines.lost_and_untold();
        if untold > 0 {
            report_lost(untold);
        }
    }
}

/// What is told of one workload's connections in one direction, by one worker.
#[derive(Debug)]
pub(crate) struct Reporter {
    telemetry: Arc<Telemetry>,
    lane: Arc<LaneMetrics>,
}

impl Reporter {
    pub(crate) fn new(
        telemetry: &Arc<Telemetry>,
        workload: &WorkloadName,
        direction: Direction,
    ) -> Self {
        let lane = telemetry.workload(workload).lane(direction).clone();
        Self {
            telemetry: telemetry.clone(),
            lane,
        }
    }

    /// The series that the connections count in.
    pub(crate) fn lane(&self) -> &Arc<LaneMetrics> {
        &self.lane
    }

    /// A handshake succeeded after this long.
    pub(crate) fn handshake(&self, duration: Duration) {
        self.lane.handshake(duration);
    }

    /// A connection was not let through.
    pub(crate) fn refused(&self, refusal: Refusal) {
        let Refusal {
            from,
            to,
            reason,
            rule,
            detail,
        } = refusal;
        self.lane.refused(reason.as_str());
        self.telemetry.refused(Occurrence {
            at: SystemTime::now(),
            workload: Arc::clone(self.lane.workload()),
            direction: self.lane.direction(),
            from,
            to,
            code: RefusalCode::Agent(reason),
            rule,
            detail: detail.into(),
        });
    }

    /// A connection that was established has ended.
    pub(crate) fn closed(&self, connection: &Connection, close: CloseReason) {
        if let Some(spans) = &self.telemetry.spans {
            spans.closed(connection, close);
        }
        connection.set_ended(close);
        let close = close.as_str();
        self.lane.ended(connection.mode(), close);
        let established = connection.established();
        let datapath = connection.datapath();
        let traffic = connection.traffic();
        let line = ConnectionLine {
            id: connection.id(),
            workload: self.lane.workload(),
            direction: connection.direction(),
            from: connection.from(),
            to: connection.to(),
            mode: connection.mode(),
            rule: connection.rule().clone(),
            identity: established.map(|found| &found.identity),
            peer: established.and_then(|found| found.peer.as_ref()),
            datapath: datapath.map_or("none", |datapath| datapath.name),
            why: datapath.map_or("none", |datapath| datapath.why),
            key_exchange: established.map(|found| found.key_exchange.as_str()),
            cipher: established.map(|found| found.cipher),
            alpn: established.and_then(|found| found.alpn).map(Alpn::as_str),
            session: established.map(|found| found.session),
            sent: traffic.sent.load(Ordering::Relaxed),
            received: traffic.received.load(Ordering::Relaxed),
            handshake_ms: established.map(|found| found.after_ms),
            duration: connection.opened().elapsed(),
            close,
        };
        line.log();
    }
}

/// A new certificate is in force.
pub(crate) fn certificate_loaded(metrics: &WorkloadMetrics, validity: Validity) {
    let expiry = validity
        .not_after
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    metrics.set_certificate_expiry(expiry.as_secs().try_into().unwrap_or(i64::MAX));
    metrics.certificate_reloaded(ReloadResult::Loaded);
}

/// What to make of a refusal that only the kernel side has seen.
fn kernel_detail(reason: KernelRefusal) -> &'static str {
    match reason {
        KernelRefusal::AgentStale => "no agent was alive at that time",
        KernelRefusal::NoCredential => "the workload has no valid certificate; see /ready",
        KernelRefusal::CredentialExpired => "the workload's certificate has expired",
        KernelRefusal::UnknownWorkload => "the agent does not know the workload",
        KernelRefusal::NoListener => {
            "the agent has no listener for this workload and address family (any more)"
        }
        KernelRefusal::FlowTableFull => "too many connections are waiting for the agent",
        KernelRefusal::BoundDevice => {
            "the socket is bound to a device (SO_BINDTODEVICE), so it can't be steered"
        }
        KernelRefusal::RefusedRecently => "the destination refused a moment ago",
        KernelRefusal::ForeignNamespace => {
            "the socket is in another network namespace than the workload's"
        }
        KernelRefusal::NotSteered => "the connection had not come by way of the agent",
        KernelRefusal::PortTableFull => {
            "the table of ports that programs listen on is full: this one is not reachable"
        }
        KernelRefusal::UdpDenied => "the workload may send no datagrams; it was dropped",
        KernelRefusal::UnsealedSegment => {
            "a segment tried to leave the namespace past the agent and was dropped"
        }
    }
}
