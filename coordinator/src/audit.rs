//! The audit log: who set, recovered, enrolled and was refused, and why. Append-only, a JSON
//! object a line; nothing secret is in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Duration, Instant};
use tracing::{error, info};

/// Writes events to the log, and to a file where there is one.
#[derive(Debug)]
pub struct Audit {
    file: Option<Mutex<Log>>,
    lines_lost: Counter,
    refusals: Mutex<Allowance>,
}

/// The file, which ends in a whole line.
#[derive(Debug)]
struct Log {
    file: File,
    /// Lines that could not be written since the last that was.
    lost: u64,
    /// Why the last could not be written, if it could not.
    trouble: Option<String>,
}

/// How many refusals may be written now: anybody can be refused as often as he likes, which must not
/// fill the disk.
#[derive(Debug)]
struct Allowance {
    left: u32,
    refilled: Instant,
    left_out: u64,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    /// A transition was appended.
    Transition {
        /// Its number.
        seq: u64,
        /// `manifest`, `recovery`, `issue` or `withdraw`.
        kind: &'a str,
        /// Its hash.
        transition: String,
        /// The manifest in force from then on.
        manifest: String,
        /// SHA-256 of the key of each owner that authorised it.
        authorised_by: Vec<String>,
    },
    /// A request was refused.
    Refused {
        /// What was asked for.
        request: &'a str,
        /// What the caller was told.
        code: &'a str,
        /// What the caller was told, too: finds this line.
        id: &'a str,
        /// The whole reason.
        reason: String,
        /// Where the caller is.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<String>,
    },
    /// Refusals that were too many, too fast; the metrics count them.
    RefusalsLeftOut {
        /// How many since the line before.
        count: u64,
    },
    /// Lines that could not be written, for want of space say; they are in the log.
    LinesLost {
        /// How many.
        count: u64,
    },
    /// A share of the seed was accepted.
    Share {
        /// How many there are now.
        have: usize,
        /// How many it takes.
        need: usize,
    },
    /// The seed is known again.
    Recovered {
        /// `shares`, or the peer that gave it.
        from: String,
    },
    /// The secrets were given to another Coordinator.
    PeerRecovered {
        /// Where it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<String>,
    },
    /// A certificate was issued.
    Enrolled {
        /// To whom.
        spiffe_id: String,
        /// Under which policy.
        policy: String,
        /// By which mesh CA.
        generation: u64,
        /// Which agent.
        instance: String,
        /// On what the evidence rests.
        tee: &'a str,
        /// When it expires.
        not_after: String,
        /// Where the caller is.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<String>,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// The file can't be had.
#[derive(Debug, Error)]
#[error("can't open the audit log {path}: {source}")]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

impl Audit {
    /// Appends to `path`, where one is given.
    pub fn open(path: Option<&Path>) -> Result<Self, AuditError> {
        let open = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .map_err(|source| AuditError {
                    path: path.to_owned(),
                    source,
                })
        };
        Ok(Self {
            file: path.map(open).transpose()?.map(|file| {
                Mutex::new(Log {
                    file,
                    lost: 0,
                    trouble: None,
                })
            }),
            lines_lost: Counter::default(),
            refusals: Mutex::new(Allowance::full()),
        })
    }

    /// Writes an event. A file that can't be written is an error in the log; the event is there
    /// all the same.
    pub fn write(&self, event: &Event<'_>) {
        if let Event::Refused { .. } = event {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = refusals.take(Instant::now());
            drop(refusals);
            match taken {
                None => return,
                Some(0) => {}
                Some(count) => self.append(&Event::RefusalsLeftOut { count }),
            }
        }
        self.append(event);
    }

    /// Why the file can't be written, while it can't.
    pub fn trouble(&self) -> Option<String> {
        let log = self.file.as_ref()?;
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.trouble.clone()
    }

    /// How many lines the file lacks.
    pub fn lines_lost(&self) -> Counter {
        self.lines_lost.clone()
    }

    fn append(&self, event: &Event<'_>) {
        let Some(line) = line(event) else {
            return;
        };
        info!(target: "audit", "{}", line.trim_end());
        if let Some(log) = &self.file {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.append(&line).is_err() {
                self.lines_lost.inc();
            }
        }
    }
}

impl Log {
    /// Appends a line whole or not at all; after some that could not be, says how many.
    fn append(&mut self, event: &str) -> io::Result<()> {
        let told = match self.lost {
            0 => None,
            count => line(&Event::LinesLost { count }),
        };
        let written = told
            .map_or(Ok(()), |told| self.write(&told))
            .and_then(|()| {
                self.lost = 0;
                self.write(event)
            });
        match &written {
            Ok(()) => self.trouble = None,
            Err(error) => {
                if self.trouble.is_none() {
                    error!(%error, "the audit log can't be written");
                }
                self.trouble = Some(error.to_string());
                self.lost += 1;
            }
        }
        written
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        self.file.write_all(line.as_bytes()).inspect_err(|_| {
            // Should this fail too, a torn line stays: the next begins behind it.
            let _ = self.file.set_len(before);
        })
    }
}

/// An event as it stands in the file.
fn line(event: &Event<'_>) -> Option<String> {
    let time = OffsetDateTime::now_utc();
    let line = Line {
        time: time.format(&Rfc3339).unwrap_or_default(),
        event,
    };
    serde_json::to_string(&line)
        .inspect_err(|error| error!(%error, "an audit event can't be written"))
        .ok()
        .map(|line| line + "\n")
}

impl Allowance {
    fn full() -> Self {
        Self {
            left: BURST,
            refilled: Instant::now(),
            left_out: 0,
        }
    }

    /// `None` where there is none left, or how many were left out before this one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let due = now.saturating_duration_since(self.refilled).as_nanos() / EVERY.as_nanos();
        if let due @ 1.. = u32::try_from(due).unwrap_or(BURST) {
            self.left = self.left.saturating_add(due).min(BURST);
            self.refilled = now;
        }
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out += 1;
            None
        }
    }
}

const BURST: u32 = 500;
const EVERY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn refused(id: &str) -> Event<'_> {
        Event::Refused {
            request: "set",
            code: "not-authorised",
            id,
            reason: "line one\nline \"two\"".to_owned(),
            remote: Some("127.0.0.1:5".to_owned()),
        }
    }

    #[test]
    fn an_event_is_a_line_whatever_is_in_it_and_later_ones_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for id in ["1", "2"] {
            Audit::open(Some(&path)).unwrap().write(&refused(id));
        }
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["event"], "refused");
        assert_eq!(lines[1]["id"], "2");
        assert_eq!(lines[1]["reason"], "line one\nline \"two\"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_counted_and_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(Some(&path)).unwrap();
        for _ in 0..BURST + 1000 {
            audit.write(&refused("1"));
        }
        assert_eq!(lines(&path).len(), BURST as usize);
        // What is no refusal is written all the same.
        audit.write(&Event::Share { have: 1, need: 2 });
        tokio::time::advance(EVERY).await;
        audit.write(&refused("2"));
        audit.write(&refused("3"));
        let lines = lines(&path);
        let last: Vec<_> = lines[BURST as usize..]
            .iter()
            .map(|it| &it["event"])
            .collect();
        assert_eq!(last, ["share", "refusals-left-out", "refused"]);
        assert_eq!(lines[BURST as usize + 1]["count"], 1000);
    }
}
