//! Declared checks to rules: every argument is read, or named with the nearest one that there is.

use std::time::Duration;

use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use freshet_core::config::{HumanDuration, Share, nearest};
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result, SourceId};
use freshet_project::{Check, CheckTarget};
use serde_json::{Map, Value};

use super::info::{self, ArgumentInfo, COMMON, RuleInfo, RuleScope};
use super::rule::{Bounds, Figure, Kind, Literal, RowTest};
use super::{Relation, Rule};
use crate::functions::one_line;

/// Seconds of a day.
const DAY: u64 = 86_400;

pub(super) fn parse(check: &Check, schema: Option<&Schema>) -> Result<Rule> {
    let Some(info) = info::find(&check.rule) else {
        let error =
            wrong(check, format!("check \"{}\" has no rule \"{}\"", check.name, check.rule));
        return Err(match nearest(&check.rule, info::names()) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint(format!(
                "rules are {}; a test of the project's own needs a `{{% test {} %}}` macro",
                info::rules().iter().map(|rule| rule.name).collect::<Vec<_>>().join(", "),
                check.rule
            )),
        });
    };
    let arguments = Arguments::new(check, info, schema)?;
    arguments.fits_scope()?;
    let kind = arguments.kind()?;
    // SQL is put into larger queries: a comment at its end would swallow what follows.
    let where_sql = match (&check.where_sql, arguments.text("row_condition")?) {
        (Some(_), Some(_)) => {
            return Err(arguments.wrong("both `where` and `row_condition` are given"));
        }
        (Some(sql), None) => Some(sql.clone()),
        (None, condition) => condition,
    };
    if let Some(sql) = &where_sql {
        arguments.expression("where", sql)?;
    }
    let where_sql = where_sql.as_deref().map(one_line);
    Ok(Rule { check: check.clone(), info, where_sql, kind })
}

pub(super) fn query_rule(check: &Check, sql: String) -> Result<Rule> {
    let sql = statement(&sql);
    if sql.is_empty() {
        return Err(wrong(check, format!("check \"{}\" has an empty query", check.name))
            .hint("write a query whose rows are failures"));
    }
    let info = info::find("sql").expect("the table of rules has it");
    Ok(Rule { check: check.clone(), info, where_sql: None, kind: Kind::Query { sql } })
}

fn wrong(check: &Check, message: String) -> Error {
    Error::new(code::CONFIG, message).at(check.location.clone())
}

/// A query without what may follow it.
fn statement(sql: &str) -> String {
    let sql = one_line(sql);
    sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace()).to_owned()
}

/// Whether all of `sql` is one SQL expression.
fn is_expression(sql: &str) -> std::result::Result<(), String> {
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(sql).map_err(|error| error.to_string())?;
    parser.parse_expr().map_err(|error| error.to_string())?;
    match parser.peek_token().token {
        Token::EOF => Ok(()),
        token => Err(format!("unexpected {token}")),
    }
}

/// The arguments of one check, read by the names that its rule gives them.
struct Arguments<'a> {
    check: &'a Check,
    info: &'static RuleInfo,
    schema: Option<&'a Schema>,
    /// The rule's name as written, without `freshet.`.
    spelled: &'a str,
    values: Map<String, Value>,
}

