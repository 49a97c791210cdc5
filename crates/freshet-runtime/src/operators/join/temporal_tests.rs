//! Joins as of a time against a search of the versions.

use proptest::prelude::*;

use super::super::testing::{
    Condition, Folded, KEY, Row, Seen, TIME, count, inserts, rows, schema, show, tiny,
};
use super::*;
use crate::operators::testing::Cluster;

fn spec(kind: JoinKind, residual: bool) -> TemporalJoin {
    TemporalJoin {
        kind,
        left: schema("l"),
        right: schema("r"),
        left_keys: vec![KEY],
        right_keys: vec![KEY],
        left_time: TIME,
        right_time: TIME,
        residual: residual.then(|| Arc::new(Condition) as Arc<dyn ScalarExpr>),
        groups: KeyGroups::new(7),
    }
}

fn cluster(spec: &TemporalJoin, instances: usize) -> Cluster {
    let inputs = vec![(schema("l"), vec![KEY]), (schema("r"), vec![KEY])];
    Cluster::new(Arc::new(spec.clone()), spec.groups, inputs, instances)
}

/// The same, with lists of rows that are searched and from which nothing is ever taken.
#[derive(Debug, Clone)]
struct Plain {
    is_left: bool,
    residual: bool,
    waiting: Vec<Row>,
    versions: Vec<(RowKind, Row)>,
    watermark: i64,
    main: Folded,
    late: Folded,
}

impl Plain {
    fn join(&mut self, row: &Row) {
        // Of those at one time, the last; of those at several, that at the latest.
        let mut found: Option<&(RowKind, Row)> = None;
        for version in &self.versions {
            let is_before = version.1.key == row.key && version.1.time <= row.time;
            if is_before && found.is_none_or(|found| found.1.time <= version.1.time) {
                found = Some(version);
            }
        }
        let found = found.filter(|(kind, _)| *kind != RowKind::Delete).map(|(_, row)| row);
        let found = found.filter(|_| row.key.is_some());
        let found = found.filter(|right| !self.residual || Condition::holds(row, right));
        if found.is_some() || self.is_left {
            count(&mut self.main, format!("{},{}", show(Some(row)), show(found)), 1);
        }
    }

    fn push_left(&mut self, row: Row) {
        if row.time <= self.watermark {
            count(&mut self.late, show(Some(&row)), 1);
        } else if row.key.is_none() {
            self.join(&row);
        } else {
            self.waiting.push(row);
        }
    }

