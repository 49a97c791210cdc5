//! Rules to SQL: one aggregate query for all that look at rows one by one or at figures of the
//! table, one grouped query a key, one join a relationship.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::TableReference;
use freshet_core::error::code;
use freshet_core::{Error, Result};

use super::rule::{Figure, Kind, RowTest};
use super::sql::{self, both, name};
use super::{CheckEnv, Relation, Rule, parse};

/// The queries that answer a table's rules.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckPlan {
    pub(super) queries: Vec<Query>,
}

impl CheckPlan {
    /// The queries, each of which scans the table once (a rule whose `where` or expression has a
    /// query of its own may scan it twice).
    pub fn queries(&self) -> impl Iterator<Item = &str> {
        self.queries.iter().map(|query| query.sql.as_str())
    }
}

/// A query and the rules that it answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Query {
    pub sql: String,
    pub answers: Vec<Answer>,
}

/// Where the answer to a rule stands in a query's only row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Index of the rule.
    pub rule: usize,
    /// The first of its columns.
    pub first: usize,
    pub shape: Shape,
}

/// The columns of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Rows looked at, rows that fail.
    Counted,
    /// Rows looked at, the figure as text, as a double, and whether it is within bounds.
    Figure,
    /// Rows looked at.
    Rows,
    /// Each row of the query is a failure.
    Failures,
}

/// What a rule is answered from.
#[derive(Debug, Clone, PartialEq)]
enum From {
    /// The rows of the table.
    Table,
    /// The rows of the table for which a condition with a query inside holds.
    Filtered(String),
    /// The keys of the table: `all_rows` and `all_keys` say how many rows have one, and how many
    /// there are.
    Keys { columns: Vec<String>, condition: Option<String> },
    /// A query of its own.
    Own(String),
}

/// A rule's part of a query.
struct Part {
    from: From,
    columns: Vec<String>,
    shape: Shape,
}

pub(super) fn compile(
    rules: &[Rule],
    table: &TableReference,
    schema: &Schema,
    env: &CheckEnv,
) -> Result<CheckPlan> {
    let (plan, errors) = compile_some(rules.iter().enumerate(), table, schema, env);
    Error::join(errors.into_iter().map(|(_, error)| error).collect()).map_or(Ok(plan), Err)
}

/// Compiles the rules that can be, and names the error of each other one.
pub(super) fn compile_some<'a>(
    rules: impl Iterator<Item = (usize, &'a Rule)>,
    table: &TableReference,
    schema: &Schema,
    env: &CheckEnv,
) -> (CheckPlan, Vec<(usize, Error)>) {
    let mut groups: Vec<(From, Vec<String>, Vec<Answer>)> = Vec::new();
    let mut errors = Vec::new();
    for (index, rule) in rules {
        let part = bind(rule, schema).and_then(|rule| part(&rule, table, schema, env));
        let part = match part {
            Ok(part) => part,
            Err(error) => {
                errors.push((index, error));
                continue;
            }
        };
        let shared = !matches!(part.from, From::Own(_));
        let place = groups.iter().position(|(from, ..)| shared && *from == part.from);
        let place = place.unwrap_or_else(|| {
            groups.push((part.from, Vec::new(), Vec::new()));
            groups.len() - 1
        });
        let (_, columns, answers) = &mut groups[place];
        answers.push(Answer { rule: index, first: columns.len(), shape: part.shape });
        columns.extend(part.columns);
    }
    let queries = groups
        .into_iter()
        .map(|(from, columns, answers)| Query { sql: query(&from, &columns, table), answers })
        .collect();
    (CheckPlan { queries }, errors)
}

/// The rule with its columns as the table spells them; it may have been read before the table was
/// known.
pub(super) fn bind(rule: &Rule, schema: &Schema) -> Result<Rule> {
    match &rule.kind {
        Kind::Query { .. } => Ok(rule.clone()),
        _ => parse::parse(&rule.check, Some(schema)),
    }
}

fn query(from: &From, columns: &[String], table: &TableReference) -> String {
    let table = table.to_quoted_string();
    let list = columns
        .iter()
        .enumerate()
        .map(|(index, column)| format!("{column} as c{index}"))
        .collect::<Vec<_>>()
        .join(", ");
    match from {
        From::Own(sql) => sql.clone(),
        From::Table => format!("select {list} from {table}"),
        From::Filtered(condition) => {
            format!("select {list} from (select * from {table} where {condition}) as filtered")
        }
        From::Keys { columns, condition } => {
            let filter = condition.as_ref().map(|sql| format!(" where {sql}")).unwrap_or_default();
            // Distinct keys as a deduplication, which holds the keys alone and needs little memory.
            format!(
                "select {list} from (select \
                 (select count(*) from {table}{filter}) as all_rows, \
                 (select count(*) from (select 1 from {table}{filter} \
                 qualify row_number() over (partition by {}) = 1) as firsts) as all_keys) as counts",
                sql::names(columns)
            )
        }
    }
}

