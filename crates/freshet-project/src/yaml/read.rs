//! Typed structs from items of a document, with every fault recorded at its place.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use freshet_core::Error;
use freshet_core::config::nearest;
use freshet_core::error::code;
use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::{Doc, Item, Key, Value};

const ITEM: &str = "$freshet::item";
const LOCATED: &str = "$freshet::located";

/// A value and the item that it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was read.
    pub item: Item,
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl Visitor<'_> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item of a document")
            }

            fn visit_u32<E>(self, index: u32) -> Result<Item, E> {
                Ok(Item(index))
            }
        }

        deserializer.deserialize_newtype_struct(ITEM, ItemVisitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LocatedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for LocatedVisitor<T> {
            type Value = Located<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let missing = || de::Error::custom("an item was expected");
                let item = access.next_element()?.ok_or_else(missing)?;
                let value = access.next_element()?.ok_or_else(missing)?;
                Ok(Located { value, item })
            }
        }

        deserializer.deserialize_newtype_struct(LOCATED, LocatedVisitor(PhantomData))
    }
}

/// Reads typed structs from one document and collects what is wrong with it.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The document.
    pub doc: &'a Doc,
    errors: &'a RefCell<Vec<Error>>,
    /// Items found wrong by the reading under way.
    skipped: RefCell<HashSet<Item>>,
}

impl<'a> Reader<'a> {
    /// A reader of `doc` that adds to `errors`.
    pub fn new(doc: &'a Doc, errors: &'a RefCell<Vec<Error>>) -> Self {
        Self { doc, errors, skipped: RefCell::default() }
    }

    /// Records an error.
    pub fn error(&self, error: Error) {
        self.errors.borrow_mut().push(error);
    }

    /// Records an error about `item`.
    pub fn error_at(&self, item: Item, error: Error) {
        self.error(error.at(self.doc.location(item)));
    }

    /// Reads `item`, which is called `path` in messages; `None` where nothing can be made of it.
    /// What is wrong is recorded; so are fields that `T` does not have, which are left out.
    ///
    /// A wrong value that need not be there is taken for missing, so that one pass names all faults.
    pub fn read<T: de::DeserializeOwned>(&self, item: Item, path: &str) -> Option<T> {
        self.skipped.borrow_mut().clear();
        let start = self.errors.borrow().len();
        let mut faults = Vec::new();
        loop {
            let de = ItemDe { reader: self, item, path: Path::Root(path) };
            let result = T::deserialize(de);
            let fault = match result {
                Ok(value) => {
                    self.errors.borrow_mut().append(&mut faults);
                    return Some(value);
                }
                Err(fault) => fault,
            };
            let place = fault.place.unwrap_or(item);
            let is_new = self.skipped.borrow_mut().insert(place);
            // A field that is missing because its value was wrong has been told already.
            let is_told = fault.is_missing && self.has_skipped_child(place);
            if !is_told {
                faults.push(fault.error.at(self.doc.location(place)));
            }
            if place == item || !is_new {
                self.errors.borrow_mut().append(&mut faults);
                return None;
            }
            self.errors.borrow_mut().truncate(start);
        }
    }

    fn has_skipped_child(&self, item: Item) -> bool {
        let skipped = self.skipped.borrow();
        self.doc.entries(item).iter().any(|(_, value)| skipped.contains(value))
            || self.doc.items(item).iter().any(|value| skipped.contains(value))
    }

    fn is_skipped(&self, item: Item) -> bool {
        self.skipped.borrow().contains(&item)
    }

