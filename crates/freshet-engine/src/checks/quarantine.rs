//! Rows that are taken out of a result instead of stopping it.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::TableReference;
use freshet_core::Result;
use freshet_project::OnFail;

use super::compile::{bind, relation};
use super::rule::Kind;
use super::run::takes_rows_out;
use super::sql::{self, both, name};
use super::{CheckEnv, Rule};

/// The last column of a [`Quarantine`]'s query: an `int`, null where the row is kept, else the
/// index into [`Quarantine::rules`] of the first rule that it breaks.
pub const CHECK_COLUMN: &str = "__freshet_check";

/// How the rows of a table are told apart that are kept from those that are taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// Gives all rows of the table: its columns in their order, then [`CHECK_COLUMN`].
    ///
    /// Rules about rows by themselves come first; a `unique` is asked only of the rows that are
    /// still kept, so that a bad row never takes a good one of the same key with it. Of rows that
    /// share a key one is kept: the first by the rule's `order_by`, then by all columns from left
    /// to right, so that the same rows give the same result.
    pub sql: String,
    /// The rules that rows are marked with.
    pub rules: Vec<QuarantineRule>,
}

/// A rule that takes rows out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRule {
    /// The check's name.
    pub check: String,
    /// The rule's name.
    pub rule: String,
    /// The column, where the rule has one.
    pub column: Option<String>,
    /// What is wrong with the row, for a person.
    pub message: String,
}

pub(super) fn quarantine(
    rules: &[Rule],
    table: &TableReference,
    schema: &Schema,
    env: &CheckEnv,
) -> Result<Option<Quarantine>> {
    let rules = rules
        .iter()
        .filter(|rule| rule.check.on_fail == OnFail::Quarantine && takes_rows_out(rule))
        .map(|rule| bind(rule, schema))
        .collect::<Result<Vec<_>>>()?;
    if rules.is_empty() {
        return Ok(None);
    }
    let columns: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let (mut joins, mut cases) = (String::new(), String::new());
    for (index, rule) in rules.iter().enumerate() {
        let filter = rule.where_sql.as_deref();
        let broken = match &rule.kind {
            Kind::Row { column, test } => sql::broken(column.as_deref(), test, schema),
            Kind::Relationships { column, to, field } => {
                let (column, field) = (name(column), name(field));
                joins.push_str(&format!(
                    " left join (select distinct {field} as __freshet_k{index} from {other} \
                     where {field} is not null) as p{index} on t.{column} = p{index}.__freshet_k{index}",
                    other = relation(rule, to, env)?.to_quoted_string(),
                ));
                format!("({column} is not null and __freshet_k{index} is null)")
            }
            _ => continue,
        };
        cases.push_str(&format!(" when {} then {index}", both(filter, &broken)));
    }
    let mark = if cases.is_empty() { "null".to_owned() } else { format!("case{cases} end") };
    let mut query = format!(
        "select {}, cast({mark} as int) as {CHECK_COLUMN} from {} as t{joins}",
        columns.iter().map(|column| format!("t.{}", name(column))).collect::<Vec<_>>().join(", "),
        table.to_quoted_string(),
    );
    for (index, rule) in rules.iter().enumerate() {
        let Kind::Unique { columns: key, order_by } = &rule.kind else { continue };
        let asked = both(rule.where_sql.as_deref(), &format!("({CHECK_COLUMN} is null)"));
        let asked = match key.as_slice() {
            [column] => both(Some(&asked), &format!("({} is not null)", name(column))),
            _ => asked,
        };
        let order = order_by.iter().cloned().chain(sortable(schema)).collect::<Vec<_>>().join(", ");
        query = format!(
            "select {columns}, case when {asked} and __freshet_n > 1 then cast({index} as int) \
             else {CHECK_COLUMN} end as {CHECK_COLUMN} from (select *, row_number() over \
             (partition by coalesce({asked}, false), {key} order by {order}) as __freshet_n \
             from ({query}) as q{index}) as n{index}",
            columns = sql::names(&columns),
            key = sql::names(key),
        );
    }
    let rules = rules
        .iter()
        .map(|rule| QuarantineRule {
            check: rule.check.name.clone(),
            rule: rule.check.rule.clone(),
            column: rule.column().map(str::to_owned),
            message: sql::fault(rule),
        })
        .collect();
    Ok(Some(Quarantine { sql: query, rules }))
}

/// The columns that have an order.
fn sortable(schema: &Schema) -> impl Iterator<Item = String> {
    schema
        .fields()
        .iter()
        .filter(|field| {
            !matches!(
                field.data_type(),
                DataType::Map(_, _) | DataType::Union(_, _) | DataType::Null
            )
        })
        .map(|field| name(field.name()))
}
