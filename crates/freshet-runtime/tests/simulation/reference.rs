//! What a job has to come to, computed from its inputs the slow and obvious way, and held against what
//! its sinks published.

use std::collections::{BTreeMap, BTreeSet};

use freshet_core::rows::RowKind;
use freshet_runtime::operators::JoinKind;
use freshet_testkit::sim::{Record, SimLog, Target};

use crate::topology::{Shape, Topology};

/// A multiset of rows.
type Folded = BTreeMap<String, i64>;

/// What was read and what was published.
#[derive(Debug)]
pub struct Reference<'a> {
    pub log: &'a SimLog,
    pub other: &'a SimLog,
    /// Whether no record can have come after its time: what is given then rests on the records alone.
    pub is_exact: bool,
    pub copies: &'a Target,
    pub totals: &'a Target,
    pub late: &'a Target,
}

impl Reference<'_> {
    /// Holds what was published against the records.
    pub fn verify(&self, topology: Topology) -> Result<(), String> {
        let expected = self.log.records().map(|record| (show(Some(record)), 1)).collect();
        compare("copies", &fold(self.copies)?, &expected)?;
        let late = fold(self.late)?;
        if self.is_exact {
            compare("late rows", &late, &Folded::new())?;
        }
        if let Some((row, count)) = late.iter().find(|(_, count)| **count != 1) {
            return Err(format!("late rows: {row} is there {count} times"));
        }
        let value = |row: &String| row.split(',').nth(2).and_then(|value| value.parse().ok());
        let late: BTreeSet<i64> = late.keys().filter_map(value).collect();
        let totals = fold(self.totals)?;
        match topology {
            Topology::Shuffle => {
                self.verify_order()?;
                compare("shuffle", &totals, &expected)
            }
            Topology::Windows(shape) => self.verify_windows(shape, &late, &totals),
            Topology::Sessions { gap } => self.verify_sessions(gap, &late, &totals),
            Topology::Groups => compare("groups", &totals, &self.groups()),
            Topology::Latest => {
                let latest = by_key(self.log.records());
                let latest = latest.values().filter_map(|of| of.iter().max_by_key(|row| row.value));
                let latest = latest.map(|record| (show(Some(record)), 1)).collect();
                compare("latest", &totals, &latest)
            }
            Topology::First => self.verify_first(&totals),
            Topology::Join(kind) => {
                compare("join", &totals, &self.pairs(kind, &BTreeSet::new(), |_, _| true))
            }
            Topology::GroupsOfJoin => compare("groups", &totals, &self.groups_of_join()),
            Topology::Interval { kind, lower, upper } => {
                let lies = |left: &Record, right: &Record| {
                    (right.time + lower..=right.time + upper).contains(&left.time)
                };
                let pairs = self.pairs(kind, &BTreeSet::new(), lies);
                if self.is_exact {
                    return compare("interval join", &totals, &pairs);
                }
                // A late row may have been in time for some of its partners, not for others, and
                // those are padded that it missed.
                let may = self.pairs(JoinKind::Inner, &BTreeSet::new(), lies);
                let padded = |row: &str| row.contains("null");
                let wrong = totals
                    .iter()
                    .find(|(row, count)| **count != 1 || !(may.contains_key(*row) || padded(row)));
                wrong.map_or(Ok(()), |(row, count)| {
                    Err(format!("interval join: {row} is there {count} times"))
                })
            }
            Topology::Temporal(kind) => self.verify_temporal(kind, &late, &totals),
            Topology::WindowJoin { kind, shape } => {
                self.verify_window_join(kind, shape, &late, &totals)
            }
        }
    }

    /// The pairs of a join, without records that are `left_out`.
    fn pairs(
        &self,
        kind: JoinKind,
        left_out: &BTreeSet<i64>,
        lies: impl Fn(&Record, &Record) -> bool,
    ) -> Folded {
        let is_there = |record: &&Record| !left_out.contains(&record.value);
        let matches = |left: &Record, right: &Record| left.key == right.key && lies(left, right);
        let others = by_key(self.other.records().filter(is_there));
        let none = Vec::new();
        let mut pairs = Folded::new();
        let mut matched = BTreeSet::new();
        for left in self.log.records().filter(is_there) {
            let partners = others.get(&left.key).unwrap_or(&none).iter();
            let partners: Vec<_> = partners.filter(|right| matches(left, right)).collect();
            for right in &partners {
                matched.insert(right.value);
                pairs.insert(format!("{},{}", show(Some(left)), show(Some(right))), 1);
            }
            if partners.is_empty() && matches!(kind, JoinKind::Left | JoinKind::Full) {
                pairs.insert(format!("{},{}", show(Some(left)), show(None)), 1);
            }
        }
        if matches!(kind, JoinKind::Right | JoinKind::Full) {
            for right in self.other.records().filter(is_there) {
                if !matched.contains(&right.value) {
                    pairs.insert(format!("{},{}", show(None), show(Some(right))), 1);
                }
            }
        }
        pairs
    }

    /// Rows of one key and one partition come in their order.
    fn verify_order(&self) -> Result<(), String> {
        let mut partitions = BTreeMap::new();
        for (partition, records) in self.log.partitions.iter().enumerate() {
            partitions
                .extend(records.iter().map(|record| (show(Some(record)), (partition, record))));
        }
        let mut seen = BTreeMap::new();
        for (_, row) in self.totals.changelog() {
            let Some((partition, record)) = partitions.get(&row) else { continue };
            let before = seen.insert((partition, record.key), record.value);
            if before.is_some_and(|before| before >= record.value) {
                return Err(format!("shuffle: {row} comes behind {before:?}"));
            }
        }
        Ok(())
    }

    fn groups(&self) -> Folded {
        let total = |(key, of): (i64, Vec<&Record>)| {
            let values: Vec<i64> = of.iter().map(|record| record.value).collect();
            (format!("{key},{}", aggregated(&values)), 1)
        };
        by_key(self.log.records()).into_iter().map(total).collect()
    }

    fn groups_of_join(&self) -> Folded {
        let others = by_key(self.other.records());
        let total = |(key, of): (i64, Vec<&Record>)| {
            let row = match others.get(&key) {
                None => format!("{key},{},null,null", of.len()),
                Some(others) => {
                    let values = others.iter().map(|record| record.value);
                    let values: Vec<i64> = values.flat_map(|value| vec![value; of.len()]).collect();
                    format!("{key},{}", aggregated(&values))
                }
            };
            (row, 1)
        };
        by_key(self.log.records()).into_iter().map(total).collect()
    }

    fn verify_windows(
        &self,
        shape: Shape,
        late: &BTreeSet<i64>,
        found: &Folded,
    ) -> Result<(), String> {
        let mut all = BTreeMap::<String, Vec<i64>>::new();
        let mut on_time = all.clone();
        // By window, how many of its rows can have been late for it, and were not for a later one.
        let mut doubtful = BTreeMap::<String, usize>::new();
        for record in self.log.records() {
            let windows = shape.of(record.time);
            let last = windows.iter().map(|(_, end)| *end).max();
            for (start, end) in windows {
                let window = format!("{},{},{}", record.key, show_time(start), show_time(end));
                all.entry(window.clone()).or_default().push(record.value);
                if !late.contains(&record.value) {
                    on_time.entry(window.clone()).or_default().push(record.value);
                    *doubtful.entry(window).or_default() += usize::from(Some(end) != last);
                }
            }
        }
        if self.is_exact || shape.is_tumbling() {
            let expected = on_time
                .iter()
                .map(|(window, values)| (format!("{window},{}", aggregated(values)), 1));
            return compare("windows", found, &expected.collect());
        }
        let least = |window: &String| on_time.get(window).map_or(0, Vec::len) - doubtful[window];
        let mut seen = BTreeSet::new();
        for (row, count) in found {
            let window: Vec<&str> = row.splitn(4, ',').collect();
            let (window, n) = (window[..3].join(","), window[3].split(',').next());
            let n: usize = n.and_then(|n| n.parse().ok()).unwrap_or(0);
            let (least, most) = (
                on_time.get(&window).map_or(0, |_| least(&window)).max(1),
                all.get(&window).map_or(0, Vec::len),
            );
            if *count != 1 || n < least || n > most {
                return Err(format!("windows: {row} is there {count} times, n {least} to {most}"));
            }
            seen.insert(window);
        }
        let missing = on_time.keys().find(|window| !seen.contains(*window) && least(window) > 0);
        missing.map_or(Ok(()), |missing| Err(format!("windows: {missing} is missing")))
    }

    fn verify_sessions(
        &self,
        gap: i64,
        late: &BTreeSet<i64>,
        found: &Folded,
    ) -> Result<(), String> {
        let records = self.log.records().filter(|record| !late.contains(&record.value));
        let mut expected = Folded::new();
        let mut sums = BTreeMap::new();
        for (key, mut records) in by_key(records) {
            records.sort_unstable_by_key(|record| record.time);
            let values = |records: &[&Record]| -> Vec<i64> {
                records.iter().map(|record| record.value).collect()
            };
            for session in records.chunk_by(|a, b| b.time - a.time <= gap) {
                let start = show_time(session[0].time);
                let end = show_time(session[session.len() - 1].time + gap);
                let values = values(session);
                expected.insert(format!("{key},{start},{end},{}", aggregated(&values)), 1);
            }
            let all = values(&records);
            sums.insert(key, (all.len() as i64, all.iter().sum::<i64>()));
        }
        if self.is_exact {
            return compare("sessions", found, &expected);
        }
        // A row that came between two sessions may have found the first one closed; but each is in
        // one of them.
        let mut there = BTreeMap::<i64, (i64, i64)>::new();
        for (row, count) in found {
            let fields: Vec<i64> = row.split(',').filter_map(|field| field.parse().ok()).collect();
            let [key, n, sum, _] = fields[..] else { return Err(format!("sessions: {row}")) };
            let total = there.entry(key).or_default();
            *total = (total.0 + count * n, total.1 + count * sum);
        }
        if there == sums { Ok(()) } else { Err(format!("sessions: {there:?} instead of {sums:?}")) }
    }

    fn verify_first(&self, found: &Folded) -> Result<(), String> {
        let keys = by_key(self.log.records());
        if self.is_exact {
            let first = keys.values().filter_map(|of| of.iter().min_by_key(|row| row.time));
            let first = first.map(|record| (show(Some(record)), 1)).collect();
            return compare("first", found, &first);
        }
        // A late row comes when another one was given; each key has one row all the same.
        let all: BTreeSet<String> = self.log.records().map(|record| show(Some(record))).collect();
        let mut seen = BTreeSet::new();
        for (row, count) in found {
            let is_new = seen.insert(row.split(',').nth(1));
            if *count != 1 || !is_new || !all.contains(row) {
                return Err(format!("first: {row} is there {count} times"));
            }
        }
        match seen.len() == keys.len() {
            true => Ok(()),
            false => Err(format!("first: {} keys instead of {}", seen.len(), keys.len())),
        }
    }

    fn verify_temporal(
        &self,
        kind: JoinKind,
        late: &BTreeSet<i64>,
        found: &Folded,
    ) -> Result<(), String> {
        let versions = by_key(self.other.records());
        let none = Vec::new();
        let mut expected = Folded::new();
        let mut wrong = found.clone();
        for left in self.log.records().filter(|left| !late.contains(&left.value)) {
            let versions = versions.get(&left.key).unwrap_or(&none).iter();
            let versions = versions.filter(|version| version.time <= left.time);
            let versions: Vec<&&Record> = versions.collect();
            let version = versions.iter().max_by_key(|version| version.time);
            let version = version.filter(|version| version.kind != RowKind::Delete);
            if version.is_some() || kind == JoinKind::Left {
                let version = version.map(|version| **version);
                expected.insert(format!("{},{}", show(Some(left)), show(version)), 1);
            }
            // Where versions came late, any that was there before, or none.
            let may = versions.iter().map(|version| Some(**version)).chain([None]);
            let given = may.filter_map(|version| {
                wrong.remove(&format!("{},{}", show(Some(left)), show(version)))
            });
            let given: i64 = given.sum();
            if given > 1 || (given == 0 && kind == JoinKind::Left) {
                return Err(format!("temporal join: {} is there {given} times", show(Some(left))));
            }
        }
        if self.is_exact {
            return compare("temporal join", found, &expected);
        }
        compare("temporal join, what cannot be", &wrong, &Folded::new())
    }

    fn verify_window_join(
        &self,
        kind: JoinKind,
        shape: Shape,
        late: &BTreeSet<i64>,
        found: &Folded,
    ) -> Result<(), String> {
        let pairs =
            self.pairs(kind, late, |left, right| shape.of(left.time) == shape.of(right.time));
        // Each side has its window's bounds behind it.
        let windows: BTreeMap<String, String> = self
            .log
            .records()
            .chain(self.other.records())
            .map(|record| {
                let (start, end) = shape.of(record.time)[0];
                let row = show(Some(record));
                let windowed = format!("{row},{},{}", show_time(start), show_time(end));
                (row, windowed)
            })
            .chain([(show(None), format!("{},null,null", show(None)))])
            .collect();
        let windowed = pairs.into_keys().map(|pair| {
            let fields: Vec<&str> = pair.split(',').collect();
            let side = |of: &[&str]| windows[&of.join(",")].clone();
            (format!("{},{}", side(&fields[..3]), side(&fields[3..])), 1)
        });
        compare("window join", found, &windowed.collect())
    }
}

