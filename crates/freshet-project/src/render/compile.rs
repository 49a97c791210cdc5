//! The second rendering: SQL without templates, each line with the line that it came from.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::NaiveDateTime;
use freshet_core::config::nearest;
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result, SourceId};
use minijinja::value::Value;
use minijinja::{OutputSpan, OutputSpanKind};

use super::scope::{Mode, ModelScope, Scope};
use super::values::{ALIAS_END, ALIAS_START};
use super::{scan, slashed};
use crate::model::{
    Check, CheckTarget, CompiledSql, IncrementalStrategy, Materialized, Node, Project,
    RenderContext, UnitTest, UnitTestRef,
};

type JsonMap = serde_json::Map<String, serde_json::Value>;

/// Every name that a template may refer to.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub models: HashMap<ModelId, ModelEntry>,
    /// Models that are disabled, for messages.
    pub disabled: Vec<ModelId>,
    pub sources: HashMap<SourceId, Option<String>>,
    /// The settings of each model as templates see them.
    pub configs: HashMap<ModelId, JsonMap>,
}

/// What stands for a model in SQL.
#[derive(Debug, Clone)]
pub(crate) struct ModelEntry {
    pub schema: String,
    pub alias: String,
    pub event_time: Option<String>,
}

impl Index {
    /// The model that `ref(package, name)` means.
    pub(crate) fn model(
        &self,
        package: Option<&str>,
        name: &str,
        project: &str,
    ) -> Result<&ModelId> {
        if let Some(package) = package.filter(|package| *package != project) {
            return Err(Error::new(
                code::REFERENCE,
                format!("there is no package \"{package}\" for model \"{name}\""),
            )
            .hint(format!("packages are not there in Freshet; this project is \"{project}\"")));
        }
        if let Some((id, _)) = self.models.get_key_value(&ModelId::from(name)) {
            return Ok(id);
        }
        if self.disabled.iter().any(|id| id.as_str() == name) {
            return Err(Error::new(code::REFERENCE, format!("model \"{name}\" is disabled"))
                .hint("set `enabled: true` for it, or do not refer to it"));
        }
        let error = Error::new(code::REFERENCE, format!("there is no model or seed \"{name}\""));
        let mut names: Vec<_> = self.models.keys().map(ModelId::as_str).collect();
        names.sort_unstable();
        Err(match nearest(name, names) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint("`freshet ls` lists all models and seeds"),
        })
    }

    /// The column of event time of a source.
    pub(crate) fn source(&self, source: &str, table: &str) -> Result<Option<&str>> {
        let id = SourceId::of(source, table);
        if let Some(event_time) = self.sources.get(&id) {
            return Ok(event_time.as_deref());
        }
        let error = Error::new(code::REFERENCE, format!("there is no source \"{id}\""));
        let mut names: Vec<_> = self.sources.keys().map(SourceId::as_str).collect();
        names.sort_unstable();
        Err(match nearest(id.as_str(), names.iter().copied()) {
            Some(near) => {
                let (source, table) = near.split_once('.').unwrap_or((near, ""));
                error.hint(format!("did you mean `source('{source}', '{table}')`?"))
            }
            None if names.is_empty() => error.hint("declare it under `sources:` in a YAML file"),
            None => error.hint(format!("sources are {}", names.join(", "))),
        })
    }
}

/// What differs in a unit test.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    pub macros: JsonMap,
    pub vars: JsonMap,
    pub env_vars: JsonMap,
}

/// What a model is rendered for.
#[derive(Debug)]
pub(crate) struct RenderMode {
    pub context: RenderContext,
    pub index: Arc<Index>,
    /// Whether inputs with `event_time` are limited to the batch.
    pub filters_inputs: bool,
    pub stand_ins: Vec<(UnitTestRef, String)>,
    pub overrides: Overrides,
}

impl RenderMode {
    /// The text that stands for an input, where a unit test gives one.
    pub(crate) fn stand_in(&self, input: &UnitTestRef) -> Option<String> {
        self.stand_ins.iter().find(|(known, _)| known == input).map(|(_, text)| text.clone())
    }
}

/// A moment as SQL and templates write it.
pub(crate) fn timestamp(moment: NaiveDateTime) -> String {
    moment.format("%Y-%m-%d %H:%M:%S%.f").to_string()
}