impl<'a> Arguments<'a> {
    /// Gives each argument its first name; refuses those that the rule does not have.
    fn new(check: &'a Check, info: &'static RuleInfo, schema: Option<&'a Schema>) -> Result<Self> {
        let spelled = check.rule.strip_prefix("freshet.").unwrap_or(&check.rule);
        let known = || info.arguments.iter().chain(&COMMON);
        let mut values = Map::new();
        for (name, value) in &check.arguments {
            let Some(argument) = known()
                .find(|argument| argument.name == name)
                .or_else(|| known().find(|argument| argument.aliases.contains(&name.as_str())))
            else {
                let error = wrong(
                    check,
                    format!(
                        "check \"{}\": rule \"{}\" has no argument \"{name}\"",
                        check.name, check.rule
                    ),
                );
                let names = known().flat_map(|argument: &ArgumentInfo| {
                    std::iter::once(argument.name).chain(argument.aliases.iter().copied())
                });
                return Err(match nearest(name, names) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => error.hint(format!(
                        "arguments are {}",
                        known().map(|argument| argument.name).collect::<Vec<_>>().join(", ")
                    )),
                });
            };
            if value.is_null() {
                continue;
            }
            if values.insert(argument.name.to_owned(), value.clone()).is_some() {
                return Err(wrong(
                    check,
                    format!("check \"{}\": \"{}\" is given twice", check.name, argument.name),
                ));
            }
        }
        let arguments = Self { check, info, schema, spelled, values };
        for argument in info.arguments.iter().filter(|argument| argument.required) {
            if !arguments.values.contains_key(argument.name) {
                return Err(arguments
                    .wrong(&format!("argument \"{}\" is missing", argument.name))
                    .hint(argument.help));
            }
        }
        Ok(arguments)
    }

    fn wrong(&self, what: &str) -> Error {
        wrong(self.check, format!("check \"{}\" ({}): {what}", self.check.name, self.info.name))
    }

    fn fits_scope(&self) -> Result<()> {
        let column = self.check.column.is_some() || self.values.contains_key("column");
        match self.info.scope {
            RuleScope::Column if !column => Err(self
                .wrong("no column is named")
                .hint("declare it below a column, or give the argument `column`")),
            RuleScope::Table if column => Err(self
                .wrong("the rule is about the table, not a column")
                .hint("declare it below the model or source, beside its columns")),
            _ => Ok(()),
        }
    }

    fn kind(&self) -> Result<Kind> {
        let row = |test| -> Result<Kind> { Ok(Kind::Row { column: self.column()?, test }) };
        let figure = |figure, bounds| -> Result<Kind> {
            Ok(Kind::Figure { figure, column: self.column()?, bounds })
        };
        match self.info.name {
            "not_null" => row(RowTest::NotNull),
            "accepted_values" => row(self.values(false)?),
            "not_accepted_values" => row(self.values(true)?),
            "range" => row(RowTest::Range(self.bounds()?)),
            "length" => row(self.length()?),
            "regex" => row(self.regex(false)?),
            "not_regex" => row(self.regex(true)?),
            "expression" => row(self.row_expression()?),
            "unique" => self.unique(),
            "relationships" => Ok(Kind::Relationships {
                column: self.required_column()?,
                to: self.relation()?,
                field: self.required_text("field")?,
            }),
            "row_count" => figure(Figure::RowCount, self.bounds()?),
            "null_ratio" => figure(Figure::NullRatio, self.null_ratio()?),
            "distinct_count" if self.spelled.ends_with("not_constant") => figure(
                Figure::DistinctCount,
                Bounds { min: Some(Literal::Number("2".into())), ..Bounds::default() },
            ),
            "distinct_count" => figure(Figure::DistinctCount, self.bounds()?),
            "mean" => figure(Figure::Mean, self.bounds()?),
            "sum" => figure(Figure::Sum, self.bounds()?),
            "min" => figure(Figure::Min, self.bounds()?),
            "max" => figure(Figure::Max, self.bounds()?),
            "stddev" => figure(Figure::StdDev, self.bounds()?),
            "quantile" => figure(Figure::Quantile(self.quantile()?), self.bounds()?),
            "freshness" => {
                let age = self.max_age()?;
                let column = match self.column()? {
                    Some(column) => column,
                    None => self.named_column("field")?.ok_or_else(|| {
                        self.wrong("no column is named").hint("give the argument `column`")
                    })?,
                };
                Ok(Kind::Figure {
                    figure: Figure::Freshness(age),
                    column: Some(column),
                    bounds: Bounds::default(),
                })
            }
            "volume" => self.volume(),
            "sql" => {
                let sql = statement(&self.required_text("query")?);
                if sql.is_empty() {
                    return Err(self.wrong("the query is empty"));
                }
                Ok(Kind::Query { sql })
            }
            name => Err(Error::internal(format!("rule \"{name}\" is listed and not read"))),
        }
    }

    fn values(&self, negated: bool) -> Result<RowTest> {
        let quote = self.boolean("quote")?.unwrap_or(true);
        let Some(Value::Array(list)) = self.values.get("values") else {
            return Err(self.wrong("\"values\" is not a list"));
        };
        if list.is_empty() {
            return Err(self.wrong("\"values\" is empty").hint("list at least one value"));
        }
        let values = list
            .iter()
            .map(|value| match value {
                Value::String(text) if quote => Ok(Literal::Text(text.clone())),
                Value::String(text) => {
                    self.expression("values", text)?;
                    Ok(Literal::Sql(one_line(text)))
                }
                Value::Number(number) => Ok(Literal::Number(number.to_string())),
                Value::Bool(value) => Ok(Literal::Boolean(*value)),
                _ => Err(self.wrong("\"values\" may hold text, numbers and booleans")),
            })
            .collect::<Result<_>>()?;
        Ok(RowTest::Values { values, negated })
    }

    fn bounds(&self) -> Result<Bounds> {
        let strict = match (self.boolean("strictly")?, self.boolean("inclusive")?) {
            (Some(_), Some(_)) => {
                return Err(self.wrong("both \"inclusive\" and \"strictly\" are given"));
            }
            (Some(strict), None) => strict,
            (None, Some(inclusive)) => !inclusive,
            (None, None) => false,
        };
        let bounds = Bounds { min: self.bound("min")?, max: self.bound("max")?, strict };
        if bounds.min.is_none() && bounds.max.is_none() {
            return Err(self
                .wrong("neither \"min\" nor \"max\" is given")
                .hint("give at least one of the bounds"));
        }
        if let (Some(Literal::Number(min)), Some(Literal::Number(max))) = (&bounds.min, &bounds.max)
            && let (Ok(least), Ok(most)) = (min.parse::<f64>(), max.parse::<f64>())
            && least > most
        {
            return Err(self.wrong(&format!("\"min\" {min} is above \"max\" {max}")));
        }
        Ok(bounds)
    }

    /// A bound: a number, a date or timestamp, or an expression such as another column.
    fn bound(&self, name: &str) -> Result<Option<Literal>> {
        Ok(Some(match self.values.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => Literal::Number(number.to_string()),
            Some(Value::String(text)) => {
                let trimmed = text.trim();
                if is_number(trimmed) {
                    Literal::Number(trimmed.to_owned())
                } else if is_moment(trimmed) {
                    Literal::Text(trimmed.to_owned())
                } else {
                    self.expression(name, trimmed)?;
                    Literal::Sql(one_line(trimmed))
                }
            }
            Some(_) => return Err(self.wrong(&format!("\"{name}\" is not a value"))),
        }))
    }

    fn length(&self) -> Result<RowTest> {
        if self.spelled.ends_with("not_empty_string") {
            let trim = self.boolean("trim_whitespace")?.unwrap_or(true);
            return Ok(RowTest::Length { min: Some(1), max: None, trim });
        }
        let (min, max) = (self.integer("min")?, self.integer("max")?);
        if min.is_none() && max.is_none() {
            return Err(self
                .wrong("neither \"min\" nor \"max\" is given")
                .hint("give at least one of the bounds"));
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Err(self.wrong(&format!("\"min\" {min} is above \"max\" {max}")));
        }
        Ok(RowTest::Length { min, max, trim: self.boolean("trim_whitespace")?.unwrap_or(false) })
    }

    fn regex(&self, negated: bool) -> Result<RowTest> {
        let pattern = self.required_text("regex")?;
        regex::Regex::new(&pattern).map_err(|error| {
            self.wrong("\"regex\" is not a regular expression").caused_by(error)
        })?;
        Ok(RowTest::Regex { pattern, negated })
    }

    fn row_expression(&self) -> Result<RowTest> {
        let text = self.required_text("expression")?;
        let continued =
            self.column()?.map(|column| format!("{} {text}", super::sql::name(&column)));
        // dbt's test always puts the column in front; ours takes whole expressions too.
        if let Some(continued) = continued
            && (self.spelled.starts_with("dbt") || is_expression(&text).is_err())
        {
            self.expression("expression", &continued)?;
            return Ok(RowTest::Expression(one_line(&continued)));
        }
        self.expression("expression", &text)?;
        Ok(RowTest::Expression(one_line(&text)))
    }

    fn unique(&self) -> Result<Kind> {
        let columns = match self.values.get("columns") {
            None => vec![self.required_column()?],
            Some(Value::Array(list)) if !list.is_empty() => list
                .iter()
                .map(|name| match name {
                    Value::String(name) => self.known_column(name),
                    _ => Err(self.wrong("\"columns\" is not a list of names")),
                })
                .collect::<Result<Vec<_>>>()?,
            Some(_) => return Err(self.wrong("\"columns\" is not a list of names")),
        };
        let order_by = self.text("order_by")?;
        if let Some(order) = &order_by {
            let query = format!("select 1 from t order by {order}");
            let parsed = Parser::parse_sql(&GenericDialect {}, &query);
            if !parsed.is_ok_and(|statements| statements.len() == 1) {
                return Err(self
                    .wrong(&format!("\"order_by\" is not an order: {order}"))
                    .hint("write it as in SQL: `updated_at desc, id`"));
            }
        }
        Ok(Kind::Unique { columns, order_by: order_by.as_deref().map(one_line) })
    }

    fn null_ratio(&self) -> Result<Bounds> {
        let complement = |share: f64| Literal::Number(rounded(1.0 - share));
        let direct = |share: f64| Literal::Number(rounded(share));
        if self.spelled.ends_with("at_least_one") {
            return Ok(Bounds { max: Some(direct(1.0)), strict: true, ..Bounds::default() });
        }
        let bounds = Bounds {
            min: self.share("min")?.map(direct).or(self.share("at_most")?.map(complement)),
            max: self.share("max")?.map(direct).or(self.share("at_least")?.map(complement)),
            strict: false,
        };
        if bounds.min.is_none() && bounds.max.is_none() {
            return Err(self.wrong("no bound is given").hint("give `max`, e.g. `5%`"));
        }
        Ok(bounds)
    }

    fn quantile(&self) -> Result<f64> {
        match self.number("quantile")? {
            None => Ok(0.5),
            Some(quantile) if (0.0..=1.0).contains(&quantile) => Ok(quantile),
            Some(quantile) => {
                Err(self.wrong(&format!("\"quantile\" {quantile} is not from 0 to 1")))
            }
        }
    }

    fn max_age(&self) -> Result<Duration> {
        if let Some(text) = self.text("max_age")? {
            return text
                .parse::<HumanDuration>()
                .map(|duration| duration.0)
                .map_err(|message| self.wrong(&format!("\"max_age\": {message}")));
        }
        let (Some(unit), Some(count)) = (self.text("datepart")?, self.integer("interval")?) else {
            return Err(self.wrong("argument \"max_age\" is missing").hint("e.g. `max_age: 1day`"));
        };
        let seconds = match unit.trim().to_ascii_lowercase().trim_end_matches('s') {
            "second" => 1,
            "minute" => 60,
            "hour" => 3_600,
            "day" => DAY,
            "week" => 7 * DAY,
            _ => {
                return Err(self
                    .wrong(&format!("\"datepart\" \"{unit}\" is not a unit"))
                    .hint("units are second, minute, hour, day, week"));
            }
        };
        Ok(Duration::from_secs(count.saturating_mul(seconds)))
    }

    fn volume(&self) -> Result<Kind> {
        let min_ratio = self.number("min_ratio")?;
        let max_ratio = self.number("max_ratio")?;
        let (min_ratio, max_ratio) = match (min_ratio, max_ratio) {
            (None, None) => (0.5, 2.0),
            (min, max) => (min.unwrap_or(0.0), max.unwrap_or(f64::INFINITY)),
        };
        if min_ratio < 0.0 || min_ratio > max_ratio {
            return Err(self.wrong("\"min_ratio\" is below 0 or above \"max_ratio\""));
        }
        let runs = self.integer("runs")?.unwrap_or(10);
        if runs == 0 {
            return Err(self.wrong("\"runs\" is 0").hint("compare with one run at least"));
        }
        Ok(Kind::Volume { min_ratio, max_ratio, runs: usize::try_from(runs).unwrap_or(usize::MAX) })
    }

    fn relation(&self) -> Result<Relation> {
        let text = self.required_text("to")?;
        parse_relation(&text).ok_or_else(|| {
            self.wrong(&format!("\"to\" is not a table: {text}"))
                .hint("write ref('model') or source('name', 'table')")
        })
    }

    /// The column that the check is about, spelled as the table spells it.
    fn column(&self) -> Result<Option<String>> {
        match self.named_column("column")? {
            Some(column) => Ok(Some(column)),
            None => self.check.column.as_deref().map(|name| self.known_column(name)).transpose(),
        }
    }

    fn required_column(&self) -> Result<String> {
        self.column()?.ok_or_else(|| {
            self.wrong("no column is named")
                .hint("declare it below a column, or give the argument `column`")
        })
    }

    fn named_column(&self, argument: &str) -> Result<Option<String>> {
        self.text(argument)?.map(|name| self.known_column(&name)).transpose()
    }

    fn known_column(&self, name: &str) -> Result<String> {
        let Some(schema) = self.schema else { return Ok(name.to_owned()) };
        resolve_column(schema, name).map(str::to_owned).ok_or_else(|| {
            let object = match &self.check.target {
                CheckTarget::Node(id) => format!("model \"{id}\""),
                CheckTarget::Source(id) => format!("source \"{id}\""),
                CheckTarget::Query { .. } => "the query".to_owned(),
            };
            let error = self.wrong(&format!("{object} has no column \"{name}\""));
            let names = schema.fields().iter().map(|field| field.name().as_str());
            match nearest(name, names.clone()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint(format!("columns are {}", names.collect::<Vec<_>>().join(", "))),
            }
        })
    }

    fn expression(&self, name: &str, sql: &str) -> Result<()> {
        is_expression(sql).map_err(|reason| {
            self.wrong(&format!("\"{name}\" is not a SQL expression: {sql}: {reason}"))
        })
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(Value::Bool(value)) => Ok(Some(value.to_string())),
            Some(_) => Err(self.wrong(&format!("\"{name}\" is not text"))),
        }
    }

    fn required_text(&self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| self.wrong(&format!("argument \"{name}\" is missing")))
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(self.wrong(&format!("\"{name}\" is neither true nor false"))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        let number = match self.values.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match number {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(&format!("\"{name}\" is not a number"))),
        }
    }

    fn integer(&self, name: &str) -> Result<Option<u64>> {
        let number = match self.values.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        number
            .map(Some)
            .ok_or_else(|| self.wrong(&format!("\"{name}\" is not a whole number from 0 on")))
    }

    fn share(&self, name: &str) -> Result<Option<f64>> {
        self.text(name)?
            .map(|text| {
                text.parse::<Share>()
                    .map(|share| share.0)
                    .map_err(|message| self.wrong(&format!("\"{name}\": {message}")))
            })
            .transpose()
    }
}

