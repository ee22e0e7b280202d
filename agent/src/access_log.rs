//! What the operator reads: one line a connection, one line a refusal, text or JSON.
//!
//! Counts nothing; that is the metrics' business. Lines of refusals are limited in rate, so that who
//! is refused often cannot fill the disk.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_config::{LogFormat, LogLevel};
use attestation::identity::SpiffeId;
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing::{Subscriber, info, warn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use userspace_tls::SessionId;

use crate::log_queue::LogQueue;
use crate::policy::{Direction, Mode, RuleRef};
use crate::refusals::Refused;
use crate::registry::ConnectionId;

/// Sends log lines of `level` and above to standard error from now on, in colour only if that is a
/// terminal and `NO_COLOR` is not set; they go by the queue that is returned. Fails if it was called
/// before.
pub fn init(format: LogFormat, level: LogLevel) -> Result<LogQueue, InitError> {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = io::stderr().is_terminal() && !no_colour;
    let queue = LogQueue::start(io::stderr()).map_err(InitError::Thread)?;
    subscriber(format, level, colour, queue.clone()).try_init()?;
    Ok(queue)
}

/// Why there can be no log.
#[derive(Debug, Error)]
pub enum InitError {
    /// The thread that writes it can't be made.
    #[error("starting the thread that writes the log: {0}")]
    Thread(io::Error),
    /// There is one.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// A connection that ended.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLine<'a> {
    /// What `/connections` and `/explain` call it.
    pub id: ConnectionId,
    /// The workload's name.
    pub workload: &'a str,
    /// Which way it went.
    pub direction: Direction,
    /// Who opened it.
    pub from: SocketAddr,
    /// Where to, as the opener named it.
    pub to: SocketAddr,
    /// How its bytes travelled.
    pub mode: Mode,
    /// The rule that allowed it.
    pub rule: RuleRef,
    /// The workload's own identity; `None` in clear.
    pub identity: Option<&'a SpiffeId>,
    /// The other side's identity; `None` if it had no certificate.
    pub peer: Option<&'a SpiffeId>,
    /// Which datapath moved the bytes at the end.
    pub datapath: &'static str,
    /// Why that one.
    pub why: &'static str,
    /// Such as `X25519MLKEM768`.
    pub key_exchange: Option<&'static str>,
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: Option<&'static str>,
    /// The protocol that both sides named; `None` if none.
    pub alpn: Option<&'static str>,
    /// What the peer's log calls the connection as well; `None` in clear.
    pub session: Option<SessionId>,
    /// Bytes of the program that went to the peer.
    pub sent: u64,
    /// Bytes of the program that came from the peer.
    pub received: u64,
    /// Milliseconds from accept until the peer had proved who it is; `None` in clear.
    pub handshake_ms: Option<u32>,
    /// From accept to close.
    pub duration: Duration,
    /// Why it ended.
    pub close: &'static str,
}

impl ConnectionLine<'_> {
    /// Writes the line.
    pub(crate) fn log(&self) {
        let Self {
            workload,
            direction,
            from,
            to,
            mode,
            identity,
            peer,
            ..
        } = *self;
        let Self {
            datapath,
            why,
            key_exchange,
            cipher,
            alpn,
            session,
            sent,
            received,
            ..
        } = *self;
        // Values and not `%` for what may hold spaces: text output then quotes it.
        let rule = self.rule.to_string();
        info!(
            target: "access",
            id = %self.id,
            workload = %workload,
            direction = %direction.as_str(),
            from = %from,
            to = %to,
            mode = %mode.as_str(),
            rule = rule.as_str(),
            identity = identity.map(tracing::field::display),
            peer = peer.map(tracing::field::display),
            datapath = %datapath,
            why,
            key_exchange = key_exchange.map(tracing::field::display),
            cipher = cipher.map(tracing::field::display),
            alpn = alpn.map(tracing::field::display),
            session = session.map(tracing::field::display),
            sent,
            received,
            handshake_ms = self.handshake_ms,
            duration_ms = self.duration.as_millis() as u64,
            close = %self.close,
        );
    }
}

/// Writes lines of refusals, at most [`RefusalLog::PER_SECOND`] a second for each reason.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    windows: Mutex<HashMap<&'static str, Window>>,
}

impl RefusalLog {
    /// Lines a second for each reason: enough to see who it is, too few to fill a disk.
    pub(crate) const PER_SECOND: u32 = 100;

