//! Tables of the file, read key by key, so that one mistake hides no other; and what is known of each
//! key, for those who document them.

use std::marker::PhantomData;

use serde::de::{Deserialize, IgnoredAny, IntoDeserializer as _};
use toml::Spanned;
use toml::de::DeValue;

use super::file::{Given, Origin, Scalar};

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// The key.
    pub(super) name: &'static str,
    /// What it is for: the documentation of the field that it becomes.
    pub(super) about: &'static str,
    /// What it takes.
    pub(super) kind: Kind,
}

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A string.
    Text,
    /// A number, or a string that says one.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list of strings.
    List,
    /// A table with these keys.
    Table(&'static [Key]),
    /// Any number of such tables.
    Tables(&'static [Key]),
}

/// What was read wrong.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Where in the file, and what.
    pub(super) mistakes: Vec<(usize, String)>,
}

impl Reader {
    fn mistake(&mut self, byte: usize, what: impl Into<String>) {
        self.mistakes.push((byte, what.into()));
    }

    /// The value as `T`. What can't be one is reported.
    fn value<'de, T: Deserialize<'de>>(&mut self, value: Spanned<DeValue<'de>>) -> Option<T> {
        let start = value.span().start;
        T::deserialize(value.into_deserializer())
            .map_err(|error| self.mistake(start, with_hint(error.message())))
            .ok()
    }

    /// Reads a table; what is no table is reported.
    pub(super) fn table<K: Keys>(&mut self, value: Spanned<DeValue<'_>>) -> K {
        let mut keys = K::default();
        let start = value.span().start;
        let table = match value.into_inner() {
            DeValue::Table(table) => table,
            other => {
                let message = format!("invalid type: {}, expected a table", other.type_str());
                self.mistake(start, message);
                return keys;
            }
        };
        for (name, value) in table {
            let place = name.span().start;
            if keys.set(name.get_ref(), value, self).is_none() {
                let known: Vec<_> = K::KEYS
                    .iter()
                    .map(|key| format!("`{}`", key.name))
                    .collect();
                let name = name.get_ref();
                let known = known.join(", ");
                self.mistake(
                    place,
                    format!("unknown field `{name}`, expected one of {known}"),
                );
            }
        }
        keys
    }
}

/// The keys of one kind of table.
pub(super) trait Keys: Default {
    /// All of them.
    const KEYS: &'static [Key];

