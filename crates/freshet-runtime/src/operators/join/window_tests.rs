//! Joins of windows against nested loops.

use proptest::prelude::*;

use super::super::testing::{
    Condition, Folded, KEY, NUMBER, Row, Seen, TIME, WIDTH, count, inserts, schema, show,
};
use super::*;
use crate::operators::testing::Cluster;
use arrow::array::{ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMicrosecondType};

const KINDS: [JoinKind; 6] = [
    JoinKind::Inner,
    JoinKind::Left,
    JoinKind::Right,
    JoinKind::Full,
    JoinKind::LeftSemi,
    JoinKind::LeftAnti,
];

/// The columns of a side, and a window's end: its start is the row's time.
fn windowed(side: &str) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let end = Field::new(format!("{side}_end"), time, true);
    let fields = schema(side).fields().iter().cloned().chain([Arc::new(end)]).collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

/// Rows whose window begins at their time; its size is that of their key and number.
fn window_rows(side: &str, rows: &[Row]) -> Rows {
    let rows = inserts(side, rows);
    let starts = rows.batch().column(TIME).as_primitive::<TimestampMicrosecondType>();
    let ends: TimestampMicrosecondArray = starts.unary(|start| start + SIZE);
    let columns = rows.batch().columns().iter().cloned().chain([Arc::new(ends) as ArrayRef]);
    let batch = RecordBatch::try_new(windowed(side), columns.collect()).expect("its columns");
    Rows::inserts(batch)
}

const SIZE: i64 = 10;

fn show_windowed(row: Option<&Row>) -> String {
    let end = row.map_or("null".into(), |row| (row.time + SIZE).to_string());
    format!("{},{end}", show(row))
}

/// As [`Condition`], over one column more on the left.
#[derive(Debug)]
struct WindowedCondition;

impl ScalarExpr for WindowedCondition {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let columns: Vec<usize> = (0..WIDTH).chain(WIDTH + 1..batch.num_columns()).collect();
        assert!(columns.len() > NUMBER);
        Condition.evaluate(&batch.project(&columns).expect("columns that there are"))
    }
}

fn spec(kind: JoinKind, residual: bool) -> WindowJoin {
    WindowJoin {
        kind,
        left: windowed("l"),
        right: windowed("r"),
        left_keys: vec![KEY],
        right_keys: vec![KEY],
        left_window: [TIME, WIDTH],
        right_window: [TIME, WIDTH],
        residual: residual.then(|| Arc::new(WindowedCondition) as Arc<dyn ScalarExpr>),
        groups: KeyGroups::new(7),
    }
}

/// What all windows that have closed come to.
fn nested_loop(spec: &WindowJoin, rows: &[Vec<Row>; 2], watermark: i64) -> Folded {
    let mut joined = Folded::new();
    let matches = |left: &Row, right: &Row| {
        let equal = left.key.is_some() && left.key == right.key && left.time == right.time;
        equal && (spec.residual.is_none() || Condition::holds(left, right))
    };
    // Rows without a key wait for nothing.
    let is_given = |row: &&Row| row.key.is_none() || row.time + SIZE - 1 <= watermark;
    for left in rows[0].iter().filter(is_given) {
        let partners: Vec<_> = rows[1].iter().filter(|right| matches(left, right)).collect();
        match spec.kind {
            JoinKind::LeftSemi | JoinKind::LeftAnti => {
                if partners.is_empty() == (spec.kind == JoinKind::LeftAnti) {
                    count(&mut joined, show_windowed(Some(left)), 1);
                }
            }
            kind => {
                for right in &partners {
                    let pair = [left, right].map(|row| show_windowed(Some(row)));
                    count(&mut joined, pair.join(","), 1);
                }
                if partners.is_empty() && kind.pads(0) {
                    let pair = [Some(left), None].map(show_windowed);
                    count(&mut joined, pair.join(","), 1);
                }
            }
        }
    }
    for right in rows[1].iter().filter(is_given) {
        if spec.kind.pads(1) && !rows[0].iter().any(|left| matches(left, right)) {
            count(&mut joined, [None, Some(right)].map(show_windowed).join(","), 1);
        }
    }
    joined
}

