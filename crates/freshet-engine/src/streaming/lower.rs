//! From logical plans to stages of operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, TableScan, Union};
use freshet_core::error::code;
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Result};
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operator::{LATE, MAIN, OperatorSpec, Port};
use freshet_runtime::operators::{Calc, Columns, WindowAggregate, Windows};
use freshet_runtime::plan::{EdgePlan, JobSource, StageInput, StagePlan};
use freshet_runtime::source::WatermarkSpec;
use freshet_runtime::state::KeyGroups;

use super::aggregate::Call;
use super::expr::compile;
use super::table::StreamTable;
use super::windows::{self, BEFORE_END, Bound, Kind};

/// What the lowering asks about tables.
pub trait StreamCatalog {
    /// The columns of a table by which its time is told, with the column that is its time; `None`
    /// for a table without a watermark.
    fn time(&self, table: &str) -> Result<Option<TimeColumn>>;

    /// The source of a table, giving these of its columns; and how far its time has come, as an
    /// expression over them.
    fn source(
        &self,
        table: &str,
        projection: &[usize],
    ) -> Result<(Arc<dyn JobSource>, Option<WatermarkSpec>)>;
}

/// The time of a table.
#[derive(Debug, Clone)]
pub struct TimeColumn {
    /// The column of `WATERMARK FOR`.
    pub column: usize,
    /// All columns that the watermark is computed of.
    pub needs: Vec<usize>,
}

/// A statement as stages.
#[derive(Debug)]
pub struct Lowered {
    /// The stages, without a sink.
    pub stages: Vec<StagePlan>,
    /// The stage whose last operator gives the result.
    pub output: usize,
    /// The result's columns.
    pub schema: SchemaRef,
    /// Rows that operators set apart.
    pub sides: Vec<Side>,
}

/// An output of an operator beside its rows.
#[derive(Debug, Clone)]
pub struct Side {
    /// The stage.
    pub stage: usize,
    /// The operator's place in it.
    pub operator: usize,
    /// Which output.
    pub port: Port,
    /// Its columns.
    pub schema: SchemaRef,
}

/// Lowers a plan; stages have `parallelism` tasks where they can have several.
pub fn lower(
    plan: &LogicalPlan,
    catalog: &dyn StreamCatalog,
    parallelism: u16,
    groups: KeyGroups,
) -> Result<Lowered> {
    let mut lowering = Lowering {
        catalog,
        parallelism,
        groups,
        stages: Vec::new(),
        sources: BTreeMap::new(),
        scans: scans(plan)?,
        windows: Vec::new(),
        sides: Vec::new(),
        ids: BTreeMap::new(),
    };
    let relation = lowering.relation(plan)?;
    relation.refuse_signs(0..relation.origins.len(), &lowering.windows)?;
    let schema = Arc::clone(relation.schema.inner());
    let Lowering { stages, sides, .. } = lowering;
    Ok(super::fuse::fuse(Lowered { stages, output: relation.stage, schema, sides }))
}

/// The columns of each table that any scan of the plan reads.
fn scans(plan: &LogicalPlan) -> Result<BTreeMap<String, BTreeSet<usize>>> {
    let mut scans = BTreeMap::<String, BTreeSet<usize>>::new();
    let mut failed = None;
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            match stream_of(scan) {
                Ok(table) => {
                    let all = || (0..scan.source.schema().fields().len()).collect();
                    let columns = scan.projection.clone().unwrap_or_else(all);
                    scans.entry(table).or_default().extend(columns);
                }
                Err(error) => failed = Some(error),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map_err(|error| Error::internal("could not walk a plan").caused_by(error))?;
    failed.map_or(Ok(scans), Err)
}

fn stream_of(scan: &TableScan) -> Result<String> {
    let provider = source_as_provider(&scan.source).ok();
    let stream = provider.as_ref().and_then(|provider| provider.downcast_ref::<StreamTable>());
    stream.map(|stream| stream.name.clone()).ok_or_else(|| {
        Error::new(code::SQL, format!("\"{}\" is no stream", scan.table_name))
            .hint("a streaming model reads sources without an end, and other streaming models")
    })
}

struct Lowering<'a> {
    catalog: &'a dyn StreamCatalog,
    parallelism: u16,
    groups: KeyGroups,
    stages: Vec<StagePlan>,
    /// The stages of sources, with the columns that they give.
    sources: BTreeMap<String, (usize, Vec<usize>)>,
    scans: BTreeMap<String, BTreeSet<usize>>,
    windows: Vec<Window>,
    sides: Vec<Side>,
    /// How often each description was met.
    ids: BTreeMap<String, u32>,
}

