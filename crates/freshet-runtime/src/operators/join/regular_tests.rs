//! Joins of changelogs against nested loops.

use std::sync::Arc;

use freshet_core::rows::RowKind;
use proptest::prelude::*;

use super::super::JoinKind;
use super::super::testing::{Condition, Folded, KEY, Row, Seen, count, rows, schema, show, tiny};
use super::*;
use crate::operators::testing::Cluster;
use crate::state::{MemoryScratch, SpillOptions};

const KINDS: [JoinKind; 6] = [
    JoinKind::Inner,
    JoinKind::Left,
    JoinKind::Right,
    JoinKind::Full,
    JoinKind::LeftSemi,
    JoinKind::LeftAnti,
];

fn spec(kind: JoinKind, residual: bool, ttl: Option<i64>, groups: KeyGroups) -> Join {
    Join {
        kind,
        left: schema("l"),
        right: schema("r"),
        left_keys: vec![KEY],
        right_keys: vec![KEY],
        residual: residual.then(|| Arc::new(Condition) as Arc<dyn ScalarExpr>),
        ttl,
        groups,
    }
}

fn cluster(spec: &Join, instances: usize) -> Cluster {
    let inputs = vec![(schema("l"), vec![KEY]), (schema("r"), vec![KEY])];
    Cluster::new(Arc::new(spec.clone()), spec.groups, inputs, instances)
}

/// The join of two tables, by looking at all pairs.
fn nested_loop(kind: JoinKind, residual: bool, left: &[Row], right: &[Row]) -> Folded {
    let matches = |l: &Row, r: &Row| {
        l.key.is_some() && l.key == r.key && (!residual || Condition::holds(l, r))
    };
    let mut joined = Folded::new();
    for l in left {
        let partners: Vec<_> = right.iter().filter(|r| matches(l, r)).collect();
        match kind {
            JoinKind::LeftSemi if !partners.is_empty() => count(&mut joined, show(Some(l)), 1),
            JoinKind::LeftAnti if partners.is_empty() => count(&mut joined, show(Some(l)), 1),
            JoinKind::LeftSemi | JoinKind::LeftAnti => {}
            _ => {
                for r in &partners {
                    count(&mut joined, format!("{},{}", show(Some(l)), show(Some(r))), 1);
                }
                if partners.is_empty() && matches!(kind, JoinKind::Left | JoinKind::Full) {
                    count(&mut joined, format!("{},{}", show(Some(l)), show(None)), 1);
                }
            }
        }
    }
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        for r in right.iter().filter(|r| !left.iter().any(|l| matches(l, r))) {
            count(&mut joined, format!("{},{}", show(None), show(Some(r))), 1);
        }
    }
    joined
}

/// What happens to a join.
#[derive(Debug, Clone)]
enum Step {
    /// Changes of a side: a row to be added, or which row is taken back.
    Rows(bool, Vec<(Option<i64>, i64, Option<prop::sample::Index>)>),
    Freeze,
    Drain(usize),
    /// At this parallelism.
    Restore(usize),
}

