//! Splits that fall idle, one by one and all at once.

use arrow::array::{ArrayRef, TimestampMicrosecondArray};

use super::*;

/// The first column as it is.
#[derive(Debug)]
struct First;

impl ScalarExpr for First {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        Ok(Arc::clone(batch.column(0)))
    }
}

const SECOND: i64 = 1_000_000;

fn at(seconds: i64) -> RecordBatch {
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![seconds * SECOND]));
    RecordBatch::try_from_iter([("at", times)]).expect("one column")
}

/// The tasks of a source whose splits are idle after ten seconds, one split each.
fn tasks(count: usize, when_idle: WhenIdle) -> Vec<Watermarks> {
    let silence = Arc::<Silence>::default();
    let spec = WatermarkSpec {
        idle_after: Some(10 * SECOND),
        when_idle,
        ..WatermarkSpec::new(Arc::new(First))
    };
    let task = || {
        let mut task = Watermarks::new(spec.clone(), Arc::clone(&silence), EventTime::MIN);
        task.extend(1, 0);
        task
    };
    (0..count).map(|_| task()).collect()
}

fn none(_: usize) -> bool {
    false
}

fn said(watermark: Option<i64>, is_idle: bool) -> Merged {
    Merged { watermark: watermark.map(|seconds| EventTime(seconds * SECOND)), is_idle }
}

#[test]
fn a_split_that_is_behind_is_not_idle() {
    let mut tasks = tasks(1, WhenIdle::Wait);
    let task = &mut tasks[0];
    task.observe(0, &at(100), 0).expect("a time");
    assert_eq!(task.tick(10 * SECOND, |_| true), Merged::SAME);
    assert_eq!(task.deadline(), Some(20 * SECOND), "it is looked at again later");
    assert_eq!(task.tick(20 * SECOND, none), said(None, true));
    assert_eq!(task.deadline(), None);
}

#[test]
fn the_time_of_a_source_that_waits_stands_still() {
    let mut tasks = tasks(2, WhenIdle::Wait);
    assert_eq!(tasks[0].observe(0, &at(100), SECOND).expect("a time"), said(Some(100), false));
    assert_eq!(tasks[1].tick(10 * SECOND, none), said(None, true));
    assert_eq!(tasks[0].tick(11 * SECOND, none), said(None, true));
    assert_eq!(tasks[0].tick(100 * SECOND, none), Merged::SAME);
}

#[test]
fn time_advances_once_all_tasks_are_idle_and_stops_when_one_has_rows() {
    let mut tasks = tasks(2, WhenIdle::Advance);
    tasks[0].observe(0, &at(100), SECOND).expect("a time");
    // One task alone is idle: the other one's rows say how far time has come.
    assert_eq!(tasks[1].tick(10 * SECOND, none), said(None, true));
    assert_eq!(tasks[1].tick(11 * SECOND, none), Merged::SAME);
    // Ten seconds of silence: ten seconds passed.
    assert_eq!(tasks[0].tick(11 * SECOND, none), said(Some(110), false));
    assert_eq!(tasks[1].tick(12 * SECOND, none), said(Some(111), false));
    assert_eq!(tasks[0].tick(11 * SECOND + 1, none), Merged::SAME, "not yet");
    assert_eq!(tasks[0].tick(13 * SECOND, none), said(Some(112), false));
    // Rows of the past do not set time back, and are nobody's business here.
    assert_eq!(tasks[0].observe(0, &at(105), 14 * SECOND).expect("a time"), Merged::SAME);
    assert_eq!(tasks[1].tick(14 * SECOND, none), said(None, true), "nobody waits for this one");
    assert_eq!(tasks[1].tick(15 * SECOND, none), Merged::SAME);
    assert_eq!(tasks[0].observe(0, &at(130), 16 * SECOND).expect("a time"), said(Some(130), false));
}

#[test]
fn a_source_that_never_had_rows_has_no_time() {
    for when_idle in [WhenIdle::Wait, WhenIdle::Advance] {
        let mut tasks = tasks(1, when_idle);
        assert_eq!(tasks[0].tick(10 * SECOND, none), said(None, true));
        assert_eq!(tasks[0].tick(20 * SECOND, none), Merged::SAME);
    }
}
