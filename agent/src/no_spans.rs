//! What stands in for [`spans`](self) where the agent is built without the feature `otlp`.

use std::{env, error::Error, fmt};

use tracing::warn;

use crate::{connection::CloseReason, refusals::Refused, registry::Connection};

/// There is none.
#[derive(Debug)]
pub(crate) enum Spans {}

/// There is none.
#[derive(Debug)]
pub enum SpansError {}

impl Spans {
    /// None; whoever asks for spans is told why there are none.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "that which is in its place with the feature may fail"
    )]
    pub(crate) fn from_environment() -> Result<Option<Self>, SpansError> {
        for variable in [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ] {
            if env::var_os(variable).is_some() {
                warn!(
                    "{variable} is set, but no spans are sent: this agent was built without the \
                     feature `otlp`"
                );
            }
        }
        Ok(None)
    }

    pub(crate) fn closed(&self, _: &Connection, _: CloseReason) {
        match *self {}
    }

    pub(crate) fn refused(&self, _: &Refused) {
        match *self {}
    }
}

impl fmt::Display for SpansError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl Error for SpansError {}