/// Windows that rows of a relation are in.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    kind: Kind,
    windows: Windows,
    time: Expr,
}

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A value like any other.
    Plain,
    /// The rows' time, which the watermark is about.
    Time,
    /// A bound of a window. Where it is no tumbling one, the column holds the rows' time.
    Window(Bound, usize),
}

/// A part of the plan that was lowered: the rows of the last operator of a stage.
struct Relation {
    stage: usize,
    /// Names what it computes.
    id: String,
    schema: Arc<DFSchema>,
    origins: Vec<Origin>,
}

impl Relation {
    /// Errors where one of these columns is only a sign of a window.
    fn refuse_signs(
        &self,
        columns: impl IntoIterator<Item = usize>,
        windows: &[Window],
    ) -> Result<()> {
        for column in columns {
            if let Origin::Window(_, window) = self.origins[column]
                && windows[window].kind != Kind::Tumble
            {
                let name = self.schema.field(column).name();
                return Err(Error::new(
                    code::SQL,
                    format!(
                        "\"{name}\" of windows that overlap is used before they are aggregated"
                    ),
                )
                .hint("group by window_start and window_end, and use them above that"));
            }
        }
        Ok(())
    }

    fn index(&self, column: &Column) -> Result<usize> {
        self.schema
            .index_of_column(column)
            .map_err(|error| Error::internal("a plan names no column").caused_by(error))
    }

    /// The columns that an expression reads.
    fn reads(&self, expr: &Expr) -> Result<Vec<usize>> {
        expr.column_refs().into_iter().map(|column| self.index(column)).collect()
    }
}

