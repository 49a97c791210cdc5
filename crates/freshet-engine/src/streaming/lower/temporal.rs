//! Joins with a table as it was at the time of each row.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Join as Plan, LogicalPlan, Operator, Projection,
    SubqueryAlias, TableScan,
};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_runtime::operator::LATE;
use freshet_runtime::operators::{JoinKind, TemporalJoin};

use super::join::{Input, Sides, df_schema};
use super::{Lowering, Origin, Relation, StreamCatalog, TimeColumn, stream_of, unaliased};

/// A table as it was at each time: the relation with the columns that the plan gives, then others.
struct Versions {
    relation: Relation,
    /// How many columns the plan gives.
    columns: usize,
    /// The column of the versions' time.
    time: usize,
    /// The columns of the primary key.
    key: Vec<usize>,
}

impl Lowering<'_> {
    /// `left JOIN right FOR SYSTEM_TIME AS OF time ON condition`; `rest` is to hold as well.
    pub(super) fn temporal_join(
        &mut self,
        join: &Plan,
        time: &Expr,
        condition: &Expr,
        rest: Vec<Expr>,
    ) -> Result<Relation> {
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            other => {
                return Err(Error::new(
                    code::SQL,
                    format!(
                        "FOR SYSTEM_TIME AS OF stands in an inner or a left join, not in a {other} one"
                    ),
                ));
            }
        };
        let left = self.relation(&join.left)?;
        let left = self.with_bounds(left)?;
        if left.updating {
            return Err(Error::new(
                code::SQL,
                "rows that may be taken back are joined with a table as of their time",
            )
            .hint("join first, and aggregate or deduplicate what that gives"));
        }
        let left_time = match super::without_zone(&left, unaliased(time)) {
            Expr::Column(column) => left.schema.maybe_index_of_column(column),
            _ => None,
        };
        let left_time = left_time.filter(|place| left.origins[*place] == Origin::Time);
        let Some(left_time) = left_time else {
            return Err(Error::new(
                code::SQL,
                format!("no watermark says how far {time} has come"),
            )
            .hint("write FOR SYSTEM_TIME AS OF the column of the stream's time"));
        };
        let versions = self.versions(&join.right)?;
        let (on, mut residual) = equal_columns(&left, &versions, condition)?;
        residual.extend(rest);
        let key = versions.key.iter().map(|place| {
            let found = on.iter().find(|(_, of)| of == place);
            found.map(|(expr, _)| expr).ok_or_else(|| {
                let name = versions.relation.schema.field(*place).name();
                Error::new(
                    code::SQL,
                    format!("a join as of a time says nothing of \"{name}\", a part of the table's primary key"),
                )
                .hint("join on all columns of the primary key")
            })
        });
        let key: Vec<&Expr> = key.collect::<Result<_>>()?;
        let left = self.keyed(left, &key)?;
        let Versions { relation, columns, time, key } = versions;
        let right = Input { relation, columns, keys: key };
        let sides = Sides { left, right, kind };
        let operator = TemporalJoin {
            kind,
            left: Arc::clone(sides.left.relation.schema.inner()),
            right: Arc::clone(sides.right.relation.schema.inner()),
            left_keys: sides.left.keys.clone(),
            right_keys: sides.right.keys.clone(),
            left_time,
            right_time: time,
            residual: sides.residual(residual)?,
            groups: self.options.groups,
        };
        let of_left = |origin: Origin| if origin == Origin::Time { origin } else { Origin::Plain };
        let of_right = |_: Origin| Origin::Plain;
        let given = self.joined(&sides, join, Arc::new(operator), [of_left, of_right])?;
        self.late(&given, LATE, &sides.left, left_time);
        Ok(given)
    }

    /// A table with a primary key and a time, both among the columns of what is lowered.
    fn versions(&mut self, plan: &LogicalPlan) -> Result<Versions> {
        match plan {
            LogicalPlan::TableScan(scan) => self.versions_of(scan),
            LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => {
                let inner = self.versions(input)?;
                let schema = DFSchema::try_from_qualified_schema(
                    alias.clone(),
                    inner.relation.schema.as_arrow(),
                );
                let schema = schema.map_err(|error| {
                    Error::internal("an alias does not fit its table").caused_by(error)
                })?;
                let relation = Relation { schema: Arc::new(schema), ..inner.relation };
                Ok(Versions { relation, ..inner })
            }
            LogicalPlan::Projection(Projection { input, expr, .. }) => {
                let inner = self.versions(input)?;
                let columns = expr.len();
                let mut exprs = expr.clone();
                // Time and key behind the others, where they are not among them.
                let mut place = |of: usize| {
                    let column = Column::from(inner.relation.schema.qualified_field(of));
                    let column = Expr::Column(column);
                    exprs.iter().position(|known| *known == column).unwrap_or_else(|| {
                        exprs.push(column);
                        exprs.len() - 1
                    })
                };
                let time = place(inner.time);
                let key = inner.key.iter().map(|of| place(*of)).collect();
                let fields = exprs.iter().map(|expr| expr.to_field(&inner.relation.schema));
                let fields = fields.collect::<std::result::Result<Vec<_>, _>>();
                let fields = fields.map_err(|error| {
                    Error::internal("a column of a table has no type").caused_by(error)
                })?;
                let schema = Arc::new(df_schema(fields)?);
                let relation = self.project(inner.relation, &exprs, &schema, false)?;
                Ok(Versions { relation, columns, time, key })
            }
            other => Err(no_versions(other)),
        }
    }

    fn versions_of(&mut self, scan: &TableScan) -> Result<Versions> {
        let time = version_time(self.catalog, &stream_of(scan)?)?;
        let all = scan.source.schema();
        let given: Vec<usize> =
            scan.projection.clone().unwrap_or_else(|| (0..all.fields().len()).collect());
        let mut wanted = given.clone();
        let mut place = |column: usize| {
            wanted.iter().position(|known| *known == column).unwrap_or_else(|| {
                wanted.push(column);
                wanted.len() - 1
            })
        };
        let (time, key) =
            (place(time.column), time.primary_key.iter().map(|column| place(*column)).collect());
        let scan = TableScanBuilder::new(scan.table_name.clone(), Arc::clone(&scan.source))
            .with_projection(Some(wanted))
            .build()
            .map_err(|error| Error::internal("a table lacks its own columns").caused_by(error))?;
        let relation = self.scan(&scan)?;
        Ok(Versions { relation, columns: given.len(), time, key })
    }
}