    /// The items of a list; where `item` is something else that is recorded.
    pub fn list(&self, item: Item, path: &str) -> &'a [Item] {
        match self.doc.value(item) {
            Value::Seq(items) => items,
            Value::Null => &[],
            other => {
                self.error_at(
                    item,
                    Error::new(
                        code::YAML,
                        format!("field \"{path}\" is {}, but a list is expected", other.kind()),
                    )
                    .hint("start each entry with \"- \""),
                );
                &[]
            }
        }
    }

    /// Records that `key` is none of `fields`.
    pub fn unknown_field<'n>(
        &self,
        key: &Key,
        path: &str,
        fields: impl IntoIterator<Item = &'n str> + Clone,
    ) {
        let place = if path.is_empty() { String::new() } else { format!(" in {path}") };
        let error = Error::new(code::YAML, format!("unknown field \"{}\"{place}", key.name))
            .at(self.doc.key_location(key));
        self.error(match nearest(&key.name, fields.clone()) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => {
                let names: Vec<_> = fields.into_iter().collect();
                error.hint(format!("fields here are {}", names.join(", ")))
            }
        });
    }
}

/// The way to an item, for messages.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root(&'p str),
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Key(Path::Root(""), key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// An error with the item that it is about, as serde carries it.
struct Fault {
    error: Error,
    place: Option<Item>,
    is_missing: bool,
}

impl Fault {
    fn new(error: Error) -> Self {
        Self { error, place: None, is_missing: false }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Error::new(code::YAML, message.to_string()))
    }

    fn missing_field(field: &'static str) -> Self {
        let error = Error::new(code::YAML, format!("field \"{field}\" is missing"));
        Self { is_missing: true, ..Self::new(error) }
    }
}

#[derive(Clone, Copy)]
struct ItemDe<'r, 'p> {
    reader: &'r Reader<'r>,
    item: Item,
    path: Path<'p>,
}

impl<'r, 'p> ItemDe<'r, 'p> {
    fn value(&self) -> &'r Value {
        self.reader.doc.value(self.item)
    }

    fn at<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|mut fault| {
            if fault.place.is_none() {
                let path = self.path.to_string();
                if !path.is_empty() {
                    let message = format!("{path}: {}", fault.error.message());
                    let hint = fault.error.hint_text().map(str::to_owned);
                    fault.error = Error::new(fault.error.code(), message);
                    if let Some(hint) = hint {
                        fault.error = fault.error.hint(hint);
                    }
                }
                fault.place = Some(self.item);
            }
            fault
        })
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, Fault> {
        let value = self.value();
        let shown = match self.reader.doc.scalar_text(self.item) {
            Some(text) if !matches!(value, Value::Text(_)) => format!("{} ({text})", value.kind()),
            _ => value.kind().to_owned(),
        };
        let message = format!("{shown} where {expected} is expected");
        let mut error = Error::new(code::YAML, message);
        if expected == "text" && self.reader.doc.scalar_text(self.item).is_some() {
            error = error.hint("put it in quotes");
        }
        self.at(Err(Fault::new(error)))
    }
}

