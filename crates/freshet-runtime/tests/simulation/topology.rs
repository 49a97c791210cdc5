//! The jobs that are simulated: what a case does with the records of its logs.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use freshet_runtime::aggregate::{AggregateSpec, Count, Extreme, RetractableExtreme, Side, Sum};
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operator::{LATE, LATE_RIGHT, MAIN, OperatorSpec};
use freshet_runtime::operators::{
    AssignWindows, Deduplicate, GroupAggregate, IntervalJoin, Join, JoinKind, SessionAggregate,
    TemporalJoin, WindowAggregate, WindowJoin, Windows,
};
use freshet_runtime::plan::{EdgePlan, SinkPlan, StageInput, StagePlan};
use freshet_runtime::state::KeyGroups;
use freshet_runtime::task::late_schema;
use freshet_testkit::sim::{Chance, SimLog};

use crate::SECOND;

/// Windows, as a test sees them.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub size: i64,
    /// Between two starts.
    pub slide: i64,
    /// Between two ends of one start; 0 where there is one end.
    pub step: i64,
    pub offset: i64,
}

impl Shape {
    fn draw(chance: &Chance) -> Self {
        let offset = chance.between(0..SECOND);
        let slide = chance.between(1..20) * 100_000;
        let size = slide * chance.between(2..6);
        match chance.below(3) {
            0 => Self { size, slide: size, step: 0, offset },
            1 => Self { size, slide, step: 0, offset },
            _ => Self { size, slide: size, step: slide, offset },
        }
    }

    fn windows(self) -> Windows {
        let Self { size, slide, step, offset } = self;
        match step {
            0 if size == slide => Windows::tumble(size, offset),
            0 => Windows::hop(size, slide, offset),
            step => Windows::cumulate(size, step, offset),
        }
        .expect("they make sense")
    }

    /// Whether a time is in one window alone.
    pub fn is_tumbling(self) -> bool {
        self.size == self.slide && self.step == 0
    }

    /// The windows that `time` is in, by trying all that may be.
    pub fn of(self, time: i64) -> Vec<(i64, i64)> {
        let Self { size, slide, step, offset } = self;
        let first = (time - size - offset) / slide - 2;
        let starts = (0..2 * size / slide + 6).map(|number| (first + number) * slide + offset);
        let windows = starts.flat_map(|start| match step {
            0 => vec![(start, start + size)],
            step => (1..=size / step).map(|number| (start, start + number * step)).collect(),
        });
        windows.filter(|(start, end)| (*start..*end).contains(&time)).collect()
    }
}

/// What a case does with the records of its log.
#[derive(Debug, Clone, Copy)]
pub enum Topology {
    /// Divides them by key, for a second sink.
    Shuffle,
    /// Aggregates them in windows.
    Windows(Shape),
    /// Aggregates them in sessions.
    Sessions { gap: i64 },
    /// Aggregates them, and updates what they come to.
    Groups,
    /// Keeps the row of each key whose value is greatest, and updates it.
    Latest,
    /// Keeps the row of each key whose time is first, once that is certain.
    First,
    /// Joins them with those of another log.
    Join(JoinKind),
    /// Joins them so, pads them, and aggregates the changes that this gives.
    GroupsOfJoin,
    /// Joins them with those of another log whose times lie near to theirs.
    Interval { kind: JoinKind, lower: i64, upper: i64 },
    /// Joins them with the version of their time of a table that another log tells of.
    Temporal(JoinKind),
    /// Joins them with those of another log in the same window.
    WindowJoin { kind: JoinKind, shape: Shape },
}

/// How many kinds of topologies there are.
pub const TOPOLOGIES: u64 = 11;

/// Those that are padded or not on either side.
const KINDS: [JoinKind; 4] = [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full];

