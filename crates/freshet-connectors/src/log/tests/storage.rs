//! What a log keeps, for how long, and what it says of what it finds.

use std::collections::BTreeMap;

use freshet_core::config::HumanDuration;
use freshet_core::error::code;
use freshet_core::source::Position;
use freshet_core::stream::Partition;

use super::super::consumers::{self, Positions};
use super::super::{Retention, segment};
use super::*;

fn numbered(range: std::ops::Range<usize>) -> Vec<Record> {
    range.map(|number| Record::new(format!("record {number}"))).collect()
}

#[test]
fn records_of_a_key_stay_in_order_in_one_partition() {
    let mut bench = Bench::new(1, options(4));
    for round in 0..20 {
        let records: Vec<Record> = (0..5)
            .map(|key| Record::keyed(format!("key {key}"), format!("{key}:{round:02}")))
            .collect();
        bench.append(&records, None).unwrap();
    }
    bench.open().unwrap();
    let contents = bench.contents().unwrap();
    for key in 0..5 {
        let prefix = format!("{key}:");
        let holders: Vec<Vec<&str>> = contents
            .values()
            .map(|records| values(records).into_iter().filter(|v| v.starts_with(&prefix)).collect())
            .filter(|found: &Vec<&str>| !found.is_empty())
            .collect();
        assert_eq!(holders.len(), 1, "one partition has the key");
        assert!(holders[0].is_sorted() && holders[0].len() == 20, "{holders:?}");
    }
    let segments = segment::list(&*bench.files, &Path::new(ROOT).join("0")).unwrap().0;
    assert!(segments.len() > 1, "segments are followed by others");
}

#[test]
fn a_repeated_request_answers_what_the_first_did_and_appends_nothing() {
    let mut bench = Bench::new(1, options(3));
    let records: Vec<Record> = (0..9).map(|n| Record::keyed(format!("{n}"), "x")).collect();
    let first = bench.append(&records, Some("request 1")).unwrap();
    assert!(first.positions.len() > 1, "it is spread");
    bench.append(&numbered(0..3), None).unwrap();
    let mut expect = first.clone();
    expect.repeated = true;
    assert_eq!(bench.append(&records, Some("request 1")).unwrap(), expect);
    bench.open().unwrap();
    assert_eq!(bench.append(&records, Some("request 1")).unwrap(), expect);
    let error = bench.append(&records[1..], Some("request 1")).unwrap_err();
    assert_eq!(error.code(), code::IDEMPOTENCY);
    let total: usize = bench.contents().unwrap().values().map(Vec::len).sum();
    assert_eq!(total, 12);
    // Keyless requests of one key go to the same place.
    let first = bench.append(&numbered(0..1), Some("request 2")).unwrap();
    let draft = bench.draft(&numbered(0..1), Some("request 2"));
    let again = bench.draft(&numbered(0..1), Some("request 2"));
    for answer in bench.writer().commit(vec![draft, again]) {
        assert_eq!(answer.unwrap().positions, first.positions);
    }
}

#[test]
fn a_key_is_forgotten_after_its_time() {
    let mut bench = Bench::new(1, options(2));
    let records = numbered(0..2);
    bench.append(&records, Some("key")).unwrap();
    bench.clock.advance_micros(23 * HOUR);
    bench.open().unwrap();
    assert!(bench.append(&records, Some("key")).unwrap().repeated);
    bench.clock.advance_micros(2 * HOUR);
    assert!(!bench.append(&records, Some("key")).unwrap().repeated);
    assert!(bench.append(&records, Some("key")).unwrap().repeated, "the second one is known");
    bench.clock.advance_micros(23 * HOUR);
    bench.open().unwrap();
    assert!(bench.append(&records, Some("key")).unwrap().repeated);
    bench.clock.advance_micros(2 * HOUR);
    bench.open().unwrap();
    assert!(!bench.append(&records, Some("key")).unwrap().repeated);
}

#[test]
fn too_many_keys_are_refused_until_some_are_forgotten() {
    let options = LogOptions { max_idempotency_keys: 2, ..options(1) };
    let mut bench = Bench::new(1, options);
    for key in ["a", "b"] {
        bench.append(&numbered(0..1), Some(key)).unwrap();
    }
    let error = bench.append(&numbered(0..1), Some("c")).unwrap_err();
    assert!(error.code() == code::BUSY && error.is_retryable(), "{error:?}");
    bench.append(&numbered(0..1), None).unwrap();
    bench.clock.advance_micros(25 * HOUR);
    bench.append(&numbered(0..1), Some("c")).unwrap();
}

