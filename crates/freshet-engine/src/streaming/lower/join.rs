//! Joins: of changelogs, of windows, of times that lie near to each other.

use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::{DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, Join as Plan, Operator, and,
};
use freshet_core::error::code;
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Result};
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operator::{LATE, LATE_RIGHT, MAIN, OperatorSpec, Port};
use freshet_runtime::operators::{IntervalJoin, Join, JoinKind, WindowJoin};
use freshet_runtime::plan::{EdgePlan, StageInput, StagePlan};

use super::columns::{Place, Shifted};
use super::{Lowering, Origin, Relation, Side, calc, unaliased};
use crate::streaming::as_of;
use crate::streaming::expr::compile;
use crate::streaming::windows::{self, Bound, Kind};

/// The two sides of a join, with the columns that are to be equal among theirs.
pub(super) struct Sides {
    pub(super) left: Input,
    pub(super) right: Input,
    pub(super) kind: JoinKind,
}

/// One side: the columns that the join gives, then others that it needs.
pub(super) struct Input {
    pub(super) relation: Relation,
    /// How many of its columns the join gives.
    pub(super) columns: usize,
    /// The columns that are to be equal.
    pub(super) keys: Vec<usize>,
}

/// How far the times of two rows may lie apart: `left - right` in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interval {
    left: usize,
    right: usize,
    lower: Option<i64>,
    upper: Option<i64>,
}