    /// Writes the line, unless its reason had its share of this second.
    pub(crate) fn log(&self, refused: &Refused, now: Instant) {
        let Refused { id, what } = refused;
        let reason = what.code.as_str();
        let (verdict, suppressed) = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows
                .entry(reason)
                .or_insert_with(|| Window::starting(now))
                .admit(now)
        };
        report_suppressed(reason, suppressed);
        if verdict == Verdict::Suppress {
            return;
        }
        let rule = what.rule.as_ref().map(ToString::to_string);
        // Values and not `%` for the last two: text output then quotes and escapes them. Rules have
        // spaces, and a detail may hold a peer's bytes.
        warn!(
            target: "refused",
            id = %id,
            workload = %what.workload,
            direction = %what.direction.as_str(),
            from = %what.from.unwrap_or(UNKNOWN),
            to = %what.to.unwrap_or(UNKNOWN),
            reason = %reason,
            rule,
            detail = what.detail.as_str(),
        );
    }

    /// Says how many lines were left out in seconds that are over. To be called about every second,
    /// so that the last burst is reported too.
    pub(crate) fn flush(&self, now: Instant) {
        let over: Vec<(&'static str, u32)> = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows
                .iter_mut()
                .map(|(reason, window)| (*reason, window.roll(now)))
                .collect()
        };
        for (reason, suppressed) in over {
            report_suppressed(reason, suppressed);
        }
    }
}

/// What stands for an address that is not known.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// One second of one reason.
#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
}

impl Window {
    fn starting(now: Instant) -> Self {
        Self {
            began: now,
            lines: 0,
        }
    }

    /// Whether the line may be written, and how many were left out in the second before.
    fn admit(&mut self, now: Instant) -> (Verdict, u32) {
        let suppressed = self.roll(now);
        self.lines = self.lines.saturating_add(1);
        let verdict = if self.lines > RefusalLog::PER_SECOND {
            Verdict::Suppress
        } else {
            Verdict::Write
        };
        (verdict, suppressed)
    }

