use crate::error::Collector;
use crate::path::{Path, quoted};
use crate::read::{Cursor, DidYouMean, Json, PLACEHOLDER};

/// A JSON object whose fields the schema names. Unknown ones and those given twice are reported
/// when it is made.
pub(crate) struct Object<'a> {
    fields: &'a [(String, Json)],
    path: Path,
    errors: &'a Collector,
}

impl<'a> Object<'a> {
    pub(crate) fn new(
        fields: &'a [(String, Json)],
        known: &[&'static str],
        path: Path,
        errors: &'a Collector,
    ) -> Self {
        let mut seen = Vec::with_capacity(known.len());
        for (name, _) in fields {
            let Some(known) = known.iter().find(|known| *known == name) else {
                let suggestion = DidYouMean {
                    text: name,
                    known: known.iter().copied(),
                };
                let got = format_args!("unknown field {}{suggestion}", quoted(name));
                errors.mismatch(&path, got, format_args!("only {}", known.join(", ")));
                continue;
            };
            if seen.contains(known) {
                errors.mismatch(&path.field(known), "the field twice", "it once");
            }
            seen.push(known);
        }
        Self {
            fields,
            path,
            errors,
        }
    }

    /// The field's value, unless it is absent or null. A placeholder is an error.
    pub(crate) fn optional(&self, name: &'static str) -> Option<Cursor<'a>> {
        let cursor = self.field(name)?;
        if matches!(cursor.json(), Json::String(text) if text.starts_with(PLACEHOLDER)) {
            self.errors.empty(cursor.path());
            return None;
        }
        Some(cursor)
    }

    /// The field's value; it is an error if there is none.
    pub(crate) fn required(&self, name: &'static str) -> Option<Cursor<'a>> {
        if self.field(name).is_none() {
            self.errors.empty(&self.path.field(name));
        }
        self.optional(name)
    }

    /// Where the field stands or would stand.
    pub(crate) fn path_of(&self, name: &'static str) -> Path {
        self.path.field(name)
    }

    fn field(&self, name: &'static str) -> Option<Cursor<'a>> {
        let (_, json) = self.fields.iter().find(|(known, _)| known == name)?;
        (!matches!(json, Json::Null)).then(|| Cursor::new(json, self.path.field(name), self.errors))
    }
}
