//! Where in a manifest something stands.

use std::fmt;
use std::rc::Rc;

/// Prints as `ReferenceValues.snp[0].ProductName`; the root as `manifest`. Cloning counts a
/// reference, so that a path costs nothing to format unless there is an error to report.
#[derive(Clone)]
pub(crate) struct Path(Option<Rc<Step>>);

struct Step {
    parent: Path,
    name: Name,
}

enum Name {
    Field(&'static str),
    Index(usize),
    Key(String),
}

impl Path {
    pub(crate) fn root() -> Self {
        Self(None)
    }

    /// A field that the schema names.
    pub(crate) fn field(&self, name: &'static str) -> Self {
        self.step(Name::Field(name))
    }

    /// An element of a list.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.step(Name::Index(index))
    }

    /// A key that the author of the manifest chose.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.step(Name::Key(quoted(key)))
    }

    fn step(&self, name: Name) -> Self {
        Self(Some(Rc::new(Step {
            parent: self.clone(),
            name,
        })))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = &self.0 else {
            return f.write_str("manifest");
        };
        match &step.name {
            Name::Field(name) if step.parent.0.is_none() => f.write_str(name),
            Name::Field(name) => write!(f, "{}.{name}", step.parent),
            Name::Index(index) => write!(f, "{}[{index}]", step.parent),
            Name::Key(key) => write!(f, "{}[{key}]", step.parent),
        }
    }
}

/// `text` in quotes with control characters escaped, cut where it gets long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS) {
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

/// Enough for a whole measurement (48 bytes in hexadecimal digits).
const QUOTED_CHARACTERS: usize = 96;
