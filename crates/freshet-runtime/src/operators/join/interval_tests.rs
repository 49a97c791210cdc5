//! Joins of times that lie near to each other against nested loops.

use proptest::prelude::*;

use super::super::testing::{
    Condition, Folded, KEY, Row, Seen, TIME, count, inserts, schema, show, tiny,
};
use super::*;
use crate::operators::testing::Cluster;

const KINDS: [JoinKind; 4] = [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full];

fn spec(kind: JoinKind, lower: i64, upper: i64, residual: bool) -> IntervalJoin {
    IntervalJoin {
        kind,
        left: schema("l"),
        right: schema("r"),
        left_keys: vec![KEY],
        right_keys: vec![KEY],
        left_time: TIME,
        right_time: TIME,
        lower,
        upper,
        residual: residual.then(|| Arc::new(Condition) as Arc<dyn ScalarExpr>),
        groups: KeyGroups::new(7),
    }
}

fn cluster(spec: &IntervalJoin, instances: usize) -> Cluster {
    let inputs = vec![(schema("l"), vec![KEY]), (schema("r"), vec![KEY])];
    Cluster::new(Arc::new(spec.clone()), spec.groups, inputs, instances)
}

/// The same, with lists of rows that are searched.
#[derive(Debug, Clone)]
struct Plain {
    spec: IntervalJoin,
    /// By side, rows with whether they were matched and whether they were padded.
    rows: [Vec<(Row, bool, bool)>; 2],
    watermark: i64,
    main: Folded,
    late: Folded,
    any_late: bool,
}

impl Plain {
    fn new(spec: &IntervalJoin) -> Self {
        Self {
            spec: spec.clone(),
            rows: [Vec::new(), Vec::new()],
            watermark: i64::MIN,
            main: Folded::new(),
            late: Folded::new(),
            any_late: false,
        }
    }

    fn lies(&self, left: i64, right: i64) -> bool {
        (right + self.spec.lower..=right + self.spec.upper).contains(&left)
    }

    fn matches(&self, left: &Row, right: &Row) -> bool {
        let residual = self.spec.residual.is_none() || Condition::holds(left, right);
        left.key.is_some() && left.key == right.key && self.lies(left.time, right.time) && residual
    }

    /// Whether a row that comes behind the watermark may still match this one.
    fn lives(&self, side: usize, time: i64) -> bool {
        let later = self.watermark.max(-1000) + 1..200;
        later.clone().any(|other| match side {
            0 => self.lies(time, other),
            _ => self.lies(other, time),
        })
    }

    fn pad(&mut self, side: usize, row: &Row) {
        if self.spec.kind.pads(side) {
            let (left, right) = if side == 0 { (Some(row), None) } else { (None, Some(row)) };
            count(&mut self.main, format!("{},{}", show(left), show(right)), 1);
        }
    }

    fn push(&mut self, side: usize, row: Row) {
        self.any_late |= row.time <= self.watermark;
        let other = 1 - side;
        let is_near = |time: i64| match side {
            0 => self.lies(row.time, time),
            _ => self.lies(time, row.time),
        };
        let partner = (-1000..200).any(|time| is_near(time) && self.lives(other, time));
        if !self.lives(side, row.time) && !partner {
            let shown = show(Some(&row));
            count(&mut self.late, shown, 1);
            return;
        }
        let mut is_matched = false;
        let mut others = std::mem::take(&mut self.rows[other]);
        for (partner, was_matched, _) in &mut others {
            let (left, right) = if side == 0 { (&row, &*partner) } else { (&*partner, &row) };
            if self.lives(other, partner.time) && self.matches(left, right) {
                let pair = format!("{},{}", show(Some(left)), show(Some(right)));
                count(&mut self.main, pair, 1);
                is_matched = true;
                *was_matched = true;
            }
        }
        self.rows[other] = others;
        // Null keys wait for nothing.
        let is_kept = row.key.is_some() && self.lives(side, row.time);
        if !is_kept && !is_matched {
            self.pad(side, &row);
        } else if is_kept {
            self.rows[side].push((row, is_matched, false));
        }
    }

    fn watermark(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark);
        for side in [0, 1] {
            let mut rows = std::mem::take(&mut self.rows[side]);
            for (row, is_matched, is_padded) in &mut rows {
                if !self.lives(side, row.time) && !*is_matched && !*is_padded {
                    *is_padded = true;
                    self.pad(side, row);
                }
            }
            self.rows[side] = rows;
        }
    }
}