impl Lowering<'_> {
    /// The id of what is described so: the same as long as the statement says the same. What it says
    /// several times is told apart by its turn.
    fn id_of(&mut self, description: &str) -> String {
        let id = blake3::hash(description.as_bytes()).to_hex()[..16].to_owned();
        let times = self.ids.entry(id.clone()).or_insert(0);
        *times += 1;
        if *times == 1 { id } else { format!("{id}-{times}") }
    }

    fn relation(&mut self, plan: &LogicalPlan) -> Result<Relation> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.relation(&alias.input)?;
                Ok(Relation { schema: Arc::clone(plan.schema()), ..input })
            }
            LogicalPlan::Projection(projection) => {
                let input = self.relation(&projection.input)?;
                self.project(input, &projection.expr, plan.schema())
            }
            LogicalPlan::Filter(filter) => {
                let input = self.relation(&filter.input)?;
                let reads = input.reads(&filter.predicate)?;
                input.refuse_signs(reads, &self.windows)?;
                let condition = compile(&filter.predicate, &input.schema)?;
                let text = format!("filter {} {}", filter.predicate, input.id);
                let calc = Calc { condition: Some(condition), columns: None };
                let (stage, id) = self.forward(&input, &text, Arc::new(calc));
                Ok(Relation { stage, id, ..input })
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Union(union) => self.union(union),
            other => Err(unsupported(other)),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Relation> {
        let table = stream_of(scan)?;
        let time = self.catalog.time(&table)?;
        let (stage, columns) = match self.sources.get(&table) {
            Some(known) => known.clone(),
            None => {
                let mut columns = self.scans[&table].clone();
                columns.extend(time.iter().flat_map(|time| time.needs.iter().copied()));
                let columns: Vec<usize> = columns.into_iter().collect();
                let (source, watermark) = self.catalog.source(&table, &columns)?;
                self.stages.push(StagePlan {
                    id: format!("source {table}"),
                    parallelism: self.parallelism,
                    input: StageInput::Source { source, watermark },
                    operators: Vec::new(),
                    sink: None,
                });
                let stage = self.stages.len() - 1;
                self.sources.insert(table.clone(), (stage, columns.clone()));
                (stage, columns)
            }
        };
        let all = scan.source.schema();
        let wanted: Vec<usize> =
            scan.projection.clone().unwrap_or_else(|| (0..all.fields().len()).collect());
        let origin = |column: &usize| match &time {
            Some(time) if time.column == *column => Origin::Time,
            _ => Origin::Plain,
        };
        let given = Relation {
            stage,
            id: format!("source {table}"),
            schema: Arc::clone(&scan.projected_schema),
            origins: wanted.iter().map(origin).collect(),
        };
        if wanted == columns {
            return Ok(given);
        }
        let places = wanted.iter().map(|column| {
            let place = columns.iter().position(|given| given == column);
            Arc::new(Place(place.expect("the source gives what any scan reads")))
                as Arc<dyn ScalarExpr>
        });
        let exprs = places.collect();
        let schema = Arc::clone(scan.projected_schema.inner());
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let text = format!("columns {names:?} {}", given.id);
        let calc = Calc { condition: None, columns: Some(Columns { schema, exprs }) };
        let (stage, id) = self.forward(&given, &text, Arc::new(calc));
        Ok(Relation { stage, id, ..given })
    }

    fn project(
        &mut self,
        input: Relation,
        exprs: &[Expr],
        schema: &Arc<DFSchema>,
    ) -> Result<Relation> {
        let mut origins = Vec::new();
        let mut compiled = Vec::new();
        let mut same = exprs.len() == input.origins.len();
        for (place, expr) in exprs.iter().enumerate() {
            let plain = unaliased(expr);
            let (origin, value) = match (plain, windows::mention(plain)?) {
                (_, Some(mention)) => {
                    let windows::Mention { bound, kind, windows, time } = mention;
                    self.check_time(&input, &time)?;
                    let window = Window { kind, windows, time };
                    let number = self.number(window);
                    // Of windows that overlap, the rows' time stands for the bound.
                    let Window { kind, time, .. } = &self.windows[number];
                    let value = if *kind == Kind::Tumble { plain.clone() } else { time.clone() };
                    (Origin::Window(bound, number), value)
                }
                (Expr::Column(column), None) => {
                    let index = input.index(column)?;
                    same &= index == place;
                    (input.origins[index], plain.clone())
                }
                (_, None) => {
                    input.refuse_signs(input.reads(plain)?, &self.windows)?;
                    (Origin::Plain, plain.clone())
                }
            };
            same &= matches!(plain, Expr::Column(_));
            origins.push(origin);
            compiled.push(compile(&value, &input.schema)?);
        }
        if same {
            return Ok(Relation { schema: Arc::clone(schema), ..input });
        }
        let shown: Vec<String> = exprs.iter().map(ToString::to_string).collect();
        let text = format!("project {} {}", shown.join(", "), input.id);
        let calc = calc(schema.inner(), compiled);
        let (stage, id) = self.forward(&input, &text, calc);
        Ok(Relation { stage, id, schema: Arc::clone(schema), origins })
    }

    /// The number of a window: one for all bounds of the same.
    fn number(&mut self, window: Window) -> usize {
        match self.windows.iter().position(|known| *known == window) {
            Some(number) => number,
            None => {
                self.windows.push(window);
                self.windows.len() - 1
            }
        }
    }

    /// Errors where windows are made of a column that no watermark is about.
    fn check_time(&self, input: &Relation, time: &Expr) -> Result<()> {
        let is_time = match time {
            Expr::Column(column) => match input.origins[input.index(column)?] {
                Origin::Time | Origin::Window(Bound::Time, _) => true,
                Origin::Plain | Origin::Window(..) => false,
            },
            _ => false,
        };
        if is_time {
            return Ok(());
        }
        Err(Error::new(code::SQL, format!("no watermark says how far {time} has come"))
            .hint("declare `watermark:` on the source's table, and hand its column on as it is"))
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Relation> {
        let input = self.relation(&aggregate.input)?;
        let mut keys = Vec::new();
        let mut bounds = Vec::new();
        let mut window = None;
        for expr in &aggregate.group_expr {
            let bound = match unaliased(expr) {
                Expr::Column(column) => match input.origins[input.index(column)?] {
                    Origin::Window(bound, number) => Some((bound, number)),
                    _ => None,
                },
                Expr::GroupingSet(_) => {
                    return Err(Error::new(
                        code::SQL,
                        "grouping sets are not supported in a stream",
                    ));
                }
                _ => None,
            };
            match bound {
                Some((bound, number)) => {
                    if window.is_some_and(|known| known != number) {
                        let message = "a stream is grouped by bounds of two different windows";
                        return Err(Error::new(code::SQL, message));
                    }
                    window = Some(number);
                    bounds.push(Some(bound));
                }
                None => {
                    input.refuse_signs(input.reads(expr)?, &self.windows)?;
                    keys.push(expr);
                    bounds.push(None);
                }
            }
        }
        let Some(number) = window else {
            return Err(Error::new(
                code::SQL,
                "GROUP BY without a window is not supported in a stream yet",
            )
            .hint("group by window_start and window_end of TUMBLE, HOP or CUMULATE"));
        };
        let Window { kind, windows, .. } = self.windows[number].clone();
        let mentions = |bound| bounds.contains(&Some(bound));
        let whole = match kind {
            Kind::Tumble | Kind::Hop => mentions(Bound::Start) || mentions(Bound::End),
            Kind::Cumulate => mentions(Bound::Start) && mentions(Bound::End),
            Kind::Session => {
                return Err(Error::new(code::SQL, "SESSION is not supported in a stream yet"));
            }
        };
        if !whole {
            return Err(Error::new(code::SQL, "a window is grouped by one of its bounds alone")
                .hint("group by window_start and window_end"));
        }
        let (stage, id, argument_schema, specs) =
            self.arguments(&input, aggregate, &keys, number)?;
        let names: Vec<String> =
            specs.iter().enumerate().map(|(place, _)| format!("aggregate_{place}")).collect();
        let text = format!("{aggregate:?} {windows:?} {id}");
        let operator = WindowAggregate {
            input: Arc::clone(&argument_schema),
            time: keys.len(),
            windows,
            keys: (0..keys.len()).collect(),
            aggregates: specs,
            names,
            groups: self.groups,
        };
        let (partitioning, parallelism) = match keys.len() {
            0 => (Partitioning::Single, 1),
            count => (Partitioning::Hash((0..count).collect()), self.parallelism),
        };
        let id = self.id_of(&text);
        self.stages.push(StagePlan {
            id: format!("stage {id}"),
            parallelism,
            input: StageInput::Edges(vec![EdgePlan {
                from: stage,
                operator: self.stages[stage].operators.len().saturating_sub(1),
                port: MAIN,
                input: 0,
                partitioning,
                schema: Arc::clone(&argument_schema),
            }]),
            operators: vec![(id.clone(), Arc::new(operator))],
            sink: None,
        });
        let stage = self.stages.len() - 1;
        self.sides.push(Side { stage, operator: 0, port: LATE, schema: argument_schema });
        self.arrange(stage, &id, aggregate, &bounds, keys.len())
    }

    /// Computes keys, time, arguments and filters in front of the exchange.
    #[allow(clippy::type_complexity, reason = "four parts of one step")]
    fn arguments(
        &mut self,
        input: &Relation,
        aggregate: &Aggregate,
        keys: &[&Expr],
        window: usize,
    ) -> Result<(usize, String, SchemaRef, Vec<Arc<dyn freshet_runtime::aggregate::AggregateSpec>>)>
    {
        let mut exprs: Vec<Expr> = keys.iter().map(|key| unaliased(key).clone()).collect();
        // Any bound that the input has tells the slice: of windows that overlap it is the rows' time, of
        // tumbling ones it is moved into the window.
        let time = input.origins.iter().enumerate().find_map(|(place, origin)| match origin {
            Origin::Window(bound, of) if *of == window => Some((place, *bound)),
            _ => None,
        });
        let Some((time, bound)) = time else {
            return Err(Error::internal("rows without a window were grouped by it"));
        };
        exprs.push(Expr::Column(Column::from(input.schema.qualified_field(time))));
        let shift = match (self.windows[window].kind, bound) {
            (Kind::Tumble, Bound::End) => -1,
            (Kind::Tumble, Bound::Time) => BEFORE_END - 1,
            _ => 0,
        };
        let time: Arc<dyn ScalarExpr> = Arc::new(Shifted(time, shift));
        let mut calls = Vec::new();
        for expr in &aggregate.aggr_expr {
            let call = Call::read(expr)?;
            let mut place = |expr: Option<&Expr>| {
                expr.map(|expr| {
                    let known = exprs.iter().position(|known| known == expr);
                    known.unwrap_or_else(|| {
                        exprs.push(expr.clone());
                        exprs.len() - 1
                    })
                })
            };
            let (argument, filter) = (place(call.argument()), place(call.filter));
            calls.push((call, argument, filter));
        }
        let types = exprs.iter().map(|expr| {
            use datafusion::logical_expr::ExprSchemable;
            expr.get_type(&*input.schema)
                .map_err(|error| Error::internal("an argument has no type").caused_by(error))
        });
        let types = types.collect::<Result<Vec<_>>>()?;
        for expr in &exprs[keys.len() + 1..] {
            input.refuse_signs(input.reads(expr)?, &self.windows)?;
        }
        let outputs = aggregate.schema.fields().iter().skip(aggregate.group_expr.len());
        let specs = calls.iter().zip(outputs).map(|((call, argument, filter), output)| {
            let argument = argument.map(|column| (column, types[column].clone()));
            call.spec(argument, *filter, output.data_type())
        });
        let specs = specs.collect::<Result<Vec<_>>>()?;
        let name = |place: usize| match keys.get(place) {
            Some(key) => key.schema_name().to_string(),
            None if place == keys.len() => "time".to_owned(),
            None => format!("argument_{place}"),
        };
        let fields = types.iter().enumerate();
        let fields =
            fields.map(|(place, data_type)| Field::new(name(place), data_type.clone(), true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut compiled =
            exprs.iter().map(|expr| compile(expr, &input.schema)).collect::<Result<Vec<_>>>()?;
        compiled[keys.len()] = time;
        let text = format!("arguments {exprs:?} {}", input.id);
        let (stage, id) = self.forward(input, &text, calc(&schema, compiled));
        Ok((stage, id, schema, specs))
    }

    /// Puts the columns of a windowed aggregate into the order of the statement.
    fn arrange(
        &mut self,
        stage: usize,
        id: &str,
        aggregate: &Aggregate,
        bounds: &[Option<Bound>],
        keys: usize,
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
                Some(Bound::Start) => (Arc::new(Place(keys)), Origin::Plain),
                Some(Bound::End) => (Arc::new(Place(keys + 1)), Origin::Plain),
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
        Ok(Relation { stage, id: arranged, schema: Arc::clone(&aggregate.schema), origins })
    }

    fn union(&mut self, union: &Union) -> Result<Relation> {
        let mut edges = Vec::new();
        let mut ids = Vec::new();
        let mut inputs = Vec::new();
        let mut origins: Option<Vec<Origin>> = None;
        let schema = Arc::clone(union.schema.inner());
        for (place, input) in union.inputs.iter().enumerate() {
            let input = self.relation(input)?;
            input.refuse_signs(0..input.origins.len(), &self.windows)?;
            // Each input takes the names of the whole.
            let exprs = (0..schema.fields().len())
                .map(|column| Arc::new(Place(column)) as Arc<dyn ScalarExpr>)
                .collect();
            let text = format!("input {place} of a union {}", input.id);
            let (stage, id) = self.forward(&input, &text, calc(&schema, exprs));
            ids.push(id);
            let own = input.origins.iter().map(|origin| match origin {
                Origin::Time => Origin::Time,
                _ => Origin::Plain,
            });
            origins = Some(match origins {
                None => own.collect(),
                Some(before) => before
                    .into_iter()
                    .zip(own)
                    .map(|(a, b)| if a == b { a } else { Origin::Plain })
                    .collect(),
            });
            inputs.push(stage);
        }
        // As parallel as the most parallel of them: a task that nobody sends to would wait for ever.
        let parallelism = inputs.iter().map(|stage| self.stages[*stage].parallelism).max();
        let parallelism = parallelism.unwrap_or(1);
        for stage in inputs {
            let from = &self.stages[stage];
            let same = from.parallelism == parallelism;
            edges.push(EdgePlan {
                from: stage,
                operator: from.operators.len() - 1,
                port: MAIN,
                input: 0,
                partitioning: if same { Partitioning::Forward } else { Partitioning::Single },
                schema: Arc::clone(&schema),
            });
        }
        let id = self.id_of(&format!("union {}", ids.join(" ")));
        self.stages.push(StagePlan {
            id: format!("stage {id}"),
            parallelism,
            input: StageInput::Edges(edges),
            operators: Vec::new(),
            sink: None,
        });
        Ok(Relation {
            stage: self.stages.len() - 1,
            id,
            schema: Arc::clone(&union.schema),
            origins: origins.unwrap_or_default(),
        })
    }

    /// A stage of one operator behind a relation, in tasks that correspond; and its id.
    fn forward(
        &mut self,
        input: &Relation,
        description: &str,
        operator: Arc<dyn OperatorSpec>,
    ) -> (usize, String) {
        let id = self.id_of(description);
        let from = &self.stages[input.stage];
        let edge = EdgePlan {
            from: input.stage,
            operator: from.operators.len().saturating_sub(1),
            port: MAIN,
            input: 0,
            partitioning: Partitioning::Forward,
            schema: Arc::clone(input.schema.inner()),
        };
        let parallelism = from.parallelism;
        self.stages.push(StagePlan {
            id: format!("stage {id}"),
            parallelism,
            input: StageInput::Edges(vec![edge]),
            operators: vec![(id.clone(), operator)],
            sink: None,
        });
        (self.stages.len() - 1, id)
    }
}

fn calc(schema: &SchemaRef, exprs: Vec<Arc<dyn ScalarExpr>>) -> Arc<Calc> {
    let columns = Some(Columns { schema: Arc::clone(schema), exprs });
    Arc::new(Calc { condition: None, columns })
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// A column as it is.
#[derive(Debug)]
struct Place(usize);

impl ScalarExpr for Place {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        Ok(Arc::clone(batch.column(self.0)))
    }
}

/// A column of times, moved by so many microseconds.
#[derive(Debug)]
struct Shifted(usize, i64);

impl ScalarExpr for Shifted {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let Self(column, shift) = *self;
        if shift == 0 {
            return Ok(Arc::clone(batch.column(column)));
        }
        let times = batch.column(column).as_primitive::<TimestampMicrosecondType>();
        let moved: TimestampMicrosecondArray = times.unary(|time| time.saturating_add(shift));
        Ok(Arc::new(moved))
    }
}

fn unsupported(plan: &LogicalPlan) -> Error {
    let what = match plan {
        LogicalPlan::Join(_) => "a join",
        LogicalPlan::Sort(_) => "ORDER BY",
        LogicalPlan::Limit(_) => "LIMIT",
        LogicalPlan::Window(_) => "OVER",
        LogicalPlan::Distinct(_) => "DISTINCT",
        LogicalPlan::Unnest(_) => "UNNEST",
        LogicalPlan::Subquery(_) => "a subquery",
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => "a query without a source",
        _ => {
            let shown = plan.display().to_string();
            return Error::new(
                code::SQL,
                format!("this is not supported in a stream yet: {shown}"),
            );
        }
    };
    Error::new(code::SQL, format!("{what} is not supported in a stream yet"))
}
