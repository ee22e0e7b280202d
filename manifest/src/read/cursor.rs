use std::fmt;
use std::ops::RangeInclusive;

use attestation::Digest;

use crate::error::{Collector, Problem};
use crate::path::Path;
use crate::read::{Json, Object, PLACEHOLDER};

/// A value and where it stands. Each method gives the value in the form asked for, or reports why
/// not and gives `None`.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    json: &'a Json,
    path: Path,
    errors: &'a Collector,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(json: &'a Json, path: Path, errors: &'a Collector) -> Self {
        Self { json, path, errors }
    }

    pub(crate) fn json(&self) -> &'a Json {
        self.json
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reports that another value than this one is needed.
    pub(crate) fn reject(&self, want: impl fmt::Display) {
        self.errors.mismatch(&self.path, self.json, want);
    }

    /// Reports that a rule is broken that has its own words.
    pub(crate) fn report(&self, problem: Problem, got: impl fmt::Display, want: impl fmt::Display) {
        self.errors.add(&self.path, problem, got, want);
    }

    /// An object with the fields `known`, of which none need be there.
    pub(crate) fn object(&self, known: &[&'static str]) -> Option<Object<'a>> {
        match self.json {
            Json::Object(fields) => {
                Some(Object::new(fields, known, self.path.clone(), self.errors))
            }
            _ => self.refuse("an object"),
        }
    }

    /// An object whose keys mean something; one given twice is reported.
    pub(crate) fn map(&self) -> Option<impl Iterator<Item = (&'a str, Cursor<'a>)>> {
        let Json::Object(fields) = self.json else {
            return self.refuse("an object");
        };
        let mut keys: Vec<_> = fields.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        for pair in keys.windows(2) {
            if let [one, other] = pair
                && one == other
            {
                self.errors
                    .mismatch(&self.path.key(one), "the key twice", "it once");
            }
        }
        let (path, errors) = (self.path.clone(), self.errors);
        Some(fields.iter().map(move |(key, json)| {
            let cursor = Cursor::new(json, path.key(key), errors);
            (key.as_str(), cursor)
        }))
    }

    /// A list; its elements.
    pub(crate) fn list(&self) -> Option<Vec<Cursor<'a>>> {
        let Json::List(values) = self.json else {
            return self.refuse("a list");
        };
        let element = |(i, json)| Cursor::new(json, self.path.index(i), self.errors);
        Some(values.iter().enumerate().map(element).collect())
    }

    /// A list whose elements `read` gives; those it can't read are left out, and one that equals an
    /// earlier one is reported.
    pub(crate) fn distinct<T: Ord + Clone>(
        &self,
        read: impl Fn(&Cursor<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut first = std::collections::BTreeMap::new();
        let mut values = Vec::new();
        for (i, cursor) in self.list()?.iter().enumerate() {
            let Some(value) = read(cursor) else { continue };
            match first.entry(value.clone()) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(i);
                    values.push(value);
                }
                std::collections::btree_map::Entry::Occupied(entry) => self.errors.mismatch(
                    &cursor.path,
                    format_args!("the same as {}", self.path.index(*entry.get())),
                    "each one once",
                ),
            }
        }
        Some(values)
    }

    /// A text that is not empty.
    pub(crate) fn string(&self) -> Option<&'a str> {
        match self.json {
            Json::String(text) if text.is_empty() || text.starts_with(PLACEHOLDER) => {
                self.errors.empty(&self.path);
                None
            }
            Json::String(text) => Some(text),
            _ => self.refuse("a string"),
        }
    }

    /// `N` bytes in hexadecimal digits.
    pub(crate) fn hex<const N: usize>(&self) -> Option<[u8; N]> {
        let text = self.string()?;
        if text.len() != 2 * N {
            let problem = Problem::Length {
                found: text.len(),
                expected: 2 * N,
            };
            let want = format_args!("{} hexadecimal digits", 2 * N);
            self.report(problem, self.json, want);
            return None;
        }
        let mut bytes = [0; N];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Some(bytes),
            Err(_) => self.refuse("hexadecimal digits"),
        }
    }

    /// Any number of bytes in hexadecimal digits.
    pub(crate) fn hex_bytes(&self) -> Option<Vec<u8>> {
        match hex::decode(self.string()?) {
            Ok(bytes) => Some(bytes),
            Err(_) => self.refuse("an even number of hexadecimal digits"),
        }
    }

    /// A SHA-256 digest in hexadecimal digits.
    pub(crate) fn digest(&self) -> Option<Digest> {
        self.hex().map(Digest)
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.json {
            Json::Bool(value) => Some(*value),
            _ => self.refuse("true or false"),
        }
    }

    /// A whole number in `range`.
    pub(crate) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        if let Json::Integer(value) = self.json
            && let Ok(value) = u64::try_from(*value)
            && range.contains(&value)
        {
            return Some(value);
        }
        let (low, high) = range.into_inner();
        self.refuse(format_args!("a whole number from {low} to {high}"))
    }

    /// A whole number that fits a byte.
    pub(crate) fn uint8(&self) -> Option<u8> {
        let Json::Integer(value) = self.json else {
            return self.refuse("a whole number from 0 to 255");
        };
        let byte = u8::try_from(*value).ok();
        if byte.is_none() {
            self.report(Problem::Uint8Range, self.json, "0 to 255");
        }
        byte
    }

    /// One of `known`, by name.
    pub(crate) fn one_of<T: Copy>(&self, known: &[(&'static str, T)]) -> Option<T> {
        let text = self.string()?;
        match known.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(*value),
            None => self.refuse(alternatives(known.iter().map(|(name, _)| *name))),
        }
    }

    fn refuse<T>(&self, want: impl fmt::Display) -> Option<T> {
        self.reject(want);
        None
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn alternatives<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}