impl Lowering<'_> {
    pub(super) fn join(&mut self, join: &Plan) -> Result<Relation> {
        if join.null_equality != NullEquality::NullEqualsNothing || join.null_aware {
            return Err(unsupported("a join in which nulls are equal"));
        }
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            JoinType::Right => JoinKind::Right,
            JoinType::Full => JoinKind::Full,
            JoinType::LeftSemi => JoinKind::LeftSemi,
            JoinType::LeftAnti => JoinKind::LeftAnti,
            other => return Err(unsupported(&format!("a join of kind {other}"))),
        };
        let residual: Vec<Expr> = join.filter.clone().map_or(Vec::new(), split_conjunction_owned);
        if let Some(place) = residual.iter().position(|part| as_of::mention(part).is_some()) {
            let mut rest = residual;
            let mention = rest.remove(place);
            let (time, condition) = as_of::mention(&mention).expect("it is one");
            let on = join.on.iter().map(|(a, b)| a.clone().eq(b.clone()));
            rest.extend(on);
            return self.temporal_join(join, time, condition, rest);
        }
        let left = self.relation(&join.left)?;
        let left = self.with_bounds(left)?;
        let right = self.relation(&join.right)?;
        let right = self.with_bounds(right)?;
        if join.on.is_empty() {
            return Err(Error::new(code::SQL, "a join has no columns that are to be equal")
                .hint("write JOIN … ON a.x = b.y AND …: rows are divided by what is equal"));
        }
        if let Some(window) = equal_windows(self, &left, &right, &join.on) {
            return self.window_join(left, right, kind, join, window, residual);
        }
        let appends = !left.updating && !right.updating;
        let is_plain = !matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        if appends && is_plain {
            let (interval, rest) = interval_of(&left, &right, &join.on, &residual)?;
            if let Some(interval) = interval {
                return self.interval_join(left, right, kind, join, interval, rest);
            }
        }
        self.regular_join(left, right, kind, join, residual)
    }

    fn regular_join(
        &mut self,
        left: Relation,
        right: Relation,
        kind: JoinKind,
        join: &Plan,
        residual: Vec<Expr>,
    ) -> Result<Relation> {
        let on: Vec<String> =
            join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        self.unbounded(format!("a join on {} keeps all rows of both sides", on.join(" AND ")));
        let takes_back = match kind {
            JoinKind::Inner | JoinKind::LeftSemi => left.updating || right.updating,
            _ => true,
        };
        let sides = self.sides(left, right, kind, &join.on)?;
        let operator = Join {
            kind,
            left: Arc::clone(sides.left.relation.schema.inner()),
            right: Arc::clone(sides.right.relation.schema.inner()),
            left_keys: sides.left.keys.clone(),
            right_keys: sides.right.keys.clone(),
            residual: sides.residual(residual)?,
            ttl: self.options.state_ttl,
            groups: self.options.groups,
        };
        let plain = |_: Origin| Origin::Plain;
        let given = self.joined(&sides, join, Arc::new(operator), [plain, plain])?;
        Ok(Relation { updating: takes_back, ..given })
    }

    fn interval_join(
        &mut self,
        left: Relation,
        right: Relation,
        kind: JoinKind,
        join: &Plan,
        interval: Interval,
        residual: Vec<Expr>,
    ) -> Result<Relation> {
        let (Some(lower), Some(upper)) = (interval.lower, interval.upper) else {
            return Err(Error::internal("an interval without bounds"));
        };
        let sides = self.sides(left, right, kind, &join.on)?;
        let operator = IntervalJoin {
            kind,
            left: Arc::clone(sides.left.relation.schema.inner()),
            right: Arc::clone(sides.right.relation.schema.inner()),
            left_keys: sides.left.keys.clone(),
            right_keys: sides.right.keys.clone(),
            left_time: interval.left,
            right_time: interval.right,
            lower,
            upper,
            residual: sides.residual(residual)?,
            groups: self.options.groups,
        };
        // Times stay times, as the watermark waits; those of a side that may be null do not.
        let time = |origin: Origin| if origin == Origin::Time { origin } else { Origin::Plain };
        let plain = |_: Origin| Origin::Plain;
        let origins: [fn(Origin) -> Origin; 2] = match kind {
            JoinKind::Inner => [time, time],
            JoinKind::Left => [time, plain],
            JoinKind::Right => [plain, time],
            _ => [plain, plain],
        };
        let given = self.joined(&sides, join, Arc::new(operator), origins)?;
        self.late(&given, LATE, &sides.left, interval.left);
        self.late(&given, LATE_RIGHT, &sides.right, interval.right);
        Ok(given)
    }

    fn window_join(
        &mut self,
        left: Relation,
        right: Relation,
        kind: JoinKind,
        join: &Plan,
        window: EqualWindows,
        residual: Vec<Expr>,
    ) -> Result<Relation> {
        let EqualWindows { left: of_left, right: of_right, by_end } = window;
        let is_bound = |side: &Relation, number: usize, expr: &Expr| match unaliased(expr) {
            Expr::Column(column) => {
                side.schema.maybe_index_of_column(column).is_some_and(|place| {
                    matches!(
                        side.origins[place],
                        Origin::Window(Bound::Start | Bound::End, of)
                            | Origin::Closed(Bound::Start | Bound::End, of) if of == number
                    )
                })
            }
            _ => false,
        };
        let on: Vec<(Expr, Expr)> = join
            .on
            .iter()
            .filter(|(a, b)| !is_bound(&left, of_left, a) || !is_bound(&right, of_right, b))
            .cloned()
            .collect();
        let columns = (left.origins.len(), right.origins.len());
        let (left, mut left_window) = self.bounded(left, of_left)?;
        let (right, mut right_window) = self.bounded(right, of_right)?;
        if by_end {
            (left_window[0], right_window[0]) = (left_window[1], right_window[1]);
        }
        let mut sides = self.sides(left, right, kind, &on)?;
        (sides.left.columns, sides.right.columns) = columns;
        if on.is_empty() {
            // Rows are divided by their windows then.
            sides.left.keys = vec![left_window[1]];
            sides.right.keys = vec![right_window[1]];
        }
        let operator = WindowJoin {
            kind,
            left: Arc::clone(sides.left.relation.schema.inner()),
            right: Arc::clone(sides.right.relation.schema.inner()),
            left_keys: sides.left.keys.clone(),
            right_keys: sides.right.keys.clone(),
            left_window,
            right_window,
            residual: sides.residual(residual)?,
            groups: self.options.groups,
        };
        // Bounds stay bounds, those of a side that may be null apart.
        let same = |origin: Origin| match origin {
            Origin::Window(bound, number) => Origin::Closed(bound, number),
            Origin::Partition(_) => Origin::Plain,
            other => other,
        };
        let plain = |_: Origin| Origin::Plain;
        let origins: [fn(Origin) -> Origin; 2] = match kind {
            JoinKind::Left => [same, plain],
            JoinKind::Right => [plain, same],
            JoinKind::Full => [plain, plain],
            _ => [same, same],
        };
        let given = self.joined(&sides, join, Arc::new(operator), origins)?;
        self.late(&given, LATE, &sides.left, left_window[1]);
        self.late(&given, LATE_RIGHT, &sides.right, right_window[1]);
        Ok(given)
    }

    /// A relation with both bounds of its window among its columns, and their places.
    fn bounded(&mut self, relation: Relation, number: usize) -> Result<(Relation, [usize; 2])> {
        let place = |wanted: Bound| {
            relation.origins.iter().position(|origin| match origin {
                Origin::Window(bound, of) | Origin::Closed(bound, of) => {
                    (*bound, *of) == (wanted, number)
                }
                _ => false,
            })
        };
        let size = self.windows[number].windows.size();
        let columns = relation.origins.len();
        let (added, window) = match (place(Bound::Start), place(Bound::End)) {
            (Some(start), Some(end)) => return Ok((relation, [start, end])),
            // Windows of one size.
            (Some(start), None) => (Shifted(start, size), [start, columns]),
            (None, Some(end)) => (Shifted(end, -size), [columns, end]),
            (None, None) => return Err(Error::internal("rows without a window are joined by it")),
        };
        let mut fields = qualified(&relation.schema);
        let name = format!("freshet bound of {}", relation.id);
        fields.push((None, Arc::new(Field::new(name, windows::TIME, true))));
        let mut exprs: Vec<Arc<dyn ScalarExpr>> =
            (0..columns).map(|place| Arc::new(Place(place)) as _).collect();
        exprs.push(Arc::new(added));
        let schema = Arc::new(df_schema(fields)?);
        let text = format!("bounds {window:?} {}", relation.id);
        let (stage, id) = self.forward(&relation, &text, calc(schema.inner(), exprs));
        let mut origins = relation.origins.clone();
        origins.push(Origin::Plain);
        Ok((Relation { stage, id, schema, origins, ..relation }, window))
    }

    /// The rows of one side, with its column of time, that the join of a stage sets apart.
    pub(super) fn late(&mut self, given: &Relation, port: Port, side: &Input, time: usize) {
        let schema = Arc::clone(side.relation.schema.inner());
        self.sides.push(Side { stage: given.stage, operator: 0, port, schema, time });
    }

    /// Both sides with the values of the equal expressions among their columns.
    fn sides(
        &mut self,
        left: Relation,
        right: Relation,
        kind: JoinKind,
        on: &[(Expr, Expr)],
    ) -> Result<Sides> {
        let (lefts, rights): (Vec<&Expr>, Vec<&Expr>) = on.iter().map(|(a, b)| (a, b)).unzip();
        Ok(Sides { left: self.keyed(left, &lefts)?, right: self.keyed(right, &rights)?, kind })
    }

    pub(super) fn keyed(&mut self, relation: Relation, keys: &[&Expr]) -> Result<Input> {
        let columns = relation.origins.len();
        let mut places = Vec::new();
        let mut computed: Vec<&Expr> = Vec::new();
        for key in keys {
            places.push(match unaliased(key) {
                Expr::Column(column) => relation.index(column)?,
                other => {
                    computed.push(other);
                    columns + computed.len() - 1
                }
            });
        }
        if computed.is_empty() {
            return Ok(Input { relation, columns, keys: places });
        }
        let mut fields: Vec<_> = qualified(&relation.schema);
        let mut exprs: Vec<Arc<dyn ScalarExpr>> =
            (0..columns).map(|place| Arc::new(Place(place)) as _).collect();
        for (number, key) in computed.iter().enumerate() {
            let data_type = key
                .get_type(&*relation.schema)
                .map_err(|error| Error::internal("a key has no type").caused_by(error))?;
            // A name that no statement has: the two sides' are told apart by where they stand.
            let name = format!("freshet key {number} of {}", relation.id);
            fields.push((None, Arc::new(Field::new(name, data_type, true))));
            exprs.push(compile(key, &relation.schema)?);
        }
        let schema = Arc::new(df_schema(fields)?);
        let text = format!("keys {computed:?} {}", relation.id);
        let (stage, id) = self.forward(&relation, &text, calc(schema.inner(), exprs));
        let mut origins = relation.origins.clone();
        origins.resize(schema.fields().len(), Origin::Plain);
        Ok(Input {
            relation: Relation { stage, id, schema, origins, ..relation },
            columns,
            keys: places,
        })
    }

    /// A stage of a join behind exchanges by the keys, and the columns of the statement.
    pub(super) fn joined(
        &mut self,
        sides: &Sides,
        join: &Plan,
        operator: Arc<dyn OperatorSpec>,
        origins: [fn(Origin) -> Origin; 2],
    ) -> Result<Relation> {
        let Sides { left, right, kind } = sides;
        let edges = [left, right].into_iter().enumerate().map(|(input, side)| {
            let from = side.relation.stage;
            EdgePlan {
                from,
                operator: self.stages[from].operators.len().saturating_sub(1),
                port: MAIN,
                input,
                partitioning: Partitioning::Hash(side.keys.clone()),
                schema: Arc::clone(side.relation.schema.inner()),
            }
        });
        let edges = edges.collect();
        let text = format!(
            "{} {:?} {:?} {} {}",
            operator.name(),
            join.on,
            join.filter,
            left.relation.id,
            right.relation.id
        );
        let id = self.id_of(&text);
        self.stages.push(StagePlan {
            id: format!("stage {id}"),
            parallelism: self.options.parallelism,
            input: StageInput::Edges(edges),
            operators: vec![(id.clone(), operator)],
            sink: None,
        });
        let stage = self.stages.len() - 1;
        // The columns of both, without the keys that were computed.
        let is_left_alone = matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let behind = left.relation.origins.len();
        let rights = if is_left_alone { 0 } else { right.columns };
        let places = (0..left.columns).chain((0..rights).map(|place| behind + place));
        let exprs = places.map(|place| Arc::new(Place(place)) as Arc<dyn ScalarExpr>).collect();
        let id = self.id_of(&format!("columns of {id}"));
        self.stages[stage].operators.push((id.clone(), calc(join.schema.inner(), exprs)));
        let of = |side: &Input, number: usize, columns: usize| -> Vec<Origin> {
            side.relation.origins[..columns].iter().map(|origin| origins[number](*origin)).collect()
        };
        let origins = [of(left, 0, left.columns), of(right, 1, rights)].concat();
        Ok(Relation { stage, id, schema: Arc::clone(&join.schema), origins, updating: false })
    }
}

