//! Keys whose value is one of a few words.

use serde::Serialize;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One flat object a line.
    Json,
}

impl LogFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The least important level that is logged. Connections are `info`, refusals `warn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What needs somebody to act.
    Error,
    /// Refusals.
    Warn,
    /// Connections, reloads.
    Info,
    /// Steps of a connection.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level.
    pub const ALL: [Self; 5] = [
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The key `offload`: which directions of a connection the kernel may protect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadChoice {
    /// Both, once a connection has shown itself to be bulk, where that is sound.
    Auto,
    /// None.
    #[default]
    Off,
    /// Sending, from the first byte on.
    Tx,
    /// Receiving, likewise.
    Rx,
    /// Both, likewise.
    Both,
}

impl OffloadChoice {
    /// Every choice.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Off, Self::Tx, Self::Rx, Self::Both];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Tx => "tx",
            Self::Rx => "rx",
            Self::Both => "both",
        }
    }
}

/// The key `splice`: whether bulk that the kernel protects is moved by splice(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpliceChoice {
    /// Where that is sound.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl SpliceChoice {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Off];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// The key `local_acceleration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalAcceleration {
    /// Nothing is accelerated.
    #[default]
    Off,
    /// What a program sends in small messages is redirected to the agent's socket, where that is
    /// sound.
    SkMsg,
}

impl LocalAcceleration {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Off, Self::SkMsg];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::SkMsg => "sk-msg",
        }
    }
}