impl Topology {
    /// The `number`th kind, its details by chance.
    pub fn draw(number: u64, chance: &Chance) -> Self {
        let any = KINDS[chance.below(4)];
        let padded = [JoinKind::Inner, JoinKind::Left][chance.below(2)];
        match number % TOPOLOGIES {
            0 => Self::Shuffle,
            1 => Self::Windows(Shape::draw(chance)),
            2 => Self::Sessions { gap: chance.between(50_000..2 * SECOND) },
            3 => Self::Groups,
            4 => Self::Latest,
            5 => Self::First,
            6 => Self::Join(any),
            7 => Self::GroupsOfJoin,
            8 => {
                let lower = chance.between(-2 * SECOND..SECOND);
                Self::Interval { kind: any, lower, upper: lower + chance.between(0..2 * SECOND) }
            }
            9 => Self::Temporal(padded),
            _ => {
                let shape = Shape::draw(chance);
                // A row is late or not: it is in one window.
                let shape = Shape { slide: shape.size, step: 0, ..shape };
                Self::WindowJoin { kind: any, shape }
            }
        }
    }

    /// Whether it reads the second log.
    pub fn reads_other(self) -> bool {
        matches!(
            self,
            Self::Join(_)
                | Self::GroupsOfJoin
                | Self::Interval { .. }
                | Self::Temporal(_)
                | Self::WindowJoin { .. }
        )
    }

    /// Of column `value` of rows that may be taken back, or never are.
    fn aggregates(value: usize, retracts: bool) -> (Vec<Arc<dyn AggregateSpec>>, Vec<String>) {
        let int = DataType::Int64;
        let greatest: Arc<dyn AggregateSpec> = match retracts {
            true => {
                let greatest = RetractableExtreme::new(Side::Greatest, value, int.clone());
                Arc::new(greatest.expect("integers have an order"))
            }
            false => {
                let greatest = Extreme::new(Side::Greatest, value, int.clone());
                Arc::new(greatest.expect("integers have an order"))
            }
        };
        let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![
            Arc::new(Count::rows()),
            Arc::new(Sum::new(value, int.clone(), int.clone()).expect("a sum of integers")),
            greatest,
        ];
        (aggregates, ["n", "sum", "max"].map(str::to_owned).to_vec())
    }

    fn operator(self, groups: KeyGroups) -> Option<Arc<dyn OperatorSpec>> {
        let input = SimLog::schema();
        let (left, right) = (SimLog::schema(), SimLog::schema());
        let (left_keys, right_keys) = (vec![1], vec![1]);
        let (aggregates, names) = Self::aggregates(2, false);
        let keys = vec![1];
        let deduplicate = |order, descending: bool, settled| Deduplicate {
            input: SimLog::schema(),
            keys: vec![1],
            order: vec![(order, SortOptions { descending, nulls_first: false })],
            settled,
            groups,
            ttl: None,
        };
        Some(match self {
            Self::Shuffle => return None,
            Self::Windows(shape) => Arc::new(WindowAggregate {
                input,
                time: 0,
                windows: shape.windows(),
                keys,
                aggregates,
                names,
                groups,
            }),
            Self::Sessions { gap } => {
                Arc::new(SessionAggregate { input, time: 0, gap, keys, aggregates, names, groups })
            }
            Self::Groups => {
                Arc::new(GroupAggregate { input, keys, aggregates, names, groups, ttl: None })
            }
            Self::Latest => Arc::new(deduplicate(2, true, None)),
            Self::First => Arc::new(deduplicate(0, false, Some(0))),
            Self::Join(_) | Self::GroupsOfJoin => Arc::new(self.join(groups)),
            Self::Interval { kind, lower, upper } => Arc::new(IntervalJoin {
                kind,
                left,
                right,
                left_keys,
                right_keys,
                left_time: 0,
                right_time: 0,
                lower,
                upper,
                residual: None,
                groups,
            }),
            Self::Temporal(kind) => Arc::new(TemporalJoin {
                kind,
                left,
                right,
                left_keys,
                right_keys,
                left_time: 0,
                right_time: 0,
                residual: None,
                groups,
            }),
            Self::WindowJoin { kind, shape } => {
                let windowed = Self::assigned(shape).schema();
                Arc::new(WindowJoin {
                    kind,
                    left: Arc::clone(&windowed),
                    right: windowed,
                    left_keys,
                    right_keys,
                    left_window: [3, 4],
                    right_window: [3, 4],
                    residual: None,
                    groups,
                })
            }
        })
    }