impl Sides {
    /// A condition over the columns of both, compiled.
    pub(super) fn residual(&self, parts: Vec<Expr>) -> Result<Option<Arc<dyn ScalarExpr>>> {
        let Some(condition) = conjunction(parts) else { return Ok(None) };
        let (left, right) = (&self.left.relation.schema, &self.right.relation.schema);
        let kind = match self.kind {
            JoinKind::LeftSemi | JoinKind::LeftAnti => JoinKind::Inner,
            kind => kind,
        };
        let given = kind.schema(left.inner(), right.inner());
        let names = qualified(left).into_iter().chain(qualified(right)).map(|(table, _)| table);
        let fields = names.zip(given.fields().iter().cloned()).collect();
        Ok(Some(compile(&condition, &df_schema(fields)?)?))
    }
}

type Qualified = (Option<datafusion::common::TableReference>, FieldRef);

fn qualified(schema: &DFSchema) -> Vec<Qualified> {
    schema.iter().map(|(table, field)| (table.cloned(), Arc::clone(field))).collect()
}

pub(super) fn df_schema(fields: Vec<Qualified>) -> Result<DFSchema> {
    DFSchema::new_with_metadata(fields, Default::default()).map_err(|error| {
        Error::internal("the columns of a join cannot be told apart").caused_by(error)
    })
}

