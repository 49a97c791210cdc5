//! What one rendering knows: the model, what it may refer to, and what it was seen to use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use freshet_core::config::nearest;
use freshet_core::error::code;
use freshet_core::source::Interval;
use freshet_core::{Error, ModelId};
use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{ErrorKind, State};
use serde_json::Value as Json;

use super::builtins::{Builtin, Kind};
use super::compile::RenderMode;
use super::values::{Moment, Relation, from_json};

type JsonMap = serde_json::Map<String, Json>;

/// What all renderings of a project share.
#[derive(Default)]
pub(crate) struct Shared {
    /// The project's name.
    pub project: String,
    /// The environment's schema.
    pub schema: String,
    /// Variables.
    pub vars: JsonMap,
    /// What `target` is.
    pub target: JsonMap,
    /// Environment variables that some text names: `None` where one is not set.
    pub env_vars: BTreeMap<String, Option<String>>,
    /// Texts of `{% docs %}`.
    pub docs: BTreeMap<String, String>,
    /// Names of the project's macros.
    pub macros: BTreeSet<String>,
    /// The start of the run.
    pub now: Option<DateTime<Utc>>,
    /// The run.
    pub invocation_id: Option<String>,
}

/// What a rendering is for.
#[derive(Debug)]
pub(crate) enum Mode {
    /// A text of a YAML file.
    Yaml,
    /// Learning what a model uses.
    Parse {
        /// What `is_incremental()` says.
        incremental: bool,
        /// Whether there is a batch; its bounds are made up.
        batch: bool,
    },
    /// The SQL itself.
    Render(Box<RenderMode>),
}

/// The model that is rendered.
#[derive(Debug, Clone)]
pub(crate) struct ModelScope {
    /// Its id; `None` for tests.
    pub id: Option<ModelId>,
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: String,
    /// Its schema.
    pub schema: String,
    /// Its table.
    pub alias: String,
    /// Its settings, as far as they are known.
    pub config: JsonMap,
}

/// What a rendering was seen to use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captured {
    /// `ref` calls in the order of their first mention: package and name.
    pub refs: Vec<(Option<String>, String)>,
    /// `source` calls in the order of their first mention.
    pub sources: Vec<(String, String)>,
    /// `config(…)`, later calls last.
    pub config: Vec<(String, Json)>,
    /// Macros called.
    pub macros: BTreeSet<String>,
    /// Variables read, with their values.
    pub vars: BTreeMap<String, Json>,
    /// Environment variables read, with their values.
    pub env_vars: BTreeMap<String, String>,
}

/// The context of one rendering.
pub(crate) struct Scope {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mode: Mode,
    pub(crate) model: Option<ModelScope>,
    captured: Mutex<Captured>,
    returned: Mutex<Option<Value>>,
    depth: AtomicUsize,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("model", &self.model).finish_non_exhaustive()
    }
}

/// One level of macros; ends when dropped.
pub(crate) struct Depth<'a>(&'a AtomicUsize);

impl Drop for Depth<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Our error as one of the template engine's.
pub(crate) fn raise(error: Error) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, error.message().to_owned())
        .with_source(error)
}

const SCOPE_KEY: &str = "__scope";

/// The scope of the rendering that `state` belongs to.
pub(crate) fn of(state: &State<'_, '_>) -> Result<Arc<Scope>, minijinja::Error> {
    state.lookup(SCOPE_KEY).and_then(|value| value.downcast_object::<Scope>()).ok_or_else(|| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "macros cannot be called here")
    })
}