    /// Begins a new second if this one is over; how many lines it left out.
    fn roll(&mut self, now: Instant) -> u32 {
        if now.saturating_duration_since(self.began) < SECOND {
            return 0;
        }
        let lines = std::mem::replace(self, Self::starting(now)).lines;
        lines.saturating_sub(RefusalLog::PER_SECOND)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Write,
    Suppress,
}

/// Says that lines are missing.
pub(crate) fn report_lost(lines: u64) {
    warn!(
        lines,
        "log lines were lost: whatever reads them did not keep up, or had no space"
    );
}

fn report_suppressed(reason: &'static str, suppressed: u32) {
    if suppressed > 0 {
        warn!(target: "refused", reason = %reason, suppressed, "more refusals, not listed");
    }
}

fn subscriber<W>(
    format: LogFormat,
    level: LogLevel,
    colour: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_writer(writer);
    match format {
        LogFormat::Text => Box::new(builder.with_ansi(colour).finish()),
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .finish(),
        ),
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusals::{History, Occurrence, RefusalCode, occurrence};
    use ebpf_abi::KernelRefusal;
    use serde_json::{Value, json};
    use std::io::Write;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Output {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: LogLevel, log: impl FnOnce()) -> String {
        let output = Output::default();
        let writer = output.clone();
        let subscriber = subscriber(format, level, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, log);
        output.text()
    }

    fn log_connection() {
        let identity: SpiffeId = "spiffe://mesh.local/ns/default/sa/web".parse().unwrap();
        let peer: SpiffeId = "spiffe://mesh.local/ns/default/sa/client".parse().unwrap();
        let line = ConnectionLine {
            id: "17".parse().unwrap(),
            workload: "web",
            direction: Direction::Ingress,
            from: "10.0.0.1:40000".parse().unwrap(),
            to: "10.0.0.2:80".parse().unwrap(),
            mode: Mode::Mtls,
            rule: RuleRef::IngressDefault,
            identity: Some(&identity),
            peer: Some(&peer),
            datapath: "userspace",
            why: "the kernel has no TLS",
            key_exchange: Some("X25519MLKEM768"),
            cipher: Some("TLS13_AES_128_GCM_SHA256"),
            alpn: None,
            session: Some(SessionId([0xa5; 16])),
            sent: 12,
            received: 345,
            handshake_ms: Some(5),
            duration: Duration::from_millis(67),
            close: "finished",
        };
        line.log();
    }

    fn refusal(detail: &str) -> Arc<Refused> {
        History::new().add(occurrence(detail))
    }

    #[test]
    fn a_connection_is_one_flat_json_object() {
        let text = logged(LogFormat::Json, LogLevel::Info, log_connection);
        let mut object: Value = serde_json::from_str(text.trim_end()).unwrap();
        object.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert_eq!(
            object,
            json!({
                "level": "INFO", "target": "access", "id": "17", "workload": "web", "direction": "ingress",
                "from": "10.0.0.1:40000", "to": "10.0.0.2:80", "mode": "mtls",
                "rule": "ingress default", "identity": "spiffe://mesh.local/ns/default/sa/web",
                "peer": "spiffe://mesh.local/ns/default/sa/client", "datapath": "userspace",
                "why": "the kernel has no TLS", "key_exchange": "X25519MLKEM768",
                "cipher": "TLS13_AES_128_GCM_SHA256",
                "session": "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5", "sent": 12, "received": 345,
                "handshake_ms": 5, "duration_ms": 67, "close": "finished",
            })
        );
    }

    #[test]
    fn a_connection_is_one_line_of_text_with_the_same_fields() {
        let text = logged(LogFormat::Text, LogLevel::Info, log_connection);
        let (_, line) = text.trim_end().split_once("INFO ").unwrap();
        assert_eq!(
            line,
            "access: id=17 workload=web direction=ingress from=10.0.0.1:40000 to=10.0.0.2:80 mode=mtls \
             rule=\"ingress default\" identity=spiffe://mesh.local/ns/default/sa/web \
             peer=spiffe://mesh.local/ns/default/sa/client datapath=userspace \
             why=\"the kernel has no TLS\" key_exchange=X25519MLKEM768 \
             cipher=TLS13_AES_128_GCM_SHA256 session=a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 sent=12 \
             received=345 handshake_ms=5 duration_ms=67 close=finished"
        );
    }

    #[test]
    fn the_level_decides_which_lines_are_written() {
        assert_eq!(logged(LogFormat::Text, LogLevel::Warn, log_connection), "");
    }

    #[test]
    fn a_refusal_is_one_line_with_its_number() {
        let log = RefusalLog::default();
        let text = logged(LogFormat::Text, LogLevel::Info, || {
            log.log(&refusal("not on the list"), Instant::now());
        });
        let (_, line) = text.trim_end().split_once("WARN ").unwrap();
        assert_eq!(
            line,
            "refused: id=r1 workload=web direction=ingress from=10.0.0.9:40000 to=10.0.0.2:80 \
             reason=peer-not-allowed rule=\"ingress default\" detail=\"not on the list\""
        );
    }

    #[test]
    fn what_a_peer_sent_stays_within_its_line() {
        let hostile = "bad\n2026-01-01 INFO access: forged \u{1b}[31mred";
        for format in LogFormat::ALL {
            let log = RefusalLog::default();
            let text = logged(format, LogLevel::Info, || {
                log.log(&refusal(hostile), Instant::now());
            });
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn refusals_beyond_the_limit_are_counted_and_not_listed() {
        let log = RefusalLog::default();
        let now = Instant::now();
        let text = logged(LogFormat::Text, LogLevel::Info, || {
            for _ in 0..RefusalLog::PER_SECOND + 23 {
                log.log(&refusal("none"), now);
            }
        });
        assert_eq!(text.lines().count(), 100);

        let next = logged(LogFormat::Text, LogLevel::Info, || {
            log.log(&refusal("none"), now + SECOND);
        });
        assert_eq!(next.lines().count(), 2, "{next}");
        assert!(next.contains("suppressed=23"), "{next}");
    }

    #[test]
    fn the_last_burst_is_reported_when_its_second_is_over() {
        let log = RefusalLog::default();
        let now = Instant::now();
        logged(LogFormat::Text, LogLevel::Info, || {
            for _ in 0..=RefusalLog::PER_SECOND {
                log.log(&refusal("none"), now);
            }
        });
        let flush = |at| logged(LogFormat::Text, LogLevel::Info, || log.flush(at));
        assert_eq!(flush(now), "");
        assert!(flush(now + SECOND).contains("suppressed=1"));
        assert_eq!(flush(now + SECOND * 2), "");
    }

    #[test]
    fn one_reason_does_not_use_up_the_share_of_another() {
        let log = RefusalLog::default();
        let now = Instant::now();
        let text = logged(LogFormat::Text, LogLevel::Info, || {
            for _ in 0..RefusalLog::PER_SECOND {
                log.log(&refusal("none"), now);
            }
            let stale = Occurrence {
                code: RefusalCode::Kernel(KernelRefusal::AgentStale),
                ..occurrence("none")
            };
            log.log(&History::new().add(stale), now);
        });
        assert!(text.contains("agent-stale"), "{text}");
    }
}
