//! From logical plans to stages of operators.

mod aggregate;
mod columns;
mod join;
mod place;
mod rank;
mod temporal;

pub(super) use temporal::{no_versions, version_time};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{
    Cast, Distinct, Expr, ExprSchemable, Filter, LogicalPlan, TableScan, Union,
};
use freshet_core::error::code;
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Location, Result};
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operator::{MAIN, OperatorSpec, Port};
use freshet_runtime::operators::{AssignWindows, Calc, Columns, Windows};
use freshet_runtime::plan::{EdgePlan, JobSource, StageInput, StagePlan};
use freshet_runtime::source::WatermarkSpec;
use freshet_runtime::state::KeyGroups;

use columns::{Place, Shifted};
pub use place::{place_in, without_places};

use super::expr::compile;
use super::table::StreamTable;
use super::windows::{self, BEFORE_END, Bound, Kind};

/// What the lowering asks about tables.
pub trait StreamCatalog {
    /// The columns of a table by which its time is told, with the column that is its time; `None`
    /// for a table without a watermark.
    fn time(&self, table: &str) -> Result<Option<TimeColumn>>;

    /// Where a line and column of the statement stand in a file, and the file where neither is known;
    /// `None` where the statement is in no file.
    fn locate(&self, _place: Option<(u64, u64)>) -> Option<Location> {
        None
    }

    /// Line and column of a keyword, where the statement has it once.
    fn find(&self, _keyword: &str) -> Option<(u64, u64)> {
        None
    }

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
    /// The columns of the table's primary key, where it has one: its rows are versions then for joins
    /// as of a time.
    pub primary_key: Vec<usize>,
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
    /// Whether rows of the result may be taken back: it is a table that changes, not a stream that
    /// only grows.
    pub updating: bool,
    /// State that grows for as long as the job runs.
    pub unbounded: Vec<Unbounded>,
}

/// State of an operator that nothing bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbounded {
    /// What is kept for ever.
    pub what: String,
    /// What would bound it.
    pub bound: String,
}

/// How statements are lowered.
#[derive(Debug, Clone, Copy)]
pub struct LowerOptions {
    /// Tasks of stages that can have several.
    pub parallelism: u16,
    /// How keys are divided.
    pub groups: KeyGroups,
    /// Microseconds of the time of day after which state that nothing else bounds is forgotten, where no row
    /// came to it.
    pub state_ttl: Option<i64>,
}

impl LowerOptions {
    /// As many tasks as `parallelism` says, and else nothing out of the ordinary.
    pub fn new(parallelism: u16) -> Self {
        Self { parallelism, groups: KeyGroups::default(), state_ttl: None }
    }
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
    /// The column of the rows' time.
    pub time: usize,
}

/// Lowers a plan.
pub fn lower(
    plan: &LogicalPlan,
    catalog: &dyn StreamCatalog,
    options: &LowerOptions,
) -> Result<Lowered> {
    let mut lowering = Lowering {
        catalog,
        options: *options,
        stages: Vec::new(),
        sources: BTreeMap::new(),
        scans: scans(plan)?,
        windows: Vec::new(),
        sides: Vec::new(),
        unbounded: Vec::new(),
        ids: BTreeMap::new(),
    };
    let relation = lowering.relation(plan)?;
    let relation = lowering.with_bounds(relation)?;
    let Relation { stage: output, schema, updating, .. } = relation;
    let schema = Arc::clone(schema.inner());
    let Lowering { stages, sides, unbounded, .. } = lowering;
    Ok(super::fuse::fuse(Lowered { stages, output, schema, sides, updating, unbounded }))
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
    options: LowerOptions,
    stages: Vec<StagePlan>,
    /// The stages of sources, with the columns that they give.
    sources: BTreeMap<String, (usize, Vec<usize>)>,
    scans: BTreeMap<String, BTreeSet<usize>>,
    windows: Vec<Window>,
    sides: Vec<Side>,
    unbounded: Vec<Unbounded>,
    /// How often each description was met.
    ids: BTreeMap<String, u32>,
}

/// Windows that rows of a relation are in.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    kind: Kind,
    /// Of sessions, the gap is their size.
    windows: Windows,
    time: Expr,
    /// The columns that have sessions of their own.
    partition: Vec<Expr>,
    /// Whether its bounds have no value and the rows' time stands for them. Always so where a row may
    /// be in several windows; of tumbling ones where they are grouped by at once, so that the rows'
    /// own time is known there.
    is_sign: bool,
}

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A value like any other.
    Plain,
    /// The rows' time, which the watermark is about.
    Time,
    /// A column by which sessions are divided.
    Partition(usize),
    /// A bound of a window, rows of which may still come. Where it is no tumbling one, the column holds
    /// the rows' time.
    Window(Bound, usize),
    /// A bound of a window as a value: the watermark comes to its end once all rows with it were given.
    Closed(Bound, usize),
}

