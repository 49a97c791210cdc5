//! Templates: one environment for the whole project, macros compiled once, and for each rendering a
//! scope that answers `ref`, `source`, `config`, `var` and the rest of dbt's words.
//!
//! A model is rendered twice: first to learn what it uses (nothing is resolved yet), then, when it
//! is built, with every name in its place.

mod builtins;
mod compile;
mod scan;
mod scope;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use freshet_core::error::code;
use freshet_core::{Error, Location, Result};
use minijinja::value::{Object, ObjectRepr, Value};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior};

pub(crate) use compile::{Index, ModelEntry};
pub(crate) use scan::{BlockKind, blocks, line_of_call, literal_calls};
pub(crate) use scope::{Captured, Mode, ModelScope, Scope, Shared};
pub(crate) use values::quoted;

/// Instructions, and 64 bytes of text each, that one rendering may use.
const FUEL: u64 = 2_000_000;
/// Macros that call each other, at most. Each level takes some of the thread's stack.
const MAX_MACRO_DEPTH: usize = 24;

/// The templates of a project, ready to be rendered.
pub struct Templates {
    pub(crate) env: Environment<'static>,
    pub(crate) shared: Arc<Shared>,
    /// Macros by name, with a hash of their text each.
    pub(crate) macros: BTreeMap<String, MacroInfo>,
    pub(crate) index: OnceLock<Arc<Index>>,
}

/// What is known of a macro.
#[derive(Debug, Clone)]
pub(crate) struct MacroInfo {
    /// Where it is.
    pub location: Location,
    /// Its text.
    pub text: Arc<str>,
    /// Whether it is a rule for checks.
    pub is_test: bool,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may hold what nobody should print.
        f.debug_struct("Templates").field("macros", &self.macros.len()).finish_non_exhaustive()
    }
}

impl Default for Templates {
    fn default() -> Self {
        Self::new(Shared::default(), BTreeMap::new())
    }
}

impl Templates {
    /// An environment with these macros, of which none is compiled yet.
    pub(crate) fn new(shared: Shared, macros: BTreeMap<String, MacroInfo>) -> Self {
        let mut env = Environment::new();
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(100);
        env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        builtins::register(&mut env);
        let names: Arc<[String]> = macros.keys().cloned().collect();
        for name in macros.keys() {
            env.add_global(name.clone(), Value::from_object(MacroProxy { name: name.clone() }));
        }
        env.add_global(
            shared.project.clone(),
            Value::from_object(Package { macros: Arc::clone(&names) }),
        );
        Self { env, shared: Arc::new(shared), macros, index: OnceLock::new() }
    }

    /// Compiles the macros; gives an error for each that is wrong.
    pub(crate) fn compile_macros(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        for (name, info) in &self.macros {
            // Line numbers of the file, not of the block.
            let padding = info.location.line.saturating_sub(1) as usize;
            let mut text = "\n".repeat(padding);
            // Under another name, so that a call of the macro by itself goes through its proxy too.
            text.push_str(&scan::mutable_sets(&scan::renamed(&info.text, INNER_PREFIX)));
            if let Err(error) = self.env.add_template_owned(macro_template(name), text) {
                errors.push(self.error(&error, &info.location.file, &|| {
                    format!("could not read macro \"{name}\"")
                }));
            }
        }
        errors
    }

    /// What keeps `text` from being a template at all.
    pub(crate) fn syntax_error(&self, file: &str, text: &str) -> Option<Error> {
        let result = self.env.template_from_named_str(file, text);
        let what = || format!("could not read macro file \"{file}\"");
        result.err().map(|error| self.error(&error, file, &what))
    }

    /// Renders `text` and gives what it printed.
    pub(crate) fn render(&self, file: &str, text: &str, scope: &Arc<Scope>) -> Result<String> {
        let text = scan::mutable_sets(text);
        self.env
            .template_from_named_str(file, &text)
            .and_then(|template| template.render(Value::from_dyn_object(Arc::clone(scope))))
            .map_err(|error| self.error(&error, file, &|| scope.what()))
    }

    /// Evaluates a text of a YAML file: a lone expression keeps its type, anything else is text.
    pub(crate) fn yaml(&self, location: &Location, text: &str) -> Result<serde_json::Value> {
        if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
            return Ok(serde_json::Value::String(text.to_owned()));
        }
        let scope = Scope::new(Arc::clone(&self.shared), Mode::Yaml, None);
        let wrong = |error: &minijinja::Error| {
            let mut located = location.clone();
            if let (Some(line), true) = (error.line(), located.line > 0) {
                located.line += u32::try_from(line.saturating_sub(1)).unwrap_or(0);
                if line > 1 {
                    located.column = 0;
                }
            }
            self.describe(error, &|| "could not render the text".to_owned()).at(located)
        };
        let trimmed = text.trim();
        let lone = trimmed
            .strip_prefix("{{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .filter(|inner| !inner.contains("{{") && !inner.contains("}}"));
        if let Some(expression) = lone {
            let value = self
                .env
                .compile_expression(expression)
                .and_then(|compiled| compiled.eval(Value::from_dyn_object(scope)))
                .map_err(|error| wrong(&error))?;
            return serde_json::to_value(&value).map_err(|error| {
                Error::new(code::TEMPLATE, "the expression gives what YAML cannot hold")
                    .at(location.clone())
                    .caused_by(error)
            });
        }
        self.env
            .template_from_named_str(&location.file, text)
            .and_then(|template| template.render(Value::from_dyn_object(scope)))
            .map(serde_json::Value::String)
            .map_err(|error| wrong(&error))
    }

