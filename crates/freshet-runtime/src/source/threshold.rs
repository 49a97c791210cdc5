//! How many bad records a source may have: a share of those of the last minute, or whatever span.
//!
//! Counted over all tasks of the source, by the time of day at which records are decoded.

use std::collections::{BTreeMap, VecDeque};

use freshet_core::config::{HumanDuration, Share};
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::{Error, error::code};
use parking_lot::Mutex;

/// Fewer records say nothing, as with files.
const MIN_RECORDS: u64 = 20;

/// The span that is looked back at is forgotten in so many pieces.
const PIECES: i64 = 60;

/// The share of bad records that a source may have.
#[derive(Debug, Clone)]
pub struct Threshold {
    /// The source, for messages.
    pub source: String,
    /// The share: more than this is too many, from 20 records on.
    pub share: Share,
    /// The span that is looked back at.
    pub per: HumanDuration,
    /// Whether the job goes on where it is passed, and tells it.
    pub only_alerts: bool,
}

/// Holds a source's records against its threshold.
#[derive(Debug)]
pub(crate) struct Watch {
    threshold: Threshold,
    /// Microseconds of a piece.
    piece: i64,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    pieces: VecDeque<Piece>,
    records: u64,
    bad: u64,
    /// Whether it was passed and told, and bad records were not few since.
    is_passed: bool,
    alerts: u64,
}

/// Records of a piece of the span.
#[derive(Debug, Default)]
struct Piece {
    number: i64,
    records: u64,
    bad: u64,
    /// How many broke each rule, with what was said of the last one.
    rules: BTreeMap<Rule, (u64, String)>,
}

impl Watch {
    pub(crate) fn new(threshold: Threshold) -> Self {
        let per = i64::try_from(threshold.per.0.as_micros()).unwrap_or(i64::MAX);
        Self { piece: (per / PIECES).max(1), threshold, recent: Mutex::default() }
    }

    /// Counts what was decoded at the time of day `now`, in microseconds. An error where too many
    /// records are bad and the job is to stop.
    pub(crate) fn count(&self, now: i64, decoded: &Decoded) -> Result<(), Error> {
        let mut recent = self.recent.lock();
        recent.forget(now.div_euclid(self.piece));
        recent.add(now.div_euclid(self.piece), decoded);
        let Recent { records, bad, .. } = *recent;
        let too_many = bad as f64 > self.threshold.share.0 * records as f64;
        if !too_many {
            recent.is_passed = false;
            return Ok(());
        }
        if records < MIN_RECORDS || std::mem::replace(&mut recent.is_passed, true) {
            return Ok(());
        }
        recent.alerts += 1;
        let error = self.error(&recent);
        if self.threshold.only_alerts {
            tracing::warn!(source = self.threshold.source, bad, records, %error, "too many bad records");
            return Ok(());
        }
        Err(error)
    }

    /// How often the threshold was passed.
    pub(crate) fn alerts(&self) -> u64 {
        self.recent.lock().alerts
    }

    fn error(&self, recent: &Recent) -> Error {
        let Threshold { source, share, per, .. } = &self.threshold;
        let mut rules: BTreeMap<Rule, (u64, &str)> = BTreeMap::new();
        for (rule, (count, said)) in recent.pieces.iter().flat_map(|piece| &piece.rules) {
            let (sum, last) = rules.entry(*rule).or_default();
            (*sum, *last) = (*sum + count, said);
        }
        let commonest = rules.into_iter().max_by_key(|(_, (count, _))| *count);
        let commonest = commonest.map_or_else(String::new, |(rule, (count, said))| {
            format!("; {count} break rule `{rule}`, the last one: {said}")
        });
        let Recent { bad, records, .. } = recent;
        let found = Share((*bad as f64 / *records as f64 * 1e4).round() / 1e4);
        Error::new(
            code::SOURCE_TOO_BAD,
            format!(
                "source \"{source}\" has too many bad records: {bad} of {records} within {per} \
                 are {found}, more than {share}{commonest}"
            ),
        )
        .hint(
            "mend the source's contract or whoever writes it, raise `max_bad`, or go on \
             with `on_max_bad: alert`: bad records are dead letters then",
        )
    }
}