    fn join(self, groups: KeyGroups) -> Join {
        let kind = match self {
            Self::Join(kind) => kind,
            _ => JoinKind::Left,
        };
        Join {
            kind,
            left: SimLog::schema(),
            right: SimLog::schema(),
            left_keys: vec![1],
            right_keys: vec![1],
            residual: None,
            ttl: None,
            groups,
        }
    }

    fn assigned(shape: Shape) -> AssignWindows {
        AssignWindows { input: SimLog::schema(), time: 0, windows: shape.windows() }
    }

    /// The stages of a job over `sources`, the first of which gives its rows to `copies` as well.
    pub fn stages(
        self,
        parallelism: u16,
        groups: KeyGroups,
        sources: [StageInput; 2],
        [copies, totals, late]: [SinkPlan; 3],
    ) -> Vec<StagePlan> {
        let edge = |from, port, input, partitioning, schema: &SchemaRef| EdgePlan {
            from,
            operator: 0,
            port,
            input,
            partitioning,
            schema: Arc::clone(schema),
        };
        let by_key = || Partitioning::Hash(vec![1]);
        let stage = |id: &str, input, operator: Option<Arc<dyn OperatorSpec>>, sink| StagePlan {
            id: id.into(),
            parallelism,
            input,
            operators: operator.map(|spec| (format!("{id} operator"), spec)).into_iter().collect(),
            sink,
        };
        let [log, other] = sources;
        let mut schema = SimLog::schema();
        let mut stages = vec![stage("log", log, None, Some(copies))];
        let mut inputs = vec![0];
        if self.reads_other() {
            stages.push(stage("other", other, None, None));
            inputs.push(1);
        }
        if let Self::WindowJoin { shape, .. } = self {
            for input in &mut inputs {
                let assign = Arc::new(Self::assigned(shape));
                let edges = vec![edge(*input, MAIN, 0, Partitioning::Forward, &schema)];
                let id = format!("windows of {input}");
                stages.push(stage(&id, StageInput::Edges(edges), Some(assign), None));
                *input = stages.len() - 1;
            }
            schema = Self::assigned(shape).schema();
        }
        let edges = inputs.iter().enumerate();
        let edges = edges.map(|(input, from)| edge(*from, MAIN, input, by_key(), &schema));
        let edges = StageInput::Edges(edges.collect());
        let keyed = stages.len();
        let operator = self.operator(groups);
        if let Self::GroupsOfJoin = self {
            let joined = self.join(groups).schema();
            let (aggregates, names) = Self::aggregates(5, true);
            let input = Arc::clone(&joined);
            let group =
                GroupAggregate { input, keys: vec![1], aggregates, names, groups, ttl: None };
            stages.push(stage("join", edges, operator, None));
            let edges = StageInput::Edges(vec![edge(keyed, MAIN, 0, by_key(), &joined)]);
            stages.push(stage("keyed", edges, Some(Arc::new(group)), Some(totals)));
        } else {
            stages.push(stage("keyed", edges, operator, Some(totals)));
        }
        // Both sides of a join have rows that are late.
        let schema = late_schema(&schema);
        let edges =
            [LATE, LATE_RIGHT].map(|port| edge(keyed, port, 0, Partitioning::Forward, &schema));
        let edges = edges.to_vec();
        stages.push(stage("late", StageInput::Edges(edges), None, Some(late)));
        stages
    }
}