fn by_key<'a>(records: impl Iterator<Item = &'a Record>) -> BTreeMap<i64, Vec<&'a Record>> {
    let mut by_key = BTreeMap::<i64, Vec<&Record>>::new();
    for record in records {
        by_key.entry(record.key).or_default().push(record);
    }
    by_key
}

/// Their number, sum and greatest.
fn aggregated(values: &[i64]) -> String {
    let greatest = values.iter().max().expect("a group has rows");
    format!("{},{},{greatest}", values.len(), values.iter().sum::<i64>())
}

fn show_time(time: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(time).expect("a time");
    time.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

fn show(record: Option<&Record>) -> String {
    match record {
        Some(record) => format!("{},{},{}", show_time(record.time), record.key, record.value),
        None => "null,null,null".into(),
    }
}

/// The table that changes come to. Nothing is ever taken away that is not there.
fn fold(target: &Target) -> Result<Folded, String> {
    let mut folded = Folded::new();
    for (kind, row) in target.changelog() {
        let count = folded.entry(row.clone()).or_default();
        *count += kind.sign();
        if *count < 0 {
            return Err(format!("{row} is taken away and was not there"));
        }
        if *count == 0 {
            folded.remove(&row);
        }
    }
    Ok(folded)
}

fn compare(what: &str, found: &Folded, expected: &Folded) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let rows: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let count = |of: &Folded, row| of.get(row).copied().unwrap_or(0);
    let differences = rows.into_iter().filter_map(|row| {
        let (there, expect) = (count(found, row), count(expected, row));
        (there != expect).then(|| format!("{row}: {there} instead of {expect}"))
    });
    let differences: Vec<String> = differences.collect();
    Err(format!(
        "{what}: {} rows instead of {}, {} differ, such as {}",
        found.values().sum::<i64>(),
        expected.values().sum::<i64>(),
        differences.len(),
        differences[..differences.len().min(5)].join("; ")
    ))
}