impl Scope {
    pub(crate) fn new(shared: Arc<Shared>, mode: Mode, model: Option<ModelScope>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            mode,
            model,
            captured: Mutex::default(),
            returned: Mutex::default(),
            depth: AtomicUsize::new(0),
        })
    }

    /// What is rendered, for messages.
    pub(crate) fn what(&self) -> String {
        match &self.model {
            Some(model) if model.id.is_some() => {
                format!("could not render model \"{}\"", model.name)
            }
            Some(model) => format!("could not render test \"{}\"", model.name),
            None => "could not render the text".to_owned(),
        }
    }

    /// What was used so far.
    pub(crate) fn captured(&self) -> Captured {
        lock(&self.captured).clone()
    }

    pub(super) fn capture(&self, note: impl FnOnce(&mut Captured)) {
        note(&mut lock(&self.captured));
    }

    pub(super) fn is_rendering(&self) -> bool {
        matches!(self.mode, Mode::Render(_))
    }

    pub(super) fn enter(&self, name: &str, limit: usize) -> Result<Depth<'_>, minijinja::Error> {
        self.capture(|captured| {
            captured.macros.insert(name.to_owned());
        });
        let before = self.depth.fetch_add(1, Ordering::Relaxed);
        let depth = Depth(&self.depth);
        if before >= limit {
            return Err(raise(
                Error::new(
                    code::TEMPLATE,
                    format!("macro \"{name}\" is called more than {limit} levels deep"),
                )
                .hint("a macro that calls itself needs an end"),
            ));
        }
        Ok(depth)
    }

    pub(super) fn set_returned(&self, value: Value) {
        *lock(&self.returned) = Some(value);
    }

    pub(super) fn take_returned(&self) -> Option<Value> {
        lock(&self.returned).take()
    }

    pub(super) fn overridden_macro(&self, name: &str) -> Option<Value> {
        match &self.mode {
            Mode::Render(mode) => mode.overrides.macros.get(name).map(from_json),
            _ => None,
        }
    }

    /// A variable's value.
    pub(super) fn var(
        &self,
        name: &str,
        default: Option<&Value>,
    ) -> Result<Value, minijinja::Error> {
        let overridden = match &self.mode {
            Mode::Render(mode) => mode.overrides.vars.get(name),
            _ => None,
        };
        if let Some(value) = overridden.or_else(|| self.shared.vars.get(name)) {
            self.capture(|captured| {
                captured.vars.insert(name.to_owned(), value.clone());
            });
            return Ok(from_json(value));
        }
        if let Some(default) = default {
            return Ok(default.clone());
        }
        let error = Error::new(
            code::REFERENCE,
            format!("variable \"{name}\" is not set and has no default"),
        );
        let names = self.shared.vars.keys().map(String::as_str);
        Err(raise(match nearest(name, names) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint(format!(
                "set it under `vars:`, pass `--vars {name}=…`, or give a default: `var('{name}', …)`"
            )),
        }))
    }

    /// An environment variable's value.
    pub(super) fn env_var(
        &self,
        name: &str,
        default: Option<&Value>,
    ) -> Result<Value, minijinja::Error> {
        let overridden = match &self.mode {
            Mode::Render(mode) => mode.overrides.env_vars.get(name).map(|value| match value {
                Json::String(text) => text.clone(),
                other => other.to_string(),
            }),
            _ => None,
        };
        let known = self.shared.env_vars.get(name);
        if let Some(value) = overridden.or_else(|| known.cloned().flatten()) {
            self.capture(|captured| {
                captured.env_vars.insert(name.to_owned(), value.clone());
            });
            return Ok(Value::from(value));
        }
        if let Some(default) = default {
            return Ok(default.clone());
        }
        Err(raise(match known {
            Some(_) => Error::new(
                code::REFERENCE,
                format!("environment variable \"{name}\" is not set and has no default"),
            )
            .hint(format!("set it, or give a default: `env_var('{name}', '…')`")),
            None => Error::new(
                code::TEMPLATE,
                format!("environment variable \"{name}\" is not named by a literal"),
            )
            .hint("write the name itself: `env_var('NAME')`"),
        }))
    }

    /// `this`.
    pub(super) fn this(&self) -> Option<Relation> {
        let model = self.model.as_ref()?;
        model.id.as_ref()?;
        if let Mode::Render(mode) = &self.mode
            && let Some(text) = mode.stand_in(&crate::model::UnitTestRef::This)
        {
            let mut relation = Relation::new(&model.schema, &model.alias);
            relation.text = text;
            return Some(relation);
        }
        Some(Relation::new(&model.schema, &model.alias))
    }

    /// A setting of the model.
    pub(super) fn config(&self, key: &str) -> Option<Json> {
        let captured = lock(&self.captured);
        captured
            .config
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
            .or_else(|| self.model.as_ref()?.config.get(key).cloned())
    }

    fn model_value(&self) -> Option<Value> {
        let model = self.model.as_ref()?;
        let mut map = JsonMap::new();
        map.insert("name".into(), model.name.clone().into());
        map.insert("alias".into(), model.alias.clone().into());
        map.insert("schema".into(), model.schema.clone().into());
        map.insert("path".into(), model.path.clone().into());
        map.insert("original_file_path".into(), model.path.clone().into());
        map.insert("package_name".into(), self.shared.project.clone().into());
        map.insert("resource_type".into(), "model".into());
        map.insert(
            "unique_id".into(),
            format!("model.{}.{}", self.shared.project, model.name).into(),
        );
        map.insert("config".into(), model.config.clone().into());
        if let Some(batch) = self.batch_value() {
            map.insert("batch".into(), batch);
        }
        Some(from_json(&map))
    }

    fn batch_value(&self) -> Option<Json> {
        let batch = match &self.mode {
            Mode::Render(mode) => mode.context.batch?,
            Mode::Parse { batch: true, .. } => {
                let epoch = chrono::DateTime::UNIX_EPOCH.naive_utc();
                Interval { start: epoch, end: epoch }
            }
            Mode::Parse { batch: false, .. } | Mode::Yaml => return None,
        };
        let mut map = JsonMap::new();
        map.insert("id".into(), batch.start.format("%Y%m%d%H").to_string().into());
        map.insert("event_time_start".into(), super::compile::timestamp(batch.start).into());
        map.insert("event_time_end".into(), super::compile::timestamp(batch.end).into());
        Some(Json::Object(map))
    }

    fn flags(&self) -> Value {
        let full_refresh = match &self.mode {
            Mode::Render(mode) => mode.context.full_refresh,
            _ => false,
        };
        let mut map = JsonMap::new();
        map.insert("FULL_REFRESH".into(), full_refresh.into());
        map.insert("WHICH".into(), "run".into());
        map.insert("STORE_FAILURES".into(), false.into());
        from_json(&map)
    }
}

