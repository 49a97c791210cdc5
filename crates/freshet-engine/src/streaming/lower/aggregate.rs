//! `GROUP BY`: of windows, of sessions, and without an end.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable};
use freshet_core::error::code;
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Result};
use freshet_runtime::aggregate::AggregateSpec;
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operator::{LATE, MAIN, OperatorSpec};
use freshet_runtime::operators::{GroupAggregate, SessionAggregate, WindowAggregate, Windows};
use freshet_runtime::plan::{EdgePlan, StageInput, StagePlan};

use super::columns::{Place, Shifted};
use super::{Lowering, Origin, Relation, Side, Unbounded, Window, calc, unaliased};
use crate::streaming::aggregate::Call;
use crate::streaming::expr::compile;
use crate::streaming::windows::{BEFORE_END, Bound, Kind};

/// What a statement groups by.
struct Grouping<'a> {
    /// For each expression, the bound of the window that it is; `None` for a key.
    bounds: Vec<Option<Bound>>,
    /// The expressions that are no bounds.
    keys: Vec<&'a Expr>,
    of: Of,
}

/// What rows are gathered in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// A window, by the rows' time.
    Time(usize),
    /// A window whose bounds the rows carry.
    Bounds(usize),
    /// Nothing that ends.
    All,
}

/// Keys, time and arguments as columns in front of the exchange.
struct Arguments {
    stage: usize,
    id: String,
    schema: SchemaRef,
    specs: Vec<Arc<dyn AggregateSpec>>,
    names: Vec<String>,
}

