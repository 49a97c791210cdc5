//! Which splits of a source a build reads: all of them, or those that its table does not hold yet.

use std::collections::BTreeMap;

use freshet_core::error::code;
use freshet_core::source::{
    Extent, Interval, Overlay, Split, SplitReport, SplitRequest, SplitStatus,
};
use freshet_core::{Error, Result, SourceId};
use freshet_project::{BatchSize, OnChanged, SourceTable};

use crate::interval;
use crate::report::{ConsumedSplit, MissingFile};

/// What to read of a source.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The splits to read, in their order.
    pub requests: Vec<SplitRequest>,
    /// Splits that changed after they were consumed and are left alone.
    pub changed: Vec<Split>,
}

/// Chooses what a build reads of `splits`. A build that is not incremental reads everything.
pub fn select(
    source: &SourceTable,
    splits: Vec<Split>,
    consumed: &BTreeMap<String, ConsumedSplit>,
    overlay: &Overlay,
    incremental: bool,
) -> Result<Selection> {
    let mut selection = Selection::default();
    for split in splits {
        let whole = SplitRequest { split: split.clone(), extent: Extent::Whole };
        let Some(before) = consumed.get(&split.id).filter(|_| incremental) else {
            selection.requests.push(whole);
            continue;
        };
        if before.split.version != split.version {
            if before.empty {
                selection.requests.push(whole);
                continue;
            }
            match source.on_changed {
                OnChanged::Ignore => selection.changed.push(split),
                OnChanged::Reload => selection.requests.push(whole),
                OnChanged::Fail => {
                    return Err(Error::new(
                        code::FILE_CHANGED,
                        format!(
                            "file \"{}\" of source \"{}\" changed after it was consumed",
                            split.id, source.id
                        ),
                    )
                    .at(source.location.clone())
                    .hint("restore the file, or set `on_changed: reload` to take it again"));
                }
            }
            continue;
        }
        let newest = before
            .digest
            .as_ref()
            .and_then(|digest| overlay.contents.get(digest))
            .and_then(|(_, corrections)| corrections.values().map(|c| c.sequence).max())
            .unwrap_or(0);
        if newest > before.corrections {
            let extent = Extent::CorrectionsAfter(before.corrections);
            selection.requests.push(SplitRequest { split, extent });
        }
    }
    Ok(selection)
}

/// What a table holds after a build that read `reports`.
///
/// Splits that were set aside or not finished are not consumed: the next run tries again. An empty
/// one is, so that no later run stops at it; whatever it holds one day is new.
pub fn consume(
    before: &BTreeMap<String, ConsumedSplit>,
    reports: &[SplitReport],
    incremental: bool,
) -> BTreeMap<String, ConsumedSplit> {
    let mut after = if incremental { before.clone() } else { BTreeMap::new() };
    for report in reports {
        if !matches!(report.status, SplitStatus::Read | SplitStatus::Empty) {
            continue;
        }
        let earlier = before.get(&report.split.id).filter(|_| incremental);
        let consumed = ConsumedSplit {
            split: report.split.clone(),
            digest: report
                .digest
                .clone()
                .or_else(|| earlier.and_then(|consumed| consumed.digest.clone())),
            corrections: report.corrections.max(earlier.map_or(0, |consumed| consumed.corrections)),
            empty: report.status == SplitStatus::Empty,
        };
        after.insert(report.split.id.clone(), consumed);
    }
    after
}

/// The spans between the first and the last split for which there is no split, where the source
/// says how often one is expected.
pub fn missing(source: &SourceTable, path: Option<&str>, splits: &[Split]) -> Vec<MissingFile> {
    let Some(every) = source.expect_every else { return Vec::new() };
    let seen: std::collections::BTreeSet<Interval> = splits
        .iter()
        .filter_map(|split| split.interval)
        .map(|span| interval::batch_of(span.start, every))
        .collect();
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else { return Vec::new() };
    interval::batches(Interval { start: first.start, end: last.end }, every)
        .into_iter()
        .filter(|batch| !seen.contains(batch))
        .map(|batch| MissingFile {
            source: source.id.clone(),
            interval: batch,
            expected: expected_name(&source.id, path, batch, every),
        })
        .collect()
}