#[test]
fn a_tail_that_was_cut_off_anywhere_is_left_out() {
    let mut bench = Bench::new(1, LogOptions { segment_bytes: ByteSize(1 << 20), ..options(1) });
    bench.append(&numbered(0..2), None).unwrap();
    let path = Path::new(ROOT).join("0").join("00000000000000000000-0000.seg");
    let before = bench.files.read(&path, 0, usize::MAX).unwrap();
    bench.append(&numbered(2..4), Some("torn")).unwrap();
    let whole = bench.files.read(&path, 0, usize::MAX).unwrap();
    for cut in before.len()..=whole.len() {
        for zeroed in [false, true] {
            let mut content = whole[..cut].to_vec();
            if zeroed {
                content.resize(whole.len(), 0);
            }
            let mut torn = Bench::new(2, bench.options.clone());
            torn.files.create(&path, &[content.into()]).unwrap();
            torn.open().unwrap();
            let there = cut == whole.len();
            assert_eq!(torn.read(0).unwrap().len(), if there { 4 } else { 2 }, "cut at {cut}");
            let answer = torn.append(&numbered(2..4), Some("torn")).unwrap();
            assert_eq!(answer.repeated, there, "cut at {cut}");
            torn.append(&numbered(4..5), None).unwrap();
            torn.open().unwrap();
            let read = torn.read(0).unwrap();
            let expect: Vec<String> = (0..5).map(|number| format!("record {number}")).collect();
            assert_eq!(values(&read), expect, "cut at {cut}");
        }
    }
}

#[test]
fn damage_to_what_was_durable_names_file_and_byte() {
    let mut bench = Bench::new(1, LogOptions { segment_bytes: ByteSize(1 << 20), ..options(1) });
    for number in 0..3 {
        bench.append(&numbered(number..number + 1), None).unwrap();
    }
    let path = Path::new(ROOT).join("0").join("00000000000000000000-0000.seg");
    let mut content = bench.files.read(&path, 0, usize::MAX).unwrap().to_vec();
    let at = content.len() / 3 + 5;
    content[at] ^= 1;
    bench.files.remove_file(&path).unwrap();
    bench.files.create(&path, &[content.into()]).unwrap();
    let error = bench.open().unwrap_err();
    assert_eq!(error.code(), code::LOG_DAMAGED);
    let message = error.message();
    assert!(message.contains(path.to_str().unwrap()) && message.contains("byte"), "{message}");
}

#[test]
fn a_log_keeps_its_number_of_partitions() {
    let mut bench = Bench::new(1, options(3));
    bench.options.partitions = 4;
    let error = bench.open().unwrap_err();
    assert_eq!(error.code(), code::CONFIG);
    assert!(error.message().contains("has 3 partitions, not 4"), "{error:?}");
}

fn commit(bench: &Bench, name: &str, position: u64) {
    let files: Arc<dyn FileSystem> = bench.files.clone();
    let place = Place::open(files, PathBuf::from(ROOT), bench.options.partitions).unwrap();
    let positions: Positions = BTreeMap::from([(Partition("0".into()), Position(position))]);
    consumers::commit(&place, name, &positions).unwrap();
    assert_eq!(consumers::list(&place).unwrap()[name], positions);
}

#[test]
fn retention_by_bytes_spares_what_a_consumer_needs() {
    for retention in [Retention::Needed, Retention::Strict] {
        let retention_bytes = Some(ByteSize(1500));
        let mut bench = Bench::new(1, LogOptions { retention, retention_bytes, ..options(1) });
        for number in 0..40 {
            bench.append(&numbered(number..number + 1), None).unwrap();
        }
        commit(&bench, "slow", 11);
        commit(&bench, "quick", 39);
        bench.writer().retain().unwrap();
        let first = bench.read(0).unwrap()[0].0;
        if retention == Retention::Needed {
            assert!((5..=11).contains(&first), "what `slow` needs stays, {first} is first");
        } else {
            assert!(first > 11, "{first}");
        }
        commit(&bench, "slow", 30);
        bench.writer().retain().unwrap();
        let records = bench.read(0).unwrap();
        let bytes = segment::list(&*bench.files, &Path::new(ROOT).join("0")).unwrap().0;
        let bytes: u64 = bytes.iter().map(|segment| segment.bytes).sum();
        assert!((1500..2200).contains(&bytes), "{bytes}");
        assert_eq!(records.last().unwrap().0, 39);
        bench.open().unwrap();
        assert_eq!(bench.read(0).unwrap(), records);
    }
}

#[test]
fn retention_by_age_empties_a_log_that_stands_still_and_keeps_its_offsets() {
    let retention_time = Some(HumanDuration(std::time::Duration::from_secs(3600)));
    let mut bench = Bench::new(1, LogOptions { retention_time, ..options(1) });
    for number in 0..20 {
        bench.append(&numbered(number..number + 1), None).unwrap();
        bench.clock.advance_micros(HOUR / 10);
    }
    bench.writer().retain().unwrap();
    let first = bench.read(0).unwrap()[0].0;
    assert!((5..=10).contains(&first), "about half of it is old: {first}");
    bench.clock.advance_micros(2 * HOUR);
    bench.writer().retain().unwrap();
    assert_eq!(bench.read(0).unwrap(), []);
    for reopened in [false, true] {
        if reopened {
            bench.open().unwrap();
        }
        bench.append(&numbered(20..21), None).unwrap();
    }
    assert_eq!(bench.read(0).unwrap().iter().map(|(at, _)| *at).collect::<Vec<_>>(), [20, 21]);
}