impl Project {
    /// The SQL of a model. Seeds have none, which is an error.
    ///
    /// With `context.batch`, inputs that have an `event_time` are limited to it where the model is
    /// a microbatch one.
    pub fn compile(&self, model: &ModelId, context: &RenderContext) -> Result<CompiledSql> {
        let node = self.template_of(model)?;
        self.render_node(node, context.clone(), Vec::new(), Overrides::default())
    }

    /// The SQL of a check that is a query: it gives the failing rows.
    pub fn compile_check_sql(&self, check: &Check) -> Result<CompiledSql> {
        let raw = check.raw_sql.as_deref().ok_or_else(|| {
            Error::internal(format!("check \"{}\" is no query", check.name))
                .at(check.location.clone())
        })?;
        let model = match &check.target {
            CheckTarget::Node(id) => self.nodes.get(id).map(|node| node.alias().to_owned()),
            CheckTarget::Source(_) | CheckTarget::Query { .. } => None,
        };
        let scope_model = ModelScope {
            id: None,
            name: check.name.clone(),
            path: check.location.file.clone(),
            schema: self.environment.schema.clone(),
            alias: model.unwrap_or_else(|| check.name.clone()),
            config: JsonMap::new(),
        };
        let mode = self.mode(RenderContext::default(), Vec::new(), Overrides::default(), false)?;
        let scope = Scope::new(Arc::clone(&self.templates.shared), mode, Some(scope_model));
        self.render_sql(&check.location.file, raw, &scope)
    }

    /// The SQL of a unit test's model, with `tables` in the place of its inputs. Inputs that are
    /// not in `tables` keep their own names.
    pub fn compile_unit_test(
        &self,
        test: &UnitTest,
        tables: &[(UnitTestRef, String)],
    ) -> Result<CompiledSql> {
        let node = self.template_of(&test.model)?;
        let part = |name: &str| {
            test.overrides.get(name).and_then(|part| part.as_object()).cloned().unwrap_or_default()
        };
        let overrides =
            Overrides { macros: part("macros"), vars: part("vars"), env_vars: part("env_vars") };
        let incremental = overrides
            .macros
            .get("is_incremental")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false);
        let context = RenderContext { incremental, ..RenderContext::default() };
        self.render_node(node, context, tables.to_vec(), overrides)
    }

    fn template_of(&self, model: &ModelId) -> Result<&Node> {
        let node = self.nodes.get(model).ok_or_else(|| {
            let error = Error::new(code::REFERENCE, format!("there is no model \"{model}\""));
            match nearest(model.as_str(), self.nodes.keys().map(ModelId::as_str)) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint("`freshet ls` lists all models and seeds"),
            }
        })?;
        if node.config.materialized == Materialized::Seed {
            return Err(Error::new(code::CONFIG, format!("seed \"{model}\" has no SQL"))
                .hint("a seed's rows are in its file"));
        }
        Ok(node)
    }

    fn mode(
        &self,
        context: RenderContext,
        stand_ins: Vec<(UnitTestRef, String)>,
        overrides: Overrides,
        filters_inputs: bool,
    ) -> Result<Mode> {
        let index = self
            .templates
            .index
            .get()
            .ok_or_else(|| Error::internal("the project was not loaded from a folder"))?;
        Ok(Mode::Render(Box::new(RenderMode {
            context,
            index: Arc::clone(index),
            filters_inputs,
            stand_ins,
            overrides,
        })))
    }

    fn render_node(
        &self,
        node: &Node,
        context: RenderContext,
        stand_ins: Vec<(UnitTestRef, String)>,
        overrides: Overrides,
    ) -> Result<CompiledSql> {
        let microbatch = node.config.materialized == Materialized::Incremental
            && node.config.strategy() == IncrementalStrategy::Microbatch;
        let mode = self.mode(context, stand_ins, overrides, microbatch)?;
        let config = match &mode {
            Mode::Render(mode) => mode.index.configs.get(&node.id).cloned(),
            _ => None,
        };
        let path = slashed(&node.path);
        let model = ModelScope {
            id: Some(node.id.clone()),
            name: node.id.to_string(),
            path: path.clone(),
            schema: self.schema_of(node).to_owned(),
            alias: node.alias().to_owned(),
            config: config.unwrap_or_default(),
        };
        let scope = Scope::new(Arc::clone(&self.templates.shared), mode, Some(model));
        self.render_sql(&path, &node.raw, &scope)
    }

    /// The schema that a node's table is in.
    pub fn schema_of<'a>(&'a self, node: &'a Node) -> &'a str {
        node.config.schema.as_deref().unwrap_or(&self.environment.schema)
    }

    fn render_sql(&self, file: &str, raw: &str, scope: &Arc<Scope>) -> Result<CompiledSql> {
        let text = scan::mutable_sets(raw);
        let (sql, spans) = self
            .templates
            .env
            .template_from_named_str(file, &text)
            .and_then(|template| {
                template.render_with_spans(Value::from_dyn_object(Arc::clone(scope)))
            })
            .map_err(|error| self.templates.error(&error, file, &|| scope.what()))?;
        let lines = line_map(&sql, &spans, &text, file);
        Ok(CompiledSql { sql: name_subqueries(&sql), lines })
    }
}