/// A part of the plan that was lowered: the rows of the last operator of a stage.
struct Relation {
    stage: usize,
    /// Names what it computes.
    id: String,
    schema: Arc<DFSchema>,
    origins: Vec<Origin>,
    /// Whether its rows may be taken back.
    updating: bool,
}

impl Relation {
    /// The places of columns that are only signs of a window, with its number.
    fn signs<'a>(&'a self, windows: &'a [Window]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let origins = self.origins.iter().enumerate();
        origins.filter_map(|(place, origin)| match origin {
            Origin::Window(_, number) if windows[*number].is_sign => Some((place, *number)),
            _ => None,
        })
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

    /// Lowers a part of the plan; an error has its place in the statement.
    fn relation(&mut self, plan: &LogicalPlan) -> Result<Relation> {
        self.lowered(plan).map_err(|error| {
            // Of those around it, the innermost part is at fault, and the first to be asked.
            let keyword = place::keyword_of(plan);
            let found = || self.catalog.find(keyword?);
            match self.catalog.locate(place::place_of(plan).or_else(found)) {
                Some(location) => error.at(location),
                None => error,
            }
        })
    }

    fn lowered(&mut self, plan: &LogicalPlan) -> Result<Relation> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.relation(&alias.input)?;
                self.over(plan, input)
            }
            LogicalPlan::Projection(projection) => {
                let input = self.relation(&projection.input)?;
                self.over(plan, input)
            }
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let input = self.relation(input)?;
                self.distinct(input)
            }
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Join(join) => self.join(join),
            other => Err(unsupported(other)),
        }
    }

    /// The input of a grouping: bounds of windows that it groups by need no value.
    fn input_of_groups(&mut self, plan: &LogicalPlan) -> Result<Relation> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.input_of_groups(&alias.input)?;
                self.over(plan, input)
            }
            LogicalPlan::Projection(projection) => {
                let input = self.relation(&projection.input)?;
                self.project(input, &projection.expr, plan.schema(), true)
            }
            other => self.relation(other),
        }
    }

    /// What a projection or an alias makes of its input.
    fn over(&mut self, plan: &LogicalPlan, input: Relation) -> Result<Relation> {
        match plan {
            LogicalPlan::SubqueryAlias(_) => {
                Ok(Relation { schema: Arc::clone(plan.schema()), ..input })
            }
            LogicalPlan::Projection(projection) => {
                self.project(input, &projection.expr, plan.schema(), false)
            }
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
                let needs = time.iter().flat_map(|time| time.needs.iter().chain(&time.primary_key));
                columns.extend(needs.copied());
                let columns: Vec<usize> = columns.into_iter().collect();
                let (source, watermark) = self.catalog.source(&table, &columns)?;
                self.stages.push(StagePlan {
                    id: format!("source {table}"),
                    parallelism: self.options.parallelism,
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
            updating: false,
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

    fn filter(&mut self, filter: &Filter) -> Result<Relation> {
        if let Some(relation) = self.ranked(filter)? {
            return Ok(relation);
        }
        let input = self.relation(&filter.input)?;
        self.keep(input, &filter.predicate)
    }

    /// The rows of a relation for which `predicate` is true.
    fn keep(&mut self, input: Relation, predicate: &Expr) -> Result<Relation> {
        let input = self.with_bounds_for(input, [predicate])?;
        let condition = compile(predicate, &input.schema)?;
        let text = format!("filter {predicate} {}", input.id);
        let calc = Calc { condition: Some(condition), columns: None };
        let (stage, id) = self.forward(&input, &text, Arc::new(calc));
        Ok(Relation { stage, id, ..input })
    }

    fn project(
        &mut self,
        input: Relation,
        exprs: &[Expr],
        schema: &Arc<DFSchema>,
        grouped: bool,
    ) -> Result<Relation> {
        let computed = exprs.iter().map(unaliased).filter(|expr| !matches!(expr, Expr::Column(_)));
        let input = self.with_bounds_for(input, computed)?;
        let mut origins = Vec::new();
        let mut compiled = Vec::new();
        let mut same = exprs.len() == input.origins.len();
        let mut partition = None;
        for (place, expr) in exprs.iter().enumerate() {
            let plain = unaliased(expr);
            let (origin, value) = match (plain, windows::mention(plain)?) {
                (_, Some(mention)) => {
                    let windows::Mention { bound, kind, windows, time, partition: by } = mention;
                    self.check_time(&input, &time)?;
                    let is_sign = kind != Kind::Tumble || grouped;
                    let number =
                        self.number(Window { kind, windows, time, partition: by, is_sign });
                    let Window { time, partition: by, .. } = &self.windows[number];
                    if !by.is_empty() {
                        partition = Some(number);
                    }
                    let value = if is_sign { time.clone() } else { plain.clone() };
                    (Origin::Window(bound, number), value)
                }
                (Expr::Column(column), None) => {
                    let index = input.index(column)?;
                    same &= index == place;
                    (input.origins[index], plain.clone())
                }
                (_, None) => (Origin::Plain, plain.clone()),
            };
            same &= matches!(plain, Expr::Column(_));
            origins.push(origin);
            compiled.push(compile(&value, &input.schema)?);
        }
        if let Some(number) = partition {
            for (origin, expr) in origins.iter_mut().zip(exprs) {
                if self.windows[number].partition.contains(unaliased(expr)) {
                    *origin = Origin::Partition(number);
                }
            }
        }
        if same {
            return Ok(Relation { schema: Arc::clone(schema), ..input });
        }
        let shown: Vec<String> = exprs.iter().map(ToString::to_string).collect();
        let text = format!("project {} {}", shown.join(", "), input.id);
        let calc = calc(schema.inner(), compiled);
        let (stage, id) = self.forward(&input, &text, calc);
        Ok(Relation { stage, id, schema: Arc::clone(schema), origins, ..input })
    }

    /// The relation with bounds of windows as values where one of `exprs` reads such a bound.
    fn with_bounds_for<'a>(
        &mut self,
        input: Relation,
        exprs: impl IntoIterator<Item = &'a Expr>,
    ) -> Result<Relation> {
        let mut reads = BTreeSet::new();
        for expr in exprs {
            reads.extend(input.reads(expr)?);
        }
        let needed = input.signs(&self.windows).any(|(place, _)| reads.contains(&place));
        if needed { self.with_bounds(input) } else { Ok(input) }
    }

    /// The relation with bounds of windows as values: a row stands there once for each of its windows.
    fn with_bounds(&mut self, input: Relation) -> Result<Relation> {
        let mut relation = input;
        loop {
            let sign = relation.signs(&self.windows).next();
            let Some((time, number)) = sign else { return Ok(relation) };
            relation = self.assign(relation, time, number)?;
        }
    }

    /// Makes the bounds of one window values; `time` is the place of one of them.
    fn assign(&mut self, input: Relation, time: usize, number: usize) -> Result<Relation> {
        let Window { kind, windows, .. } = self.windows[number];
        if kind == Kind::Session {
            let message = "the bounds of a session are used before it is aggregated";
            return Err(Error::new(code::SQL, message)
                .hint("group by window_start and window_end, and use them above that"));
        }
        let schema = Arc::clone(input.schema.inner());
        let operator = AssignWindows { input: Arc::clone(&schema), time, windows };
        let text = format!("assign {windows:?} {}", input.id);
        let (stage, id) = self.forward(&input, &text, Arc::new(operator));
        let columns = input.origins.len();
        let mut origins = Vec::new();
        let mut exprs: Vec<Arc<dyn ScalarExpr>> = Vec::new();
        for (place, origin) in input.origins.iter().enumerate() {
            let (expr, origin): (Arc<dyn ScalarExpr>, _) = match origin {
                Origin::Window(bound, of) if *of == number => (
                    match bound {
                        Bound::Start => Arc::new(Place(columns)),
                        Bound::End => Arc::new(Place(columns + 1)),
                        Bound::Time => Arc::new(Shifted(columns + 1, -BEFORE_END)),
                    },
                    Origin::Closed(*bound, number),
                ),
                other => (Arc::new(Place(place)), *other),
            };
            exprs.push(expr);
            origins.push(origin);
        }
        let text = format!("bounds {id}");
        let id = self.id_of(&text);
        self.stages[stage].operators.push((id.clone(), calc(&schema, exprs)));
        Ok(Relation { stage, id, origins, ..input })
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
        let plain = without_zone(input, time);
        let is_time = match plain {
            Expr::Column(column) => match input.origins[input.index(column)?] {
                Origin::Time | Origin::Window(Bound::Time, _) => !input.updating,
                _ => false,
            },
            _ => false,
        };
        if is_time {
            return Ok(());
        }
        Err(Error::new(code::SQL, format!("no watermark says how far {time} has come"))
            .hint("declare `watermark:` on the source's table, and hand its column on as it is"))
    }

    fn union(&mut self, union: &Union) -> Result<Relation> {
        let mut edges = Vec::new();
        let mut ids = Vec::new();
        let mut inputs = Vec::new();
        let mut origins: Option<Vec<Origin>> = None;
        let mut updating = false;
        let schema = Arc::clone(union.schema.inner());
        for (place, input) in union.inputs.iter().enumerate() {
            let input = self.relation(input)?;
            let input = self.with_bounds(input)?;
            updating |= input.updating;
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
            updating,
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

/// A time as its source gives it: those that have a zone are in UTC, and the same numbers without one.
fn without_zone<'a>(input: &Relation, time: &'a Expr) -> &'a Expr {
    match time {
        Expr::Cast(Cast { expr, .. })
            if matches!(
                expr.get_type(&*input.schema),
                Ok(DataType::Timestamp(TimeUnit::Microsecond, Some(zone))) if &*zone == "UTC"
            ) =>
        {
            expr
        }
        time => time,
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn unsupported(plan: &LogicalPlan) -> Error {
    let what = match plan {
        plan if let Some(keyword) = place::keyword_of(plan) => keyword,
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