fn steps(keys: i64) -> impl Strategy<Value = Vec<Step>> {
    let key = prop::option::weighted(0.9, 0..keys);
    let back = prop::option::weighted(0.4, any::<prop::sample::Index>());
    let change = (key, 0_i64..4, back);
    let step = prop_oneof![
        8 => (any::<bool>(), prop::collection::vec(change, 1..12))
            .prop_map(|(left, changes)| Step::Rows(left, changes)),
        1 => Just(Step::Freeze),
        2 => (1_usize..4).prop_map(Step::Drain),
        1 => (1_usize..4).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// At every moment, what was given comes to the join of what came, also when some of it was
    /// taken back, and when the operator began again from a checkpoint.
    #[test]
    fn what_it_gives_is_the_join_at_every_moment(
        steps in steps(4),
        kind in prop::sample::select(KINDS.to_vec()),
        residual in any::<bool>(),
        is_tiny in any::<bool>(),
        // As little as forever.
        ttl in prop::option::of(Just(1_i64 << 50)),
        appends in any::<bool>(),
    ) {
        let spec = spec(kind, residual, ttl, KeyGroups::new(7));
        let mut cluster = cluster(&spec, 2);
        if is_tiny {
            cluster.spill = Some(tiny());
            cluster.restore(2, EventTime::MIN);
        }
        let mut seen = Seen::default();
        let mut tables = [Vec::<Row>::new(), Vec::new()];
        let mut kept = (tables.clone(), seen.clone());
        let mut frozen = None;
        for step in steps {
            match step {
                Step::Rows(left, changes) => {
                    let side = usize::from(!left);
                    let mut batch = Vec::new();
                    for (key, number, back) in changes {
                        let table = &mut tables[side];
                        match back {
                            Some(index) if !appends => {
                                if !table.is_empty() {
                                    let row = table.swap_remove(index.index(table.len()));
                                    let kind = if number % 2 == 0 { RowKind::Delete } else { RowKind::UpdateBefore };
                                    batch.push((kind, row));
                                }
                            }
                            _ => {
                                // Equal rows may be there more than once.
                                let row = Row { key, time: 0, number };
                                table.push(row);
                                batch.push((RowKind::Insert, row));
                            }
                        }
                    }
                    cluster.push(side, rows(["l", "r"][side], &batch));
                }
                Step::Freeze => {
                    if let Some(frozen) = frozen.take() {
                        while !cluster.drain(64) {}
                        kept = frozen;
                    }
                    cluster.cut();
                    seen.update(&cluster.given);
                    frozen = Some((tables.clone(), seen.clone()));
                }
                Step::Drain(rounds) => {
                    if frozen.is_some() && (0..rounds).any(|_| cluster.drain(64)) {
                        kept = frozen.take().expect("it is there");
                    }
                }
                Step::Restore(instances) => {
                    // What was not drained is no checkpoint.
                    frozen = None;
                    (tables, seen) = kept.clone();
                    seen.rewind(&mut cluster.given);
                    cluster.restore(instances, EventTime::MIN);
                }
            }
            seen.update(&cluster.given);
            let expected = nested_loop(kind, residual, &tables[0], &tables[1]);
            prop_assert_eq!(&seen.main, &expected);
        }
        // Nothing is left of keys that nobody holds.
        for side in [0, 1] {
            let batch: Vec<_> = tables[side].drain(..).map(|row| (RowKind::Delete, row)).collect();
            cluster.push(side, rows(["l", "r"][side], &batch));
        }
        seen.update(&cluster.given);
        prop_assert!(seen.main.is_empty());
        prop_assert_eq!(cluster.size().1, 0);
    }
}

/// One row matches very many: batches stay small, and the call comes back in between.
#[test]
fn a_row_with_many_partners_is_joined_in_pieces() {
    for (kind, residual) in [(JoinKind::Inner, false), (JoinKind::Full, true)] {
        let spec = spec(kind, residual, None, KeyGroups::new(1));
        let mut cluster = cluster(&spec, 1);
        let many: Vec<_> = (0..50_000)
            .map(|number| (RowKind::Insert, Row { key: Some(1), time: 0, number: 3 * number }))
            .collect();
        for part in many.chunks(8192) {
            cluster.push(0, rows("l", part));
        }
        let one = (RowKind::Insert, Row { key: Some(1), time: 0, number: 1 });
        cluster.push(1, rows("r", &[one, one]));
        let given = cluster.given.0.iter().map(|(_, rows)| rows);
        let pairs: i64 =
            given.clone().flat_map(|rows| (0..rows.len()).map(|row| rows.kind(row).sign())).sum();
        assert_eq!(pairs, 100_000);
        let largest = given.map(Rows::len).max();
        assert!(largest <= Some(BATCH_ROWS), "{largest:?}");
    }
}

/// State that comes and goes stays small, and so does what checkpoints have of it.
#[test]
fn what_is_taken_back_leaves_nothing_behind() {
    let spec = spec(JoinKind::Left, false, None, KeyGroups::new(4));
    let mut cluster = cluster(&spec, 1);
    let row = |number: i64| Row { key: Some(number % 1000), time: 0, number };
    let mut largest = 0;
    for round in 0..60 {
        let new = (round * 4000..(round + 1) * 4000).map(|number| (RowKind::Insert, row(number)));
        cluster.push(0, rows("l", &new.collect::<Vec<_>>()));
        if round > 0 {
            // All but one in ten.
            let old = ((round - 1) * 4000..round * 4000).filter(|number| number % 10 > 0);
            let old: Vec<_> = old.map(|number| (RowKind::Delete, row(number))).collect();
            cluster.push(0, rows("l", &old));
        }
        cluster.cut();
        while !cluster.drain(64) {}
        if round == 20 {
            largest = cluster.size().0;
        }
    }
    let (bytes, keys) = cluster.size();
    assert_eq!(keys, 1000);
    // A tenth of the rows stays: three times as many as in round 20.
    assert!(bytes < 3 * largest, "{bytes} after {largest}");
    cluster.restore(2, EventTime::MIN);
    assert_eq!(cluster.size().1, 1000);
    let one = (RowKind::Insert, Row { key: Some(10), time: 0, number: -1 });
    cluster.given.0.clear();
    cluster.push(1, rows("r", &[one]));
    // Each was given alone before: that is taken away.
    let joined: usize = cluster.given.0.iter().map(|(_, rows)| rows.len() / 2).sum();
    assert_eq!(joined, 59 * 4 + 4, "what was left of 59 rounds, and all of the last");
}

/// Rows are there for the time to live at least, and an eighth longer at most.
#[test]
fn rows_are_forgotten_after_their_time_to_live() {
    let ttl = 8_000_000;
    let spec = spec(JoinKind::Inner, false, Some(ttl), KeyGroups::new(4));
    for restored in [false, true] {
        let mut cluster = cluster(&spec, 1);
        let row = |number| [(RowKind::Insert, Row { key: Some(1), time: 0, number })];
        cluster.push(0, rows("l", &row(1)));
        if restored {
            cluster.cut();
            while !cluster.drain(64) {}
            cluster.restore(2, EventTime::MIN);
        }
        cluster.clock.advance_micros(ttl - 1);
        cluster.tick();
        cluster.push(1, rows("r", &row(2)));
        assert_eq!(cluster.given.0.len(), 1, "it is there");
        cluster.clock.advance_micros(ttl / 8 + 1);
        cluster.tick();
        cluster.push(1, rows("r", &row(3)));
        assert_eq!(cluster.given.0.len(), 1, "it is there no more");
        cluster.cut();
        while !cluster.drain(64) {}
        cluster.clock.advance_micros(2 * ttl);
        cluster.restore(1, EventTime::MIN);
        cluster.tick();
        assert_eq!(cluster.size().1, 0, "nor in a checkpoint, once it is read");
    }
}

#[test]
fn keys_of_different_types_are_refused() {
    let mut spec = spec(JoinKind::Inner, false, None, KeyGroups::default());
    spec.right_keys = vec![3];
    let clock = Arc::new(freshet_core::clock::ManualClock::new(0));
    let context = OperatorContext {
        clock,
        groups: KeyGroups::default().range(0, 1),
        watermark: EventTime::MIN,
        spill: None,
    };
    assert!(spec.create(&context).is_err());
}

/// State that is ten times what it may take in memory does not take more, and is joined all the same.
#[test]
fn state_stays_within_its_budget() {
    let spec = spec(JoinKind::Inner, false, None, KeyGroups::new(4));
    let mut cluster = cluster(&spec, 1);
    let wide = |from: i64| {
        let row = |number| Row { key: Some(number % 500), time: number, number };
        rows("l", &(from..from + 500).map(|n| (RowKind::Insert, row(n))).collect::<Vec<_>>())
    };
    for round in 0..40 {
        cluster.push(0, wide(round * 500));
    }
    let all = cluster.size().0 as usize;
    let scratch = Arc::new(MemoryScratch::default());
    let budget = all / 10 * 4;
    cluster.spill =
        Some(SpillOptions { budget: budget.into(), scratch: Arc::clone(&scratch) as Arc<_> });
    for restored in [false, true] {
        if !restored {
            cluster.restore(1, EventTime::MIN);
        }
        for round in 0..40 {
            if !restored {
                cluster.push(0, wide(round * 500));
            }
            let one = Row { key: Some(round), time: 0, number: -round };
            cluster.push(1, rows("r", &[(RowKind::Insert, one)]));
            let bytes = cluster.size().0 as usize;
            assert!(bytes <= budget, "{bytes} of {budget}, of {all} in all");
        }
        assert!(scratch.written() > 0);
        cluster.cut();
        while !cluster.drain(1 << 16) {}
        cluster.restore(1, EventTime::MIN);
    }
    let joined: usize = cluster.given.0.iter().map(|(_, rows)| rows.len()).sum();
    // Forty rows of the right meet as many of the left each, before they were restored and after.
    assert_eq!(joined, 2 * 40 * 40);
}