    /// Our error for one of the template engine's, with its place.
    pub(crate) fn error(
        &self,
        error: &minijinja::Error,
        file: &str,
        what: &dyn Fn() -> String,
    ) -> Error {
        let name = error.name().unwrap_or(file);
        let file = match name.strip_prefix(MACRO_PREFIX) {
            Some(name) => self.macros.get(name).map_or(file, |info| info.location.file.as_str()),
            None if name == "<string>" || name == "<expression>" => file,
            None => name,
        };
        let line = u32::try_from(error.line().unwrap_or(0)).unwrap_or(0);
        self.describe(error, what).at(Location::line(file, line))
    }

    fn describe(&self, error: &minijinja::Error, what: &dyn Fn() -> String) -> Error {
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            if let Some(ours) = inner.downcast_ref::<Error>() {
                let mut copy = Error::new(ours.code(), format!("{}: {}", what(), ours.chain()));
                if let Some(hint) = ours.hint_text() {
                    copy = copy.hint(hint);
                }
                return copy;
            }
            cause = inner.source();
        }
        let mut detail = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        // The cause of what failed in an included or called template.
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            if let Some(inner) = inner.downcast_ref::<minijinja::Error>()
                && let Some(text) = inner.detail()
            {
                detail = format!("{detail}: {text}");
            }
            cause = inner.source();
        }
        let mut ours = Error::new(code::TEMPLATE, format!("{}: {detail}", what()));
        if error.kind() == ErrorKind::OutOfFuel {
            ours = Error::new(
                code::TEMPLATE,
                format!("{}: the template does not come to an end", what()),
            )
            .hint(format!("a rendering may take {FUEL} steps; look for a loop that is too long"));
        } else if matches!(error.kind(), ErrorKind::UnknownFunction | ErrorKind::UndefinedError) {
            let names =
                builtins::NAMES.iter().copied().chain(self.macros.keys().map(String::as_str));
            let wrong = detail.split(['`', '\'', '"', ' ']).rfind(|word| {
                !word.is_empty()
                    && word.chars().all(|c| c.is_alphanumeric() || c == '_')
                    && !matches!(*word, "is" | "undefined" | "unknown" | "function" | "value")
            });
            if let Some(near) = wrong.and_then(|wrong| freshet_core::config::nearest(wrong, names))
            {
                ours = ours.hint(format!("did you mean \"{near}\"?"));
            }
        }
        ours
    }
}

const MACRO_PREFIX: &str = "macro ";
/// Stands before a macro's name in its own template.
const INNER_PREFIX: &str = "__macro_";

fn macro_template(name: &str) -> String {
    format!("{MACRO_PREFIX}{name}")
}

/// A macro as templates call it, from whichever file: it runs in a state of its own and sees the
/// scope of the rendering, not the caller's variables, as in dbt.
#[derive(Debug)]
struct MacroProxy {
    name: String,
}

impl Object for MacroProxy {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        args: &[Value],
    ) -> Result<Value, minijinja::Error> {
        call_macro(state, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<macro {}>", self.name)
    }
}

fn call_macro(
    state: &mut State<'_, '_>,
    name: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    let scope = scope::of(state)?;
    if let Some(value) = scope.overridden_macro(name) {
        return Ok(value);
    }
    let _depth = scope.enter(name, MAX_MACRO_DEPTH)?;
    let args = builtins::settle_caller(state, args)?;
    let template = state.env().get_template(&macro_template(name))?;
    let mut captured = template.render_captured(Value::from_dyn_object(Arc::clone(&scope)))?;
    let (result, used) = captured.with_state_mut(|inner| {
        let result = inner.call_macro(&format!("{INNER_PREFIX}{name}"), &args);
        (result, inner.fuel_levels().map_or(0, |(used, _)| used))
    });
    state.consume_fuel(used)?;
    match result {
        Ok(text) => Ok(Value::from(text)),
        Err(error) => match scope.take_returned() {
            Some(value) => Ok(value),
            // The engine does not say of what.
            None if error.kind() == ErrorKind::TooManyArguments && error.name().is_none() => {
                let why = error.detail().map(|why| format!(": {why}")).unwrap_or_default();
                Err(scope::raise(Error::new(
                    code::TEMPLATE,
                    format!("macro \"{name}\" is called with arguments that it does not take{why}"),
                )))
            }
            None => Err(error),
        },
    }
}

/// The project's own name in templates: `project.macro()`.
#[derive(Debug)]
struct Package {
    macros: Arc<[String]>,
}

impl Object for Package {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        self.macros
            .iter()
            .find(|known| *known == name)
            .map(|name| Value::from_object(MacroProxy { name: name.clone() }))
    }
}

/// The path of a file as messages and templates have it: relative, with `/`.
pub(crate) fn slashed(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