/// The pattern with its time fields filled in; other fields stay as they are.
fn expected_name(
    source: &SourceId,
    path: Option<&str>,
    batch: Interval,
    every: BatchSize,
) -> String {
    let Some(path) = path else {
        return format!("{source} of {}", interval::label(batch, every));
    };
    let mut name = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        name.push_str(before);
        let Some((field, after)) = after.split_once('}') else {
            name.push('{');
            rest = after;
            continue;
        };
        match field.split_once(':') {
            Some((_, format)) if format.contains('%') => {
                use std::fmt::Write as _;
                let start = name.len();
                if write!(name, "{}", batch.start.format(format)).is_err() {
                    name.truncate(start);
                    name.push_str(field);
                }
            }
            _ => {
                name.push('{');
                name.push_str(field);
                name.push('}');
            }
        }
        rest = after;
    }
    name.push_str(rest);
    name
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::NaiveDate;
    use freshet_core::config::{HumanDuration, Share};
    use freshet_core::source::{ContentDigest, Correction};
    use freshet_core::{Contract, Location};
    use freshet_project::{EmptyFiles, OnMaxBad};

    use super::*;

    fn source(on_changed: OnChanged) -> SourceTable {
        SourceTable {
            id: SourceId::of("pos", "sales"),
            source: "pos".into(),
            table: "sales".into(),
            description: String::new(),
            connector: Some("files".into()),
            options: serde_json::Value::Null,
            connection: None,
            contract: Arc::new(Contract::default()),
            max_bad: Share(0.05),
            stated_max_bad: None,
            on_max_bad: OnMaxBad::Stop,
            settle: HumanDuration(std::time::Duration::ZERO),
            on_changed,
            empty_files: EmptyFiles::Report,
            expect_every: Some(BatchSize::Day),
            event_time: None,
            watermark: None,
            primary_key: Vec::new(),
            tags: Vec::new(),
            location: Location::line("sources/pos.yml", 3),
        }
    }

    fn split(id: &str, version: &str, day: Option<u32>) -> Split {
        let date = |day| NaiveDate::from_ymd_opt(2026, 10, day).expect("a date").into();
        Split {
            id: id.into(),
            size: Some(10),
            version: version.into(),
            modified: None,
            captured: BTreeMap::new(),
            interval: day.map(|day| Interval { start: date(day), end: date(day + 1) }),
        }
    }

    fn consumed(split: Split, digest: &str) -> BTreeMap<String, ConsumedSplit> {
        let digest = Some(ContentDigest(digest.into()));
        BTreeMap::from([(
            split.id.clone(),
            ConsumedSplit { split, digest, corrections: 0, empty: false },
        )])
    }

    #[test]
    fn incremental_builds_read_what_is_new() {
        let before = consumed(split("a", "1", None), "d");
        let splits = vec![split("a", "1", None), split("b", "1", None)];
        let overlay = Overlay::default();
        let chosen = select(&source(OnChanged::Ignore), splits.clone(), &before, &overlay, true)
            .expect("ok");
        assert_eq!(chosen.requests.len(), 1);
        assert_eq!(chosen.requests[0].split.id, "b");
        let all = select(&source(OnChanged::Ignore), splits, &before, &overlay, false).expect("ok");
        assert_eq!(all.requests.len(), 2);
    }

    #[test]
    fn changed_files_follow_the_policy() {
        let before = consumed(split("a", "1", None), "d");
        let splits = vec![split("a", "2", None)];
        let overlay = Overlay::default();
        let choose = |policy| select(&source(policy), splits.clone(), &before, &overlay, true);
        assert_eq!(choose(OnChanged::Ignore).expect("ok").changed.len(), 1);
        assert_eq!(choose(OnChanged::Reload).expect("ok").requests.len(), 1);
        assert_eq!(choose(OnChanged::Fail).expect_err("fails").code(), code::FILE_CHANGED);
    }

    #[test]
    fn empty_files_are_read_once_and_again_when_they_hold_something() {
        let report = |status| SplitReport {
            split: split("a", "1", None),
            status,
            digest: None,
            records: 0,
            good: 0,
            dropped: 0,
            discarded_values: 0,
            rejects: Vec::new(),
            corrections: 0,
            error: None,
        };
        for (status, kept) in [
            (SplitStatus::Empty, true),
            (SplitStatus::Read, true),
            (SplitStatus::SetAside, false),
            (SplitStatus::Unfinished, false),
        ] {
            let after = consume(&BTreeMap::new(), &[report(status)], true);
            assert_eq!(after.contains_key("a"), kept, "{status:?}");
        }
        let after = consume(&BTreeMap::new(), &[report(SplitStatus::Empty)], true);
        let choose = |version| {
            let splits = vec![split("a", version, None)];
            select(&source(OnChanged::Fail), splits, &after, &Overlay::default(), true)
                .expect("what was empty has not changed")
                .requests
                .len()
        };
        assert_eq!((choose("1"), choose("2")), (0, 1));
    }

    #[test]
    fn new_corrections_of_a_consumed_file_are_read_alone() {
        let before = consumed(split("a", "1", None), "d");
        let correction = Correction { sequence: 3, offset: 7, bytes: b"x".to_vec() };
        let overlay = Overlay {
            contents: BTreeMap::from([(
                ContentDigest("d".into()),
                (10, BTreeMap::from([(7, correction)])),
            )]),
        };
        let splits = vec![split("a", "1", None)];
        let chosen =
            select(&source(OnChanged::Ignore), splits, &before, &overlay, true).expect("ok");
        assert!(matches!(chosen.requests[0].extent, Extent::CorrectionsAfter(0)));
    }

    #[test]
    fn gaps_between_files_are_named() {
        let splits = [split("a", "1", Some(1)), split("c", "1", Some(3))];
        let missing =
            missing(&source(OnChanged::Ignore), Some("in/sales_{date:%Y%m%d}.csv"), &splits);
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].expected, "in/sales_20261002.csv");
    }
}
