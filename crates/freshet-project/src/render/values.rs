//! Values that templates work with: relations, lists and maps that can be changed, moments.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use minijinja::value::{Enumerator, Object, ObjectRepr, Serde, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Stands before the name that a filtered relation takes where the template gives it none.
pub(crate) const ALIAS_START: char = '\u{E0F0}';
/// Stands behind that name.
pub(crate) const ALIAS_END: char = '\u{E0F1}';

/// `name` as a quoted SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A JSON value, or a mapping of them, as templates see it.
pub(crate) fn from_json<T: serde::Serialize>(json: T) -> Value {
    Value::from(Serde(json))
}

/// A table as templates see it: prints as its quoted name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    /// The schema.
    pub schema: String,
    /// The table.
    pub identifier: String,
    /// What stands in SQL for it.
    pub text: String,
    /// The condition that limits it to a batch.
    pub filter: Option<String>,
}

impl Relation {
    pub(crate) fn new(schema: &str, identifier: &str) -> Self {
        Self {
            schema: schema.to_owned(),
            identifier: identifier.to_owned(),
            text: format!("{}.{}", quoted(schema), quoted(identifier)),
            filter: None,
        }
    }
}

impl Object for Relation {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(match key.as_str()? {
            "schema" => Value::from(self.schema.clone()),
            "identifier" | "name" | "table" => Value::from(self.identifier.clone()),
            "database" => Value::from(()),
            "type" => Value::from("table"),
            "is_table" => Value::from(true),
            "is_view" | "is_cte" => Value::from(false),
            _ => return None,
        })
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        method: &str,
        _args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "render" => Ok(Value::from(self.text.clone())),
            "include" | "quote" => Ok(Value::from_dyn_object(Arc::clone(self))),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.filter {
            None => f.write_str(&self.text),
            Some(filter) => write!(
                f,
                "(select * from {} where {filter}){ALIAS_START}{}{ALIAS_END}",
                self.text, self.identifier
            ),
        }
    }
}

/// Lists and mappings inside each other, at most.
const MAX_NESTING: usize = 32;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A list that can be changed, as Python's can.
#[derive(Debug, Default)]
pub(crate) struct MutableList(Mutex<Vec<Value>>);

/// A mapping that can be changed, as Python's can.
#[derive(Debug, Default)]
pub(crate) struct MutableMap(Mutex<Vec<(Value, Value)>>);

/// Lists and maps become changeable ones, all the way down; other values stay what they are.
pub(crate) fn mutable(value: &Value) -> Value {
    if value.downcast_object_ref::<MutableList>().is_some()
        || value.downcast_object_ref::<MutableMap>().is_some()
    {
        return value.clone();
    }
    match value.kind() {
        ValueKind::Seq => match value.try_iter() {
            Ok(items) => Value::from_object(MutableList(Mutex::new(
                items.map(|item| mutable(&item)).collect(),
            ))),
            Err(_) => value.clone(),
        },
        ValueKind::Map => match value.try_iter() {
            Ok(keys) => Value::from_object(MutableMap(Mutex::new(
                keys.map(|key| {
                    let item = value.get_item(&key).unwrap_or_default();
                    (key, mutable(&item))
                })
                .collect(),
            ))),
            Err(_) => value.clone(),
        },
        _ => value.clone(),
    }
}

/// Refuses to put a list or mapping into itself: printing it would not end.
fn refuse_cycle(container: usize, value: &Value, depth: usize) -> Result<(), Error> {
    let refused =
        || Error::new(ErrorKind::InvalidOperation, "a list or mapping cannot be put into itself");
    let children: Vec<Value> = if let Some(list) = value.downcast_object::<MutableList>() {
        if Arc::as_ptr(&list).addr() == container {
            return Err(refused());
        }
        lock(&list.0).clone()
    } else if let Some(map) = value.downcast_object::<MutableMap>() {
        if Arc::as_ptr(&map).addr() == container {
            return Err(refused());
        }
        lock(&map.0).iter().map(|(_, value)| value.clone()).collect()
    } else {
        match value.kind() {
            ValueKind::Seq => value.try_iter()?.collect(),
            ValueKind::Map => {
                value.try_iter()?.filter_map(|key| value.get_item(&key).ok()).collect()
            }
            _ => return Ok(()),
        }
    };
    if depth == 0 {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("lists and mappings are nested deeper than {MAX_NESTING}"),
        ));
    }
    children.iter().try_for_each(|child| refuse_cycle(container, child, depth - 1))
}

fn arity<const N: usize>(method: &str, args: &[Value]) -> Result<(), Error> {
    if args.len() == N {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{method}() takes {N} arguments, {} were given", args.len()),
        ))
    }
}

fn position(index: &Value, len: usize) -> Option<usize> {
    let index = index.as_i64()?;
    let len = i64::try_from(len).ok()?;
    usize::try_from(if index < 0 { index + len } else { index }).ok()
}

