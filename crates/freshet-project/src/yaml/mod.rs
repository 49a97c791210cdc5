//! YAML with positions: a document becomes a flat tree whose items know their line and column, and
//! typed structs are read from it item by item, so that one pass names every fault of a file.

mod read;

use std::fmt;

use freshet_core::error::code;
use freshet_core::{Error, Location};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

pub use read::{Located, Reader};

/// Collections inside collections, at most.
const MAX_DEPTH: usize = 48;
/// Scalars and collections of one file, aliases expanded, at most.
const MAX_NODES: usize = 500_000;
/// What aliases may repeat, at most.
const MAX_REPEATED: usize = 50_000;

/// A handle on one item of a [`Doc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item(u32);

/// What an item is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond `i64`.
    UInt(u64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    Seq(Vec<Item>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Item)>),
}

impl Value {
    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::UInt(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Seq(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key.
    pub name: String,
    /// One-based line.
    pub line: u32,
    /// One-based column.
    pub column: u32,
}

#[derive(Debug)]
struct Slot {
    value: Value,
    line: u32,
    column: u32,
}

/// A YAML file.
#[derive(Debug)]
pub struct Doc {
    /// Its path, relative to the project folder.
    pub file: String,
    slots: Vec<Slot>,
}

impl Doc {
    /// Reads `text`. An empty file is an empty mapping.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let mut budget = serde_saphyr::Budget::default();
        budget.max_depth = MAX_DEPTH;
        budget.max_nodes = MAX_NODES;
        budget.max_events = 2 * MAX_NODES;
        budget.max_recorded_anchor_events = MAX_REPEATED;
        let mut options = serde_saphyr::Options::default();
        options.budget = Some(budget);
        options.with_snippet = false;
        options.alias_limits.max_total_replayed_events = MAX_REPEATED;
        // A column may be called `n` or `off`: only `true` and `false` are booleans everywhere.
        options.strict_booleans = true;
        let mut doc = Self { file: file.to_owned(), slots: Vec::new() };
        let blank = text.lines().all(|line| {
            matches!(line.trim_start().chars().next(), None | Some('#')) || line.trim() == "---"
        });
        let root = if blank {
            Raw::Map(Vec::new())
        } else {
            serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options)
                .map_err(|error| syntax_error(file, &error))?
                .value
        };
        doc.slots.push(Slot { value: Value::Null, line: 1, column: 1 });
        doc.fill(0, root);
        Ok(doc)
    }