/// The time and the key of a table that has versions.
pub(in crate::streaming) fn version_time(
    catalog: &dyn StreamCatalog,
    table: &str,
) -> Result<TimeColumn> {
    let time = catalog.time(table)?.filter(|time| !time.primary_key.is_empty());
    time.ok_or_else(|| {
        Error::new(
            code::SQL,
            format!("\"{table}\" has no primary key and watermark, so that it has no versions"),
        )
        .hint("declare `primary_key:` and `watermark:` on the source's table")
    })
}

/// The parts of a condition that say which expression of the left side a column of the table equals,
/// and the others.
#[allow(clippy::type_complexity, reason = "two lists of one step")]
fn equal_columns(
    left: &Relation,
    right: &Versions,
    condition: &Expr,
) -> Result<(Vec<(Expr, usize)>, Vec<Expr>)> {
    let of_left = |expr: &Expr| {
        let refs = expr.column_refs();
        !refs.is_empty() && refs.iter().all(|column| left.schema.has_column(column))
    };
    let of_key = |expr: &Expr| match expr {
        Expr::Column(column) => right
            .relation
            .schema
            .maybe_index_of_column(column)
            .filter(|place| right.key.contains(place)),
        _ => None,
    };
    let (mut on, mut rest) = (Vec::new(), Vec::new());
    for part in split_conjunction_owned(condition.clone()) {
        let pair = match &part {
            Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) => {
                match (of_key(b), of_key(a)) {
                    (Some(place), _) if of_left(a) => Some((a.as_ref().clone(), place)),
                    (_, Some(place)) if of_left(b) => Some((b.as_ref().clone(), place)),
                    _ => None,
                }
            }
            _ => None,
        };
        match pair {
            Some((expr, place)) if !on.iter().any(|(_, of)| *of == place) => on.push((expr, place)),
            _ => rest.push(part),
        }
    }
    Ok((on, rest))
}

pub(in crate::streaming) fn no_versions(plan: &LogicalPlan) -> Error {
    Error::new(
        code::SQL,
        format!("FOR SYSTEM_TIME AS OF stands behind a source's table, not {}", plan.display()),
    )
    .hint("join the table itself, and filter or compute above the join")
}
