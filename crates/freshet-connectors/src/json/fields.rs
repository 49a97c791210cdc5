//! The fields of an object that were asked for, and those of objects within it.
//!
//! A [`Level`] knows the names that count in one object; a field that is an object with such names
//! of its own has a level below it. Knows nothing of columns but their numbers.

use std::collections::{BTreeSet, HashMap, HashSet};

use freshet_core::contract::Evolution;

use super::layout::MAX_FIELDS;
use super::parse::{Fields, Kind, Value, Wrong, each_field, key_text, object};

/// Fields whose order is remembered.
const MAX_EXPECTED: usize = 256;
/// Longer names are looked up each time.
const MAX_NAME: usize = 256;
/// Fields that an object may leave out before one that is expected.
const AHEAD: usize = 8;

/// The fields of the object at hand.
#[derive(Debug, Default)]
pub struct Record {
    /// Values by the number of their column.
    pub values: Vec<Option<Value>>,
    /// The first field that the contract does not declare, where that matters.
    pub unknown: Option<String>,
    /// Fields of the object that neither the contract nor the head has, where the contract evolves.
    pub new: Vec<String>,
    /// Those of the objects before.
    pub late: BTreeSet<String>,
    /// The names of all that were told: once is enough.
    pub told: HashSet<Vec<u8>>,
    /// Wider types that values need, where the contract evolves.
    pub widened: Evolution,
}

/// Who takes a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Nobody.
    Nobody,
    /// The column of this number.
    Column(usize),
    /// That column, which other fields may have a value for as well.
    Shared(usize),
    /// The level of this number, whose fields are asked for.
    Within(usize),
}

/// A field in the order in which objects have mostly had them.
#[derive(Debug)]
struct Expected {
    /// Its name in quotes and a colon.
    beginning: Vec<u8>,
    target: Target,
}

/// The names that count in an object.
#[derive(Debug, Default)]
pub struct Level {
    /// What stands in front of a field's name where it is said in full.
    path: String,
    names: Names,
    by_name: HashMap<Vec<u8>, Target>,
    /// The fields of the objects before, in their order: it is mostly the same.
    order: Vec<Expected>,
    within: Vec<Level>,
    /// The column that has the object as a whole.
    whole: Option<usize>,
    /// The columns of its fields and of those below.
    columns: Vec<usize>,
}

/// What the name of a column in the data means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// A field of the object.
    #[default]
    Fields,
    /// Paths to fields of objects within it, of which one or more are there.
    Paths,
}

impl Names {
    /// The paths to the fields that a name means.
    pub fn places(self, name: &str) -> Vec<Vec<&str>> {
        match self {
            Self::Fields => vec![vec![name]],
            Self::Paths => name.split('|').map(|path| path.trim().split('.').collect()).collect(),
        }
    }

    /// Whether a field's own name can be said so.
    fn can_say(self, name: &str) -> bool {
        self == Self::Fields || !name.contains(['.', '|'])
    }
}

impl Level {
    /// An object with no names yet.
    pub fn new(names: Names) -> Self {
        Self { names, ..Self::default() }
    }

    /// A field's value is that of a column; of `None`, of nobody's, but it is no news. `shared`:
    /// other fields are this column's too.
    pub fn add(&mut self, path: &[&str], column: Option<usize>, shared: bool) {
        self.columns.extend(column);
        let [name, rest @ ..] = path else { return };
        let known = self.by_name.get(name.as_bytes()).copied();
        let target = match (rest, column, known) {
            ([], _, Some(Target::Within(level))) => {
                self.within[level].whole = column;
                Target::Within(level)
            }
            ([], Some(column), _) if shared => Target::Shared(column),
            ([], Some(column), _) => Target::Column(column),
            ([], None, _) => Target::Nobody,
            (_, _, Some(Target::Within(level))) => {
                self.within[level].add(rest, column, shared);
                Target::Within(level)
            }
            (_, _, known) => {
                let whole = match known {
                    Some(Target::Column(column) | Target::Shared(column)) => Some(column),
                    _ => None,
                };
                let path = format!("{}{name}.", self.path);
                let mut level = Self { path, whole, ..Self::new(self.names) };
                level.add(rest, column, shared);
                self.within.push(level);
                Target::Within(self.within.len() - 1)
            }
        };
        self.by_name.insert(name.as_bytes().to_vec(), target);
    }

    /// Tells the fields of the object at `at` in full, and those within it where a level asks for them.
    pub fn tell(
        &self,
        bytes: &[u8],
        at: usize,
        told: &mut impl FnMut(String),
    ) -> Result<usize, Wrong> {
        let mut within = Vec::new();
        let end = each_field(bytes, at, |key, escaped, value| {
            let Some(name) = key_text(key, escaped) else { return };
            match self.by_name.get(name.as_bytes()) {
                Some(Target::Within(level)) => {
                    within.push((*level, value));
                    if self.within[*level].whole.is_some() {
                        told(format!("{}{name}", self.path));
                    }
                }
                _ if self.names.can_say(&name) => told(format!("{}{name}", self.path)),
                _ => {}
            }
        })?;
        for (level, value) in within {
            if bytes[value.start] == b'{' {
                self.within[level].tell(bytes, value.start, told)?;
            }
        }
        Ok(end)
    }

    /// How many names are known, those below included.
    fn names(&self) -> usize {
        self.by_name.len() + self.within.iter().map(Self::names).sum::<usize>()
    }
}