impl Object for MutableList {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        lock(&self.0).get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(lock(&self.0).len())
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        state.consume_fuel(1)?;
        match method {
            "append" => {
                arity::<1>(method, args)?;
                refuse_cycle(Arc::as_ptr(self).addr(), &args[0], MAX_NESTING)?;
                lock(&self.0).push(mutable(&args[0]));
            }
            "extend" => {
                arity::<1>(method, args)?;
                let items: Vec<_> = args[0].try_iter()?.collect();
                state.consume_fuel(items.len() as u64)?;
                for item in &items {
                    refuse_cycle(Arc::as_ptr(self).addr(), item, MAX_NESTING)?;
                }
                lock(&self.0).extend(items.iter().map(mutable));
            }
            "insert" => {
                arity::<2>(method, args)?;
                refuse_cycle(Arc::as_ptr(self).addr(), &args[1], MAX_NESTING)?;
                let mut items = lock(&self.0);
                let at = position(&args[0], items.len()).unwrap_or(0).min(items.len());
                items.insert(at, mutable(&args[1]));
            }
            "pop" => {
                let mut items = lock(&self.0);
                let at = match args.first() {
                    Some(index) => position(index, items.len()),
                    None => items.len().checked_sub(1),
                };
                return match at {
                    Some(at) if at < items.len() => Ok(items.remove(at)),
                    _ => Err(Error::new(
                        ErrorKind::InvalidOperation,
                        "pop from a list that has no such item",
                    )),
                };
            }
            "remove" => {
                arity::<1>(method, args)?;
                // Comparing may look into this very list: never with the lock held.
                let items = lock(&self.0).clone();
                match items.iter().position(|item| item == &args[0]) {
                    Some(at) => drop(lock(&self.0).remove(at)),
                    None => {
                        return Err(Error::new(
                            ErrorKind::InvalidOperation,
                            "the item to remove is not in the list",
                        ));
                    }
                }
            }
            "clear" => lock(&self.0).clear(),
            "reverse" => lock(&self.0).reverse(),
            "sort" => {
                let mut items = lock(&self.0).clone();
                items.sort();
                *lock(&self.0) = items;
            }
            "copy" => {
                return Ok(Value::from_object(Self(Mutex::new(lock(&self.0).clone()))));
            }
            "index" => {
                arity::<1>(method, args)?;
                let items = lock(&self.0).clone();
                return items.iter().position(|item| item == &args[0]).map(Value::from).ok_or_else(
                    || Error::new(ErrorKind::InvalidOperation, "the item is not in the list"),
                );
            }
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }
        Ok(Value::from(()))
    }
}

impl Object for MutableMap {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        lock(&self.0).iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(lock(&self.0).iter().map(|(key, _)| key.clone()).collect())
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        state.consume_fuel(1)?;
        let set = |key: Value, value: Value| -> Result<(), Error> {
            if matches!(key.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Plain) {
                return Err(Error::new(ErrorKind::NonKey, "a key is text, a number or a boolean"));
            }
            refuse_cycle(Arc::as_ptr(self).addr(), &value, MAX_NESTING)?;
            let mut entries = lock(&self.0);
            match entries.iter_mut().find(|(name, _)| *name == key) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
            Ok(())
        };
        match method {
            "update" => {
                for source in args {
                    for key in source.try_iter()? {
                        let value = source.get_item(&key)?;
                        state.consume_fuel(1)?;
                        set(key, mutable(&value))?;
                    }
                }
            }
            "setdefault" => {
                let Some(key) = args.first() else {
                    return Err(Error::from(ErrorKind::MissingArgument));
                };
                if let Some(value) = self.get_value(key) {
                    return Ok(value);
                }
                let value = args.get(1).map_or_else(|| Value::from(()), mutable);
                set(key.clone(), value.clone())?;
                return Ok(value);
            }
            "pop" => {
                let Some(key) = args.first() else {
                    return Err(Error::from(ErrorKind::MissingArgument));
                };
                let mut entries = lock(&self.0);
                return match (entries.iter().position(|(name, _)| name == key), args.get(1)) {
                    (Some(at), _) => Ok(entries.remove(at).1),
                    (None, Some(default)) => Ok(default.clone()),
                    (None, None) => Err(Error::new(
                        ErrorKind::InvalidOperation,
                        format!("the mapping has no key {key}"),
                    )),
                };
            }
            "clear" => lock(&self.0).clear(),
            "copy" => {
                return Ok(Value::from_object(Self(Mutex::new(lock(&self.0).clone()))));
            }
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }
        Ok(Value::from(()))
    }
}

/// A moment in UTC, with the methods of Python's `datetime` that templates use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(pub DateTime<Utc>);

impl Object for Moment {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        use chrono::{Datelike, Timelike};
        Some(match key.as_str()? {
            "year" => Value::from(self.0.year()),
            "month" => Value::from(self.0.month()),
            "day" => Value::from(self.0.day()),
            "hour" => Value::from(self.0.hour()),
            "minute" => Value::from(self.0.minute()),
            "second" => Value::from(self.0.second()),
            _ => return None,
        })
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "strftime" => {
                let pattern = args.first().and_then(Value::as_str).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidOperation, "strftime() takes a pattern")
                })?;
                let items: Result<Vec<_>, _> = chrono::format::StrftimeItems::new(pattern).parse();
                let items = items.map_err(|_| {
                    Error::new(
                        ErrorKind::InvalidOperation,
                        format!("\"{pattern}\" is not a strftime pattern"),
                    )
                })?;
                Ok(Value::from(self.0.format_with_items(items.iter()).to_string()))
            }
            "isoformat" => Ok(Value::from(self.0.to_rfc3339())),
            "date" => Ok(Value::from(self.0.format("%Y-%m-%d").to_string())),
            "astimezone" => Ok(Value::from_dyn_object(Arc::clone(self))),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d %H:%M:%S%.6f+00:00"))
    }
}
