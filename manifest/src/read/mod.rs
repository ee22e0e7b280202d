//! Strict reading of JSON: every field checked, every error collected with its path.

mod cursor;
mod json;
mod object;
mod similar;

pub(crate) use cursor::Cursor;
pub(crate) use json::Json;
pub(crate) use object::Object;
pub(crate) use similar::DidYouMean;

/// How a value begins that the author has yet to fill in. It counts as absent.
pub(crate) const PLACEHOLDER: &str = "FILL IN";
