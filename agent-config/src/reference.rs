//! What is known of every key, for people and for editors.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::file::FileKeys;
use super::keys::{Key, Keys as _, Kind};

/// The page of the book that lists every key, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    table(&mut page, "At the top", "", FileKeys::KEYS);
    page
}

fn table(page: &mut String, heading: &str, path: &str, keys: &'static [Key]) {
    // Writing to a string can't fail.
    let _ = write!(page, "\n## {heading}\n\n| key | takes | |\n|---|---|---|\n");
    for Key { name, about, kind } in keys {
        let takes = takes(*kind);
        let _ = writeln!(page, "| `{name}` | {takes} | {} |", sentence(about));
    }
    for Key { name, kind, .. } in keys {
        let path = match path {
            "" => (*name).to_owned(),
            path => format!("{path}.{name}"),
        };
        match kind {
            Kind::Table(keys) => table(page, &format!("`[{path}]`"), &path, keys),
            Kind::Tables(keys) => table(page, &format!("`[[{path}]]`"), &path, keys),
            _ => {}
        }
    }
}

fn takes(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "string",
        Kind::Number => "number",
        Kind::Boolean => "`true` or `false`",
        Kind::List => "list of strings",
        Kind::Table(_) => "table",
        Kind::Tables(_) => "tables",
    }
}

/// The file as a JSON Schema (draft 2020-12), for editors that check TOML as it is written.
pub fn json_schema() -> Value {
    let mut schema = object(FileKeys::KEYS);
    schema.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".to_owned(), json!("sealwire-agent"));
    Value::Object(schema)
}

fn object(keys: &'static [Key]) -> Map<String, Value> {
    let properties: Map<_, _> = keys
        .iter()
        .map(|Key { name, about, kind }| {
            let mut property = match kind {
                Kind::Text => Map::from_iter([("type".to_owned(), json!("string"))]),
                Kind::Number => Map::from_iter([("type".to_owned(), json!(["integer", "string"]))]),
                Kind::Boolean => Map::from_iter([("type".to_owned(), json!("boolean"))]),
                Kind::List => Map::from_iter([
                    ("type".to_owned(), json!("array")),
                    ("items".to_owned(), json!({ "type": "string" })),
                ]),
                Kind::Table(keys) => object(keys),
                Kind::Tables(keys) => Map::from_iter([
                    ("type".to_owned(), json!("array")),
                    ("items".to_owned(), Value::Object(object(keys))),
                ]),
            };
            property.insert("description".to_owned(), json!(sentence(about)));
            ((*name).to_owned(), Value::Object(property))
        })
        .collect();
    Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("properties".to_owned(), Value::Object(properties)),
        ("additionalProperties".to_owned(), json!(false)),
    ])
}

/// Lines of documentation begin with a space each.
fn sentence(about: &str) -> &str {
    about.trim()
}

const HEAD: &str = "\
# Every key of the agent's file

Made from the types that read the file; what the values mean, and how they combine with options and variables, is under
[Configuration](configuration.md). As a JSON Schema: [`agent.schema.json`](agent.schema.json).
";

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    /// The book's files are what the types say. `SEALWIRE_BLESS=1` writes them.
    #[test]
    fn the_book_has_every_key() {
        let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference");
        for (file, expected) in [("keys.md", reference()), ("agent.schema.json", schema)] {
            let path = book.join(file);
            if env::var_os("SEALWIRE_BLESS").is_some() {
                fs::write(&path, &expected).unwrap();
            }
            let found = fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(found, expected, "{file}: run this with SEALWIRE_BLESS=1");
        }
    }

    #[test]
    fn every_key_says_what_it_is_for() {
        fn look(keys: &[Key]) {
            for key in keys {
                assert!(sentence(key.about).ends_with('.'), "{key:?}");
                if let Kind::Table(keys) | Kind::Tables(keys) = key.kind {
                    look(keys);
                }
            }
        }
        look(FileKeys::KEYS);
    }
}