fn part(rule: &Rule, table: &TableReference, schema: &Schema, env: &CheckEnv) -> Result<Part> {
    let filter = rule.where_sql.as_deref();
    // Aggregates take no conditions with queries inside: such rows are picked first.
    let (from, inner) = match filter {
        Some(condition) if sql::has_query(condition) => {
            (From::Filtered(condition.to_owned()), None)
        }
        _ => (From::Table, filter),
    };
    let rows = count(inner, None);
    match &rule.kind {
        Kind::Row { column, test } => {
            let broken = sql::broken(column.as_deref(), test, schema);
            if matches!(test, RowTest::Expression(expression) if sql::has_query(expression)) {
                let table = table.to_quoted_string();
                let all = filter.map(|sql| format!(" where {sql}")).unwrap_or_default();
                return Ok(Part {
                    from: From::Own(format!(
                        "select (select count(*) from {table}{all}) as c0, \
                         (select count(*) from {table} where {}) as c1",
                        both(filter, &broken)
                    )),
                    columns: Vec::new(),
                    shape: Shape::Counted,
                });
            }
            Ok(Part {
                from,
                columns: vec![rows, count(inner, Some(&broken))],
                shape: Shape::Counted,
            })
        }
        Kind::Unique { columns, .. } => Ok(Part {
            from: keys(columns, filter),
            columns: vec!["all_rows".to_owned(), "all_rows - all_keys".to_owned()],
            shape: Shape::Counted,
        }),
        Kind::Relationships { column, to, field } => {
            let other = relation(rule, to, env)?.to_quoted_string();
            let own = filter.map(|sql| format!(" where {sql}")).unwrap_or_default();
            Ok(Part {
                from: From::Own(format!(
                    "select count(*) as c0, \
                     count(*) filter (where t.c is not null and p.k is null) as c1 \
                     from (select {column} as c from {table}{own}) as t left join \
                     (select distinct {field} as k from {other} where {field} is not null) as p \
                     on t.c = p.k",
                    column = name(column),
                    field = name(field),
                    table = table.to_quoted_string(),
                )),
                columns: Vec::new(),
                shape: Shape::Counted,
            })
        }
        Kind::Figure { figure, column, bounds } => {
            if *figure == Figure::DistinctCount {
                let column = column.clone().into_iter().collect::<Vec<_>>();
                let within = format!("not {}", sql::outside("all_keys", bounds, None));
                return Ok(Part {
                    from: keys(&column, filter),
                    columns: vec![
                        "all_rows".to_owned(),
                        "cast(all_keys as varchar)".to_owned(),
                        "cast(all_keys as double)".to_owned(),
                        within,
                    ],
                    shape: Shape::Figure,
                });
            }
            let column = column.as_deref().unwrap_or_default();
            let data_type = sql::column_type(schema, column);
            let (text, number, within) = match figure {
                Figure::Freshness(age) => {
                    let latest = aggregate("max", &sql::as_moment(column, data_type), inner);
                    let age = chrono::Duration::from_std(*age).unwrap_or(chrono::Duration::MAX);
                    let oldest = env
                        .clock
                        .now()
                        .checked_sub_signed(age)
                        .unwrap_or(chrono::DateTime::<chrono::Utc>::MIN_UTC)
                        .format("%Y-%m-%dT%H:%M:%S%.6f");
                    (
                        format!("cast({latest} as varchar)"),
                        format!("cast(date_part('epoch', {latest}) as double)"),
                        format!("{latest} >= {}", sql::moment(&oldest.to_string(), None)),
                    )
                }
                _ => {
                    let (value, compared) = figure_sql(*figure, column, data_type, inner);
                    let number = if sql::is_temporal(compared) || sql::is_text(compared) {
                        "cast(null as double)".to_owned()
                    } else {
                        format!("cast({value} as double)")
                    };
                    (
                        format!("cast({value} as varchar)"),
                        number,
                        format!("not {}", sql::outside(&value, bounds, compared)),
                    )
                }
            };
            Ok(Part { from, columns: vec![rows, text, number, within], shape: Shape::Figure })
        }
        Kind::Volume { .. } => Ok(Part { from, columns: vec![rows], shape: Shape::Rows }),
        Kind::Query { sql } => Ok(Part {
            from: From::Own(with_this(sql, table, filter, rule)),
            columns: Vec::new(),
            shape: Shape::Failures,
        }),
    }
}