/// The join of all rows, in one go.
fn nested_loop(plain: &Plain, rows: &[Vec<Row>; 2]) -> Folded {
    let mut joined = Plain::new(&plain.spec);
    for left in &rows[0] {
        let partners: Vec<_> = rows[1].iter().filter(|right| plain.matches(left, right)).collect();
        for right in &partners {
            count(&mut joined.main, format!("{},{}", show(Some(left)), show(Some(right))), 1);
        }
        if partners.is_empty() {
            joined.pad(0, left);
        }
    }
    for right in rows[1].iter().filter(|r| !rows[0].iter().any(|left| plain.matches(left, r))) {
        joined.pad(1, right);
    }
    joined.main
}

#[derive(Debug, Clone)]
enum Step {
    /// Rows of a side: key, how far the time is ahead of the watermark.
    Rows(bool, Vec<(Option<i64>, i64)>),
    Watermark(i64),
    Freeze,
    Drain(usize),
    Restore(usize),
}

fn steps(earliest: i64) -> impl Strategy<Value = Vec<Step>> {
    let row = (prop::option::weighted(0.9, 0_i64..3), earliest..12);
    let step = prop_oneof![
        8 => (any::<bool>(), prop::collection::vec(row, 1..10))
            .prop_map(|(left, rows)| Step::Rows(left, rows)),
        4 => (1_i64..8).prop_map(Step::Watermark),
        1 => Just(Step::Freeze),
        2 => (1_usize..4).prop_map(Step::Drain),
        1 => (1_usize..4).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// At every moment it has given what lists of rows give that are searched; and what all rows come
    /// to in the end, where none was late.
    #[test]
    fn what_it_gives_is_what_lists_give(
        steps in prop_oneof![steps(1), steps(-12)],
        kind in prop::sample::select(KINDS.to_vec()),
        residual in any::<bool>(),
        is_tiny in any::<bool>(),
        lower in -6_i64..4,
        width in 0_i64..8,
    ) {
        let spec = spec(kind, lower, lower + width, residual);
        let mut cluster = cluster(&spec, 2);
        if is_tiny {
            cluster.spill = Some(tiny());
            cluster.restore(2, EventTime::MIN);
        }
        let mut seen = Seen::default();
        let mut plain = Plain::new(&spec);
        let mut all = [Vec::new(), Vec::new()];
        let mut given = EventTime::MIN;
        let mut number = 0;
        let mut kept = (plain.clone(), seen.clone(), all.clone(), given);
        let mut frozen = None;
        for step in steps {
            let before = given;
            match step {
                Step::Rows(left, rows) => {
                    let side = usize::from(!left);
                    let rows = rows.into_iter().map(|(key, ahead)| {
                        number += 1;
                        Row { key, time: plain.watermark.max(0) + ahead, number }
                    });
                    let rows: Vec<Row> = rows.collect();
                    for row in &rows {
                        plain.push(side, *row);
                        all[side].push(*row);
                    }
                    cluster.push(side, inserts(["l", "r"][side], &rows));
                }
                Step::Watermark(ahead) => {
                    plain.watermark(plain.watermark.max(0) + ahead);
                    given = cluster.watermark(plain.watermark);
                    prop_assert_eq!(given, EventTime(plain.watermark - spec.delay()));
                }
                Step::Freeze => {
                    if let Some(frozen) = frozen.take() {
                        while !cluster.drain(64) {}
                        kept = frozen;
                    }
                    cluster.cut();
                    frozen = Some((plain.clone(), seen.clone(), all.clone(), given));
                }
                Step::Drain(rounds) => {
                    if frozen.is_some() && (0..rounds).any(|_| cluster.drain(64)) {
                        kept = frozen.take().expect("it is there");
                    }
                }
                Step::Restore(instances) => {
                    frozen = None;
                    (plain, seen, all, given) = kept.clone();
                    seen.rewind(&mut cluster.given);
                    cluster.restore(instances, given);
                    continue;
                }
            }
            if !plain.any_late {
                prop_assert!(seen.least_time(&cluster.given) > before.0, "behind the watermark");
            }
            seen.update(&cluster.given);
            prop_assert_eq!(&seen.main, &plain.main);
            prop_assert_eq!(&seen.late, &plain.late);
        }
        prop_assert_eq!(cluster.watermark(i64::MAX), EventTime::MAX);
        seen.update(&cluster.given);
        if !plain.any_late {
            prop_assert_eq!(&seen.main, &nested_loop(&plain, &all));
        }
        prop_assert_eq!(cluster.size().1, 0, "nothing is kept");
        cluster.cut();
        while !cluster.drain(1000) {}
        prop_assert!(cluster.checkpoint_len() <= 7, "nor in a checkpoint, but the time");
    }
}