/// The bounds that two rows' times are said to keep, and the conditions that say something else.
/// `None` where they are not bounded on both sides.
fn interval_of(
    left: &Relation,
    right: &Relation,
    on: &[(Expr, Expr)],
    conditions: &[Expr],
) -> Result<(Option<Interval>, Vec<Expr>)> {
    let mut found: Option<Interval> = None;
    let mut rest = Vec::new();
    let mut narrow = |times: (usize, usize), lower: Option<i64>, upper: Option<i64>| -> bool {
        let known = found.get_or_insert(Interval {
            left: times.0,
            right: times.1,
            lower: None,
            upper: None,
        });
        if (known.left, known.right) != times {
            return false;
        }
        known.lower = known.lower.max(lower);
        known.upper = match (known.upper, upper) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        true
    };
    for (a, b) in on {
        if let (Some((a, 0)), Some((b, 0))) = (time_of(left, a)?, time_of(right, b)?) {
            narrow((a, b), Some(0), Some(0));
        }
    }
    for condition in conditions.iter().cloned().flat_map(comparisons) {
        let bound = bound_of(left, right, &condition)?;
        let taken = bound.is_some_and(|(times, lower, upper)| narrow(times, lower, upper));
        if !taken {
            rest.push(condition);
        }
    }
    match found {
        Some(interval) if interval.lower.is_some() && interval.upper.is_some() => {
            if interval.lower > interval.upper {
                return Err(Error::new(code::SQL, "no two times can keep the bounds of a join"));
            }
            Ok((Some(interval), rest))
        }
        _ => Ok((None, conditions.to_vec())),
    }
}

/// `a BETWEEN b AND c` as two comparisons; anything else as it is.
fn comparisons(condition: Expr) -> Vec<Expr> {
    match condition {
        Expr::Between(Between { expr, negated: false, low, high }) => split_conjunction_owned(and(
            expr.as_ref().clone().gt_eq(*low),
            expr.as_ref().clone().lt_eq(*high),
        )),
        other => vec![other],
    }
}

