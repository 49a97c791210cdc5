//! Batches of event time: spans that begin on a full hour, day, month or year, UTC.

use chrono::{Datelike, Duration, Months, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use freshet_core::source::Interval;
use freshet_project::BatchSize;

/// The batch that holds an instant.
pub fn batch_of(at: NaiveDateTime, size: BatchSize) -> Interval {
    let start = truncate(at, size);
    Interval { start, end: next(start, size) }
}

/// The batches that a span touches, in their order.
pub fn batches(span: Interval, size: BatchSize) -> Vec<Interval> {
    let mut all = Vec::new();
    let mut batch = batch_of(span.start, size);
    while batch.start < span.end {
        all.push(batch);
        if batch.end <= batch.start {
            break;
        }
        batch = Interval { start: batch.end, end: next(batch.end, size) };
    }
    all
}

/// The batch `n` batches before.
pub fn back(batch: Interval, size: BatchSize, n: u32) -> Interval {
    let mut batch = batch;
    for _ in 0..n {
        batch = batch_of(batch.start - Duration::microseconds(1), size);
    }
    batch
}

/// How a batch is shown: `2026-10-02`, `2026-10-02 14h`, `2026-10`, `2026`.
pub fn label(batch: Interval, size: BatchSize) -> String {
    let format = match size {
        BatchSize::Hour => "%Y-%m-%d %Hh",
        BatchSize::Day => "%Y-%m-%d",
        BatchSize::Month => "%Y-%m",
        BatchSize::Year => "%Y",
    };
    batch.start.format(format).to_string()
}

fn truncate(at: NaiveDateTime, size: BatchSize) -> NaiveDateTime {
    let date = at.date();
    let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN);
    match size {
        BatchSize::Hour => midnight(date) + Duration::hours(i64::from(at.hour())),
        BatchSize::Day => midnight(date),
        BatchSize::Month => midnight(date.with_day(1).unwrap_or(date)),
        BatchSize::Year => midnight(date.with_day(1).and_then(|d| d.with_month(1)).unwrap_or(date)),
    }
}

/// The start of the next batch; the same instant at the end of the calendar.
fn next(start: NaiveDateTime, size: BatchSize) -> NaiveDateTime {
    let next = match size {
        BatchSize::Hour => start.checked_add_signed(Duration::hours(1)),
        BatchSize::Day => start.checked_add_signed(Duration::days(1)),
        BatchSize::Month => start.checked_add_months(Months::new(1)),
        BatchSize::Year => start.checked_add_months(Months::new(12)),
    };
    next.unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").expect("a time")
    }

    #[test]
    fn spans_are_cut_on_the_calendar() {
        let span = Interval { start: at("2026-01-30 05:00"), end: at("2026-03-01 00:00") };
        let months: Vec<_> =
            batches(span, BatchSize::Month).iter().map(|b| label(*b, BatchSize::Month)).collect();
        assert_eq!(months, ["2026-01", "2026-02"]);
        assert_eq!(batches(span, BatchSize::Day).len(), 30);
    }

    #[test]
    fn lookback_goes_over_the_end_of_a_month() {
        let batch = batch_of(at("2026-03-01 10:00"), BatchSize::Day);
        assert_eq!(label(back(batch, BatchSize::Day, 1), BatchSize::Day), "2026-02-28");
    }
}
