//! The audit log: who set, recovered, enrolled and was refused, and why. Append-only, a JSON
//! object a line; nothing secret is in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{error, info};

/// Writes events to the log, and to a file where there is one.
#[derive(Debug)]
pub struct Audit {
    file: Option<Mutex<File>>,
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
            file: path.map(open).transpose()?.map(Mutex::new),
        })
    }

    /// Writes an event. A file that can't be written is an error in the log; the event is there
    /// all the same.
    pub fn write(&self, event: &Event<'_>) {
        let time = OffsetDateTime::now_utc();
        let line = Line {
            time: time.format(&Rfc3339).unwrap_or_default(),
            event,
        };
        let mut line = match serde_json::to_string(&line) {
            Ok(line) => line,
            Err(error) => return error!(%error, "an audit event can't be written"),
        };
        info!(target: "audit", "{line}");
        line.push('\n');
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = file.write_all(line.as_bytes()) {
                error!(%error, "the audit log can't be written");
            }
        }
    }
}
