//! dbt's words: functions that look at the scope, and a few of Python's that need none.

use std::fmt;
use std::sync::Arc;

use freshet_core::config::nearest;
use freshet_core::error::code;
use freshet_core::{Error, SourceId};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Value, ValueKind, from_args};
use minijinja::{Environment, ErrorKind, State};
use serde_json::Value as Json;

use super::compile::RenderMode;
use super::scope::{Mode, Scope, raise};
use super::values::{Relation, from_json, mutable};
use crate::model::UnitTestRef;

/// Names that every template knows, for "did you mean".
pub(crate) const NAMES: &[&str] = &[
    "batch",
    "builtins",
    "config",
    "doc",
    "env_var",
    "exceptions",
    "execute",
    "flags",
    "fromjson",
    "invocation_id",
    "is_incremental",
    "log",
    "model",
    "project_name",
    "ref",
    "return",
    "run_started_at",
    "schema",
    "source",
    "target",
    "this",
    "tojson",
    "var",
    "zip",
];

/// dbt's words that need a database while the project is read.
const UNSUPPORTED: &[&str] = &[
    "adapter",
    "api",
    "dbt",
    "dbt_utils",
    "graph",
    "load_result",
    "modules",
    "run_query",
    "statement",
    "store_result",
];

/// One of dbt's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ref,
    Source,
    Config,
    Var,
    EnvVar,
    IsIncremental,
    Return,
    Exceptions,
    Doc,
    Unsupported(&'static str),
}

impl Kind {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ref" => Self::Ref,
            "source" => Self::Source,
            "config" => Self::Config,
            "var" => Self::Var,
            "env_var" => Self::EnvVar,
            "is_incremental" => Self::IsIncremental,
            "return" => Self::Return,
            "exceptions" => Self::Exceptions,
            "doc" => Self::Doc,
            _ => {
                return UNSUPPORTED
                    .iter()
                    .find(|word| **word == name)
                    .map(|w| Self::Unsupported(w));
            }
        })
    }
}

/// A word of dbt in one rendering.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub scope: Arc<Scope>,
    pub kind: Kind,
}

