//! What is wrong with a manifest.

use std::cell::RefCell;
use std::fmt;

use crate::path::Path;

/// One thing that is wrong with a manifest. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct ManifestError {
    /// Where, such as `ReferenceValues.snp[0].ProductName`; `manifest` for the whole.
    pub path: String,
    /// What stands there.
    pub got: String,
    /// What would be right.
    pub want: String,
    /// Which rule is broken.
    pub problem: Problem,
}

/// Which rule of the manifest's format is broken. The rules that Contrast has too are worded as
/// its users know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// What was got and wanted says it all.
    Mismatch,
    /// Something required is absent, null, empty or still a placeholder of [`template`].
    ///
    /// [`template`]: crate::template()
    Empty,
    /// A hexadecimal value is too long or too short.
    Length {
        /// Number of digits found.
        found: usize,
        /// Number of digits wanted.
        expected: usize,
    },
    /// The name of a policy is too long or too short to be its hash.
    PolicyHashLength {
        /// Number of bytes found.
        found: usize,
    },
    /// AMD has no such processor.
    UnknownProduct,
    /// A policy has no such role.
    UnknownRole,
    /// The field can't be what it says, whoever asks.
    NotPermitted,
    /// The number does not fit a byte.
    Uint8Range,
    /// There is no Coordinator, or more than one.
    Coordinators {
        /// Number of policies with the role.
        found: usize,
    },
    /// Nothing at all would be trusted.
    NoReferenceValues,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            got,
            want,
            problem,
        } = self;
        write!(f, "{path}: ")?;
        match problem {
            Problem::Mismatch => write!(f, "got {got}, want {want}"),
            Problem::Empty => write!(f, "field cannot be empty"),
            Problem::Length { found, expected } => {
                write!(f, "invalid length: {found} (expected {expected})")
            }
            Problem::PolicyHashLength { found } => {
                write!(f, "invalid policy hash length: {found} (expected 64)")
            }
            Problem::UnknownProduct => write!(f, "unknown product name: {got} (expected {want})"),
            Problem::UnknownRole => write!(f, "unknown role: {got} (expected {want})"),
            Problem::NotPermitted => write!(f, "modifying this field is not permitted"),
            Problem::Uint8Range => write!(f, "value out of range for uint8: {got}"),
            Problem::Coordinators { found } => write!(
                f,
                "expected exactly 1 policy with role 'coordinator', got {found}"
            ),
            Problem::NoReferenceValues => write!(
                f,
                "reference values in manifest cannot be empty. Is the chosen platform supported?"
            ),
        }
    }
}

/// Everything that is wrong with a manifest, in the order of its fields. Displays as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestErrors {
    errors: Vec<ManifestError>,
    more: usize,
}

impl ManifestErrors {
    /// How many errors are kept; the rest is counted only.
    pub const MAX_LISTED: usize = 100;

    /// The errors, up to [`MAX_LISTED`](Self::MAX_LISTED).
    pub fn iter(&self) -> std::slice::Iter<'_, ManifestError> {
        self.errors.iter()
    }

    /// The number of errors, listed or not.
    pub fn count(&self) -> usize {
        self.errors.len() + self.more
    }
}

impl<'a> IntoIterator for &'a ManifestErrors {
    type Item = &'a ManifestError;
    type IntoIter = std::slice::Iter<'a, ManifestError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for ManifestErrors {}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

/// Gathers errors while a manifest is read. Past the limit it only counts: an error that nobody
/// will see is not even formatted.
#[derive(Default)]
pub(crate) struct Collector {
    listed: RefCell<Vec<ManifestError>>,
    count: std::cell::Cell<usize>,
}

impl Collector {
    pub(crate) fn mismatch(&self, path: &Path, got: impl fmt::Display, want: impl fmt::Display) {
        self.add(path, Problem::Mismatch, got, want);
    }

    pub(crate) fn empty(&self, path: &Path) {
        self.add(path, Problem::Empty, "nothing", "a value");
    }

    pub(crate) fn add(
        &self,
        path: &Path,
        problem: Problem,
        got: impl fmt::Display,
        want: impl fmt::Display,
    ) {
        self.count.set(self.count.get() + 1);
        if self.count.get() <= ManifestErrors::MAX_LISTED {
            self.listed.borrow_mut().push(ManifestError {
                path: path.to_string(),
                got: got.to_string(),
                want: want.to_string(),
                problem,
            });
        }
    }

    /// How many errors there are so far.
    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// The errors; there are some.
    pub(crate) fn into_errors(self) -> ManifestErrors {
        let errors = self.listed.into_inner();
        ManifestErrors {
            more: self.count.get() - errors.len(),
            errors,
        }
    }
}