impl Object for Scope {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        if key == SCOPE_KEY {
            return Some(Value::from_dyn_object(Arc::clone(self)));
        }
        // A macro of the project may stand in for one of ours, which stays under `builtins`.
        if self.shared.macros.contains(key) {
            return None;
        }
        if let Some(kind) = Kind::named(key) {
            return Some(Value::from_object(Builtin { scope: Arc::clone(self), kind }));
        }
        Some(match key {
            "builtins" => {
                let items = ["ref", "source", "config"].into_iter().filter_map(|name| {
                    let kind = Kind::named(name)?;
                    Some((name, Value::from_object(Builtin { scope: Arc::clone(self), kind })))
                });
                Value::from_pairs(items)
            }
            "this" => Value::from_object(self.this()?),
            "model" => self.model_value()?,
            "target" => from_json(&self.shared.target),
            "schema" => Value::from(self.shared.schema.clone()),
            "project_name" => Value::from(self.shared.project.clone()),
            "flags" => self.flags(),
            "execute" => Value::from(self.is_rendering()),
            "batch" => from_json(&self.batch_value()?),
            "run_started_at" => Value::from_object(Moment(self.shared.now?)),
            "invocation_id" => Value::from(self.shared.invocation_id.clone()?),
            "dbt_version" => Value::from("1.10.0"),
            _ => return None,
        })
    }
}