/// A figure in SQL, and the type with which its bounds are compared.
fn figure_sql<'t>(
    figure: Figure,
    column: &str,
    data_type: Option<&'t DataType>,
    filter: Option<&str>,
) -> (String, Option<&'t DataType>) {
    let column = name(column);
    let double = format!("cast({column} as double)");
    match figure {
        Figure::RowCount => (count(filter, None), None),
        Figure::NullRatio => (
            format!(
                "cast({} as double) / nullif({}, 0)",
                count(filter, Some(&format!("({column} is null)"))),
                count(filter, None)
            ),
            None,
        ),
        Figure::Mean => (aggregate("avg", &double, filter), None),
        Figure::StdDev => (aggregate("stddev", &double, filter), None),
        Figure::Quantile(quantile) => {
            let arguments = format!("{double}, cast({quantile} as double)");
            (aggregate("approx_percentile_cont", &arguments, filter), None)
        }
        Figure::Sum => (aggregate("sum", &column, filter), data_type),
        Figure::Min => (aggregate("min", &column, filter), data_type),
        Figure::Max => (aggregate("max", &column, filter), data_type),
        // These have queries of their own kind.
        Figure::DistinctCount | Figure::Freshness(_) => ("null".to_owned(), None),
    }
}

fn keys(columns: &[String], filter: Option<&str>) -> From {
    // dbt's rule: a null is no value of a single column, and one like others in a combination.
    let condition = match columns {
        [column] => Some(both(filter, &format!("({} is not null)", name(column)))),
        _ => filter.map(str::to_owned),
    };
    From::Keys { columns: columns.to_vec(), condition }
}

fn count(filter: Option<&str>, broken: Option<&str>) -> String {
    match (filter, broken) {
        (None, None) => "count(*)".to_owned(),
        (Some(filter), None) => format!("count(*) filter (where {filter})"),
        (filter, Some(broken)) => format!("count(*) filter (where {})", both(filter, broken)),
    }
}

fn aggregate(function: &str, arguments: &str, filter: Option<&str>) -> String {
    match filter {
        Some(filter) => format!("{function}({arguments}) filter (where {filter})"),
        None => format!("{function}({arguments})"),
    }
}

/// A query in which the table is called `this`; one that stands for itself is left as it is.
fn with_this(sql: &str, table: &TableReference, filter: Option<&str>, rule: &Rule) -> String {
    if rule.check.raw_sql.is_some() {
        return sql.to_owned();
    }
    let filter = filter.map(|sql| format!(" where {sql}")).unwrap_or_default();
    format!(
        "with this as (select * from {}{filter}) select * from ({sql}) as failures",
        table.to_quoted_string()
    )
}

/// The query for some of the rows that break a rule; `None` where it is not about rows.
pub(super) fn sample_query(
    rule: &Rule,
    table: &TableReference,
    schema: &Schema,
    env: &CheckEnv,
) -> Result<Option<String>> {
    let limit = rule.check.limit;
    let filter = rule.where_sql.as_deref();
    let from = table.to_quoted_string();
    Ok(match &rule.kind {
        Kind::Row { column, test } => {
            let broken = sql::broken(column.as_deref(), test, schema);
            Some(format!("select * from {from} where {} limit {limit}", both(filter, &broken)))
        }
        Kind::Unique { columns, .. } => {
            let condition = match keys(columns, filter) {
                From::Keys { condition: Some(sql), .. } => format!(" where {sql}"),
                _ => String::new(),
            };
            Some(format!(
                "select {columns}, count(*) as occurrences from {from}{condition} \
                 group by {columns} having count(*) > 1 limit {limit}",
                columns = sql::names(columns)
            ))
        }
        Kind::Relationships { column, to, field } => {
            let other = relation(rule, to, env)?.to_quoted_string();
            let (column, field) = (name(column), name(field));
            let condition = both(filter, &format!("({column} is not null)"));
            Some(format!(
                "select t.* from (select * from {from} where {condition}) as t left anti join \
                 (select {field} as __freshet_k from {other} where {field} is not null) as p \
                 on t.{column} = p.__freshet_k limit {limit}"
            ))
        }
        Kind::Figure { .. } | Kind::Volume { .. } | Kind::Query { .. } => None,
    })
}

/// Where another table is.
pub(super) fn relation(rule: &Rule, to: &Relation, env: &CheckEnv) -> Result<TableReference> {
    (env.relations)(to).ok_or_else(|| {
        let object = match to {
            Relation::Node(id) => format!("model \"{id}\""),
            Relation::Source(id) => format!("source \"{id}\""),
            Relation::Name(name) => format!("table \"{name}\""),
        };
        Error::new(
            code::REFERENCE,
            format!("check \"{}\" needs {object}, which is not there", rule.check.name),
        )
        .hint("build it first, or mend the argument `to`")
        .at(rule.check.location.clone())
    })
}