/// What happens to fields that no level knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing.
    Ignored,
    /// The first one is kept in [`Record::unknown`].
    Refused,
    /// They are kept in [`Record::new`], until they were told.
    Told,
}

/// Finds the fields of the object at `at` that `level` asks for. Gives the place behind it.
#[inline]
pub fn find(
    bytes: &[u8],
    at: usize,
    level: &mut Level,
    record: &mut Record,
    unknown: Unknown,
) -> Result<usize, Wrong> {
    record.values.fill(None);
    record.unknown = None;
    record.new.clear();
    object(bytes, at, &mut Scan { bytes, record, level, next: 0, unknown })
}

/// Takes the fields of one object.
struct Scan<'a> {
    bytes: &'a [u8],
    record: &'a mut Record,
    level: &'a mut Level,
    /// Place in the level's order of the field that is expected.
    next: usize,
    unknown: Unknown,
}

impl Scan<'_> {
    #[inline(always)]
    fn give(&mut self, target: Target, value: Value) {
        match target {
            Target::Nobody => {}
            // Of a field that is there twice, the last one counts.
            Target::Column(column) => self.record.values[column] = Some(value),
            Target::Shared(column) => {
                let there = &mut self.record.values[column];
                if there.is_none() || value.kind != Kind::Null {
                    *there = Some(value);
                }
            }
            Target::Within(level) => {
                let absent = value.kind == Kind::Null && self.level.within[level].whole.is_none();
                if !absent {
                    self.give_within(level, value);
                }
            }
        }
    }

    /// A field that could have been an object with fields of its own.
    #[inline(never)]
    fn give_within(&mut self, level: usize, value: Value) {
        if value.kind == Kind::Nested && self.bytes[value.start] == b'{' {
            // It was scanned before, so that it is sound.
            let _ = self.within(level, value.start);
            return;
        }
        let level = &self.level.within[level];
        if value.kind != Kind::Null {
            let misplaced = Value { kind: Kind::Misplaced, ..value };
            for column in &level.columns {
                self.record.values[*column] = Some(misplaced);
            }
        }
        if let Some(whole) = level.whole {
            self.record.values[whole] = Some(value);
        }
    }

    /// Finds the fields of the object at `at`, which is the value of a field.
    #[inline(never)]
    fn within(&mut self, level: usize, at: usize) -> Result<usize, Wrong> {
        let level = &mut self.level.within[level];
        let whole = level.whole;
        let unknown = self.unknown;
        let mut scan = Scan { bytes: self.bytes, record: self.record, level, next: 0, unknown };
        let end = object(self.bytes, at, &mut scan)?;
        if let Some(whole) = whole {
            self.record.values[whole] = Some(Value { kind: Kind::Nested, start: at, end });
        }
        Ok(end)
    }

    /// A field whose name the level does not know.
    fn news(&mut self, key: &[u8], escaped: bool) {
        let record = &mut *self.record;
        let path = &self.level.path;
        match self.unknown {
            Unknown::Ignored => {}
            Unknown::Refused => {
                if record.unknown.is_none() {
                    let name =
                        key_text(key, escaped).unwrap_or_else(|| String::from_utf8_lossy(key));
                    record.unknown = Some(format!("{path}{name}"));
                }
            }
            Unknown::Told => {
                if self.level.names() + record.told.len() < MAX_FIELDS {
                    let name = key_text(key, escaped).filter(|name| self.level.names.can_say(name));
                    record.new.extend(name.map(|name| format!("{path}{name}")));
                }
            }
        }
    }

    fn was_told(&self, key: &[u8]) -> bool {
        let path = self.level.path.as_bytes();
        match path {
            [] => self.record.told.contains(key),
            path => self.record.told.contains(&[path, key].concat()),
        }
    }
}

impl Fields for Scan<'_> {
    #[inline(always)]
    fn expected(&self) -> &[u8] {
        self.level.order.get(self.next).map_or(&[], |expected| &expected.beginning)
    }

    #[inline(always)]
    fn take_expected(&mut self, value: Value) {
        let target = self.level.order[self.next].target;
        self.next += 1;
        self.give(target, value);
    }

    #[inline(always)]
    fn enter_expected(&mut self, at: usize) -> Option<Result<usize, Wrong>> {
        let Target::Within(level) = self.level.order[self.next].target else { return None };
        self.next += 1;
        Some(self.within(level, at))
    }

    fn take(&mut self, key: &[u8], escaped: bool, value: Value) {
        if !escaped {
            let ahead = self.level.order.iter().skip(self.next).take(AHEAD);
            let named =
                |expected: &Expected| expected.beginning[1..expected.beginning.len() - 2] == *key;
            if let Some(skipped) = ahead.into_iter().position(named) {
                self.next += skipped;
                self.take_expected(value);
                return;
            }
        }
        let by_name = &self.level.by_name;
        let found = if escaped {
            key_text(key, true).and_then(|name| by_name.get(name.as_bytes()).copied())
        } else {
            by_name.get(key).copied()
        };
        let target = match found {
            Some(target) => target,
            None if self.unknown == Unknown::Refused => return self.news(key, escaped),
            None if self.unknown == Unknown::Told && !self.was_told(key) => {
                return self.news(key, escaped);
            }
            None => Target::Nobody,
        };
        self.give(target, value);
        if !escaped && key.len() <= MAX_NAME && self.level.order.len() < MAX_EXPECTED {
            let beginning = [b"\"", key, b"\":"].concat();
            self.level.order.insert(self.next, Expected { beginning, target });
            self.next += 1;
        }
    }
}
