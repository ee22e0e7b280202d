use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use attestation::Digest;
use thiserror::Error;

use super::StoredHead;
use super::etcd::EtcdOptionsError;

/// Why the store did not answer, or why its answer is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No etcd member answered in time, or the members have no quorum. Passes: try again.
    #[error("the store at {place} is not available; trying again may help")]
    Unavailable {
        /// The etcd endpoint that was tried last.
        place: Place,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// etcd does not let this client in, or this client does not trust that etcd.
    #[error("{endpoint}: {denial}")]
    Unauthorised {
        /// The endpoint.
        endpoint: String,
        /// What was refused.
        denial: Denial,
        /// What etcd, or TLS, said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The disk or etcd's quota is used up.
    #[error("no space is left in {place}; {}", place.how_to_free())]
    Full {
        /// What is full.
        place: Place,
    },
    /// The store holds something else than what was put there.
    #[error("{object} is damaged: {got}; restore the store from a copy or from `sealwire verify`")]
    Corrupt {
        /// What was asked for.
        object: Object,
        /// What the store gave.
        got: Found,
    },
    /// The caller's object is larger than a store takes.
    #[error("object {object} has {size} bytes, but a store takes {limit} at most")]
    TooLarge {
        /// Its hash.
        object: Digest,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// This etcd takes smaller requests than an etcd does by default.
    #[error(
        "{endpoint} takes no request of this size; start etcd with a --max-request-bytes of 1.5 MiB or more"
    )]
    RequestTooLarge {
        /// The endpoint.
        endpoint: String,
    },
    /// Another process has the file open.
    #[error("{} is in use by another process; stop the Coordinator that uses it, or choose another file", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused to read or write.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk failed to make a write durable. What is on it now can't be known until it is read
    /// afresh, so this store takes nothing more.
    #[error("a write to {} could not be made durable; check the disk, then start the Coordinator again", path.display())]
    NotDurable {
        /// The file.
        path: PathBuf,
    },
    /// The options can't work.
    #[error(transparent)]
    Options(#[from] EtcdOptionsError),
    /// Something answers there, but not as etcd with the v3 API does.
    #[error("{endpoint} does not answer as etcd does; etcd 3.4 or later is needed")]
    Protocol {
        /// The endpoint.
        endpoint: String,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Why an append was not acknowledged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The head is not the expected one: somebody else appended first.
    #[error("the head is not the expected one but {}", Or(.0.as_ref(), "none"))]
    Conflict(Option<StoredHead>),
    /// No space is left. What was appended before is safe; free some, then append again.
    #[error("no space is left in {place}; {}", place.how_to_free())]
    Full {
        /// What is full.
        place: Place,
    },
    /// The caller asked for something that would break the history.
    #[error(transparent)]
    Refused(#[from] Misuse),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { place } => Self::Full { place },
            other => Self::Store(other),
        }
    }
}

/// An append that no store is asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Misuse {
    /// Transitions are numbered from one, without gaps.
    #[error("{head} does not follow {}", Or(.expected.as_ref(), "an empty history"))]
    NotNext {
        /// The head before.
        expected: Option<StoredHead>,
        /// The one that was to follow.
        head: StoredHead,
    },
    /// A head without its transition could not be read by anyone.
    #[error("{head} is not among the objects that are appended with it")]
    NoTransition {
        /// The head.
        head: StoredHead,
    },
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// In the etcd cluster behind this endpoint.
    Etcd(String),
}

impl Place {
    fn how_to_free(&self) -> &'static str {
        match self {
            Self::File(_) => "free some on its file system",
            Self::Etcd(_) => {
                "raise --quota-backend-bytes, or compact and defragment, \
                 then clear the alarm with `etcdctl alarm disarm`"
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Etcd(endpoint) => f.write_str(endpoint),
        }
    }
}

/// What etcd, or this client, did not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Denial {
    /// The user or the password is wrong, or none was given.
    #[error("etcd refuses the user or the password; correct them")]
    Login,
    /// A user and a password were given, but etcd asks for none.
    #[error("etcd has authentication turned off; turn it on, or leave the user out")]
    LoginNotEnabled,
    /// The user is known, but may not use the keys.
    #[error("the user has no right to these keys; grant read and write on the prefix")]
    Permission,
    /// etcd wants a client certificate of its own CA.
    #[error(
        "etcd refuses the client certificate, or wants one; give one that its client CA issued"
    )]
    ClientCertificate,
    /// The certificate of the server does not chain to the CA, is expired, or has another name.
    #[error("the certificate of etcd is not trusted; check the CA and the endpoint's name")]
    ServerCertificate,
}

/// A thing in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// All of it.
    File(PathBuf),
    /// The head.
    Head,
    /// The log's entry for the transition of this number.
    Log(u64),
    /// The object with this content address.
    Content(Digest),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Head => f.write_str("the store's head"),
            Self::Log(seq) => write!(f, "the store's log entry {seq}"),
            Self::Content(digest) => write!(f, "the store's object {digest}"),
        }
    }
}

/// What a store gave instead of what was put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Bytes with another hash.
    Hash(Digest),
    /// Bytes that are no head; the first of them, in printable form.
    NotAHead(String),
    /// A head that is not the one that was appended last.
    AnotherHead(Option<StoredHead>),
    /// A file of no length.
    Empty,
    /// More bytes than any object has.
    TooLong,
    /// What the database engine says of its file.
    Damage(String),
}

impl Found {
    pub(super) fn no_head(bytes: &[u8]) -> Self {
        const SHOWN: usize = 96;
        let shown = bytes.get(..SHOWN).unwrap_or(bytes);
        Self::NotAHead(shown.escape_ascii().to_string())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(digest) => write!(f, "what is there has the hash {digest}"),
            Self::NotAHead(shown) => write!(f, "`{shown}` is no head"),
            Self::AnotherHead(head) => {
                write!(f, "it is {} now", Or(head.as_ref(), "none"))
            }
            Self::Empty => f.write_str("the file is empty"),
            Self::TooLong => write!(f, "it is longer than {} bytes", super::MAX_OBJECT_BYTES),
            Self::Damage(what) => f.write_str(what),
        }
    }
}

struct Or<'a>(Option<&'a StoredHead>, &'static str);

impl fmt::Display for Or<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(head) => head.fmt(f),
            None => f.write_str(self.1),
        }
    }
}