    fn fill(&mut self, index: u32, raw: Raw) {
        let value = match raw {
            Raw::Null => Value::Null,
            Raw::Bool(value) => Value::Bool(value),
            Raw::Int(value) => Value::Int(value),
            Raw::UInt(value) => Value::UInt(value),
            Raw::Float(value) => Value::Float(value),
            Raw::Text(value) => Value::Text(value),
            Raw::Seq(items) => Value::Seq(items.into_iter().map(|item| self.push(item)).collect()),
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        let (line, column) = place(&key);
                        (Key { name: key.value, line, column }, self.push(value))
                    })
                    .collect(),
            ),
        };
        self.slots[index as usize].value = value;
    }

    fn push(&mut self, raw: Spanned<Raw>) -> Item {
        let (line, column) = place(&raw);
        let index = u32::try_from(self.slots.len()).expect("the budget bounds the items of a file");
        self.slots.push(Slot { value: Value::Null, line, column });
        self.fill(index, raw.value);
        Item(index)
    }

    /// The whole document.
    pub fn root(&self) -> Item {
        Item(0)
    }

    /// What `item` is.
    pub fn value(&self, item: Item) -> &Value {
        &self.slots[item.0 as usize].value
    }

    /// Where `item` is.
    pub fn location(&self, item: Item) -> Location {
        let slot = &self.slots[item.0 as usize];
        Location { file: self.file.clone(), line: slot.line, column: slot.column }
    }

    /// Where `key` is.
    pub fn key_location(&self, key: &Key) -> Location {
        Location { file: self.file.clone(), line: key.line, column: key.column }
    }

    /// The entries of a mapping; none where `item` is something else.
    pub fn entries(&self, item: Item) -> &[(Key, Item)] {
        match self.value(item) {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of `key` of a mapping.
    pub fn get(&self, item: Item, key: &str) -> Option<Item> {
        self.entries(item).iter().find(|(name, _)| name.name == key).map(|(_, value)| *value)
    }

    /// The items of a list; none where `item` is something else.
    pub fn items(&self, item: Item) -> &[Item] {
        match self.value(item) {
            Value::Seq(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar, numbers and booleans as they print.
    pub fn scalar_text(&self, item: Item) -> Option<String> {
        Some(match self.value(item) {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::UInt(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(value) => value.clone(),
            Value::Null | Value::Seq(_) | Value::Map(_) => return None,
        })
    }

    /// What an entry of a list is called in messages: `path` and its name or place.
    pub fn entry_path(&self, item: Item, path: &str) -> String {
        match self.get(item, "name").and_then(|name| self.scalar_text(name)) {
            Some(name) => format!("{path}.{name}"),
            None => path.to_owned(),
        }
    }

    /// The item as JSON, each text passed through `text`.
    pub fn to_json<E>(
        &self,
        item: Item,
        text: &mut dyn FnMut(Item, &str) -> Result<serde_json::Value, E>,
    ) -> Result<serde_json::Value, E> {
        use serde_json::Value as Json;
        Ok(match self.value(item) {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::UInt(value) => Json::from(*value),
            Value::Float(value) => Json::from(*value),
            Value::Text(value) => text(item, value)?,
            Value::Seq(items) => Json::Array(
                items.iter().map(|item| self.to_json(*item, text)).collect::<Result<_, _>>()?,
            ),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(key, value)| Ok((key.name.clone(), self.to_json(*value, text)?)))
                    .collect::<Result<_, E>>()?,
            ),
        })
    }

    /// The item as JSON, as it is written.
    pub fn to_plain_json(&self, item: Item) -> serde_json::Value {
        let json = self.to_json::<std::convert::Infallible>(item, &mut |_, text| {
            Ok(serde_json::Value::String(text.to_owned()))
        });
        match json {
            Ok(json) => json,
            Err(never) => match never {},
        }
    }
}

/// A boolean as YAML 1.1 writes it.
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn place<T>(spanned: &Spanned<T>) -> (u32, u32) {
    let location = spanned.referenced;
    (
        u32::try_from(location.line()).unwrap_or(u32::MAX),
        u32::try_from(location.column()).unwrap_or(u32::MAX),
    )
}

fn syntax_error(file: &str, error: &serde_saphyr::Error) -> Error {
    let location = error.location().map_or_else(
        || Location::file(file),
        |at| Location {
            file: file.to_owned(),
            line: u32::try_from(at.line()).unwrap_or(0),
            column: u32::try_from(at.column()).unwrap_or(0),
        },
    );
    let rendered =
        error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The library's text ends with the place, which has a field of its own here.
    let mut message = rendered.lines().next().unwrap_or("not YAML").trim();
    if let Some(at) = message.find(" at line ") {
        message = message[..at].trim_end_matches([',', ':']);
    }
    let message = message.trim_start_matches("error: ").trim_end_matches('.');
    let is_limit = matches!(error, serde_saphyr::Error::Budget { .. });
    let message = if is_limit { "it is too large or too deeply nested" } else { message };
    Error::new(code::YAML, format!("could not read YAML file \"{file}\": {message}"))
        .at(location)
        .hint("check the indentation, the quotes and the colons around that line")
}

/// A value as the YAML library gives it.
enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Text(String),
    Seq(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML value")
            }

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Raw, D::Error> {
                Raw::deserialize(inner)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Int(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
                Ok(i64::try_from(value).map_or(Raw::UInt(value), Raw::Int))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Raw, E> {
                Ok(Raw::Text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Raw::Seq(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }

        deserializer.deserialize_any(RawVisitor)
    }
}