/// A number's shortest text, without the noise of binary fractions: `1 - 0.9` is `0.1`.
fn rounded(number: f64) -> String {
    format!("{}", (number * 1e12).round() / 1e12)
}

/// The column of `schema` that `name` means: as spelled, else ignoring case where that is one.
pub(super) fn resolve_column<'s>(schema: &'s Schema, name: &str) -> Option<&'s str> {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    if let Some(exact) = names().find(|known| *known == name) {
        return Some(exact);
    }
    let mut similar = names().filter(|known| known.eq_ignore_ascii_case(name));
    match (similar.next(), similar.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Whether text is an ISO date, with or without a time of day.
fn is_moment(text: &str) -> bool {
    let (date, rest) = text.split_at_checked(10).unwrap_or((text, ""));
    chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").is_ok()
        && (rest.is_empty() || rest.starts_with(['T', ' ']))
}

/// `ref('x')`, `ref('package', 'x')`, `source('a', 'b')`, or a name in SQL.
pub(super) fn parse_relation(text: &str) -> Option<Relation> {
    let text = text.trim();
    let text =
        text.strip_prefix("{{").and_then(|inner| inner.strip_suffix("}}")).map_or(text, str::trim);
    let Some((function, rest)) = text.split_once('(') else {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"' | '-');
        return (!text.is_empty() && text.chars().all(plain))
            .then(|| Relation::Name(text.to_owned()));
    };
    let names = rest
        .trim_end()
        .strip_suffix(')')?
        .split(',')
        .map(|name| {
            let name = name.trim();
            let bare = ['\'', '"']
                .iter()
                .find_map(|quote| name.strip_prefix(*quote)?.strip_suffix(*quote))?;
            (!bare.is_empty()).then_some(bare)
        })
        .collect::<Option<Vec<_>>>()?;
    match (function.trim(), names.as_slice()) {
        ("ref", [model] | [_, model]) => Some(Relation::Node(ModelId::new(*model))),
        ("source", [source, table]) => Some(Relation::Source(SourceId::of(source, table))),
        _ => None,
    }
}