#[derive(Debug, Clone)]
enum Step {
    /// Rows of a side: key, and which window.
    Rows(bool, Vec<(Option<i64>, i64)>),
    Watermark(i64),
    Freeze,
    Drain(usize),
    Restore(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (prop::option::weighted(0.9, 0_i64..3), -3_i64..3);
    let step = prop_oneof![
        8 => (any::<bool>(), prop::collection::vec(row, 1..10))
            .prop_map(|(left, rows)| Step::Rows(left, rows)),
        3 => (1_i64..25).prop_map(Step::Watermark),
        1 => Just(Step::Freeze),
        2 => (1_usize..4).prop_map(Step::Drain),
        1 => (1_usize..4).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_window_gives_its_join_when_it_closes(
        steps in steps(),
        kind in prop::sample::select(KINDS.to_vec()),
        residual in any::<bool>(),
    ) {
        let spec = spec(kind, residual);
        let inputs = vec![(windowed("l"), vec![KEY]), (windowed("r"), vec![KEY])];
        let mut cluster = Cluster::new(Arc::new(spec.clone()), spec.groups, inputs, 2);
        let mut seen = Seen::default();
        let mut taken = [Vec::new(), Vec::new()];
        let (mut late, mut watermark, mut number) = (Folded::new(), i64::MIN, 0);
        let mut kept = (taken.clone(), late.clone(), i64::MIN, seen.clone());
        let mut frozen = None;
        for step in steps {
            match step {
                Step::Rows(left, rows) => {
                    let side = usize::from(!left);
                    let rows = rows.into_iter().map(|(key, ahead)| {
                        number += 1;
                        let time = (watermark.max(0) / 5 + ahead) * 5;
                        Row { key, time, number }
                    });
                    let rows: Vec<Row> = rows.collect();
                    for row in &rows {
                        if row.time + SIZE - 1 <= watermark {
                            count(&mut late, show_windowed(Some(row)), 1);
                        } else {
                            taken[side].push(*row);
                        }
                    }
                    cluster.push(side, window_rows(["l", "r"][side], &rows));
                }
                Step::Watermark(ahead) => {
                    watermark = watermark.max(0) + ahead;
                    prop_assert_eq!(cluster.watermark(watermark), EventTime(watermark));
                }
                Step::Freeze => {
                    if let Some(frozen) = frozen.take() {
                        while !cluster.drain(64) {}
                        kept = frozen;
                    }
                    cluster.cut();
                    frozen = Some((taken.clone(), late.clone(), watermark, seen.clone()));
                }
                Step::Drain(rounds) => {
                    if frozen.is_some() && (0..rounds).any(|_| cluster.drain(64)) {
                        kept = frozen.take().expect("it is there");
                    }
                }
                Step::Restore(instances) => {
                    frozen = None;
                    (taken, late, watermark, seen) = kept.clone();
                    seen.rewind(&mut cluster.given);
                    cluster.restore(instances, EventTime(watermark));
                    continue;
                }
            }
            seen.update(&cluster.given);
            prop_assert_eq!(&seen.main, &nested_loop(&spec, &taken, watermark));
            prop_assert_eq!(&seen.late, &late);
        }
        cluster.watermark(i64::MAX);
        seen.update(&cluster.given);
        prop_assert_eq!(&seen.main, &nested_loop(&spec, &taken, i64::MAX));
        prop_assert_eq!(cluster.size(), (0, 0), "nothing is kept");
        cluster.cut();
        while !cluster.drain(1000) {}
        prop_assert!(cluster.checkpoint_len() <= 7, "nor in a checkpoint, but the time");
    }
}