impl Object for Builtin {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        args: &[Value],
    ) -> Result<Value, minijinja::Error> {
        let scope = &self.scope;
        match self.kind {
            Kind::Ref => reference(scope, args),
            Kind::Source => source(scope, args),
            Kind::Config => configure(scope, args),
            Kind::Var => {
                let (name, default): (&str, Option<&Value>) = from_args(args)?;
                scope.var(name, default)
            }
            Kind::EnvVar => {
                let (name, default): (&str, Option<&Value>) = from_args(args)?;
                scope.env_var(name, default)
            }
            Kind::IsIncremental => {
                if let Some(value) = scope.overridden_macro("is_incremental") {
                    return Ok(value);
                }
                Ok(Value::from(match &scope.mode {
                    Mode::Yaml => false,
                    Mode::Parse { incremental, .. } => *incremental,
                    Mode::Render(mode) => mode.context.incremental,
                }))
            }
            Kind::Return => {
                scope.set_returned(args.first().cloned().unwrap_or_else(|| Value::from(())));
                Err(minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    "return() stands outside of a macro",
                ))
            }
            Kind::Doc => doc(scope, args),
            Kind::Exceptions => Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                "exceptions is not a function",
            )),
            Kind::Unsupported(word) => Err(unsupported(word)),
        }
    }

    fn get_value(self: &Arc<Self>, _key: &Value) -> Option<Value> {
        match self.kind {
            Kind::Unsupported(word) => Some(Value::from(unsupported(word))),
            _ => None,
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, minijinja::Error> {
        let scope = &self.scope;
        match (self.kind, method) {
            (Kind::Config, "get" | "require" | "meta_get") => {
                let args = positional(args);
                let (key, default, _validator): (&str, Option<&Value>, Option<&Value>) =
                    from_args(&args)?;
                let found = if method == "meta_get" {
                    scope.config("meta").and_then(|meta| meta.get(key).cloned())
                } else {
                    scope.config(key)
                };
                match (found, default) {
                    (Some(value), _) => Ok(from_json(value)),
                    (None, Some(default)) => Ok(default.clone()),
                    (None, None) if method == "require" => Err(raise(Error::new(
                        code::CONFIG,
                        format!("the model needs a setting \"{key}\", which is not there"),
                    ))),
                    (None, None) => Ok(Value::from(())),
                }
            }
            (Kind::Config, "set") => configure(
                scope,
                &[Value::from_iter([(
                    args.first().cloned().unwrap_or_default(),
                    args.get(1).cloned().unwrap_or_default(),
                )])],
            ),
            (Kind::Var, "has_var") => {
                let (name,): (&str,) = from_args(args)?;
                Ok(Value::from(scope.shared.vars.contains_key(name)))
            }
            (Kind::Exceptions, "raise_compiler_error" | "raise_not_implemented") => {
                let text = args.first().map(ToString::to_string).unwrap_or_default();
                Err(raise(
                    Error::new(code::TEMPLATE, text)
                        .hint("the project's own templates raise this error"),
                ))
            }
            (Kind::Exceptions, "warn") => Ok(Value::from("")),
            (Kind::Unsupported(word), _) => Err(unsupported(word)),
            _ => Err(minijinja::Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{:?}>", self.kind)
    }
}

fn unsupported(word: &str) -> minijinja::Error {
    raise(Error::new(code::TEMPLATE, format!("`{word}` is not there in Freshet's templates")).hint(
        "templates are rendered without a database; say it in SQL, or with a macro of the project",
    ))
}

/// Keyword arguments of `config.get(key, default=…)` as positional ones.
fn positional(args: &[Value]) -> Vec<Value> {
    match args.split_last() {
        Some((last, first)) if last.is_kwargs() => {
            let mut values = first.to_vec();
            if let Ok(default) = last.get_attr("default")
                && !default.is_undefined()
            {
                values.push(default);
            }
            values
        }
        _ => args.to_vec(),
    }
}

fn text(value: &Value, what: &str) -> Result<String, minijinja::Error> {
    value.as_str().map(str::to_owned).ok_or_else(|| {
        raise(Error::new(code::TEMPLATE, format!("{what} takes text, not {}", value.kind())))
    })
}

fn reference(scope: &Scope, args: &[Value]) -> Result<Value, minijinja::Error> {
    let (args, kwargs) = match args.split_last() {
        Some((last, first)) if last.is_kwargs() => (first, true),
        _ => (args, false),
    };
    if kwargs {
        return Err(raise(Error::new(
            code::TEMPLATE,
            "versions of models are not there in Freshet",
        )));
    }
    let (package, name) = match args {
        [name] => (None, text(name, "ref()")?),
        [package, name] => (Some(text(package, "ref()")?), text(name, "ref()")?),
        _ => {
            return Err(raise(
                Error::new(
                    code::TEMPLATE,
                    format!("ref() takes a model's name, not {} arguments", args.len()),
                )
                .hint("write `ref('model')`"),
            ));
        }
    };
    scope.capture(|captured| {
        let call = (package.clone(), name.clone());
        if !captured.refs.contains(&call) {
            captured.refs.push(call);
        }
    });
    match &scope.mode {
        Mode::Yaml => Ok(Value::from(format!("ref('{name}')"))),
        Mode::Parse { .. } => Ok(Value::from_object(Relation::new(&scope.shared.schema, &name))),
        Mode::Render(mode) => {
            let index = &mode.index;
            let id =
                index.model(package.as_deref(), &name, &scope.shared.project).map_err(raise)?;
            let entry = index.models.get(id).ok_or_else(|| {
                raise(Error::internal(format!("model \"{id}\" has a name and no entry")))
            })?;
            let mut relation = Relation::new(&entry.schema, &entry.alias);
            if let Some(text) = mode.stand_in(&UnitTestRef::Node(id.clone())) {
                relation.text = text;
            } else {
                relation.filter = batch_filter(mode, entry.event_time.as_deref());
            }
            Ok(Value::from_object(relation))
        }
    }
}

fn source(scope: &Scope, args: &[Value]) -> Result<Value, minijinja::Error> {
    let [source, table] = args else {
        return Err(raise(
            Error::new(
                code::TEMPLATE,
                format!("source() takes a source and a table, not {} arguments", args.len()),
            )
            .hint("write `source('source', 'table')`"),
        ));
    };
    let (source, table) = (text(source, "source()")?, text(table, "source()")?);
    scope.capture(|captured| {
        let call = (source.clone(), table.clone());
        if !captured.sources.contains(&call) {
            captured.sources.push(call);
        }
    });
    match &scope.mode {
        Mode::Yaml => Ok(Value::from(format!("source('{source}', '{table}')"))),
        Mode::Parse { .. } => Ok(Value::from_object(Relation::new(&source, &table))),
        Mode::Render(mode) => {
            let id = SourceId::of(&source, &table);
            let event_time = mode.index.source(&source, &table).map_err(raise)?;
            let mut relation = Relation::new(&source, &table);
            if let Some(text) = mode.stand_in(&UnitTestRef::Source(id)) {
                relation.text = text;
            } else {
                relation.filter = batch_filter(mode, event_time);
            }
            Ok(Value::from_object(relation))
        }
    }
}

/// The condition that limits an input with `event_time` to the batch.
fn batch_filter(mode: &RenderMode, event_time: Option<&str>) -> Option<String> {
    let column = super::quoted(event_time?);
    let batch = mode.context.batch.filter(|_| mode.filters_inputs)?;
    let (start, end) =
        (super::compile::timestamp(batch.start), super::compile::timestamp(batch.end));
    Some(format!("{column} >= timestamp '{start}' and {column} < timestamp '{end}'"))
}

fn configure(scope: &Scope, args: &[Value]) -> Result<Value, minijinja::Error> {
    let mut settings = Vec::new();
    for arg in args {
        if arg.kind() != ValueKind::Map {
            return Err(raise(
                Error::new(code::TEMPLATE, "config() takes settings by name")
                    .hint("write `config(materialized='table')`"),
            ));
        }
        for key in arg.try_iter()? {
            let value = arg.get_item(&key)?;
            let json = serde_json::to_value(&value).map_err(|error| {
                raise(Error::new(
                    code::TEMPLATE,
                    format!("setting \"{key}\" has a value that is no setting: {error}"),
                ))
            })?;
            settings.push((key.to_string(), json));
        }
    }
    scope.capture(|captured| captured.config.extend(settings));
    Ok(Value::from(""))
}

fn doc(scope: &Scope, args: &[Value]) -> Result<Value, minijinja::Error> {
    let name = args.last().and_then(Value::as_str).unwrap_or_default();
    let docs = &scope.shared.docs;
    docs.get(name).map(|text| Value::from(text.clone())).ok_or_else(|| {
        let error = Error::new(code::REFERENCE, format!("there is no docs block \"{name}\""));
        raise(match nearest(name, docs.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint(format!(
                "write `{{% docs {name} %}} … {{% enddocs %}}` in a .md file of a model folder"
            )),
        })
    })
}

/// The body of a `{% call %}` block belongs to the caller's state: it is printed there, once, and
/// the macro receives its text.
pub(crate) fn settle_caller(
    state: &mut State<'_, '_>,
    args: &[Value],
) -> Result<Vec<Value>, minijinja::Error> {
    let mut args = args.to_vec();
    let Some(last) = args.last().filter(|last| last.is_kwargs()) else { return Ok(args) };
    let Ok(caller) = last.get_attr("caller") else { return Ok(args) };
    if caller.is_undefined() {
        return Ok(args);
    }
    let printed = caller.call(state, &[])?.to_string();
    let mut pairs = Vec::new();
    for key in last.try_iter()? {
        let name = key.to_string();
        let value = if name == "caller" {
            let printed = printed.clone();
            Value::from_function(move |_: Rest<Value>| printed.clone())
        } else {
            last.get_item(&key)?
        };
        pairs.push((name, value));
    }
    args.pop();
    args.push(Value::from(Kwargs::from_iter(pairs)));
    Ok(args)
}

/// Adds the functions that need no scope.
pub(crate) fn register(env: &mut Environment<'static>) {
    env.add_function("__mutable", |value: Value| mutable(&value));
    env.add_function("log", |_: Value, _: Kwargs| "");
    env.add_function("print", |_: Value| "");
    env.add_function("tojson", |value: Value, _: Kwargs| to_json(&value));
    env.add_filter("tojson", |value: Value, _: Kwargs| to_json(&value));
    env.add_function("fromjson", |text: &str, default: Option<Value>| parse_json(text, default));
    env.add_function("zip", |lists: Rest<Value>| zip(&lists));
    env.add_function("set", |items: Option<Value>| unique(items));
    for name in ["as_text", "as_native", "as_bool", "as_number"] {
        env.add_filter(name, |value: Value| value);
    }
}

fn to_json(value: &Value) -> Result<String, minijinja::Error> {
    let json: Json = serde_json::to_value(value).map_err(bad_json)?;
    serde_json::to_string(&json).map_err(bad_json)
}

fn parse_json(text: &str, default: Option<Value>) -> Result<Value, minijinja::Error> {
    match (serde_json::from_str::<Json>(text), default) {
        (Ok(json), _) => Ok(from_json(json)),
        (Err(_), Some(default)) => Ok(default),
        (Err(error), None) => Err(bad_json(error)),
    }
}

fn bad_json(error: serde_json::Error) -> minijinja::Error {
    raise(Error::new(code::TEMPLATE, format!("not JSON: {error}")))
}

fn zip(lists: &[Value]) -> Result<Vec<Vec<Value>>, minijinja::Error> {
    let lists: Vec<Vec<Value>> = lists
        .iter()
        .map(|list| Ok(list.try_iter()?.collect()))
        .collect::<Result<_, minijinja::Error>>()?;
    let len = lists.iter().map(Vec::len).min().unwrap_or(0);
    Ok((0..len).map(|at| lists.iter().map(|list| list[at].clone()).collect()).collect())
}

fn unique(items: Option<Value>) -> Result<Vec<Value>, minijinja::Error> {
    let mut seen = std::collections::BTreeSet::new();
    if let Some(items) = items {
        seen.extend(items.try_iter()?);
    }
    Ok(seen.into_iter().collect())
}