impl Lowering<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Relation> {
        let input = self.input_of_groups(&aggregate.input)?;
        let grouping = self.grouping(&input, &aggregate.group_expr)?;
        let exprs = grouping.keys.iter().copied().chain(&aggregate.aggr_expr);
        // Signs that are no bounds of this grouping are values of the rows.
        let reads_signs = {
            let mut reads = Vec::new();
            for expr in exprs {
                reads.extend(input.reads(expr)?);
            }
            input.signs(&self.windows).any(|(place, _)| reads.contains(&place))
        };
        if reads_signs {
            let input = self.with_bounds(input)?;
            let grouping = self.grouping(&input, &aggregate.group_expr)?;
            return self.grouped(input, aggregate, grouping);
        }
        self.grouped(input, aggregate, grouping)
    }

    fn grouped(
        &mut self,
        input: Relation,
        aggregate: &Aggregate,
        grouping: Grouping<'_>,
    ) -> Result<Relation> {
        match grouping.of {
            Of::All => self.updating(&input, aggregate),
            Of::Bounds(number) => self.of_bounds(&input, aggregate, &grouping, number),
            Of::Time(number) if self.windows[number].kind == Kind::Session => {
                self.session(&input, aggregate, &grouping, number)
            }
            Of::Time(number) => self.windowed(&input, aggregate, &grouping, number),
        }
    }

    /// `SELECT DISTINCT`: a group of each row, without aggregates.
    pub(super) fn distinct(&mut self, input: Relation) -> Result<Relation> {
        let input = self.with_bounds(input)?;
        let exprs: Vec<Expr> =
            input.schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
        let aggregate = GroupAggregate {
            input: Arc::clone(input.schema.inner()),
            keys: (0..exprs.len()).collect(),
            aggregates: Vec::new(),
            names: Vec::new(),
            groups: self.options.groups,
            ttl: self.options.state_ttl,
        };
        self.unbounded("SELECT DISTINCT keeps every row that it has seen".to_owned());
        let text = format!("distinct {}", input.id);
        let keys = exprs.len();
        let (stage, id) = self.exchanged(
            (input.stage, &input.schema.inner().clone()),
            keys,
            &text,
            Arc::new(aggregate),
        );
        let origins = vec![Origin::Plain; keys];
        Ok(Relation { stage, id, origins, ..input })
    }

    /// Reads what a statement groups by.
    fn grouping<'a>(&self, input: &Relation, exprs: &'a [Expr]) -> Result<Grouping<'a>> {
        let mut origins = Vec::new();
        for expr in exprs {
            origins.push(match unaliased(expr) {
                Expr::Column(column) => input.origins[input.index(column)?],
                Expr::GroupingSet(_) => {
                    let message = "grouping sets are not supported in a stream";
                    return Err(Error::new(code::SQL, message));
                }
                _ => Origin::Plain,
            });
        }
        let mut of = Of::All;
        for origin in &origins {
            if let Origin::Window(_, number) = origin {
                if matches!(of, Of::Time(known) if known != *number) {
                    let message = "a stream is grouped by bounds of two different windows";
                    return Err(Error::new(code::SQL, message));
                }
                of = Of::Time(*number);
            }
        }
        if of == Of::All && !input.updating {
            of = self.closed(&origins);
        }
        let bound = |origin: &Origin| match (of, origin) {
            (Of::Time(number), Origin::Window(bound, other)) if *other == number => Some(*bound),
            (Of::Bounds(number), Origin::Closed(bound @ (Bound::Start | Bound::End), other))
                if *other == number =>
            {
                Some(*bound)
            }
            _ => None,
        };
        let bounds: Vec<Option<Bound>> = origins.iter().map(bound).collect();
        let keys = exprs.iter().zip(&bounds).filter(|(_, bound)| bound.is_none());
        let keys = keys.map(|(expr, _)| expr).collect();
        Ok(Grouping { bounds, keys, of })
    }

    /// The window whose bounds rows carry, where those that are grouped by say which one it is.
    fn closed(&self, origins: &[Origin]) -> Of {
        let number = origins.iter().find_map(|origin| match origin {
            Origin::Closed(Bound::Start | Bound::End, number) => Some(*number),
            _ => None,
        });
        let Some(number) = number else { return Of::All };
        let has = |bound| origins.contains(&Origin::Closed(bound, number));
        let whole = match self.windows[number].kind {
            Kind::Tumble | Kind::Hop => true,
            Kind::Cumulate | Kind::Session => has(Bound::Start) && has(Bound::End),
        };
        if whole { Of::Bounds(number) } else { Of::All }
    }

    /// Windows that are known from the rows' time.
    fn windowed(
        &mut self,
        input: &Relation,
        aggregate: &Aggregate,
        grouping: &Grouping<'_>,
        number: usize,
    ) -> Result<Relation> {
        refuse_updating(input)?;
        let Window { kind, windows, .. } = self.windows[number].clone();
        let mentions = |bound| grouping.bounds.contains(&Some(bound));
        let whole = match kind {
            Kind::Cumulate => mentions(Bound::Start) && mentions(Bound::End),
            _ => mentions(Bound::Start) || mentions(Bound::End),
        };
        if !whole {
            return Err(by_one_bound());
        }
        let time = self.time_of(input, number)?;
        let arguments = self.arguments(input, aggregate, &grouping.keys, Some(time))?;
        let text = format!("{aggregate:?} {windows:?} {}", arguments.id);
        let keys = grouping.keys.len();
        let operator = WindowAggregate {
            input: Arc::clone(&arguments.schema),
            time: keys,
            windows,
            keys: (0..keys).collect(),
            aggregates: arguments.specs.clone(),
            names: arguments.names.clone(),
            groups: self.options.groups,
        };
        let (stage, id) = self.windows_behind(&arguments, keys, &text, Arc::new(operator));
        self.arrange(stage, &id, aggregate, &grouping.bounds, (keys, None), number)
    }

    /// Windows whose bounds the rows carry: each instant is one window, whose time is the last one
    /// before the end.
    fn of_bounds(
        &mut self,
        input: &Relation,
        aggregate: &Aggregate,
        grouping: &Grouping<'_>,
        number: usize,
    ) -> Result<Relation> {
        let place = |bound| {
            let wanted = Origin::Closed(bound, number);
            input.origins.iter().position(|origin| *origin == wanted)
        };
        let time: Arc<dyn ScalarExpr> = match (place(Bound::End), place(Bound::Start)) {
            (Some(end), _) => Arc::new(Shifted(end, -1)),
            (None, Some(start)) => {
                Arc::new(Shifted(start, self.windows[number].windows.size() - 1))
            }
            (None, None) => {
                return Err(Error::internal("rows without a window were grouped by it"));
            }
        };
        let time = ("window_time".to_owned(), time);
        let start = place(Bound::Start).filter(|_| grouping.bounds.contains(&Some(Bound::Start)));
        let start =
            start.map(|start| Expr::Column(Column::from(input.schema.qualified_field(start))));
        let mut exprs = grouping.keys.clone();
        exprs.extend(&start);
        let arguments = self.arguments(input, aggregate, &exprs, Some(time))?;
        let text = format!("{aggregate:?} of bounds {}", arguments.id);
        let keys = exprs.len();
        let operator = WindowAggregate {
            input: Arc::clone(&arguments.schema),
            time: keys,
            windows: Windows::tumble(1, 0)?,
            keys: (0..keys).collect(),
            aggregates: arguments.specs.clone(),
            names: arguments.names.clone(),
            groups: self.options.groups,
        };
        let (stage, id) = self.windows_behind(&arguments, keys, &text, Arc::new(operator));
        let start = start.map(|_| keys - 1);
        self.arrange(stage, &id, aggregate, &grouping.bounds, (keys, start), number)
    }

    fn session(
        &mut self,
        input: &Relation,
        aggregate: &Aggregate,
        grouping: &Grouping<'_>,
        number: usize,
    ) -> Result<Relation> {
        refuse_updating(input)?;
        let mentions = |bound| grouping.bounds.contains(&Some(bound));
        if !mentions(Bound::Start) || !mentions(Bound::End) {
            return Err(by_one_bound());
        }
        let mut divided = Vec::new();
        for key in &grouping.keys {
            let origin = match unaliased(key) {
                Expr::Column(column) => input.origins[input.index(column)?],
                _ => Origin::Plain,
            };
            if origin != Origin::Partition(number) {
                return Err(Error::new(
                    code::SQL,
                    format!("sessions are grouped by {key}, which does not divide them"),
                )
                .hint(format!(
                    "write SESSION(TABLE t PARTITION BY {key}, DESCRIPTOR(time), gap)"
                )));
            }
            divided.push(unaliased(key));
        }
        divided.dedup();
        let partition = self.windows[number].partition.len();
        if divided.len() != partition {
            return Err(Error::new(
                code::SQL,
                format!(
                    "sessions are divided by {partition} columns, and grouped by {}",
                    divided.len()
                ),
            )
            .hint("group by all columns of PARTITION BY, window_start and window_end"));
        }
        let time = self.time_of(input, number)?;
        let gap = self.windows[number].windows.size();
        let arguments = self.arguments(input, aggregate, &grouping.keys, Some(time))?;
        let text = format!("{aggregate:?} sessions {gap} {}", arguments.id);
        let keys = grouping.keys.len();
        let operator = SessionAggregate {
            input: Arc::clone(&arguments.schema),
            time: keys,
            gap,
            keys: (0..keys).collect(),
            aggregates: arguments.specs.clone(),
            names: arguments.names.clone(),
            groups: self.options.groups,
        };
        let (stage, id) = self.windows_behind(&arguments, keys, &text, Arc::new(operator));
        self.arrange(stage, &id, aggregate, &grouping.bounds, (keys, None), number)
    }

    fn updating(&mut self, input: &Relation, aggregate: &Aggregate) -> Result<Relation> {
        let keys: Vec<&Expr> = aggregate.group_expr.iter().collect();
        let arguments = self.arguments(input, aggregate, &keys, None)?;
        let text = format!("{aggregate:?} {}", arguments.id);
        let operator = GroupAggregate {
            input: Arc::clone(&arguments.schema),
            keys: (0..keys.len()).collect(),
            aggregates: arguments.specs.clone(),
            names: arguments.names.clone(),
            groups: self.options.groups,
            ttl: self.options.state_ttl,
        };
        if !keys.is_empty() {
            let by: Vec<String> = keys.iter().map(|key| key.schema_name().to_string()).collect();
            self.unbounded(format!(
                "GROUP BY {} keeps every group that it has seen",
                by.join(", ")
            ));
        }
        let from = (arguments.stage, &arguments.schema);
        let (stage, id) = self.exchanged(from, keys.len(), &text, Arc::new(operator));
        // The columns under the names of the statement.
        let columns = keys.len() + aggregate.aggr_expr.len();
        let exprs = (0..columns).map(|place| Arc::new(Place(place)) as Arc<dyn ScalarExpr>);
        let operator = calc(aggregate.schema.inner(), exprs.collect());
        let id = self.id_of(&format!("names {id}"));
        self.stages[stage].operators.push((id.clone(), operator));
        Ok(Relation {
            stage,
            id,
            schema: Arc::clone(&aggregate.schema),
            origins: vec![Origin::Plain; columns],
            updating: true,
        })
    }

    /// Says that an operator keeps something for ever, unless a time to live bounds it.
    pub(super) fn unbounded(&mut self, what: String) {
        if self.options.state_ttl.is_none() {
            let bound = "a window, or `state_ttl` in the model's config".to_owned();
            self.unbounded.push(Unbounded { what, bound });
        }
    }

    /// The time by which rows are put into a window. Any bound that the input has tells it: where it is
    /// no value it is the rows' time, and else it is moved into the window.
    fn time_of(&self, input: &Relation, number: usize) -> Result<(String, Arc<dyn ScalarExpr>)> {
        let time = input.origins.iter().enumerate().find_map(|(place, origin)| match origin {
            Origin::Window(bound, of) if *of == number => Some((place, *bound)),
            _ => None,
        });
        let Some((place, bound)) = time else {
            return Err(Error::internal("rows without a window were grouped by it"));
        };
        let shift = match bound {
            _ if self.windows[number].is_sign => 0,
            Bound::Start => 0,
            Bound::End => -1,
            Bound::Time => BEFORE_END - 1,
        };
        let name = match &self.windows[number] {
            Window { is_sign: true, time, .. } => name_of(time),
            _ => input.schema.field(place).name().clone(),
        };
        Ok((name, Arc::new(Shifted(place, shift))))
    }

    /// Computes keys, time, arguments and filters in front of the exchange: columns in this order.
    fn arguments(
        &mut self,
        input: &Relation,
        aggregate: &Aggregate,
        keys: &[&Expr],
        time: Option<(String, Arc<dyn ScalarExpr>)>,
    ) -> Result<Arguments> {
        let mut exprs: Vec<Expr> = keys.iter().map(|key| unaliased(key).clone()).collect();
        let mut calls = Vec::new();
        let shift = usize::from(time.is_some());
        for expr in &aggregate.aggr_expr {
            let call = Call::read(expr)?;
            let mut place = |expr: Option<&Expr>| {
                expr.map(|expr| {
                    let known = exprs[keys.len()..].iter().position(|known| known == expr);
                    let known = known.map(|place| keys.len() + place);
                    shift
                        + known.unwrap_or_else(|| {
                            exprs.push(expr.clone());
                            exprs.len() - 1
                        })
                })
            };
            let (argument, filter) = (place(call.argument()), place(call.filter));
            calls.push((call, argument, filter));
        }
        let mut compiled =
            exprs.iter().map(|expr| compile(expr, &input.schema)).collect::<Result<Vec<_>>>()?;
        let types = exprs.iter().map(|expr| {
            expr.get_type(&*input.schema)
                .map_err(|error| Error::internal("an argument has no type").caused_by(error))
        });
        let mut types = types.collect::<Result<Vec<_>>>()?;
        if let Some((_, time)) = &time {
            compiled.insert(keys.len(), Arc::clone(time));
            types.insert(keys.len(), crate::streaming::windows::TIME);
        }
        let outputs = aggregate.schema.fields().iter().skip(aggregate.group_expr.len());
        let specs = calls.iter().zip(outputs).map(|((call, argument, filter), output)| {
            let argument = argument.map(|column| (column, types[column].clone()));
            call.spec(argument, *filter, output.data_type(), input.updating)
        });
        let specs = specs.collect::<Result<Vec<_>>>()?;
        // Names are for those who read late rows. Several columns may have one, and the same values.
        let mut names: Vec<String> = exprs.iter().map(name_of).collect();
        if let Some((name, _)) = &time {
            names.insert(keys.len(), name.clone());
        }
        let fields = types.iter().enumerate();
        let fields =
            fields.map(|(place, data_type)| Field::new(&names[place], data_type.clone(), true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let text = format!("arguments {exprs:?} {}", input.id);
        let (stage, id) = self.forward(input, &text, calc(&schema, compiled));
        let names = (0..specs.len()).map(|place| format!("aggregate_{place}")).collect();
        Ok(Arguments { stage, id, schema, specs, names })
    }

    /// A stage of windows behind an exchange by the first `keys` columns; what is late is set apart.
    fn windows_behind(
        &mut self,
        arguments: &Arguments,
        keys: usize,
        text: &str,
        operator: Arc<dyn OperatorSpec>,
    ) -> (usize, String) {
        let from = (arguments.stage, &arguments.schema);
        let (stage, id) = self.exchanged(from, keys, text, operator);
        let schema = Arc::clone(&arguments.schema);
        self.sides.push(Side { stage, operator: 0, port: LATE, schema, time: keys });
        (stage, id)
    }

    /// A stage of one operator behind an exchange by the first `keys` columns; and its id.
    pub(super) fn exchanged(
        &mut self,
        (from, schema): (usize, &SchemaRef),
        keys: usize,
        text: &str,
        operator: Arc<dyn OperatorSpec>,
    ) -> (usize, String) {
        let (partitioning, parallelism) = match keys {
            0 => (Partitioning::Single, 1),
            keys => (Partitioning::Hash((0..keys).collect()), self.options.parallelism),
        };
        let id = self.id_of(text);
        self.stages.push(StagePlan {
            id: format!("stage {id}"),
            parallelism,
            input: StageInput::Edges(vec![EdgePlan {
                from,
                operator: self.stages[from].operators.len().saturating_sub(1),
                port: MAIN,
                input: 0,
                partitioning,
                schema: Arc::clone(schema),
            }]),
            operators: vec![(id.clone(), operator)],
            sink: None,
        });
        (self.stages.len() - 1, id)
    }

    /// Puts the columns of a windowed aggregate (keys, start, end, aggregates) into the order of the
    /// statement; where the start is one of the keys, it is said which one.
    fn arrange(
        &mut self,
        stage: usize,
        id: &str,
        aggregate: &Aggregate,
        bounds: &[Option<Bound>],
        (keys, start): (usize, Option<usize>),
        number: usize,
    ) -> Result<Relation> {
        let mut exprs: Vec<Arc<dyn ScalarExpr>> = Vec::new();
        let mut origins = Vec::new();
        let mut next_key = 0;
        for bound in bounds {
            let (expr, origin): (Arc<dyn ScalarExpr>, _) = match bound {
                None => {
                    next_key += 1;
                    (Arc::new(Place(next_key - 1)), Origin::Plain)
                }
                Some(bound @ Bound::Start) => {
                    (Arc::new(Place(start.unwrap_or(keys))), Origin::Closed(*bound, number))
                }
                Some(bound @ Bound::End) => {
                    (Arc::new(Place(keys + 1)), Origin::Closed(*bound, number))
                }
                Some(Bound::Time) => (Arc::new(Shifted(keys + 1, -BEFORE_END)), Origin::Time),
            };
            exprs.push(expr);
            origins.push(origin);
        }
        for place in 0..aggregate.aggr_expr.len() {
            exprs.push(Arc::new(Place(keys + 2 + place)));
            origins.push(Origin::Plain);
        }
        let schema = aggregate.schema.inner();
        let text = format!("arrange {bounds:?} {id}");
        let arranged = self.id_of(&text);
        let operator = (arranged.clone(), calc(schema, exprs) as Arc<dyn OperatorSpec>);
        self.stages[stage].operators.push(operator);
        Ok(Relation {
            stage,
            id: arranged,
            schema: Arc::clone(&aggregate.schema),
            origins,
            updating: false,
        })
    }
}

/// What a column of an operator is called: as the column that it is, or after what it computes.
fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        Expr::Cast(cast) => name_of(&cast.expr),
        other => other.schema_name().to_string(),
    }
}

fn by_one_bound() -> Error {
    Error::new(code::SQL, "a window is grouped by one of its bounds alone")
        .hint("group by window_start and window_end")
}

/// Windows end, what they have given stays.
fn refuse_updating(input: &Relation) -> Result<()> {
    if !input.updating {
        return Ok(());
    }
    Err(Error::new(code::SQL, "rows that may be taken back are put into windows")
        .hint("put rows into windows first, and join or deduplicate what they give"))
}