/// The places of two times.
type Times = (usize, usize);

/// The places of two times, with the least and the greatest difference of left and right.
type Bounds = (Times, Option<i64>, Option<i64>);

/// The bounds that a comparison says.
fn bound_of(left: &Relation, right: &Relation, condition: &Expr) -> Result<Option<Bounds>> {
    let Expr::BinaryExpr(BinaryExpr { left: a, op, right: b }) = condition else { return Ok(None) };
    let straight = (time_of(left, a)?, time_of(right, b)?);
    let (from, to, op) = match straight {
        (Some(from), Some(to)) => (from, to, *op),
        _ => match (time_of(left, b)?, time_of(right, a)?, op.swap()) {
            (Some(from), Some(to), Some(op)) => (from, to, op),
            _ => return Ok(None),
        },
    };
    // from.time + from.shift op to.time + to.shift.
    let difference = to.1.saturating_sub(from.1);
    let times = (from.0, to.0);
    Ok(match op {
        Operator::GtEq => Some((times, Some(difference), None)),
        Operator::Gt => Some((times, Some(difference.saturating_add(1)), None)),
        Operator::LtEq => Some((times, None, Some(difference))),
        Operator::Lt => Some((times, None, Some(difference.saturating_sub(1)))),
        Operator::Eq => Some((times, Some(difference), Some(difference))),
        _ => None,
    })
}

/// The place of a side's time, and by how much it is moved; `None` for any other expression.
fn time_of(side: &Relation, expr: &Expr) -> Result<Option<(usize, i64)>> {
    Ok(match unaliased(expr) {
        Expr::Column(column) => match side.schema.maybe_index_of_column(column) {
            Some(place) if side.origins[place] == Origin::Time => Some((place, 0)),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (time, span, sign) = match (op, left.as_ref(), right.as_ref()) {
                (Operator::Plus, time, Expr::Literal(span, _)) => (time, span, 1),
                (Operator::Plus, Expr::Literal(span, _), time) => (time, span, 1),
                (Operator::Minus, time, Expr::Literal(span, _)) => (time, span, -1),
                _ => return Ok(None),
            };
            let (Some((place, shift)), Some(span)) = (time_of(side, time)?, span_of(span)) else {
                return Ok(None);
            };
            Some((place, shift + sign * span))
        }
        _ => None,
    })
}

fn span_of(value: &ScalarValue) -> Option<i64> {
    windows::scalar_span(value).ok().flatten()
}

/// Windows that rows of two sides are joined by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EqualWindows {
    left: usize,
    right: usize,
    /// Whether the ends alone are to be equal: windows that end together are whole together, whatever
    /// their starts are.
    by_end: bool,
}

/// The windows of the two sides, where bounds of both are to be equal.
fn equal_windows(
    lowering: &Lowering<'_>,
    left: &Relation,
    right: &Relation,
    on: &[(Expr, Expr)],
) -> Option<EqualWindows> {
    if left.updating || right.updating {
        return None;
    }
    let bound = |side: &Relation, expr: &Expr| -> Option<(Bound, usize)> {
        let Expr::Column(column) = unaliased(expr) else { return None };
        match side.origins[side.schema.maybe_index_of_column(column)?] {
            Origin::Window(bound, number) | Origin::Closed(bound, number) => Some((bound, number)),
            _ => None,
        }
    };
    let equal = |wanted: Bound| {
        on.iter().find_map(|(a, b)| match (bound(left, a)?, bound(right, b)?) {
            ((of_a, a), (of_b, b)) if (of_a, of_b) == (wanted, wanted) => Some((a, b)),
            _ => None,
        })
    };
    let same = |(a, b): (usize, usize)| {
        let (a, b) = (&lowering.windows[a], &lowering.windows[b]);
        a.kind == b.kind && a.windows == b.windows && matches!(a.kind, Kind::Tumble | Kind::Hop)
    };
    match (equal(Bound::Start), equal(Bound::End)) {
        (Some(starts), Some(ends)) if starts == ends => {
            Some(EqualWindows { left: ends.0, right: ends.1, by_end: false })
        }
        (None, Some((left, right))) => Some(EqualWindows { left, right, by_end: true }),
        (Some((left, right)), None) if same((left, right)) => {
            Some(EqualWindows { left, right, by_end: false })
        }
        _ => None,
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(code::SQL, format!("{what} is not supported in a stream yet"))
}