/// For each line of `sql`, the line of the template that its first character other than white
/// space came from; 0 where that is unknown.
fn line_map(sql: &str, spans: &[OutputSpan], source: &str, file: &str) -> Vec<u32> {
    let starts: Vec<usize> = std::iter::once(0)
        .chain(source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1))
        .collect();
    let line_of = |offset: usize| {
        u32::try_from(starts.partition_point(|start| *start <= offset)).unwrap_or(0)
    };
    let mut lines = Vec::new();
    let mut span = spans.iter().peekable();
    let mut offset = 0;
    for line in sql.split('\n') {
        let blank = line.len() - line.trim_start().len();
        let at = offset + if blank == line.len() { 0 } else { blank };
        while span.peek().is_some_and(|span| span.output_range().end <= at) {
            span.next();
        }
        let from =
            span.peek().filter(|span| span.output_range().contains(&at) && span.name() == file);
        lines.push(match from {
            Some(span) if span.kind() == OutputSpanKind::Raw => {
                line_of(span.source_range().start + (at - span.output_range().start))
            }
            Some(span) => line_of(span.source_range().start),
            None => 0,
        });
        offset += line.len() + 1;
    }
    lines
}

/// Words that may follow a table without being its name.
const NOT_ALIASES: &[&str] = &[
    "where",
    "join",
    "on",
    "using",
    "group",
    "order",
    "left",
    "right",
    "inner",
    "full",
    "cross",
    "natural",
    "union",
    "limit",
    "having",
    "window",
    "except",
    "intersect",
    "qualify",
    "offset",
    "fetch",
    "for",
    "tablesample",
    "semi",
    "anti",
    "asof",
    "lateral",
    "end",
    "then",
];

/// A filtered input is a subquery: where the template gives it no name it takes the table's, so
/// that columns can still be written with it.
fn name_subqueries(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(start) = rest.find(ALIAS_START) {
        out.push_str(&rest[..start]);
        rest = &rest[start + ALIAS_START.len_utf8()..];
        let Some(end) = rest.find(ALIAS_END) else { break };
        let name = &rest[..end];
        rest = &rest[end + ALIAS_END.len_utf8()..];
        let next = rest.trim_start();
        let word: String = next
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
            .to_ascii_lowercase();
        let named =
            next.starts_with('"') || (!word.is_empty() && !NOT_ALIASES.contains(&word.as_str()));
        if !named {
            out.push_str(" as ");
            out.push_str(&super::quoted(name));
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subqueries_take_a_name_only_where_they_have_none() {
        let marked = |after: &str| format!("from (q){ALIAS_START}t{ALIAS_END}{after}");
        for (after, expect) in [
            (" where x", "from (q) as \"t\" where x"),
            (" s where x", "from (q) s where x"),
            ("\n  as s", "from (q)\n  as s"),
            (")", "from (q) as \"t\")"),
            ("", "from (q) as \"t\""),
            (" LEFT join b", "from (q) as \"t\" LEFT join b"),
        ] {
            assert_eq!(name_subqueries(&marked(after)), expect);
        }
    }
}