    /// Reads one; `None` where there is no such key.
    fn set(&mut self, name: &str, value: Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<()>;

    /// Tells of every value that is given where it was, by the path of its key below `path`.
    fn visit(&self, path: &str, tell: Tell<'_>);
}

/// Takes the path of a key, `workload[0].name`, and where its value was given.
pub(super) type Tell<'a> = &'a mut dyn FnMut(String, Origin);

/// How a key is read and kept. What has the wrong type is kept as if it were there, so that it is not
/// called missing as well.
pub(super) trait Field {
    type Kept;
    const KIND: Kind;

    fn read(value: Spanned<DeValue<'_>>, reader: &mut Reader, kept: &mut Self::Kept);

    fn visit(kept: &Self::Kept, path: String, tell: Tell<'_>);
}

/// A string.
pub(super) enum Text {}
/// A number, or a string that says one.
pub(super) enum Number {}
/// `true` or `false`.
pub(super) enum Boolean {}
/// A list of strings.
pub(super) enum List {}
/// `[name]`.
pub(super) struct Table<K>(PhantomData<K>);
/// `[[name]]`.
pub(super) struct Tables<K>(PhantomData<K>);

fn given<T>(byte: usize, value: T) -> Given<T> {
    Given {
        value,
        origin: Origin::File { byte },
    }
}

impl Field for Text {
    type Kept = Option<Given<String>>;
    const KIND: Kind = Kind::Text;

    fn read(value: Spanned<DeValue<'_>>, reader: &mut Reader, kept: &mut Self::Kept) {
        let start = value.span().start;
        *kept = Some(given(start, reader.value(value).unwrap_or_default()));
    }

    fn visit(kept: &Self::Kept, path: String, tell: Tell<'_>) {
        if let Some(Given { origin, .. }) = kept {
            tell(path, *origin);
        }
    }
}

impl Field for Number {
    type Kept = Option<Given<Scalar>>;
    const KIND: Kind = Kind::Number;

    fn read(value: Spanned<DeValue<'_>>, reader: &mut Reader, kept: &mut Self::Kept) {
        let start = value.span().start;
        *kept = reader.value(value).map(|scalar| given(start, scalar));
    }

    fn visit(kept: &Self::Kept, path: String, tell: Tell<'_>) {
        if let Some(Given { origin, .. }) = kept {
            tell(path, *origin);
        }
    }
}

impl Field for Boolean {
    type Kept = Option<Given<bool>>;
    const KIND: Kind = Kind::Boolean;

    fn read(value: Spanned<DeValue<'_>>, reader: &mut Reader, kept: &mut Self::Kept) {
        let start = value.span().start;
        *kept = reader.value(value).map(|flag| given(start, flag));
    }

    fn visit(kept: &Self::Kept, path: String, tell: Tell<'_>) {
        if let Some(Given { origin, .. }) = kept {
            tell(path, *origin);
        }
    }
}

impl Field for List {
    type Kept = Option<Given<Vec<Given<String>>>>;
    const KIND: Kind = Kind::List;

    fn read(value: Spanned<DeValue<'_>>, reader: &mut Reader, kept: &mut Self::Kept) {
        let start = value.span().start;
        let mut list = Vec::new();
        for value in elements(value, reader) {
            let start = value.span().start;
            list.extend(reader.value(value).map(|text| given(start, text)));
        }
        *kept = Some(given(start, list));
    }

    fn visit(kept: &Self::Kept, path: String, tell: Tell<'_>) {
        if let Some(Given { origin, .. }) = kept {
            tell(path, *origin);
        }
    }
}

impl<K: Keys> Field for Table<K> {
    type Kept = Option<Given<K>>;
    const KIND: Kind = Kind::Table(K::KEYS);

    fn read(value: Spanned<DeValue<'_>>, reader: &mut Reader, kept: &mut Self::Kept) {
        let start = value.span().start;
        *kept = Some(given(start, reader.table(value)));
    }

    fn visit(kept: &Self::Kept, path: String, tell: Tell<'_>) {
        if let Some(Given { value, .. }) = kept {
            value.visit(&path, tell);
        }
    }
}

impl<K: Keys> Field for Tables<K> {
    type Kept = Vec<Given<K>>;
    const KIND: Kind = Kind::Tables(K::KEYS);

    fn read(value: Spanned<DeValue<'_>>, reader: &mut Reader, kept: &mut Self::Kept) {
        for value in elements(value, reader) {
            let start = value.span().start;
            kept.push(given(start, reader.table(value)));
        }
    }

    fn visit(kept: &Self::Kept, path: String, tell: Tell<'_>) {
        for (index, Given { value, .. }) in kept.iter().enumerate() {
            value.visit(&format!("{path}[{index}]"), tell);
        }
    }
}

fn elements<'de>(value: Spanned<DeValue<'de>>, reader: &mut Reader) -> Vec<Spanned<DeValue<'de>>> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Array(array) => array.into_iter().collect(),
        other => {
            let _: Option<Vec<IgnoredAny>> = reader.value(Spanned::new(span, other));
            Vec::new()
        }
    }
}

/// The parser says what it found; what to do is ours.
pub(super) fn with_hint(message: &str) -> String {
    let hint = if message.starts_with("invalid type: map, expected a sequence") {
        "; write the header in double brackets, [[workload]]"
    } else if message.ends_with("expected a sequence") {
        "; write a list, [\"...\"]"
    } else if message.starts_with("duplicate key") {
        "; remove one"
    } else {
        ""
    };
    format!("{message}{hint}")
}

/// Makes a table's keys of fields, whose documentation is that of the keys.
macro_rules! keys {
    (
        $(#[doc = $about:literal])*
        struct $name:ident {
            $($(#[doc = $doc:literal])* $key:ident: $field:ty,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $($(#[doc = $doc])* pub(super) $key: <$field as Field>::Kept,)*
        }

        impl Keys for $name {
            const KEYS: &'static [Key] = &[
                $(Key {
                    name: stringify!($key),
                    about: concat!($($doc),*),
                    kind: <$field as Field>::KIND,
                },)*
            ];

            fn set(
                &mut self,
                name: &str,
                value: Spanned<DeValue<'_>>,
                reader: &mut Reader,
            ) -> Option<()> {
                match name {
                    $(stringify!($key) => {
                        <$field as Field>::read(value, reader, &mut self.$key);
                        Some(())
                    })*
                    _ => None,
                }
            }

            fn visit(&self, path: &str, tell: Tell<'_>) {
                let dot = if path.is_empty() { "" } else { "." };
                $(<$field as Field>::visit(
                    &self.$key,
                    format!("{path}{dot}{}", stringify!($key)),
                    tell,
                );)*
            }
        }
    };
}

pub(super) use keys;