impl Recent {
    /// Forgets what is longer ago than the span.
    fn forget(&mut self, number: i64) {
        while self.pieces.front().is_some_and(|piece| piece.number <= number - PIECES) {
            if let Some(piece) = self.pieces.pop_front() {
                self.records -= piece.records;
                self.bad -= piece.bad;
            }
        }
    }

    fn add(&mut self, number: i64, decoded: &Decoded) {
        // A clock that is set back counts to the newest piece.
        if self.pieces.back().is_none_or(|piece| piece.number < number) {
            self.pieces.push_back(Piece { number, ..Piece::default() });
        }
        let Some(piece) = self.pieces.back_mut() else { return };
        let bad = decoded.rejects.len() as u64;
        piece.records += decoded.records;
        piece.bad += bad;
        self.records += decoded.records;
        self.bad += bad;
        for Reject { rule, .. } in &decoded.rejects {
            piece.rules.entry(*rule).or_default().0 += 1;
        }
        if let Some(Reject { rule, column, message, .. }) = decoded.rejects.last() {
            let column = column.as_ref().map(|column| format!("column \"{column}\": "));
            piece.rules.entry(*rule).or_default().1 =
                format!("{}{message}", column.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn watch(share: f64, only_alerts: bool) -> Watch {
        Watch::new(Threshold {
            source: "shop.orders".into(),
            share: Share(share),
            per: HumanDuration(Duration::from_secs(60)),
            only_alerts,
        })
    }

    fn decoded(records: u64, bad: u64) -> Decoded {
        let reject = |number| Reject {
            offset: number,
            line: 1,
            rule: if number % 3 == 0 { Rule::Syntax } else { Rule::Type },
            column: Some("amount".into()),
            message: "\"much\" is no number".into(),
            raw: Box::default(),
        };
        Decoded { records, rejects: (1..=bad).map(reject).collect(), ..Decoded::default() }
    }

    #[test]
    fn too_many_bad_records_within_the_span_stop_the_job_and_say_why() {
        let watch = watch(0.01, false);
        watch.count(0, &decoded(19, 19)).expect("so few say nothing");
        // A minute later they are forgotten.
        watch.count(60 * SECOND, &decoded(1000, 10)).expect("one in a hundred is allowed");
        let error = watch.count(62 * SECOND, &decoded(10, 5)).expect_err("15 of 1010 are more");
        assert_eq!(error.code(), code::SOURCE_TOO_BAD);
        assert!(!error.is_retryable());
        assert_eq!(
            error.to_string(),
            "source \"shop.orders\" has too many bad records: 15 of 1010 within 1m are 1.49%, more \
             than 1%; 11 break rule `type`, the last one: column \"amount\": \"much\" is no number"
        );
    }

    #[test]
    fn an_alert_is_told_once_each_time() {
        let watch = watch(0.1, true);
        for _ in 0..5 {
            watch.count(0, &decoded(100, 20)).expect("it only alerts");
        }
        assert_eq!(watch.alerts(), 1);
        watch.count(70 * SECOND, &decoded(100, 0)).expect("it is well");
        watch.count(71 * SECOND, &decoded(100, 50)).expect("it only alerts");
        assert_eq!(watch.alerts(), 2);
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_came_within_the_span(
            counts in proptest::collection::vec((0i64..20, 0u64..50, 0u64..10), 1..60),
        ) {
            let watch = watch(0.25, true);
            let (mut now, mut all) = (0, Vec::new());
            for (wait, good, bad) in counts {
                now += wait * SECOND;
                all.push((now, good + bad, bad));
                watch.count(now, &decoded(good + bad, bad)).expect("it only alerts");
                // Pieces are whole seconds here.
                let recent = all.iter().filter(|(at, ..)| *at > now - 60 * SECOND);
                let (records, bad) = recent.fold((0, 0), |(a, b), (_, c, d)| (a + c, b + d));
                let counted = watch.recent.lock();
                prop_assert_eq!((counted.records, counted.bad), (records, bad));
                prop_assert!(counted.pieces.len() <= 60);
            }
        }
    }
}