    fn watermark(&mut self, watermark: i64) {
        self.watermark = watermark;
        let ready = |row: &Row| row.time <= watermark;
        let (ready, waiting): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(ready);
        self.waiting = waiting;
        for row in ready {
            self.join(&row);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Left rows: key, how far the time is ahead of the watermark.
    Left(Vec<(Option<i64>, i64)>),
    Right(Vec<(Option<i64>, i64, RowKind)>),
    Watermark(i64),
    Freeze,
    Drain(usize),
    Restore(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use RowKind::{Delete, Insert, UpdateAfter};
    let key = || prop::option::weighted(0.95, 0_i64..3);
    let kind = prop::sample::select(vec![Insert, Insert, UpdateAfter, Delete]);
    let step = prop_oneof![
        5 => prop::collection::vec((key(), -2_i64..12), 1..8).prop_map(Step::Left),
        5 => prop::collection::vec((key(), 1_i64..12, kind), 1..6).prop_map(Step::Right),
        4 => (1_i64..8).prop_map(Step::Watermark),
        1 => Just(Step::Freeze),
        2 => (1_usize..4).prop_map(Step::Drain),
        1 => (1_usize..4).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn rows_are_joined_with_the_version_of_their_time(
        steps in steps(),
        is_left in any::<bool>(),
        residual in any::<bool>(),
        is_tiny in any::<bool>(),
    ) {
        let kind = if is_left { JoinKind::Left } else { JoinKind::Inner };
        let spec = spec(kind, residual);
        let mut cluster = cluster(&spec, 2);
        if is_tiny {
            cluster.spill = Some(tiny());
            cluster.restore(2, EventTime::MIN);
        }
        let mut seen = Seen::default();
        let mut plain = Plain {
            is_left,
            residual,
            waiting: Vec::new(),
            versions: Vec::new(),
            watermark: i64::MIN,
            main: Folded::new(),
            late: Folded::new(),
        };
        let mut number = 0;
        let mut kept = (plain.clone(), seen.clone());
        let mut frozen = None;
        for step in steps {
            let now = plain.watermark.max(0);
            match step {
                Step::Left(new) => {
                    let new = new.into_iter().map(|(key, ahead)| {
                        number += 1;
                        Row { key, time: now + ahead, number }
                    });
                    let new: Vec<Row> = new.collect();
                    new.iter().for_each(|row| plain.push_left(*row));
                    cluster.push(0, inserts("l", &new));
                }
                Step::Right(new) => {
                    let new = new.into_iter().flat_map(|(key, ahead, kind)| {
                        number += 1;
                        let row = Row { key, time: now + ahead, number };
                        // An update has two halves.
                        let before = (kind == RowKind::UpdateAfter)
                            .then_some((RowKind::UpdateBefore, Row { number: -number, ..row }));
                        before.into_iter().chain([(kind, row)])
                    });
                    let new: Vec<_> = new.collect();
                    let versions = new.iter().filter(|(kind, _)| *kind != RowKind::UpdateBefore);
                    plain.versions.extend(versions.copied());
                    cluster.push(1, rows("r", &new));
                }
                Step::Watermark(ahead) => {
                    plain.watermark(now + ahead);
                    prop_assert_eq!(cluster.watermark(now + ahead), EventTime(now + ahead));
                }
                Step::Freeze => {
                    if let Some(frozen) = frozen.take() {
                        while !cluster.drain(64) {}
                        kept = frozen;
                    }
                    cluster.cut();
                    frozen = Some((plain.clone(), seen.clone()));
                }
                Step::Drain(rounds) => {
                    if frozen.is_some() && (0..rounds).any(|_| cluster.drain(64)) {
                        kept = frozen.take().expect("it is there");
                    }
                }
                Step::Restore(instances) => {
                    frozen = None;
                    (plain, seen) = kept.clone();
                    seen.rewind(&mut cluster.given);
                    cluster.restore(instances, EventTime(plain.watermark));
                    continue;
                }
            }
            seen.update(&cluster.given);
            prop_assert_eq!(&seen.main, &plain.main);
            prop_assert_eq!(&seen.late, &plain.late);
        }
        plain.watermark(i64::MAX);
        cluster.watermark(i64::MAX);
        seen.update(&cluster.given);
        prop_assert_eq!(&seen.main, &plain.main);
        // Of each key there may be its last version.
        prop_assert!(cluster.size().1 <= 3);
        cluster.cut();
        while !cluster.drain(1000) {}
    }
}

/// A key that changes all the time has one version, whatever checkpoints had of it.
#[test]
fn versions_that_were_replaced_are_forgotten() {
    let spec = spec(JoinKind::Inner, false);
    let mut cluster = cluster(&spec, 1);
    let mut sizes = Vec::new();
    for round in 0..40_i64 {
        let new = (0..2000).map(|n| Row { key: Some(n % 10), time: round * 2000 + n, number: n });
        cluster.push(1, inserts("r", &new.collect::<Vec<_>>()));
        cluster.watermark(round * 2000 + 1999);
        cluster.cut();
        while !cluster.drain(1 << 20) {}
        sizes.push((cluster.size().0, cluster.checkpoint_len()));
    }
    let (first, last) = (sizes[5], sizes[39]);
    assert!(last.0 < 3 * first.0 && last.1 < 3 * first.1, "{sizes:?}");
}