impl<'de, 'r: 'de> Deserializer<'de> for ItemDe<'r, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.value() {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::UInt(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::Seq(_) => return self.deserialize_seq(visitor),
            Value::Map(_) => return self.deserialize_map(visitor),
        };
        self.at(result)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Bool(value) => self.at(visitor.visit_bool(*value)),
            Value::Text(text) => match super::boolean(text) {
                Some(value) => self.at(visitor.visit_bool(value)),
                None => self.wrong("true or false"),
            },
            _ => self.wrong("true or false"),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Int(_) | Value::UInt(_) => self.deserialize_any(visitor),
            _ => self.wrong("a whole number"),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => self.deserialize_any(visitor),
            _ => self.wrong("a number"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Text(value) => self.at(visitor.visit_str(value)),
            _ => self.wrong("text"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match name {
            ITEM => visitor.visit_u32(self.item.0),
            LOCATED => visitor.visit_seq(LocatedAccess { de: self, step: 0 }),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Seq(items) => {
                self.at(visitor.visit_seq(Items { de: self, items: items.iter().enumerate() }))
            }
            _ => self.wrong("a list"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Map(entries) => self.at(visitor.visit_map(Entries {
                de: self,
                entries: entries.iter(),
                fields: None,
                name: "",
                pending: None,
            })),
            _ => self.wrong("a mapping"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Map(entries) => self.at(visitor.visit_map(Entries {
                de: self,
                entries: entries.iter(),
                fields: Some(fields),
                name,
                pending: None,
            })),
            _ => self.wrong("a mapping"),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Text(text) = self.value() else {
            return self.wrong(&format!("one of {}", variants.join(", ")));
        };
        if !variants.contains(&text.as_str()) {
            let mut error =
                Error::new(code::YAML, format!("\"{text}\" is none of {}", variants.join(", ")));
            if let Some(near) = nearest(text, variants.iter().copied()) {
                error = error.hint(format!("did you mean \"{near}\"?"));
            }
            return self.at(Err(Fault::new(error)));
        }
        self.at(visitor.visit_enum(UnitVariant(text)))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Null => visitor.visit_unit(),
            _ => self.wrong("nothing"),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit_struct tuple tuple_struct
    }
}

struct UnitVariant<'a>(&'a str);

impl<'de> EnumAccess<'de> for UnitVariant<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let value = seed.deserialize(de::value::BorrowedStrDeserializer::<Fault>::new(self.0))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for UnitVariant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(de::Error::custom(format!("\"{}\" cannot stand alone", self.0)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(de::Error::custom(format!("\"{}\" cannot stand alone", self.0)))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fault> {
        Err(de::Error::custom(format!("\"{}\" cannot stand alone", self.0)))
    }
}

struct LocatedAccess<'r, 'p> {
    de: ItemDe<'r, 'p>,
    step: u8,
}

impl<'de, 'r: 'de> SeqAccess<'de> for LocatedAccess<'r, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        self.step += 1;
        match self.step {
            // An `Item` asks any deserializer for its own handle.
            1 | 2 => seed.deserialize(self.de).map(Some),
            _ => Ok(None),
        }
    }
}

struct Items<'r, 'p> {
    de: ItemDe<'r, 'p>,
    items: std::iter::Enumerate<std::slice::Iter<'r, Item>>,
}

impl<'de, 'r: 'de> SeqAccess<'de> for Items<'r, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let next = self.items.by_ref().find(|(_, item)| !self.de.reader.is_skipped(**item));
        let Some((index, item)) = next else { return Ok(None) };
        let parent = self.de.path;
        let path = Path::Index(&parent, index);
        seed.deserialize(ItemDe { reader: self.de.reader, item: *item, path }).map(Some)
    }
}

struct Entries<'r, 'p> {
    de: ItemDe<'r, 'p>,
    entries: std::slice::Iter<'r, (Key, Item)>,
    fields: Option<&'static [&'static str]>,
    name: &'static str,
    pending: Option<(&'r Key, Item)>,
}

impl<'de, 'r: 'de> MapAccess<'de> for Entries<'r, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        for (key, item) in self.entries.by_ref() {
            if let Some(fields) = self.fields {
                if !fields.contains(&key.name.as_str()) {
                    if !crate::dbt::is_ignored(self.name, &key.name) {
                        let path = self.de.path.to_string();
                        self.de.reader.unknown_field(key, &path, fields.iter().copied());
                    }
                    continue;
                }
                // `columns:` with nothing behind it is as good as no `columns:` at all.
                if matches!(self.de.reader.doc.value(*item), Value::Null) {
                    continue;
                }
            }
            if self.de.reader.is_skipped(*item) {
                continue;
            }
            self.pending = Some((key, *item));
            let name = de::value::BorrowedStrDeserializer::<Fault>::new(&key.name);
            return seed.deserialize(name).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, item) = self.pending.take().expect("serde asks for a key before its value");
        let parent = self.de.path;
        let path = Path::Key(&parent, &key.name);
        seed.deserialize(ItemDe { reader: self.de.reader, item, path })
    }
}
